"""A command in the guest: what is asked for, and its streams and its end while it runs there."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from types import TracebackType
from typing import BinaryIO, Dict, List, Mapping, Optional, Sequence, Tuple, Type, Union

from mayfly.frames import (EXIT, LONGEST_PAYLOAD, RESIZE, SIGNAL, STDERR, STDIN, STDOUT, AgentError, AgentTimeout, Connection, Deadline,
                           Fields, Value, encode, encode_bytes, encode_fields)

COMING = (STDOUT, STDERR, EXIT)
LARGEST_CAPTURE = 64 << 20


@dataclass(frozen=True)
class Command:
    """A command and its surroundings. What is left out is as the image's configuration has it."""
    args: Sequence[str]
    env: Mapping[str, str] = field(default_factory=dict)  # added to the image's
    cwd: Optional[str] = None
    user: Optional[str] = None  # "user", "user:group" or numbers
    tty: bool = False
    rows: Optional[int] = None  # of the terminal
    cols: Optional[int] = None
    entrypoint: Optional[Sequence[str]] = None  # of main(): None as in the image, [] for none
    caps: Union[None, str, Sequence[str]] = None  # "all", or names such as "CAP_NET_RAW"
    ambient: Sequence[str] = ()  # those of them that are ambient; a user other than root has no others
    inheritable: Sequence[str] = ()  # those of them that files with inheritable capabilities can add
    groups: Sequence[str] = ()  # further ones
    no_new_privs: bool = False
    rlimits: Mapping[str, Tuple[int, int]] = field(default_factory=dict)  # {"nofile": (1024, 4096)}
    readonly: bool = False
    oom_score_adj: Optional[int] = None
    umask: Optional[int] = None

    def fields(self) -> List[Tuple[str, Value]]:
        """What a request says of it."""
        said: List[Tuple[str, Value]] = [("arg", arg) for arg in self.args]
        if self.entrypoint is not None:
            said += [("entrypoint", word) for word in self.entrypoint or [""]]
        said += [("env", f"{name}={value}") for name, value in self.env.items()]
        numbers = (("rows", self.rows), ("cols", self.cols), ("oom_score_adj", self.oom_score_adj))
        said += [(name, value) for name, value in (("cwd", self.cwd), ("user", self.user), *numbers) if value is not None]
        said += [(name, 1) for name in ("tty", "no_new_privs", "readonly") if getattr(self, name)]
        if self.caps is not None:
            said.append(("caps", self.caps if isinstance(self.caps, str) else ",".join(self.caps)))
        said += [(name, ",".join(getattr(self, name))) for name in ("ambient", "inheritable") if getattr(self, name)]
        said += [("group", name) for name in self.groups]
        said += [("rlimit", f"{name}={soft}:{hard}") for name, (soft, hard) in self.rlimits.items()]
        if self.umask is not None:
            said.append(("umask", f"{self.umask:04o}"))
        return said


def exit_status(fields: Fields) -> int:
    """As subprocess has it: the code, or a signal as its negative number."""
    if fields.all("signal"):
        return -fields.number("signal", 1, 64)
    return fields.number("code", 0, 255)


class _Captured:
    """The output of a command that runs to its end: collected up to a limit, or passed on."""

    def __init__(self, capture: bool, limit: int):
        self.parts: Optional[Dict[int, bytearray]] = {STDOUT: bytearray(), STDERR: bytearray()} if capture else None
        self.limit = limit

    def take(self, kind: int, data: bytes) -> None:
        if self.parts is None:
            stream = sys.stdout.buffer if kind == STDOUT else sys.stderr.buffer
            stream.write(data)
            stream.flush()
            return
        if len(self.parts[STDOUT]) + len(self.parts[STDERR]) + len(data) > self.limit:
            raise AgentError(f"the command in the guest said more than {self.limit} bytes")
        self.parts[kind] += data

    def of(self, kind: int) -> Optional[bytes]:
        return bytes(self.parts[kind]) if self.parts is not None else None


class _Input:
    """What is yet to be sent to a command, in frames made as they are needed."""

    def __init__(self, data: Optional[bytes]):
        self.data = memoryview(data or b"")
        self.frame = memoryview(b"")
        self.ended = data is None

    def more(self) -> bool:
        return bool(self.frame) or not self.ended

    def send_some(self, connection: Connection) -> None:
        if not self.frame:
            piece, self.data = bytes(self.data[:LONGEST_PAYLOAD]), self.data[LONGEST_PAYLOAD:]
            self.ended = not piece
            self.frame = memoryview(encode(STDIN, piece))
        try:
            self.frame = self.frame[connection.send_some(self.frame):]
        except AgentError:  # a command that has ended takes no more; what it said last is yet to be read
            self.frame, self.ended = memoryview(b""), True


