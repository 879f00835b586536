"""The API's HTTP: what curl, SDKs, slow clients and hostile ones send, how much of it, and what that costs."""

import json
import os
import random
import re
import resource
import socket
import subprocess
import time

import pytest

import contract
from api_machines import boot, is_fault, prepare
from harness import PATIENCE, descriptors
from mayfly import connect

LIMIT = 51200  # --http-api-max-payload-size when nobody says anything


@pytest.fixture
def server(mayfly):
    """A process that has not booted: (process, client, path of the socket)."""
    prepare(mayfly.directory)
    running, api = mayfly.start_api()
    yield running, api, api.api_sock
    assert running.process.poll() is None, running.said()
    running.signal(15)
    running.wait()


@pytest.fixture
def api_sock(server):
    return server[2]


class Raw:
    """A connection for bytes as they are."""

    def __init__(self, path):
        self.sock = connect(path, PATIENCE)
        self.file = self.sock.makefile("rb")

    def send(self, data):
        self.sock.sendall(data)
        return self

    def answer(self, to_head=False):
        """(status, headers, body) of the next answer; None at the end."""
        line = self.file.readline()
        if not line:
            return None
        match = re.fullmatch(rb"HTTP/1\.[01] (\d{3}) [^\r\n]*\r\n", line)
        assert match, line
        headers = {}
        while (line := self.file.readline()) != b"\r\n":
            name, colon, value = line.partition(b":")
            assert colon and line.endswith(b"\r\n"), line
            headers[name.decode().lower()] = value.strip().decode()
        status = int(match[1])
        if status in (100, 204) or to_head:
            assert "transfer-encoding" not in headers and (to_head or headers.get("content-length", "0") == "0")
            return status, headers, b""
        return status, headers, self.file.read(int(headers["content-length"]))

    def rest(self):
        """All that comes before the other side closes."""
        return self.file.read()

    def close(self):
        self.file.close()
        self.sock.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def request(method, path, body=None, *headers):
    data = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = [f"{method} {path} HTTP/1.1", "Host: localhost", *headers]
    if body is not None:
        lines.append(f"Content-Length: {len(data)}")
    return ("\r\n".join(lines) + "\r\n\r\n").encode() + data


def one(path, data):
    """The one answer to data."""
    with Raw(path) as raw:
        return raw.send(data).answer()


def curl(api_sock, *args):
    done = subprocess.run(["curl", "--silent", "--show-error", "--max-time", "20", "--unix-socket", api_sock, *args], capture_output=True,
                          check=True, timeout=30)
    return done.stdout.decode()


def machine(mib):
    return {"vcpu_count": 1, "mem_size_mib": mib}


def is_open(raw):
    """The connection still takes requests."""
    return raw.send(request("GET", "/version")).answer()[0] == 200


# ---- curl ----

def test_curl_reads_and_writes(api_sock):
    assert "mayfly_version" in json.loads(curl(api_sock, "http://localhost/version"))
    said = curl(api_sock, "-i", "-X", "PUT", "http://localhost/machine-config", "-d", '{"vcpu_count": 2, "mem_size_mib": 256}')
    assert said.startswith("HTTP/1.1 204 ") and said.endswith("\r\n\r\n")
    assert json.loads(curl(api_sock, "http://localhost/machine-config"))["vcpu_count"] == 2
    said = curl(api_sock, "-i", "-X", "PUT", "http://localhost/machine-config", "-d", '{"vcpu_count": 2}')
    assert said.startswith("HTTP/1.1 400 ") and "mem_size_mib" in json.loads(said.split("\r\n\r\n")[1])["fault_message"]


def test_curl_keeps_one_connection(api_sock):
    said = curl(api_sock, "-w", "%{num_connects}\n", *["-o", "/dev/null", "http://localhost/"] * 5)
    assert said.splitlines() == ["1", "0", "0", "0", "0"]


def test_curl_speaks_http_1_0(api_sock):
    said = curl(api_sock, "-i", "-0", "http://localhost/version")
    assert said.startswith("HTTP/1.") and " 200 " in said.splitlines()[0]
    assert re.search(r"(?im)^connection: close\r?$", said)


