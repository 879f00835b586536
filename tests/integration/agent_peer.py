"""The host's end of the agent's protocol, for its tests: one frame in, one frame out, nothing assumed about order."""

import socket
import struct
import time
from typing import NamedTuple

from harness import PATIENCE

REQUEST, REPLY, STDIN, STDOUT, STDERR, SIGNAL, RESIZE, EXIT, DATA = range(1, 10)
FRAME_MAX = 65536


def fields(*pairs, **more):
    """Fields as bytes; pairs are for keys that come more than once, values are str, bytes or int."""
    out = b""
    for key, value in [*pairs, *((key, value) for key, value in more.items() if value is not None)]:
        value = value if isinstance(value, bytes) else str(value).encode()
        out += key.encode() + b"=" + value + b"\0"
    return out


def frame(kind, payload=b""):
    return struct.pack("<IBBH", len(payload), kind, 0, 0) + payload


def request_frames(op, *pairs, **more):
    text = fields(("version", 1), ("op", op), *pairs, **more) + b"end=1\0"
    return b"".join(frame(REQUEST, text[at:at + FRAME_MAX]) for at in range(0, len(text), FRAME_MAX))


class Lost(Exception):
    """The connection ended."""


class Ended(NamedTuple):
    out: bytes
    err: bytes
    code: int  # negative: the signal


class Conversation:
    """One connection, one request."""

    def __init__(self, sock):
        self.sock = sock

    def exactly(self, n):
        data = bytearray()
        while len(data) < n:
            try:
                chunk = self.sock.recv(n - len(data))
            except ConnectionError:
                chunk = b""
            if not chunk:
                raise Lost(f"after {len(data)} of {n} bytes")
            data += chunk
        return bytes(data)

    def read(self):
        """The next frame: its type and payload."""
        length, kind, zero, zeros = struct.unpack("<IBBH", self.exactly(8))
        assert length <= FRAME_MAX and 1 <= kind <= 9 and zero == zeros == 0, (length, kind, zero, zeros)
        return kind, self.exactly(length)

    def send(self, kind, payload=b""):
        self.sock.sendall(frame(kind, payload))

    def reply(self):
        """The REPLY's fields: (key, value) pairs."""
        kind, payload = self.read()
        assert kind == REPLY, (kind, payload)
        return parse(payload)

    def end(self):
        """Nothing more comes."""
        try:
            assert self.sock.recv(1) == b""
        except ConnectionResetError:
            pass

    def stdin(self, data):
        for at in range(0, len(data), FRAME_MAX):
            self.send(STDIN, data[at:at + FRAME_MAX])
        self.send(STDIN)

    def collect(self, tty=False):
        """Everything up to EXIT; both streams must have ended before it."""
        streams, ended = {STDOUT: bytearray(), STDERR: bytearray()}, set()
        while True:
            kind, payload = self.read()
            if kind == EXIT:
                break
            assert kind in streams and kind not in ended, (kind, payload[:100])
            streams[kind] += payload
            if not payload:
                ended.add(kind)
        assert ended == ({STDOUT} if tty else {STDOUT, STDERR})
        status = dict(parse(payload))
        assert len(status) == 1
        self.sock.close()
        return Ended(bytes(streams[STDOUT]), bytes(streams[STDERR]), int(status["code"]) if "code" in status else -int(status["signal"]))

    def expect(self, wanted):
        """STDOUT until it holds wanted; returns all of it."""
        got = b""
        while wanted not in got:
            kind, payload = self.read()
            assert kind == STDOUT and payload, (kind, payload, got)
            got += payload
        return got

    def data(self):
        """DATA frames up to the empty one."""
        got = bytearray()
        while True:
            kind, payload = self.read()
            assert kind == DATA
            if not payload:
                return bytes(got)
            got += payload

    def close(self):
        self.sock.close()


def parse(payload):
    """Fields as (key, value) pairs, which must be well formed."""
    assert not payload or payload.endswith(b"\0")
    pairs = [field.split(b"=", 1) for field in payload.split(b"\0")[:-1]]
    return [(key.decode(), value.decode(errors="surrogateescape")) for key, value in pairs]


class AgentError(Exception):
    def __init__(self, reply):
        super().__init__(reply["error"])
        self.reply = reply


class Agent:
    """dial: makes a new connected socket."""

    def __init__(self, dial):
        self.dial = dial
        self.open = []

    def connect(self):
        sock = self.dial()
        sock.settimeout(PATIENCE)
        self.open.append(sock)
        return Conversation(sock)

    def begin(self, op, *pairs, **more):
        """Send a request, get a good REPLY; returns the conversation and the reply's fields."""
        conversation = self.connect()
        conversation.sock.sendall(request_frames(op, *pairs, **more))
        return conversation, good(conversation.reply())

    def call(self, op, *pairs, **more):
        """An operation that is over with its REPLY."""
        conversation, reply = self.begin(op, *pairs, **more)
        conversation.end()
        conversation.close()
        return reply

    def refused(self, op, *pairs, **more):
        """The error's sentence; one good line of it."""
        try:
            self.call(op, *pairs, **more)
        except AgentError as error:
            assert "\n" not in str(error) and str(error)
            return error.reply
        raise AssertionError(f"{op} was not refused")

    def run(self, *argv, stdin=b"", op="exec", pairs=(), **more):
        """A command to its end."""
        tty = bool(more.get("tty"))
        conversation, _ = self.begin(op, *((("arg", word)) for word in argv), *pairs, stdin=1 if stdin else None, **more)
        if stdin:
            conversation.stdin(stdin)
        return conversation.collect(tty)

    def put(self, path, data, piece=FRAME_MAX, **more):
        conversation = self.connect()
        conversation.sock.sendall(request_frames("put", path=path, **more))
        try:
            for at in range(0, len(data), piece):
                conversation.send(DATA, data[at:at + piece])
            conversation.send(DATA)
        except (BrokenPipeError, ConnectionResetError):
            pass  # it has said why already
        reply = good(conversation.reply())
        conversation.close()
        return reply

    def get(self, path, **more):
        conversation, reply = self.begin("get", path=path, **more)
        data = conversation.data()
        conversation.end()
        conversation.close()
        return data, reply

    def processes(self):
        """pid -> (ppid, uid, state, rss, comm)"""
        conversation = self.connect()
        conversation.sock.sendall(request_frames("list"))
        lines = [value.split(" ", 5) for key, value in conversation.reply() if key == "process"]
        conversation.close()
        return {int(line[0]): (int(line[1]), int(line[2]), line[3], int(line[4]), line[5]) for line in lines}

    def close(self):
        for sock in self.open:
            sock.close()


def good(pairs):
    reply = dict(pairs)
    if "error" in reply:
        raise AgentError(reply)
    assert reply["ok"] == "1", reply
    return reply


def wait_until(condition, what="it"):
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"{what} never happened"
        time.sleep(0.01)


def unix_dial(path):
    def dial():
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.connect(str(path))
        except OSError:
            sock.close()
            raise
        return sock
    return dial