def run_to_end(connection: Connection, args: Sequence[str], data: Optional[bytes], deadline: Deadline, capture: bool,
               limit: int) -> subprocess.CompletedProcess[bytes]:
    """Feed a command that was started on this connection, take what it says, until it ends."""
    captured, to_send = _Captured(capture, limit), _Input(data)
    try:
        while True:
            frame = connection.next_frame()
            if not frame:
                readable, writable = connection.wait(deadline, send=to_send.more())
                if writable:
                    to_send.send_some(connection)
                if readable and not connection.take() and not connection.is_whole():
                    raise AgentError("the guest's agent hung up before the command ended")
                continue
            kind, payload = frame
            if kind == EXIT:
                return subprocess.CompletedProcess(args, exit_status(Fields.decode(payload)), captured.of(STDOUT), captured.of(STDERR))
            if kind not in COMING:
                raise AgentError("the guest sent a frame that is none of a command's")
            captured.take(kind, payload)
    except AgentTimeout as late:
        connection.send_some(encode(SIGNAL, encode_fields([("signal", int(signal.SIGKILL))])))
        raise AgentTimeout(str(late), captured.of(STDOUT), captured.of(STDERR)) from None


class Process:
    """
    A command that runs in the guest, much like subprocess.Popen: stdin (None without one), stdout and stderr are files, of real pipes.
    Who does not read them makes the command wait. A context manager; at its end the connection is closed, which ends a command of
    Agent.popen() (not of Agent.main()).
    """

    def __init__(self, connection: Connection, args: Sequence[str], pid: Optional[int], has_stdin: bool, patience: float):
        self.args, self.pid = args, pid
        self.returncode: Optional[int] = None
        self._connection, self._patience = connection, patience
        self._sending = threading.Lock()
        self._ended = threading.Event()
        self._failure: Optional[AgentError] = None
        self.stdout, self._out = _pipe()
        self.stderr, self._err = _pipe()
        self.stdin: Optional[BinaryIO] = None
        self._threads = [threading.Thread(target=self._receive, name="agent-receive", daemon=True)]
        if has_stdin:
            read, write = os.pipe()
            self.stdin = os.fdopen(write, "wb", buffering=0)
            self._threads.append(threading.Thread(target=self._feed, args=[read], name="agent-feed", daemon=True))
        for thread in self._threads:
            thread.start()

    # -- in threads of their own --

    def _receive(self) -> None:
        pipes = {STDOUT: self._out, STDERR: self._err}
        try:
            while True:
                kind, payload = self._connection.receive(Deadline(None), *COMING)
                if kind == EXIT:
                    self.returncode = exit_status(Fields.decode(payload))
                    break
                if not payload:
                    _close(pipes, kind)
                _write(pipes, kind, payload)
        except AgentError as error:
            self._failure = error
        finally:
            for kind in list(pipes):
                _close(pipes, kind)
            self._ended.set()

    def _feed(self, read: int) -> None:
        try:
            while True:
                data = os.read(read, LONGEST_PAYLOAD)
                with self._sending:
                    self._connection.send(encode_bytes(STDIN, data) or encode(STDIN), Deadline(None))
                if not data:
                    break
        except (AgentError, OSError):  # it has ended, which the other thread tells
            pass
        finally:
            os.close(read)

    # -- what is done with it --

    def poll(self) -> Optional[int]:
        """The exit status, or None as long as it runs. AgentError when the connection was lost."""
        if not self._ended.is_set():
            return None
        if self._failure:
            raise self._failure
        return self.returncode

    def wait(self, timeout: Optional[float] = None) -> int:
        """Wait for its end; its exit status, a signal as its negative number. Read its output first, or meanwhile."""
        if not self._ended.wait(timeout):
            raise AgentTimeout(f"the command in the guest still runs after {timeout} s")
        status = self.poll()
        if status is None:
            raise AgentError("the command ended without a status")
        return status

    def _say(self, kind: int, *fields: Tuple[str, Value]) -> None:
        if not self._sending.acquire(timeout=self._patience):
            raise AgentTimeout("the command does not read its input, and nothing can be sent after it (use Agent.kill)")
        try:
            self._connection.send(encode(kind, encode_fields(fields)), Deadline(self._patience))
        finally:
            self._sending.release()

    def send_signal(self, number: int) -> None:
        """Nothing is done when it has ended."""
        if not self._ended.is_set():
            self._say(SIGNAL, ("signal", int(number)))

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def resize(self, rows: int, cols: int) -> None:
        """The size of its terminal."""
        if not self._ended.is_set():
            self._say(RESIZE, ("rows", rows), ("cols", cols))

    def close(self) -> None:
        """Hang up, and close the files."""
        self._connection.hang_up()
        for stream in (self.stdin, self.stdout, self.stderr):
            if stream:
                stream.close()
        for thread in self._threads:
            thread.join()
        self._connection.close()

    def __enter__(self) -> Process:
        return self

    def __exit__(self, kind: Optional[Type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]) -> None:
        self.close()


def _pipe() -> Tuple[BinaryIO, int]:
    read, write = os.pipe()
    return os.fdopen(read, "rb", buffering=0), write


def _write(pipes: Dict[int, int], kind: int, data: bytes) -> None:
    left = memoryview(data)
    try:
        while left and kind in pipes:
            left = left[os.write(pipes[kind], left):]
    except BrokenPipeError:  # nobody wants to read it any more
        _close(pipes, kind)


def _close(pipes: Dict[int, int], kind: int) -> None:
    if kind in pipes:
        os.close(pipes.pop(kind))
