"""The metadata service behind a TAP in a network namespace of its own: real clients, the host's TCP, lost frames."""

import json
import os
import subprocess

import pytest

from harness import PATIENCE, SANITIZER_ENV, SANITIZER_REPORT, artifact

ADDRESS = "169.254.169.254"
URL = f"http://{ADDRESS}"
METADATA = {
    "name": {"second": "Doe", "first": "John"},
    "age": 43,
    "share": 12.12,
    "phones": ["+401234567", "+441234567"],
    "latest": {"meta-data": {"macs": {"02:29:96:8f:6a:2d": {"device-number": "1"}}, "a/b~c": "escaped"}, "user-data": "#!/bin/sh\n"},
    "large": {f"key-{n:05}": f"{n * 2654435761:064b}" for n in range(3000)},
}
TTL = "X-metadata-token-ttl-seconds"


class Service:
    """mmds_tap in a new user and network namespace; commands run there talk to it."""

    def __init__(self, directory, *options):
        data = directory / "data.json"
        data.write_text(json.dumps(METADATA))
        self.log = open(directory / "stderr", "w+", encoding="utf-8")
        self.process = subprocess.Popen(
            ["unshare", "--user", "--map-root-user", "--net", artifact("integration/mmds_tap"), "tap0", data, *options],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log, env={**os.environ, **SANITIZER_ENV},
        )
        if self.process.stdout.readline() != b"ready\n":
            self.close()
            raise RuntimeError("no service; this needs user namespaces and an accessible /dev/net/tun")
        for command in ("addr add 169.254.1.1/16 dev tap0", "link set lo up", "link set tap0 up"):
            self.run("ip", *command.split())

    def start(self, *command):
        return subprocess.Popen(
            ["timeout", str(PATIENCE), "nsenter", "-t", str(self.process.pid), "-U", "-n", "--preserve-credentials", *command],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )

    def run(self, *command, code=0):
        process = self.start(*command)
        out, err = process.communicate()
        assert process.returncode == code, (command, process.returncode, out[-500:], err[-2000:])
        return out

    def curl(self, path, *options, code=0):
        return self.run("curl", "-sS", *options, URL + path, code=code)

    def status(self, path, *options):
        return self.curl(path, "-o", "/dev/null", "-w", "%{http_code}", *options)

    def python(self, script):
        """Run script in the namespace; get() and connect() are there for it."""
        return self.run("/usr/bin/python3", "-c", CLIENT + script)

    def close(self):
        self.process.stdin.close()
        self.process.wait(PATIENCE)
        self.process.stdout.close()
        self.log.seek(0)
        log = self.log.read()
        self.log.close()
        assert not SANITIZER_REPORT.search(log), log
        assert self.process.returncode == 0, log


CLIENT = f"""
import socket

def connect(**options):
    s = socket.socket()
    s.settimeout({PATIENCE})
    for name, value in options.items():
        s.setsockopt(socket.SOL_SOCKET, getattr(socket, name), value)
    s.connect(("{ADDRESS}", 80))
    return s

def answers(s, count):
    stream = s.makefile("rb")
    for _ in range(count):
        status = int(stream.readline().split()[1])
        headers = dict(line.decode().strip().split(": ") for line in iter(stream.readline, b"\\r\\n"))
        yield status, stream.read(int(headers["Content-Length"]))
"""


@pytest.fixture
def service(tmp_path):
    services = []

    def start(*options):
        services.append(Service(tmp_path, *options))
        return services[-1]

    yield start
    for each in services:
        each.close()


def test_both_formats(service):
    mmds = service("V1")
    as_json = ("-H", "Accept: application/json")
    assert json.loads(mmds.curl("/", *as_json)) == METADATA
    assert mmds.curl("/") == "age\nlarge/\nlatest/\nname/\nphones\nshare"
    assert mmds.curl("/name", *as_json) == '{"first":"John","second":"Doe"}'
    assert mmds.curl("//name/first/") == "John"
    assert mmds.curl("/name/first", *as_json) == '"John"'
    assert mmds.curl("/phones/1") == "+441234567"
    assert mmds.curl("/share", *as_json) == "12.12"
    assert mmds.curl("/latest/user-data") == "#!/bin/sh\n"
    assert mmds.curl("/latest/meta-data/a~1b~0c") == "escaped"
    assert mmds.curl("/latest/meta-data/macs/") == "02:29:96:8f:6a:2d/"
    assert mmds.status("/age") == "501"
    assert mmds.status("/nothing") == "404"
    assert mmds.status("/", "-X", "DELETE") == "405"
    assert mmds.status("/", "-X", "POST") == "501"
    assert mmds.status("/", "--data", "body") == "501"


def test_imds_compat_ignores_accept(service):
    mmds = service("V1", "0", "1", "imds")
    out = mmds.curl("/name", "-H", "Accept: application/json", "-w", "|%{content_type}")
    assert out == "first\nsecond|text/plain"


