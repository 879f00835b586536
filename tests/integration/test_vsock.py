"""vsock on the host's KVM: the test guest as server and client, Python programs as its peers."""

import os
import signal
import socket
import subprocess

import pytest

from harness import BAD_CONFIG, artifact, machine
from vsock_peer import Peers, Refused, digest, exchange, receive_all, stream, together

MIB = 1 << 20
CID = 52


@pytest.fixture
def peers(tmp_path):
    found = Peers(tmp_path / "v.sock")
    yield found
    found.close()


def configure(peers, script, **options):
    options.setdefault("mem_mib", 64)
    return machine(artifact("tests/guest/guest.elf"), f"console=ttyS0 mayfly.test='{script}'",
                   vsock={"guest_cid": CID, "uds_path": str(peers.path)}, **options)


def start(vmm, peers, script, **options):
    vm = vmm.start(configure(peers, f"print START; {script}", **options), stdin=subprocess.PIPE)
    vm.expect(b"START")  # the socket is there before the guest runs
    return vm


def succeeded(vm):
    outcome = vm.wait()
    assert outcome.code == 0, f"{outcome.out}\n{outcome.err}"
    assert "0 failed" in outcome.out
    return outcome


# ---- the host connects ----

def test_host_connects(mayfly, peers):
    vm = start(mayfly, peers, "vsock info; vsock echo 80 n=3")
    for text in (b"hello", b"", os.urandom(3000)):
        assert exchange(peers.dial(80, 60000), text) == text
    outcome = succeeded(vm)
    assert f"cid {CID}" in outcome.out
    assert not peers.path.exists()


@pytest.mark.parametrize("rx", [128, 4140, 8192])
def test_much_both_ways(mayfly, peers, rx):
    vm = start(mayfly, peers, f"vsock open rx={rx}; vsock echo 80 n=1")
    data = os.urandom((8 if rx > 128 else 1) * MIB + 777)
    assert digest(exchange(peers.dial(80, 60000), data)) == digest(data)
    succeeded(vm)


def test_many_at_once(mayfly, peers):
    vm = start(mayfly, peers, "vsock echo 80 n=200")

    def one(i):
        data = os.urandom(40000 + i)
        assert exchange(peers.dial(80, 60000), data) == data

    together(one, range(200))
    succeeded(vm)


def test_nobody_listens(mayfly, peers):
    """Refused at once, or when the time is over, or not at all if somebody listens before."""
    vm = start(mayfly, peers, "vsock open; print READY; vsock refuse 9; vsock echo 80")
    vm.expect(b"READY")
    with pytest.raises(Refused):
        peers.dial(80)
    with pytest.raises(Refused):
        peers.dial(80, 1)
    assert exchange(peers.dial(80, 60000), b"found") == b"found"
    succeeded(vm)


def test_before_the_driver(mayfly, peers):
    vm = start(mayfly, peers, "wait g; vsock echo 80 n=2")
    early = peers.connect(b"CONNECT 80\nearly")
    with pytest.raises(Refused):
        peers.dial(80, 50)
    vm.send(b"g")
    assert exchange(peers.dial(80, 60000), b"late") == b"late"
    early.shutdown(socket.SHUT_WR)
    text = receive_all(early)
    assert text.startswith(b"OK ") and text.endswith(b"\nearly")
    succeeded(vm)


@pytest.mark.parametrize("line", [b"GET / HTTP/1.0\n", b"CONNECT 80x\n", b"CONNECT " + b"8" * 40 + b"\n", bytes(64)],
                         ids=["http", "letters", "long", "zeros"])
def test_malformed_lines(mayfly, peers, line):
    vm = start(mayfly, peers, "vsock echo 80")
    try:
        assert peers.connect(line).recv(1) == b""
    except ConnectionResetError:  # it was closed with bytes unread
        pass
    assert exchange(peers.dial(80, 60000), b"good") == b"good"
    succeeded(vm)


def test_slow_reader_stalls_only_itself(mayfly, peers):
    vm = start(mayfly, peers, "vsock echo 80 n=12")
    slow = peers.dial(80, 60000)
    slow.settimeout(1)
    sent, data = 0, os.urandom(4 * MIB)
    # Until everything on the way there and back is full.
    with pytest.raises(TimeoutError):
        while True:
            sent += slow.send(data[sent:sent + 4096])
            assert sent < len(data)
    for _ in range(10):
        assert digest(exchange(peers.dial(80), data[:MIB])) == digest(data[:MIB])
    vanishing = peers.dial(80)
    vanishing.sendall(bytes(1000))
    vanishing.close()
    assert digest(exchange(slow, data[sent:])) == digest(data)
    succeeded(vm)


# ---- the guest connects ----

def test_guest_connects(mayfly, peers):
    listener = peers.listen(5000)
    vm = start(mayfly, peers, f"vsock client 5000 bytes={2 * MIB} seed=7; vsock client 5001 bytes=1 refused=1")
    peer = peers.accept(listener)
    data, got = stream(7, 2 * MIB), b""
    while len(got) < len(data):
        chunk = peer.recv(100000)
        assert chunk
        got += chunk
        peer.sendall(chunk)
    assert got == data
    assert peer.recv(1) == b""
    peer.close()
    succeeded(vm)


def test_last_words_of_a_guest(mayfly, peers):
    """The guest is gone right after it has sent; everything is there, for a reader that comes late, too."""
    listener = peers.listen(5000)
    vm = start(mayfly, peers, "vsock client 5000 bytes=100000 seed=3 echo=0")
    peer = peers.accept(listener)
    peer.shutdown(socket.SHUT_WR)
    succeeded(vm)
    assert receive_all(peer) == stream(3, 100000)


def test_listener_that_is_busy(mayfly, peers):
    """A full backlog is waited for, while others go on."""
    busy = peers.listen(5000, backlog=0)
    blocker = peers.keep(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
    blocker.connect(f"{peers.path}_5000")
    vm = start(mayfly, peers, "vsock client 5000 bytes=10 seed=1 echo=0")
    with pytest.raises(Refused):
        peers.dial(9, 200)
    peers.accept(busy)
    peer = peers.accept(busy)
    assert receive_all(peer) == stream(1, 10)
    peer.close()
    succeeded(vm)


# ---- hostile, and the end ----

def test_hostile_guest(mayfly, peers):
    outcome = succeeded(start(mayfly, peers, "vsock hostile; vsock hostile"))
    assert "BUT" not in outcome.out
    assert outcome.out.count("needs_reset (expected needs_reset)") == 6


def test_file_in_the_way(mayfly, peers):
    peers.path.write_text("mine")
    outcome = mayfly.run(configure(peers, "print no"))
    assert outcome.code == BAD_CONFIG
    assert f"vsock.uds_path: {peers.path}: " in outcome.err
    assert peers.path.read_text() == "mine"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda n: n.name)
def test_socket_file_goes(mayfly, peers, number):
    vm = start(mayfly, peers, "idle")
    assert peers.path.is_socket()
    waiting = peers.connect()
    vm.signal(number)
    assert vm.wait().code == 128 + number
    assert not peers.path.exists()
    assert waiting.recv(1) == b""
