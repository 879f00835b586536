"""A Linux guest's AF_VSOCK sockets through mayfly: many streams at once, both directions, half-close, CONNECT that waits."""

import os
import socket
import subprocess
import threading

import pytest

from harness import PATIENCE
from linux_guest import SMP, UP, Guest, configure, healthy, said
from vsock_peer import Peers, Refused, digest, exchange, receive_all, together

pytestmark = pytest.mark.linux

CID = 3

# Debian's Python in the guest: an echo server, a client that sends and takes back, and both in numbers.
GUEST = """
import hashlib, os, socket, sys, threading

def both_ways(sock, data):
    got = hashlib.sha256()
    n = [0]
    def take():
        while chunk := sock.recv(65536):
            got.update(chunk)
            n[0] += len(chunk)
    t = threading.Thread(target=take)
    t.start()
    sock.sendall(data)
    sock.shutdown(socket.SHUT_WR)
    t.join()
    sock.close()
    return n[0], got.hexdigest()

def echo(sock):
    while chunk := sock.recv(65536):
        sock.sendall(chunk)
    sock.close()

def serve(port, count):
    listener = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
    listener.bind((socket.VMADDR_CID_ANY, port))
    listener.listen(512)
    print("LISTENING %d" % port, flush=True)
    threads = []
    for _ in range(count):
        t = threading.Thread(target=echo, args=[listener.accept()[0]])
        t.start()
        threads.append(t)
    for t in threads:
        t.join()

def connect(port):
    sock = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
    sock.connect((socket.VMADDR_CID_HOST, port))
    return sock

def client(port, size, results, i):
    data = os.urandom(size)
    sock = connect(port)
    results[i] = both_ways(sock, data) == (size, hashlib.sha256(data).hexdigest())

def clients(port, count, size):
    results = [False] * count
    threads = [threading.Thread(target=client, args=[port, size, results, i]) for i in range(count)]
    for t in threads: t.start()
    for t in threads: t.join()
    print("clients=%d" % sum(results), flush=True)

"""


@pytest.fixture
def peers(tmp_path):
    found = Peers(tmp_path / "v.sock")
    yield found
    found.close()


def start(vmm, peers, code, kernel=SMP):
    script = f"cat >/tmp/g.py <<'END_OF_PYTHON'\n{GUEST}{code}\nEND_OF_PYTHON\npython3 /tmp/g.py; echo \"status=$?\""
    vm = vmm.start(configure(vmm, script, kernel=kernel, root="images/debian.ext4", mem_mib=512,
                             vsock={"guest_cid": CID, "uds_path": str(peers.path)}), stdin=subprocess.PIPE)
    peers.wait(vm.process)
    return vm


def finished(vm):
    text = healthy(vm.wait(2 * PATIENCE))
    assert said(text, "status") == "0", text[-3000:]
    return text


@pytest.mark.parametrize("binary,kernel", [("release", SMP), ("debug", UP)], ids=["release-smp", "debug-up"])
def test_two_hundred_from_the_host(request, peers, binary, kernel):
    """CONNECT waits for the guest to boot and to listen; then 200 streams go both ways at once."""
    vm = start(request.getfixturevalue(binary), peers, "serve(1000, 201)", kernel)
    first = peers.dial(1000, 120000)
    assert exchange(first, b"up") == b"up"

    def one(i):
        data = os.urandom(30000 + 97 * i)
        assert digest(exchange(peers.dial(1000), data)) == digest(data)

    together(one, range(200))
    finished(vm)


def test_two_hundred_from_the_guest(release, peers):
    listener = peers.listen(2000, backlog=512)
    vm = start(release, peers, "clients(2000, 200, 50000)")
    listener.settimeout(2 * PATIENCE)

    def echo(sock):
        while chunk := sock.recv(65536):
            sock.sendall(chunk)
        sock.close()

    threads = []
    for _ in range(200):
        threads.append(threading.Thread(target=echo, args=[peers.accept(listener)], daemon=True))
        threads[-1].start()
    for thread in threads:
        thread.join(2 * PATIENCE)
    assert said(finished(vm), "clients") == "200"


def test_much_data(release, peers):
    """16 MiB each way through one stream."""
    vm = start(release, peers, "serve(1000, 1)")
    data = os.urandom(16 << 20)
    assert digest(exchange(peers.dial(1000, 120000), data)) == digest(data)
    finished(vm)


