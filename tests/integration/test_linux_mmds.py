"""The metadata service as curl and wget in a Linux guest see it, while other traffic goes through the same interface."""

import hashlib
import json
import os

import pytest

from linux_guest import UP, Guest, counter
from net_peer import Namespace

pytestmark = pytest.mark.linux

HOST, GUEST = "10.9.0.1", "10.9.0.2"
DATA = {"latest": {"meta-data": {"ami-id": "ami-87654321", "hostname": "guest"}, "user-data": "#!/bin/sh\n"}, "large": "x" * 40000}
CURL, WGET = "curl -sS --max-time 30", "wget -q -T 30 -t 1 -O -"


@pytest.fixture
def namespace(tmp_path):
    ns = Namespace()
    try:
        ns.tap()
        (tmp_path / "www").mkdir()
        (tmp_path / "www/file").write_bytes(os.urandom(1 << 20))
        ns.web(tmp_path / "www")
        yield ns
    finally:
        ns.close()


def boot(vmm, namespace, **mmds):
    interface = {"iface_id": "eth0", "host_dev_name": "tap0", "guest_mac": "06:00:ac:10:00:02"}
    guest = Guest(vmm, kernel=UP, wrapper=namespace.enter, **{"network-interfaces": [interface], "mmds-config": {"network_interfaces": ["eth0"], **mmds}})
    guest.api.put_mmds(DATA)
    guest.run(f"ip link set eth0 up && ip address add {GUEST}/24 dev eth0 && ip route add 169.254.0.0/16 dev eth0")
    return guest


def other_traffic(guest):
    """Downloads 1 MiB through the same interface over and over until /tmp/stop exists; says the checksum each time."""
    guest.run(f"(until [ -e /tmp/stop ]; do curl -sSf http://{HOST}/file | sha256sum || echo failed; done >/tmp/sums 2>&1) &")


def other_traffic_was_intact(guest, tmp_path):
    sums = guest.run("touch /tmp/stop; wait; cat /tmp/sums").splitlines()
    expected = hashlib.sha256((tmp_path / "www/file").read_bytes()).hexdigest()
    assert sums and all(line.split()[0] == expected for line in sums), sums


def test_v1(release, namespace, tmp_path):
    guest = boot(release, namespace)
    url = "http://169.254.169.254"
    other_traffic(guest)
    for client in (CURL, WGET):
        assert guest.run(f"{client} {url}/latest/meta-data/") == "ami-id\nhostname"
        assert guest.run(f"{client} {url}/latest/meta-data/ami-id") == "ami-87654321"
    assert guest.run(f"{CURL} {url}/large | wc -c") == "40000"
    assert json.loads(guest.run(f"{WGET} --header 'Accept: application/json' {url}/latest")) == DATA["latest"]
    assert guest.run(f"{CURL} -w '%{{http_code}}' -o /dev/null {url}/nothing") == "404"
    guest.api.patch_mmds({"latest": {"meta-data": {"ami-id": "ami-2", "hostname": None}}})
    assert guest.run(f"{CURL} {url}/latest/meta-data/") == "ami-id"
    assert guest.run(f"{WGET} {url}/latest/meta-data/ami-id") == "ami-2"
    other_traffic_was_intact(guest, tmp_path)
    assert counter(guest.api, "mmds_connections_created") >= 8
    assert counter(guest.api, "mmds_rx_accepted_err") == 0
    guest.finish()


def test_v2_at_another_address(debug, namespace, tmp_path):
    guest = boot(debug, namespace, version="V2", ipv4_address="169.254.170.2")
    url = "http://169.254.170.2"
    other_traffic(guest)
    assert guest.run(f"{CURL} -w '%{{http_code}}' -o /dev/null {url}/latest/meta-data/ami-id") == "401"
    for client, put in ((CURL, "-X PUT"), (WGET, "--method=PUT")):
        guest.run(f"token=$({client} {put} --header 'X-metadata-token-ttl-seconds: 60' {url}/latest/api/token)")
        assert guest.run(f'{client} --header "X-metadata-token: $token" {url}/latest/meta-data/ami-id') == "ami-87654321"
    assert guest.run(f"{CURL} -w '%{{http_code}}' -o /dev/null --header 'X-metadata-token: {'0' * 48}' {url}/latest") == "401"
    # The default address is nobody's now, and what is sent there goes out.
    namespace.ip("address add 169.254.169.254/32 dev lo")
    assert guest.run("curl -sS --max-time 30 -w '%{http_code}' -o /dev/null http://169.254.169.254/file") == "200"
    guest.api.patch_mmds({"new": "yes"})
    assert guest.run(f'{CURL} --header "X-aws-ec2-metadata-token: $token" {url}/new') == "yes"
    other_traffic_was_intact(guest, tmp_path)
    assert counter(guest.api, "mmds_rx_no_token") == 1 and counter(guest.api, "mmds_rx_invalid_token") == 1
    guest.finish()