def test_curl_waits_for_continue(api_sock):
    body = json.dumps({"boot_args": "x" * 2000})
    done = subprocess.run(["curl", "-sv", "--max-time", "20", "--expect100-timeout", "15", "--unix-socket", api_sock, "-H", "Expect: 100-continue",
                           "-X", "PUT", "http://localhost/boot-source", "-d", body], capture_output=True, text=True, check=True, timeout=30)
    assert "< HTTP/1.1 100 Continue" in done.stderr and "< HTTP/1.1 204" in done.stderr, done.stderr


def test_curl_sends_chunks(api_sock):
    said = curl(api_sock, "-i", "-H", "Transfer-Encoding: chunked", "-X", "PUT", "http://localhost/boot-source", "-d", '{"boot_args": "chunked"}')
    assert said.startswith("HTTP/1.1 204 ")
    assert json.loads(curl(api_sock, "http://localhost/boot-source"))["boot_args"] == "chunked"


# ---- framing ----

def test_pipelined_requests_are_answered_in_order(api_sock):
    data = b"".join(request("PUT", "/machine-config", machine(n)) + request("GET", "/machine-config") for n in range(1, 51))
    with Raw(api_sock) as raw:
        raw.send(data)
        for n in range(1, 51):
            assert raw.answer()[0] == 204
            assert json.loads(raw.answer()[2])["mem_size_mib"] == n


def test_errors_do_not_disturb_the_order(api_sock):
    data = b"".join(request("PUT", "/machine-config", machine(0) if n % 2 else machine(n + 1)) for n in range(100))
    with Raw(api_sock) as raw:
        raw.send(data)
        assert [raw.answer()[0] for _ in range(100)] == [204, 400] * 50
        assert is_open(raw)


