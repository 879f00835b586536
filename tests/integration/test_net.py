"""virtio-net with the test guest: a TAP in a namespace, sockets, passt; frames checked byte for byte, drivers that break rules."""

import json
import os
import re
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest

from harness import BAD_CONFIG, PATIENCE, artifact, machine
from net_peer import Echo, Messages, Stream, frame, length
from test_guest import succeeded

MAC = "06:00:ac:10:00:02"


def net(device, **fields):
    return {"iface_id": "eth0", "host_dev_name": device, "guest_mac": MAC, **fields}


def configure(script, *nets, **sections):
    return machine(artifact("tests/guest/guest.elf"), f"console=ttyS0 mayfly.test='{script}'", **{"network-interfaces": list(nets)}, **sections)


ROUND_TRIP = "net 0 open {options}; net 0 info; net 0 send {n} len={low} max={high} seed=9 segs={segs}; net 0 recv {n} len={low} max={high} seed=9"


def round_trip(n, low, high, segs=3, options=""):
    return ROUND_TRIP.format(n=n, low=low, high=high, segs=segs, options=options)


# ---- a TAP ----

@pytest.mark.parametrize("options", ["", "mrg=0", "event=0", "buf=300", "q=16 buf=1000"])
def test_tap(mayfly, namespace, processes, options):
    """Frames of all lengths there and back through the host's network stack."""
    namespace.tap()
    processes.append(namespace.echo())
    script = round_trip(10 if "q=" in options else 40, 60, 1514, options=options) + "; net 0 arp 0x0a090001 0x0a090002"
    text = succeeded(mayfly.run(configure(script, net("tap0")), wrapper=namespace.enter))
    assert "mac 6:0:ac:10:0:2" in text and "answer from" in text


def test_tap_jumbo(mayfly, namespace, processes):
    namespace.tap(mtu=9000)
    processes.append(namespace.echo())
    script = round_trip(40, 60, 9014) + "; " + round_trip(20, 60, 9014, options="mrg=0 buf=9100")
    text = succeeded(mayfly.run(configure(script, net("tap0", mtu=9000)), wrapper=namespace.enter))
    assert "mtu 9000" in text


def test_tap_that_is_down(mayfly, namespace):
    """What is sent is lost, and only that."""
    namespace.tap()
    namespace.ip("link set tap0 down")
    outcome = mayfly.run(configure("net 0 send 100", net("tap0")), wrapper=namespace.enter)
    succeeded(outcome)
    assert "(is the interface up?)" in outcome.err
    assert len(outcome.lines()) < 30


def test_tap_deleted_and_made_again(mayfly, namespace, processes):
    namespace.tap()
    script = "net 0 send 5; print GONE; wait c; net 0 send 5; print BACK; wait c; net 0 arp 0x0a090001 0x0a090002"
    vm = mayfly.start(configure(script, net("tap0")), wrapper=namespace.enter, stdin=subprocess.PIPE)
    vm.expect(rb"GONE")
    namespace.ip("link del tap0")
    vm.expect(rb"the other side is gone", "err")
    vm.send(b"c")
    vm.expect(rb"BACK")
    namespace.tap()
    vm.expect(rb": is back\n", "err")
    namespace.wait_up("tap0")
    vm.send(b"c")
    succeeded(vm.wait())


def test_flood_without_buffers(mayfly, namespace):
    """A guest that takes nothing costs nothing, however much arrives."""
    namespace.tap()
    vm = mayfly.start(configure("net 0 open post=0; print OPEN; wait c", net("tap0")), wrapper=namespace.enter, stdin=subprocess.PIPE)
    vm.expect(rb"OPEN")

    def wake_ups():
        status = Path(f"/proc/{vm.pid}/task/{vm.pid}/status").read_text(encoding="ascii")
        return int(re.search(r"^voluntary_ctxt_switches:\s+(\d+)", status, re.M).group(1))

    namespace.run("sh", "-c", "for i in $(seq 20); do ip neigh replace 10.9.0.$((i + 1)) lladdr 06:00:ac:10:00:02 dev tap0; done")
    flood = "import socket\ns = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\nfor i in range(5000): s.sendto(b'x' * 500, ('10.9.0.2', 9))"
    namespace.run("/usr/bin/python3", "-c", flood)
    before = wake_ups()
    namespace.run("/usr/bin/python3", "-c", flood)
    assert wake_ups() - before < 20
    vm.send(b"c")
    succeeded(vm.wait())


