"""The egress policy of a Linux guest: what is allowed works, everything else is dropped and counted, and PATCH changes it live."""

import pytest

from linux_guest import UP, Guest, counter
from net_peer import Namespace

pytestmark = pytest.mark.linux

MAC = "06:00:ac:10:00:02"
METADATA = "169.254.169.254"
POLICY = {
    "anti_spoof": True,
    "addresses": ["10.9.0.2", "fd00:9::2"],
    "block_link_local": True,
    "default": "Deny",
    "allow": [{"cidr": "10.9.0.0/24", "protocol": "tcp", "port": 80}, {"cidr": "169.254.0.0/16"}, {"cidr": "fd00:9::/64"}],
}
# curl's own exit statuses.
REFUSED, TIMED_OUT = 7, 28


@pytest.fixture
def namespace(tmp_path):
    """A host with a web server at addresses that the policy allows, denies and blocks."""
    ns = Namespace()
    try:
        ns.tap()
        ns.run("sh", "-c", "echo 0 >/proc/sys/net/ipv6/conf/tap0/disable_ipv6; echo 0 >/proc/sys/net/ipv6/conf/lo/disable_ipv6")
        for address, interface in (("10.9.1.1/32", "lo"), (f"{METADATA}/32", "lo"), ("fd00:8::1/128 nodad", "lo"), ("fd00:9::1/64 nodad", "tap0")):
            family = "-6" if ":" in address else "-4"
            ns.ip(f"{family} address add {address} dev {interface}")
        ns.web(tmp_path)
        yield ns
    finally:
        ns.close()


def boot(vmm, namespace, **options):
    guest = Guest(vmm, wrapper=namespace.enter, **options,
                  **{"network-interfaces": [{"iface_id": "eth0", "host_dev_name": "tap0", "guest_mac": MAC, "egress": POLICY}]})
    guest.run("ip link set eth0 up && ip address add 10.9.0.2/24 dev eth0 && ip route add default via 10.9.0.1")
    guest.run("ip -6 address add fd00:9::2/64 dev eth0 && ip -6 route add default via fd00:9::1")
    # Until the kernel has found out that nobody else has its addresses, it would use others.
    guest.run("while ip -6 address show dev eth0 | grep -q tentative; do sleep 0.1; done")
    return guest


def fetch(guest, host, expected=0, options="", port=80):
    host = f"[{host}]" if ":" in host else host
    seconds = 2 if expected == TIMED_OUT else 30
    guest.run(f"curl -sS -g --max-time {seconds} {options} -o /dev/null http://{host}:{port}/nginx.conf", expected)


def dropped(guest):
    return {why: counter(guest.api, f"net_egress_{why}") for why in ("spoofed", "link_local", "denied", "unreadable")}


def is_dropped(guest, why, *fetched, **options):
    """The fetch times out, and that one counter moves."""
    before = dropped(guest)
    fetch(guest, *fetched, expected=TIMED_OUT, **options)
    after = dropped(guest)
    assert after[why] > before[why] and all(after[other] == before[other] for other in after if other != why), (before, after)


def test_policy(release, namespace):
    guest = boot(release, namespace)
    fetch(guest, "10.9.0.1")
    is_dropped(guest, "denied", "10.9.1.1")
    is_dropped(guest, "denied", "10.9.0.1", port=81)
    # A rule that allows it does not help.
    is_dropped(guest, "link_local", METADATA)

    # Addresses that are not the guest's, in the packets and in ARP.
    guest.run("ip address add 10.9.0.3/24 dev eth0")
    is_dropped(guest, "spoofed", "10.9.0.1", options="--interface 10.9.0.3")
    assert "10.9.0.3" not in namespace.ip("neighbour")
    guest.run("ip address delete 10.9.0.3/24 dev eth0")
    fetch(guest, "10.9.0.1")

    # Live: another network instead of the first.
    guest.api.patch_network_interface("eth0", {"egress": {**POLICY, "allow": [{"cidr": "10.9.1.0/24"}]}})
    fetch(guest, "10.9.1.1")
    is_dropped(guest, "denied", "10.9.0.1")
    # Without a policy all of it works: it was the policy that stopped it. A patch that names nothing changes nothing.
    guest.api.patch_network_interface("eth0", {"egress": {}})
    is_dropped(guest, "denied", "10.9.0.1")
    guest.api.patch_network_interface("eth0", {"egress": {"anti_spoof": False, "block_link_local": False, "default": "Allow"}})
    before = dropped(guest)
    for host in ("10.9.0.1", "10.9.1.1", METADATA, "fd00:8::1"):
        fetch(guest, host)
    fetch(guest, "10.9.0.1", REFUSED, port=81)
    guest.run("ip link set eth0 down && ip link set eth0 address 06:00:ac:10:00:03 && ip link set eth0 up && ip route add default via 10.9.0.1")
    fetch(guest, "10.9.1.1")
    assert dropped(guest) == before
    # And back, with a MAC address that is not the guest's.
    guest.api.patch_network_interface("eth0", {"egress": POLICY})
    is_dropped(guest, "spoofed", "10.9.0.1")
    guest.finish()


def test_ipv6(debug, namespace):
    """Neighbour discovery works under a policy that allows one network alone, and finds nobody else a way out."""
    guest = boot(debug, namespace, kernel=UP)
    fetch(guest, "fd00:9::1")
    assert MAC in namespace.ip("-6 neighbour show fd00:9::2")
    is_dropped(guest, "denied", "fd00:8::1")
    # The host asks, the guest answers.
    namespace.ip("-6 neighbour flush dev tap0")
    namespace.run("ping", "-6", "-c", "1", "-W", "30", "fd00:9::2")
    # The same with an address that the policy does not know: others learn nothing of it.
    guest.run("ip -6 address add fd00:9::3/64 dev eth0 nodad")
    is_dropped(guest, "spoofed", "fd00:9::1", options="--interface fd00:9::3")
    assert namespace.start("ping", "-6", "-c", "1", "-W", "2", "fd00:9::3", stdout=-3).wait(30) != 0
    # The host's link-local address: blocked but for neighbour discovery.
    local = namespace.run("sh", "-c", "ip -6 -o address show dev tap0 scope link | sed 's/.*inet6 //; s,/.*,,'").strip()
    is_dropped(guest, "link_local", f"{local}%25eth0", options="--interface fd00:9::2")
    guest.finish()