def test_answers_to_a_client_that_does_not_read(server):
    """A flood of requests whose answers nobody takes is held back, not hoarded."""
    running, api, api_sock = server
    before = memory(running.pid)
    with Raw(api_sock) as raw:
        raw.sock.settimeout(1)
        one_request = request("GET", "/metrics")
        sent = 0
        with pytest.raises(TimeoutError):
            while sent < 64 << 20:
                sent += raw.sock.send(one_request[sent % len(one_request):] + one_request * 100)
        assert api.version()  # meanwhile others are served
        assert memory(running.pid) - before < growth(running, 2048)
        raw.sock.settimeout(PATIENCE)
        for _ in range(sent // len(one_request)):  # and none has been forgotten
            assert raw.answer()[0] == 200


def test_answers_that_come_later_keep_their_place(mayfly):
    """A pause is answered when it is done; what came behind it in the same write waits for its turn."""
    prepare(mayfly.directory)
    running, api = boot(mayfly)
    running.expect(b"READY")
    turn = (request("PATCH", "/vm", {"state": "Paused"}) + request("GET", "/")
            + request("PATCH", "/vm", {"state": "Resumed"}) + request("GET", "/"))
    with Raw(api.api_sock) as raw:
        raw.send(turn * 10)
        for _ in range(10):
            assert raw.answer()[0] == 204
            assert json.loads(raw.answer()[2])["state"] == "Paused"
            assert raw.answer()[0] == 204
            assert json.loads(raw.answer()[2])["state"] == "Running"


@pytest.mark.parametrize("pieces", ["bytes", "halves"])
def test_requests_in_pieces(api_sock, pieces):
    data = request("PUT", "/machine-config", machine(77), "X-Long: " + "y" * 50) + request("GET", "/machine-config")
    with Raw(api_sock) as raw:
        if pieces == "bytes":
            for n in range(len(data)):
                raw.send(data[n : n + 1])
            assert raw.answer()[0] == 204 and json.loads(raw.answer()[2])["mem_size_mib"] == 77
            return
        for cut in range(1, len(data)):
            raw.send(data[:cut]).send(data[cut:])
            assert raw.answer()[0] == 204 and json.loads(raw.answer()[2])["mem_size_mib"] == 77, cut


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_chunked_bodies(api_sock, size):
    body = json.dumps(machine(99)).encode() + b" " * 100
    chunks = b"".join(b"%x;ext=1\r\n%s\r\n" % (len(body[n : n + size]), body[n : n + size]) for n in range(0, len(body), size))
    head = b"PUT /machine-config HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    with Raw(api_sock) as raw:
        raw.send(head + chunks + b"0\r\nTrailer: ignored\r\n\r\n" + request("GET", "/machine-config"))
        assert raw.answer()[0] == 204
        assert json.loads(raw.answer()[2])["mem_size_mib"] == 99


def test_http_1_0_closes(api_sock):
    with Raw(api_sock) as raw:
        status, headers, body = raw.send(b"GET /version HTTP/1.0\r\n\r\n").answer()
        assert status == 200 and "mayfly_version" in json.loads(body) and headers["connection"] == "close"
        assert raw.rest() == b""


def test_connection_close_closes(api_sock):
    with Raw(api_sock) as raw:
        status, headers, _ = raw.send(request("GET", "/", None, "Connection: close") + request("GET", "/")).answer()
        assert status == 200 and headers["connection"] == "close"
        assert raw.rest() == b""


def test_client_that_ends_its_sending_gets_its_answers(api_sock):
    with Raw(api_sock) as raw:
        raw.send(request("GET", "/") * 3)
        raw.sock.shutdown(socket.SHUT_WR)
        assert [raw.answer()[0] for _ in range(3)] == [200] * 3
        assert raw.rest() == b""


def test_head_has_no_body(api_sock):
    with Raw(api_sock) as raw:
        raw.send(request("HEAD", "/") + request("GET", "/version"))
        raw.answer(to_head=True)
        status, _, body = raw.answer()
        assert status == 200 and "mayfly_version" in json.loads(body)


@pytest.mark.parametrize("path", ["/version?x=1", "/version?", "/version#x"])
def test_queries_are_not_part_of_the_path(api_sock, path):
    assert one(api_sock, request("GET", path))[0] in (200, 400)


BAD_FRAMES = {
    "not HTTP": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200),
    "no version": b"GET /\r\n\r\n",
    "HTTP/2 preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "HTTP/9.9": b"GET / HTTP/9.9\r\n\r\n",
    "tunnel": b"CONNECT x:1 HTTP/1.1\r\n\r\n" + b"PUT /boot-source HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}",
    "unknown method": b"BREW / HTTP/1.1\r\nHost: x\r\n\r\n",
    "NUL in the path": b"GET /\0version HTTP/1.1\r\n\r\n",
    "control character in a header": b"GET / HTTP/1.1\r\nX: a\x01b\0c\r\n\r\n",
    "space before the colon": b"GET / HTTP/1.1\r\nContent-Length : 5\r\n\r\nhello",
    "header without a colon": b"GET / HTTP/1.1\r\nhello\r\n\r\n",
    "negative length": b"PUT /boot-source HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
    "length with a sign": b"PUT /boot-source HTTP/1.1\r\nContent-Length: +2\r\n\r\n{}",
    "length in hexadecimal": b"PUT /boot-source HTTP/1.1\r\nContent-Length: 0x2\r\n\r\n{}",
    "huge length": b"PUT /boot-source HTTP/1.1\r\nContent-Length: 99999999999999999999999\r\n\r\n{}",
    "length of 2^64 + 2": b"PUT /boot-source HTTP/1.1\r\nContent-Length: 18446744073709551618\r\n\r\n{}",
    "two lengths": b"PUT /boot-source HTTP/1.1\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{} ",
    "length and chunks": b"PUT /boot-source HTTP/1.1\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    "unknown transfer encoding": b"PUT /boot-source HTTP/1.1\r\nTransfer-Encoding: gzip\r\n\r\n{}",
    "chunk size not a number": b"PUT /boot-source HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nxy\r\n{}\r\n0\r\n\r\n",
    "huge chunk": b"PUT /boot-source HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff1\r\n{}\r\n0\r\n\r\n",
    "negative chunk": b"PUT /boot-source HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n-2\r\n{}\r\n0\r\n\r\n",
    "chunk longer than its size": b"PUT /boot-source HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n{}\r\n0\r\n\r\n",
}


@pytest.mark.parametrize("data", BAD_FRAMES.values(), ids=BAD_FRAMES.keys())
def test_bad_frames(server, data):
    """Answered with 4xx or closed; never taken for a request, never a second answer, and nobody else notices."""
    running, api, api_sock = server
    api.put_boot_source({"boot_args": "kept"})
    with Raw(api_sock) as raw:
        raw.send(data)
        raw.sock.shutdown(socket.SHUT_WR)
        answer = raw.answer()
        if answer:
            status, headers, body = answer
            assert 400 <= status < 500 or status in (501, 505), answer
            contract.check(contract.FAULT, json.loads(body))
            assert headers["connection"] == "close" or b"Length :" in data  # the parser lets this one pass as a length
        assert raw.rest() == b""
    assert api.boot_source()["boot_args"] == "kept"