HALF_CLOSE = """
# The host ends first: its end is seen here, and the answer still goes out.
listener = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
listener.bind((socket.VMADDR_CID_ANY, 1000))
listener.listen()
sock, address = listener.accept()
print("peer_cid=%d" % address[0])
question = b""
while chunk := sock.recv(1000):
    question += chunk
sock.sendall(b"answer to " + question)
sock.close()
# We end first.
sock = connect(2000)
sock.sendall(b"question")
sock.shutdown(socket.SHUT_WR)
answer = b""
while chunk := sock.recv(1000):
    answer += chunk
print("answer=" + answer.decode())
sock.close()
# The host goes away without a word: reading ends, and writing comes to an end, too.
sock = connect(2000)
sock.sendall(b"x")
while sock.recv(1000):
    pass
try:
    while True:
        sock.sendall(bytes(100000))
except OSError as error:
    print("broken=%d" % error.errno)
sock.close()
# Nobody there, and a socket type the device does not have.
for port in (3000, 4000):
    try:
        connect(port)
    except OSError as error:
        print("refused=%d" % error.errno)
try:
    sock = socket.socket(socket.AF_VSOCK, socket.SOCK_SEQPACKET)
    sock.connect((socket.VMADDR_CID_HOST, 2000))
except OSError as error:
    print("seqpacket=%d" % error.errno, flush=True)
"""


def test_half_close(release, peers):
    listener = peers.listen(2000)
    listener.settimeout(2 * PATIENCE)
    vm = start(release, peers, HALF_CLOSE)
    sock = peers.dial(1000, 120000)
    sock.sendall(b"question")
    sock.shutdown(socket.SHUT_WR)
    assert receive_all(sock) == b"answer to question"
    sock = peers.accept(listener)
    assert receive_all(sock) == b"question"
    sock.sendall(b"late answer")
    sock.close()
    sock = peers.accept(listener)
    assert sock.recv(1) == b"x"
    sock.close()
    text = finished(vm)
    assert said(text, "peer_cid") == "2"
    assert said(text, "answer") == "late answer"
    assert said(text, "broken") in ("32", "104")
    assert text.count("refused=104") == 2
    assert int(said(text, "seqpacket")) > 0


def test_connect_waits_for_a_listener(release, peers):
    """Before the kernel runs, before anything listens, and with too little patience."""
    vm = start(release, peers, 'print("UP", flush=True)\nsys.stdin.readline()\nserve(1000, 2)')
    with pytest.raises(Refused):
        peers.dial(1000, 100)
    vm.expect(rb"UP\r?\n", timeout=2 * PATIENCE)
    with pytest.raises(Refused):
        peers.dial(1000)
    with pytest.raises(Refused):
        peers.dial(1000, 300)
    waiting = []
    thread = threading.Thread(target=lambda: waiting.append(peers.dial(1000, 120000)), daemon=True)
    thread.start()
    vm.send(b"\n")
    thread.join(2 * PATIENCE)
    assert exchange(waiting[0], b"patient") == b"patient"
    assert exchange(peers.dial(1000), b"at once") == b"at once"
    finished(vm)


def test_last_words_before_power_off(release, peers):
    """What a guest has sent when it switches itself off arrives."""
    listener = peers.listen(2000)
    listener.settimeout(2 * PATIENCE)
    vm = start(release, peers, 'connect(2000).sendall(b"r" * 100000)\nos.system("echo status=0")\n'
               'open("/proc/sysrq-trigger", "w").write("b")')
    sock = peers.accept(listener)
    vm.wait(2 * PATIENCE)
    assert receive_all(sock) == b"r" * 100000


def test_socat(release, peers, tmp_path):
    """The usual tool on both sides: as server, which an event tells of, and as client."""
    guest = Guest(release, kernel=UP, vsock={"guest_cid": CID, "uds_path": str(peers.path)})
    data = os.urandom(300000)
    # A server in the guest. Somebody waits for it, and hears of it once; the second connection is no news.
    waiting = []
    thread = threading.Thread(target=lambda: waiting.append(exchange(peers.dial(1000, 120000), data)), daemon=True)
    thread.start()
    guest.run("socat VSOCK-LISTEN:1000,fork EXEC:sha256sum & server=$!")
    thread.join(2 * PATIENCE)
    assert waiting[0].split()[0].decode() == digest(data)
    assert exchange(peers.dial(1000, 1000), b"again").split()[0].decode() == digest(b"again")
    # By socat on this side, too. It ends both directions at the end of its input, so sha256sum's line needs -t: wait for it.
    client = subprocess.run(["socat", "-t", str(PATIENCE), "-", f"UNIX-CONNECT:{peers.path}"], input=b"CONNECT 1000\n" + data, stdout=subprocess.PIPE,
                            check=True, timeout=2 * PATIENCE)
    ok, answer = client.stdout.split(b"\n", 1)
    assert ok.startswith(b"OK ") and answer.split()[0].decode() == digest(data)
    # A client in the guest, against socat on the host.
    with subprocess.Popen(["socat", "-u", f"UNIX-LISTEN:{peers.path}_2000", "-"], stdout=subprocess.PIPE) as server:
        sent = guest.run("head -c 300000 /dev/urandom >/tmp/data; until socat -u FILE:/tmp/data VSOCK-CONNECT:2:2000; do sleep 0.1; done; sha256sum /tmp/data")
        got, _ = server.communicate(timeout=PATIENCE)
    assert digest(got) in sent
    guest.run("kill $server")
    events = guest.api.events(PATIENCE)
    guest.finish()
    assert [event["port"] for event in events if event["event"] == "vsock_listening"] == [1000]
