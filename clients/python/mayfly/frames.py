"""The frames that the guest's agent and the host exchange (docs/agent.md): lengths bounded, everything that a guest sends looked at."""

from __future__ import annotations

import os
import re
import select
import socket
import struct
import time
from typing import Iterable, List, Optional, Sequence, Tuple, Union

LONGEST_PAYLOAD = 65536
LONGEST_REQUEST = 1 << 20
VERSION = 1

REQUEST, REPLY, STDIN, STDOUT, STDERR, SIGNAL, RESIZE, EXIT, DATA = range(1, 10)
NAMES = {REQUEST: "REQUEST", REPLY: "REPLY", STDIN: "STDIN", STDOUT: "STDOUT", STDERR: "STDERR", SIGNAL: "SIGNAL", RESIZE: "RESIZE",
         EXIT: "EXIT", DATA: "DATA"}
OF_THE_GUEST = (REPLY, STDOUT, STDERR, EXIT, DATA)
OF_FIELDS = (REPLY, EXIT)

_HEADER = struct.Struct("<IBBH")
_KEY = re.compile(rb"[a-z0-9_]+")

Value = Union[str, int, bytes, bool]
Field = Tuple[str, str]


class AgentError(Exception):
    """
    What the agent refused, or what a guest did that no agent does; one sentence. code: 127 for a command that is not there, 126 for one that
    cannot be run, otherwise None.
    """

    def __init__(self, sentence: str, code: Optional[int] = None):
        super().__init__(sentence)
        self.code = code


class AgentTimeout(AgentError, TimeoutError):
    """The guest took too long. stdout and stderr: what it had said by then, where output was captured."""

    def __init__(self, sentence: str, stdout: Optional[bytes] = None, stderr: Optional[bytes] = None):
        super().__init__(sentence)
        self.stdout, self.stderr = stdout, stderr


def encode(kind: int, payload: bytes = b"") -> bytes:
    """A frame."""
    if len(payload) > LONGEST_PAYLOAD:
        raise ValueError(f"a frame holds {LONGEST_PAYLOAD} bytes, not {len(payload)}")
    return _HEADER.pack(len(payload), kind, 0, 0) + payload


def encode_bytes(kind: int, data: bytes) -> bytes:
    """Bytes as frames, as many as they need. None for no bytes: an empty frame is an end."""
    return b"".join(encode(kind, data[at:at + LONGEST_PAYLOAD]) for at in range(0, len(data), LONGEST_PAYLOAD))


def encode_fields(fields: Iterable[Tuple[str, Value]]) -> bytes:
    """key=value, each with a NUL. ValueError for what cannot be said so."""
    said = []
    for key, value in fields:
        raw = value if isinstance(value, bytes) else str(int(value)).encode() if isinstance(value, int) else os.fsencode(value)
        if b"\0" in raw or not _KEY.fullmatch(key.encode()):
            raise ValueError(f"{key}={value!r}: a field has no NUL in it")
        said.append(key.encode() + b"=" + raw + b"\0")
    return b"".join(said)


def encode_request(op: str, fields: Iterable[Tuple[str, Value]]) -> bytes:
    """The frames of a request."""
    whole: List[Tuple[str, Value]] = [("version", VERSION), ("op", op), *fields, ("end", 1)]
    out: List[bytes] = []
    payload = b""
    for field in whole:
        one = encode_fields([field])
        if len(one) > LONGEST_PAYLOAD:
            raise ValueError(f"{field[0]}: {len(one)} bytes (a field may have {LONGEST_PAYLOAD})")
        if len(payload) + len(one) > LONGEST_PAYLOAD:
            out.append(encode(REQUEST, payload))
            payload = b""
        payload += one
    out.append(encode(REQUEST, payload))
    if sum(map(len, out)) - 8 * len(out) > LONGEST_REQUEST:
        raise ValueError(f"{op}: a request may have {LONGEST_REQUEST} bytes")
    return b"".join(out)


class Fields:
    """The fields of a REPLY or an EXIT, which a guest wrote."""

    def __init__(self, pairs: Sequence[Field]):
        self.pairs = pairs

    @classmethod
    def decode(cls, payload: bytes) -> Fields:
        if payload and not payload.endswith(b"\0"):
            raise AgentError("the guest's last field has no end")
        pairs = []
        for one in payload.split(b"\0")[:-1]:
            key, equals, value = one.partition(b"=")
            if not equals or not _KEY.fullmatch(key):
                raise AgentError(f"the guest sent {one[:64]!r} as a field")
            pairs.append((key.decode(), os.fsdecode(value)))
        return cls(pairs)

    def all(self, key: str) -> List[str]:
        return [value for name, value in self.pairs if name == key]

    def text(self, key: str, default: Optional[str] = None) -> str:
        """The value of a field that is there once at most; without a default, once."""
        values = self.all(key)
        if len(values) > 1 or not values and default is None:
            raise AgentError(f"the guest's answer has {len(values)} fields {key}")
        return values[0] if values else str(default)

    def number(self, key: str, low: int = 0, high: int = (1 << 63) - 1, default: Optional[int] = None) -> int:
        return to_number(self.text(key, None if default is None else str(default)), key, low, high)