# ---- limits ----

def padded(size):
    body = json.dumps(machine(33)).encode()
    return body + b" " * (size - len(body))


@pytest.mark.parametrize("limit", [None, 200])
def test_payload_limit(mayfly, limit):
    prepare(mayfly.directory)
    running, api = mayfly.start_api(["--http-api-max-payload-size", str(limit)] if limit else [])
    most = limit or LIMIT
    assert one(api.api_sock, request("PUT", "/machine-config", padded(most)))[0] == 204
    for data in [request("PUT", "/machine-config", padded(most + 1)),
                 b"PUT /machine-config HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n" % (most + 1, padded(most + 1)),
                 # The body is not waited for.
                 b"PUT /machine-config HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % (most + 1),
                 b"PUT /machine-config HTTP/1.1\r\nContent-Length: %d\r\nExpect: 100-continue\r\n\r\n" % (most + 1)]:
        status, _, body = one(api.api_sock, data)
        assert status == 413, data[:100]
        contract.check(contract.FAULT, json.loads(body))
        assert "--http-api-max-payload-size" in json.loads(body)["fault_message"]
    is_fault(api.request("PUT", "/machine-config", padded(most + 1)), 413)  # read to its end by a client that sends all first
    assert api.version()


@pytest.mark.parametrize("flood", ["many", "long", "path", "endless", "blank"])
def test_header_floods(server, flood):
    running, api, api_sock = server
    start = b"GET / HTTP/1.1\r\n"
    data = {
        "many": start + b"".join(b"X-%d: y\r\n" % n for n in range(20000)),
        "long": start + b"X: " + b"y" * (1 << 20),
        "path": b"GET /" + b"a" * (1 << 20),
        "endless": start + b"X" * (1 << 20),
        "blank": b"\r\n" * 100000,
    }[flood]
    before = memory(running.pid)
    with Raw(api_sock) as raw:
        try:
            raw.send(data)
            raw.sock.shutdown(socket.SHUT_WR)
        except (BrokenPipeError, ConnectionResetError):
            pass
        try:
            answer = raw.answer()
        except ConnectionResetError:
            answer = None
        if answer:
            assert answer[0] in (400, 414, 431), answer
    assert api.version()
    if running.process.args[0].endswith("mayfly"):
        assert memory(running.pid) - before < growth(running, 512)


# ---- many clients ----

def memory(pid):
    """Private memory of the process in KiB. Clean pages of the program are private, too, when no other process happens to run it."""
    with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as f:
        return sum(int(line.split()[1]) for line in f if line.startswith("Private_Dirty"))


def growth(running, kib):
    """How much more memory it may have. AddressSanitizer keeps what is freed for a while; large leaks are seen there, too."""
    return kib + (8192 if running.process.args[0].endswith("debug") else 0)


def cpu_seconds(pid):
    with open(f"/proc/{pid}/stat", encoding="ascii") as f:
        fields = f.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def has_closed_down_to(api, pid, fds):
    """The process has at most fds descriptors, once it has seen that clients are gone: a few turns of its loop, no more."""
    for _ in range(100):
        api.version()
        if len(descriptors(pid)) <= fds:
            return True
    return False


@pytest.fixture
def many_files():
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(8192, limits[1]), limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def half_open(path, n):
    """n clients that begin a request and leave it at that."""
    clients = []
    for _ in range(n):
        clients.append(connect(path, PATIENCE))
        try:
            clients[-1].sendall(b"PUT /mmds HTTP/1.1\r\nContent-Le")
        except BrokenPipeError:  # had to make room for others already
            pass
    return clients


def wait_closed(clients):
    """Reads each to its end; returns how long that took."""
    start = time.monotonic()
    for sock in clients:
        try:
            while sock.recv(4096):
                pass
        except ConnectionResetError:
            pass
        sock.close()
    return time.monotonic() - start