# ---- inherited descriptors and passt's protocol ----

KINDS = {"dgram": (socket.SOCK_DGRAM, Messages), "seqpacket": (socket.SOCK_SEQPACKET, Messages), "stream": (socket.SOCK_STREAM, Stream)}


@pytest.mark.parametrize("kind", KINDS)
def test_inherited_socket(mayfly, kind):
    kind, link = KINDS[kind]
    ours, theirs = socket.socketpair(socket.AF_UNIX, kind)
    echo = Echo(link(ours))
    script = round_trip(300, 60, 1514) + "; " + round_trip(10, 60000, 65557)
    with theirs:
        vm = mayfly.start(configure(script, net(f"fd:{theirs.fileno()}")), pass_fds=[theirs.fileno()])
    succeeded(vm.wait(PATIENCE))
    mac = bytes.fromhex(MAC.replace(":", ""))
    assert echo.frames[:300] == [frame(i, length(i, 60, 1514), 9, mac) for i in range(300)]
    assert echo.frames[300:] == [frame(i, length(i, 60000, 65557), 9, mac) for i in range(10)]
    ours.close()


def test_unix_server_comes_back(mayfly, tmp_path):
    """The server dies in the middle of a frame and returns: the guest never notices more than lost frames."""
    path = str(tmp_path / "passt.sock")
    script = "net 0 send 5; print SENT; wait c; net 0 send 5; print ALONE; wait c; " + round_trip(50, 60, 1514)

    def listen():
        server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        server.settimeout(PATIENCE)
        server.bind(path)
        server.listen(1)
        return server

    with listen() as server:
        vm = mayfly.start(configure(script, net(f"unix:{path}")), stdin=subprocess.PIPE)
        peer = server.accept()[0]
        vm.expect(rb"SENT")
        peer.send(b"\0\0\1\0half of it")
        peer.close()
    os.unlink(path)
    vm.expect(rb"the other side is gone", "err")
    vm.send(b"c")
    vm.expect(rb"ALONE")
    with listen() as server:
        with server.accept()[0] as peer:
            Echo(Stream(peer))
            vm.expect(rb": is back\n", "err")
            vm.send(b"c")
            succeeded(vm.wait())


def test_passt(mayfly, namespace, processes, tmp_path):
    """Debian's passt answers for the gateway."""
    namespace.ip("link add d0 type veth peer name d1")
    namespace.ip("link set d1 up")
    namespace.ip("link set d0 up")
    namespace.ip("address add 10.8.0.5/24 dev d0")
    namespace.ip("route add default via 10.8.0.1")
    path = tmp_path / "passt.sock"
    with open(tmp_path / "passt.log", "wb") as log:
        processes.append(namespace.start("passt", "--foreground", "--one-off", "--ipv4-only", "--runas", "0", "--socket", path, stdout=log,
                                         stderr=log, stdin=subprocess.DEVNULL))
    deadline = time.monotonic() + PATIENCE
    while not path.exists():
        assert processes[-1].poll() is None and time.monotonic() < deadline, (tmp_path / "passt.log").read_text()
        time.sleep(0.02)
    outcome = mayfly.run(configure("net 0 arp 0x0a080001 0x0a080005; net 0 send 50 len=60 max=1514; net 0 arp 0x0a080001 0x0a080005", net(f"unix:{path}")))
    assert "answer from" in succeeded(outcome)


# ---- limits, drivers that break rules, errors ----