def to_number(text: str, name: str, low: int, high: int) -> int:
    """A number that a guest wrote."""
    if not re.fullmatch(r"-?[0-9]{1,19}", text) or not low <= int(text) <= high:
        raise AgentError(f"the guest says {name}={text[:32]!r}, which is no number from {low} to {high}")
    return int(text)


class Deadline:
    """So many seconds from now on; None for no limit."""

    def __init__(self, seconds: Optional[float]):
        self.seconds = seconds
        self.until = None if seconds is None else time.monotonic() + seconds

    def left(self) -> Optional[float]:
        """Seconds; AgentTimeout when there are none."""
        if self.until is None:
            return None
        left = self.until - time.monotonic()
        if left <= 0:
            raise AgentTimeout(f"the guest's agent took longer than {self.seconds} s")
        return left


class Connection:
    """A connection with the agent, from whichever side it was made. Frames come and go whole; every failure is an AgentError."""

    def __init__(self, sock: socket.socket):
        sock.setblocking(False)
        self.sock = sock
        self._come = bytearray()

    def fileno(self) -> int:
        return self.sock.fileno()

    def hang_up(self) -> None:
        """End it for both sides; whoever waits for a frame, in another thread too, is told."""
        try:
            self.sock.shutdown(socket.SHUT_RDWR)
        except OSError:  # it had ended
            pass

    def close(self) -> None:
        self.sock.close()

    def wait(self, deadline: Deadline, receive: bool = True, send: bool = False) -> Tuple[bool, bool]:
        """Until bytes have come (or the end), or some can be sent: which of the two."""
        poll = select.poll()
        poll.register(self.sock, (select.POLLIN if receive else 0) | (select.POLLOUT if send else 0))
        left = deadline.left()
        found = poll.poll(None if left is None else left * 1000 + 1)
        deadline.left()
        state = found[0][1] if found else 0
        broken = bool(state & (select.POLLHUP | select.POLLERR))
        return receive and (broken or bool(state & select.POLLIN)), send and (broken or bool(state & select.POLLOUT))

    def send_some(self, data: Union[bytes, memoryview]) -> int:
        """What can be sent at once; returns how much that was."""
        try:
            return self.sock.send(data, socket.MSG_NOSIGNAL)
        except BlockingIOError:
            return 0
        except OSError as error:
            raise AgentError(f"the connection with the guest's agent broke: {error.strerror or error}") from None

    def send(self, data: bytes, deadline: Deadline) -> None:
        """All of it."""
        left = memoryview(data)
        while left:
            self.wait(deadline, receive=False, send=True)
            left = left[self.send_some(left):]

    def take(self) -> bool:
        """Read what has come; whether there is more to come. Does not wait."""
        try:
            data = self.sock.recv(LONGEST_PAYLOAD + _HEADER.size)
        except BlockingIOError:
            return True
        except OSError as error:
            raise AgentError(f"the connection with the guest's agent broke: {error.strerror or error}") from None
        self._come += data
        return bool(data)

    def next_frame(self) -> Optional[Tuple[int, bytes]]:
        """The next frame that has come whole."""
        if len(self._come) < _HEADER.size:
            return None
        length, kind, zero, zeros = _HEADER.unpack_from(self._come)
        if kind not in OF_THE_GUEST or zero or zeros or length > LONGEST_PAYLOAD:
            raise AgentError(f"the guest sent {bytes(self._come[:_HEADER.size])!r}, which begins no frame of an agent's")
        end = _HEADER.size + length
        if len(self._come) < end:
            return None
        payload = bytes(self._come[_HEADER.size:end])
        del self._come[:end]
        return kind, payload

    def receive(self, deadline: Deadline, *wanted: int) -> Tuple[int, bytes]:
        """The next frame, which must be one of those wanted."""
        while True:
            frame = self.next_frame()
            if frame:
                if frame[0] not in wanted:
                    raise AgentError(f"the guest sent {NAMES[frame[0]]} where {' or '.join(NAMES[kind] for kind in wanted)} was due")
                return frame
            self.wait(deadline)
            if not self.take() and not self.is_whole():
                raise AgentError("the guest's agent hung up in the middle")

    def is_whole(self) -> bool:
        """Whether a frame has come whole; what is no frame is told when it is taken."""
        return len(self._come) >= _HEADER.size and len(self._come) >= _HEADER.size + _HEADER.unpack_from(self._come)[0]

    def has_come(self) -> bool:
        """Whether there is something to read, or the end."""
        poll = select.poll()
        poll.register(self.sock, select.POLLIN)
        return bool(self._come) or bool(poll.poll(0))

    def reply(self, deadline: Deadline) -> Fields:
        """The REPLY; AgentError with the agent's sentence when it refused."""
        fields = Fields.decode(self.receive(deadline, REPLY)[1])
        errors = fields.all("error")
        if errors:
            raise AgentError(printable(errors[0]), fields.number("code", 0, 255) if fields.all("code") else None)
        if fields.text("ok") != "1":
            raise AgentError("the guest's answer says neither ok=1 nor error=")
        return fields


def printable(text: str) -> str:
    """A guest's sentence, so that it can be shown on a terminal and is not endless."""
    return "".join(c if c.isprintable() else "?" for c in text[:1000])