def test_half_open_clients(server, many_files):
    """A thousand clients that never finish: others are served, they are closed after about 10 s, and nothing stays."""
    running, api, api_sock = server
    assert api.version()
    fds, kib = len(descriptors(running.pid)), memory(running.pid)
    begun = time.monotonic()
    clients = half_open(api_sock, 1000)
    cpu = cpu_seconds(running.pid)
    for _ in range(20):  # meanwhile, on a new connection each
        start = time.monotonic()
        api.hang_up()
        assert api.version()
        assert time.monotonic() - start < 2
    wait_closed(clients)
    took = time.monotonic() - begun
    assert 5 < took < 20, f"{took:.1f} s"
    assert cpu_seconds(running.pid) - cpu < took / 4
    assert has_closed_down_to(api, running.pid, fds + 1)
    if running.process.args[0].endswith("mayfly"):
        assert memory(running.pid) < kib + growth(running, 512)


def test_more_clients_than_descriptors(mayfly, many_files):
    """Out of descriptors: no spinning, no end, and service goes on when there are some again."""
    prepare(mayfly.directory)
    running, api = mayfly.start_api(wrapper=["prlimit", "--nofile=48"])
    assert api.version()
    clients = [connect(api.api_sock, PATIENCE) for _ in range(150)]
    before, start = cpu_seconds(running.pid), time.monotonic()
    while time.monotonic() - start < 1:
        api.version()
    assert cpu_seconds(running.pid) - before < 0.9
    for sock in clients:
        sock.close()
    api.hang_up()
    assert api.version()
    assert running.process.poll() is None


def test_clients_that_vanish(server):
    """Ended in the middle of a request, of its answer, and before reading any."""
    running, api, api_sock = server
    assert api.version()
    fds = len(descriptors(running.pid))
    for n in range(300):
        raw = Raw(api_sock)
        raw.send([b"GET / HT", request("GET", "/metrics") * 20, b"PUT /boot-source HTTP/1.1\r\nContent-Length: 100\r\n\r\n{", b""][n % 4])
        raw.close()
    assert has_closed_down_to(api, running.pid, fds + 1)


def test_an_idle_connection_is_kept(server):
    """Clients keep a connection for hours. Only what was begun and not finished runs out of time."""
    _, _, api_sock = server
    with Raw(api_sock) as idle, Raw(api_sock) as begun:
        assert is_open(idle)
        begun.send(b"GET / HTTP/1.1\r\n")
        answer = begun.answer()  # about 10 s
        assert answer is None or answer[0] == 408
        assert begun.rest() == b""
        assert is_open(idle)


# ---- random requests ----

def corpus():
    """Requests that are right. None of them boots, and none names a file to be made."""
    for op in contract.OPERATIONS:
        if op.path in ("/actions", "/events", "/metrics", "/serial") and op.method != "PATCH":
            continue
        body = contract.most(op.body) if op.body else op.example()
        if op.path == "/logger" and body:
            body = {"level": "Off", "show_level": True, "module": "vmm"}
        yield op.method, op.url(body), None if body is None else json.dumps(body).encode()