def test_v2_session(service):
    mmds = service("V2")
    assert mmds.status("/name/first") == "401"
    assert mmds.status("/latest/api/token", "-X", "PUT") == "400"
    assert mmds.status("/latest/api/token", "-X", "PUT", "-H", f"{TTL}: 60", "-H", "X-Forwarded-For: 1.2.3.4") == "400"
    token = mmds.curl("/latest/api/token", "-X", "PUT", "-H", f"{TTL}: 60")
    for header in ("X-metadata-token", "x-aws-ec2-metadata-token"):
        assert mmds.curl("/name/first", "-H", f"{header}: {token}") == "John"
        assert mmds.status("/name/first", "-H", f"{header}: {'0' * len(token)}") == "401"
    headers = mmds.curl("/latest/api/token", "-X", "PUT", "-H", f"{TTL}: 21600", "-D", "-", "-o", "/dev/null")
    assert f"{TTL}: 21600" in headers


def test_wget(service, tmp_path):
    mmds = service("V1")
    assert mmds.run("wget", "-q", "-T", "10", "-O", "-", f"{URL}/name/first") == "John"
    mmds.run("wget", "-q", "-T", "10", "-O", tmp_path / "all", "--header", "Accept: application/json", URL)
    assert json.loads((tmp_path / "all").read_text()) == METADATA


def test_one_connection_for_many_requests(service):
    mmds = service("V1")
    urls = [f"{URL}/name/first"] * 20
    out = mmds.run("curl", "-sS", "-w", "%{num_connects}\n", *urls)
    assert out == "John1\n" + "John0\n" * 19


@pytest.mark.parametrize("options", [("-0",), ("-H", "Connection: close")])
def test_connection_is_closed_when_asked_to(service, options):
    out = service("V1").run("curl", "-sSv", "--stderr", "-", *options, f"{URL}/name/first", f"{URL}/name/first")
    assert out.count("Connection: close") >= 2 and out.count("John") == 2


@pytest.mark.parametrize("percent,seed", [(0, 1), (2, 7), (10, 11), (20, 3)])
def test_large_answers_arrive_whole(service, percent, seed):
    """340 kB: many times the client's window, through loss, duplication and reordering each way."""
    mmds = service("V1", str(percent), str(seed))
    for _ in range(5 if percent < 10 else 1):
        assert json.loads(mmds.curl("/", "-H", "Accept: application/json")) == METADATA


def test_more_clients_than_connections(service):
    """100 at once: those for whom there is no room wait, none is refused."""
    mmds = service("V1")
    clients = [mmds.start("curl", "-sS", f"{URL}/name/first") for _ in range(100)]
    assert [client.communicate() for client in clients] == [("John", "")] * 100


def test_thirty_connections_held_open_are_all_served(service):
    out = service("V1").python("""
held = [connect() for _ in range(40)]
for _ in range(3):
    for s in held:
        s.sendall(b"GET /large HTTP/1.1\\r\\nAccept: application/json\\r\\n\\r\\n")
    print([(status, len(body)) for s in held for status, body in answers(s, 1)] == [(200, %d)] * 40)
""" % len(json.dumps(METADATA["large"], separators=(",", ":"))))
    assert out == "True\n" * 3


def test_every_byte_in_a_segment_of_its_own(service):
    out = service("V1").python("""
s = connect()
s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
for byte in b"GET /name/first HTTP/1.1\\r\\nHost: somewhere\\r\\nAccept: application/json\\r\\n\\r\\n":
    s.send(bytes([byte]))
print(*answers(s, 1))
""")
    assert out == "(200, b'\"John\"')\n"


def test_pipelined_requests_are_answered_in_order(service):
    """500 in one write are ten times the window that the service offers."""
    out = service("V1").python("""
import threading
s = connect()
paths = ["name/first", "name/second", "nothing"] * 170
requests = b"".join(b"GET /%s HTTP/1.1\\r\\n\\r\\n" % path.encode() for path in paths)
threading.Thread(target=s.sendall, args=(requests,), daemon=True).start()
print(b"".join(body for _, body in answers(s, len(paths))).decode())
""")
    assert out == "JohnDoeResource not found: /nothing." * 170 + "\n"


def test_small_receive_buffer(service):
    """The window closes over and over."""
    out = service("V1").python("""
s = connect(SO_RCVBUF=2304)
s.sendall(b"GET /large HTTP/1.1\\r\\nAccept: application/json\\r\\n\\r\\n")
print(len(next(answers(s, 1))[1]))
""")
    assert int(out) == len(json.dumps(METADATA["large"], separators=(",", ":")))


def test_half_close(service):
    """A client that has said all it has to say is answered, then closed."""
    out = service("V1").python("""
s = connect()
s.sendall(b"GET /name/first HTTP/1.1\\r\\n\\r\\n" * 3)
s.shutdown(socket.SHUT_WR)
print([body for _, body in answers(s, 3)], s.recv(1))
""")
    assert out == "[b'John', b'John', b'John'] b''\n"


def test_request_that_never_ends(service):
    out = service("V1").python("""
s = connect()
s.sendall(b"GET /" + b"x" * 100000)
print(next(answers(s, 1)), s.recv(1))
""")
    assert out == "(431, b'The request is too long.') b''\n"


def test_other_ports_refuse_at_once(service):
    mmds = service("V1")
    mmds.run("curl", "-sS", f"http://{ADDRESS}:81/", code=7)
    assert mmds.curl("/name/first") == "John"
