"""curl and nginx: a Linux guest as client and as server, over a TAP to a network namespace of the host."""

import hashlib
import os

import pytest

from linux_guest import Guest
from net_peer import Namespace

pytestmark = pytest.mark.linux

HOST, GUEST = "10.9.0.1", "10.9.0.2"
MIB = 1 << 20


@pytest.fixture
def namespace(tmp_path):
    ns = Namespace()
    try:
        ns.tap()
        (tmp_path / "www").mkdir()
        ns.web(tmp_path / "www")
        yield ns
    finally:
        ns.close()


def test_curl_both_ways(release, tmp_path, namespace):
    """4 MiB each way, checksummed; four small ones at once to begin with."""
    down, up = os.urandom(4 * MIB), tmp_path / "up"
    (tmp_path / "www/file").write_bytes(down)
    guest = Guest(release, wrapper=namespace.enter, **{"network-interfaces": [{"iface_id": "eth0", "host_dev_name": "tap0"}]})
    guest.run(f"ip link set eth0 up && ip address add {GUEST}/24 dev eth0")
    assert guest.run(f"for i in 1 2 3 4; do curl -sSf -o /tmp/small.$i http://{HOST}/nginx.conf & done; wait; cat /tmp/small.* | wc -l") == \
        str(4 * len((tmp_path / "www/nginx.conf").read_text().splitlines()))
    assert hashlib.sha256(down).hexdigest() in guest.run(f"curl -sSf -o /tmp/file http://{HOST}/file && sha256sum /tmp/file")

    guest.run("head -c 4194304 /dev/urandom >/tmp/file && cd /tmp")
    guest.run(f"python3 -m http.server -b {GUEST} 80 >/tmp/log 2>&1 & until curl -so /tmp/null http://{GUEST}/; do sleep 0.1; done")
    namespace.run("curl", "-sSf", "--max-time", "50", "-o", up, f"http://{GUEST}/file")
    assert up.stat().st_size == 4 * MIB
    assert hashlib.sha256(up.read_bytes()).hexdigest() in guest.run("sha256sum /tmp/file")
    guest.finish()