WORDS = [b"null", b"true", b"-1", b"0", b"1e999", b"9223372036854775808", b"{", b"}", b"[", b"]", b'"', b"\\u0000", b"\\ud800", b"\0", b"\xff", b",", b":",
         b"\r\n", b"\r\n\r\n", b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n", b"HTTP/1.1", b" "]


def mutate(rng, data):
    out = bytearray(data)
    for _ in range(rng.choice([1, 1, 2, 4])):
        at = rng.randrange(len(out) + 1)
        kind = rng.randrange(6)
        if kind == 0 and out:
            out[at % len(out)] ^= 1 << rng.randrange(8)
        elif kind == 1:
            del out[at : at + rng.choice([1, 2, 8, 64])]
        elif kind == 2:
            out[at:at] = rng.choice(WORDS)
        elif kind == 3:
            end = at + rng.randrange(32)
            out[at:at] = out[at:end]
        elif kind == 4:
            out[at : at + rng.randrange(8)] = rng.choice(WORDS)
        else:
            out[at:at] = rng.randbytes(rng.randrange(1, 5))
    return bytes(out)


def throw(path, data):
    """Send data on a connection of its own; returns the status lines of all answers."""
    with connect(path, PATIENCE) as sock:
        try:
            sock.sendall(data)
            sock.shutdown(socket.SHUT_WR)
            back = bytearray()
            while chunk := sock.recv(65536):
                back += chunk
        except (BrokenPipeError, ConnectionResetError):
            return []
    return re.findall(rb"HTTP/1\.1 (\d{3}) ", back)


def throw_frames(rng, path, requests, n):
    """HTTP itself is broken: a connection each."""
    frames = [request(method, url, body) for method, url, body in requests]
    for _ in range(n):
        data = mutate(rng, rng.choice(frames))
        answers = throw(path, data)
        assert not [a for a in answers if a[:1] == b"5" and a not in (b"501", b"505")], data


def throw_bodies(rng, path, requests, n):
    """JSON is broken in HTTP that is not: each is answered, many on a connection."""
    writing = [(method, url, body) for method, url, body in requests if body]
    for _ in range(0, n, 100):
        batch = []
        for _ in range(100):
            method, url, body = rng.choice(writing)
            batch.append(request(method, url, mutate(rng, body)))
        answers = throw(path, b"".join(batch))
        assert len(answers) == 100, (len(answers), b"".join(batch))
        assert set(answers) <= {b"204", b"400", b"404", b"413"}, set(answers)


def test_mutated_requests(server):
    """100 000 of them. Then the process is as it was, and boots."""
    running, api, api_sock = server
    rng = random.Random(20261121)
    requests = list(corpus())
    n = 100_000 if running.process.args[0].endswith("mayfly") else 20_000
    throw_frames(rng, api_sock, requests, n // 100)
    throw_bodies(rng, api_sock, requests, n // 10)
    fds, kib = len(descriptors(running.pid)), memory(running.pid)
    throw_frames(rng, api_sock, requests, n // 10)
    throw_bodies(rng, api_sock, requests, n - n // 10 - n // 100 - n // 10)
    assert has_closed_down_to(api, running.pid, fds + 1)
    if running.process.args[0].endswith("mayfly"):
        assert memory(running.pid) <= kib + growth(running, 256)
    boots_still(running, api)


def clear(api):
    """Takes away all that would keep the test guest from booting."""
    for drive in api.drives():
        api.delete_drive(drive["drive_id"])
    for net in api.network_interfaces():
        api.delete_network_interface(net["iface_id"])
    if api.request("GET", "/vsock").status == 200:
        api.delete_vsock()
    api.put_machine_config({**machine(64), "cpu_template": "None"})


def boots_still(running, api, script="print BOOTED; idle"):
    clear(api)
    api.put_serial({})
    api.put_boot_source({"kernel_image_path": "vmlinux", "boot_args": f"console=ttyS0 mayfly.test='{script}'"})
    api.start()
    running.expect(b"BOOTED")


# ---- random calls ----

class Model:
    """What may succeed: by the contract, and by the few rules that need more than one resource."""

    def __init__(self):
        self.booted = False
        self.drives, self.nets = {}, {}
        self.machine = {"vcpu_count": 1, "mem_size_mib": 128, "smt": False, "huge_pages": "None"}
        self.single = {}
        self.mmds = False

    def may(self, op, body):
        """Whether this may be answered 2xx."""
        if op.refused or (op.when == "pre-boot" and self.booted) or (op.when == "post-boot" and not self.booted):
            return False
        if op.method == "GET":
            return self.has(op)
        if op.method == "DELETE":
            return self.has(op)
        if not contract.accepts(op.body, without_null(body)):
            return False
        if op.path == "/actions":
            return self.booted == (body["action_type"] != "InstanceStart")
        if op.path == "/machine-config":
            return self.machine_fits(op, body)
        if (op.method, op.path) == ("PATCH", "/mmds"):
            return self.mmds
        return True

    def has(self, op):
        if op.path == "/drives/{drive_id}":
            return "rootfs" in self.drives
        if op.path == "/network-interfaces/{iface_id}":
            return "eth0" in self.nets
        return "404" not in op.spec["responses"] or op.path in self.single

    def machine_fits(self, op, body):
        m = {**(self.machine if op.method == "PATCH" else {"smt": False, "huge_pages": "None"}), **without_null(body)}
        return not (m["smt"] and m["vcpu_count"] > 1 and m["vcpu_count"] % 2) and not (m["huge_pages"] != "None" and m["mem_size_mib"] % 2)

    def done(self, op, body):
        """It was answered 2xx."""
        if op.method == "GET":
            return
        if op.method == "DELETE":
            {"/drives/{drive_id}": self.drives, "/network-interfaces/{iface_id}": self.nets}.get(op.path, self.single).pop(
                {"/drives/{drive_id}": "rootfs", "/network-interfaces/{iface_id}": "eth0"}.get(op.path, op.path))
            if op.path == "/network-interfaces/{iface_id}":
                self.single.pop("/mmds/config", None)  # it can only have named this one
        elif op.path == "/drives/{drive_id}" and op.method == "PUT":
            self.drives["rootfs"] = body
        elif op.path == "/network-interfaces/{iface_id}" and op.method == "PUT":
            self.nets["eth0"] = body
        elif op.path == "/machine-config":
            self.machine = {**(self.machine if op.method == "PATCH" else {"smt": False, "huge_pages": "None"}), **without_null(body)}
            if body.get("cpu_template"):
                self.single.pop("/cpu-config", None)
        elif op.path == "/mmds":
            self.mmds = True
        else:
            self.single[op.path] = body


def without_null(body):
    if isinstance(body, dict):
        return {name: without_null(value) for name, value in body.items() if value is not None}
    return body


def random_body(rng, op):
    """A body that is right, or wrong in one place."""
    body = {name: value for name, value in contract.most(op.body).items() if name in op.body.get("required", ()) or rng.random() < 0.5}
    if op.path == "/logger":
        body.pop("log_path", None)  # the log is read for what went wrong
    if op.path == "/machine-config" and rng.random() < 0.5:
        body["mem_size_mib"] = rng.randrange(1, 300)
        body["vcpu_count"] = rng.randrange(1, 33)
    if rng.random() < 0.3:
        field = rng.choice(list(contract.fields(op.body)) or [None])
        if field and field.place[-1] not in ("log_path", "metrics_path", "serial_out_path"):
            wrong = contract.body_with(op.body, field.place, rng.choice(contract.refused_values(field)))
            body = {**body, **wrong} if isinstance(wrong, dict) else wrong
    return body


def random_calls(rng, api, model, n, skip):
    operations = [o for o in contract.OPERATIONS if o.path not in skip]
    for count in range(n):
        op = rng.choice(operations)
        body = random_body(rng, op) if op.body else op.example()
        allowed = model.may(op, body)
        answer = api.request(op.method, op.url(body), body)
        said = f"call {count}: {op} {json.dumps(body)[:300]}: {answer.status} {answer.body[:300]!r}"
        if answer.status < 300:
            assert allowed, said
            model.done(op, body)
        else:
            assert answer.status in (400, 404, 413), said
            assert op.method != "GET" or not allowed or op.refused, said
            contract.check(contract.FAULT, answer.json())


@pytest.mark.parametrize("seed", [1, 2])
def test_random_calls(server, seed):
    """10 000 calls in random order, before and after boot. The guest never notices."""
    running, api, _ = server
    rng, model = random.Random(seed), Model()
    random_calls(rng, api, model, 7000, {"/events", "/actions", "/metrics"})
    fds = len(descriptors(running.pid))
    boots_still(running, api)
    model.booted = True
    model.drives, model.nets = {}, {}
    for path in ("/vsock", "/mmds/config", "/cpu-config"):  # what clear() took back
        model.single.pop(path, None)
    for path in ("/boot-source",):
        model.single[path] = {}
    random_calls(rng, api, model, 3000, {"/events", "/metrics"})
    api.resume()
    assert api.instance()["state"] == "Running"
    assert has_closed_down_to(api, running.pid, fds + 32)  # what the microVM itself opened


def test_guest_ends_well_after_requests(mayfly):
    """Paused and resumed a hundred times while it runs, and asked all the time; then it goes on and ends with a status of its own."""
    prepare(mayfly.directory)
    running, api = boot(mayfly, "console=ttyS0 mayfly.test='print READY; wait x; status 5; reset'", stdin=subprocess.PIPE)
    running.expect(b"READY")
    for _ in range(100):
        api.pause()
        assert api.instance()["state"] == "Paused"
        api.resume()
    running.send(b"x")
    assert running.wait().code == 5