def test_rate_limit(mayfly):
    """20 frames at once and 20 in a second: 60 frames take two refills."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    limiter = {"ops": {"size": 20, "refill_time": 1000}}
    echo = Echo(Messages(ours))
    with theirs:
        vm = mayfly.start(configure("net 0 send 60; print END", net(f"fd:{theirs.fileno()}", tx_rate_limiter=limiter)), pass_fds=[theirs.fileno()])
    vm.expect(rb"END")
    assert time.monotonic() - vm.started > 1.9
    succeeded(vm.wait())
    assert len(echo.frames) == 60
    ours.close()


ATTACKS = ["tx-outside", "rx-outside", "tx-loop", "rx-readable", "rx-short", "tx-oversize", "tx-undersize", "tx-writable"]


def test_hostile(mayfly):
    """After each attack the device comes back with a reset, and its neighbour never noticed."""
    pairs = [socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET) for _ in range(2)]
    echoes = [Echo(Messages(ours)) for ours, _ in pairs]
    check = "net {i} send 3 seed=4; net {i} recv 3 seed=4"
    steps = ["net 1 open"]
    for attack in ATTACKS:
        steps += ["net 0 open post=0", f"net 0 bad {attack}", "net 0 open", check.format(i=0), check.format(i=1)]
    nets = [net(f"fd:{theirs.fileno()}", iface_id=f"eth{i}", guest_mac=f"06:00:00:00:00:0{i}") for i, (_, theirs) in enumerate(pairs)]
    vm = mayfly.start(configure("; ".join(steps), *nets), pass_fds=[theirs.fileno() for _, theirs in pairs])
    for _, theirs in pairs:
        theirs.close()
    text = succeeded(vm.wait())
    assert "BUT" not in text
    assert [len(echo.frames) for echo in echoes] == [3 * len(ATTACKS) + sum(a.startswith("rx") for a in ATTACKS), 3 * len(ATTACKS)]
    for ours, _ in pairs:
        ours.close()


def test_metrics(mayfly, tmp_path):
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    Echo(Messages(ours))
    path = tmp_path / "metrics"
    with theirs:
        vm = mayfly.start(configure(round_trip(10, 100, 100), net(f"fd:{theirs.fileno()}"), metrics={"metrics_path": str(path)}), pass_fds=[theirs.fileno()])
    succeeded(vm.wait())
    counted = json.loads(path.read_text().splitlines()[-1])["net"]
    for key, value in {"tx_packets_count": 10, "tx_bytes_count": 1000, "rx_packets_count": 10, "rx_bytes_count": 1000, "tx_malformed_frames": 0,
                       "tx_spoofed_mac_count": 0, "activate_fails": 0}.items():
        assert counted[key] == value, key
    ours.close()


def test_killed_peer_and_signal(mayfly):
    """SIGTERM ends it as always, with a network device in use."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with theirs:
        vm = mayfly.start(configure("net 0 send 5; print SENT; spin", net(f"fd:{theirs.fileno()}")), pass_fds=[theirs.fileno()])
    vm.expect(rb"SENT")
    ours.close()
    vm.expect(rb"the other side is gone; frames are dropped from now on", "err")
    vm.signal(signal.SIGTERM)
    assert vm.wait().code == 128 + signal.SIGTERM


@pytest.mark.parametrize("device,says", [
    ("nosuchtap", None),
    ("lo", "not a TAP"),
    ("fd:77", "Bad file descriptor"),
    ("fd:1", "Bad file descriptor"),
    ("unix:/nonexistent/socket", "No such file or directory (needs passt"),
])
def test_errors(mayfly, namespace, device, says):
    if says is None:
        # root would make it: ask as somebody who may not
        wrapper = [*namespace.enter, "setpriv", "--bounding-set=-net_admin", "--inh-caps=-net_admin"]
        says = "No such device (ip tuntap add nosuchtap mode tap user"
    else:
        wrapper = namespace.enter
    outcome = mayfly.run(configure("print no", net(device)), wrapper=wrapper)
    assert outcome.code == BAD_CONFIG, outcome.err
    assert f"network-interfaces[eth0].host_dev_name: {device}: " in outcome.err and says in outcome.err, outcome.err


def test_busy_tap(mayfly, namespace):
    namespace.tap()
    first = mayfly.start(configure("print UP; spin", net("tap0")), wrapper=namespace.enter)
    first.expect(rb"UP")
    second = mayfly.run(configure("print no", net("tap0")), wrapper=namespace.enter)
    assert second.code == BAD_CONFIG and "(another process uses it" in second.err
