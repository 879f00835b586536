"""A client of the agent in a guest (docs/agent.md): commands, files, clock, network, over vsock. Nothing that a guest sends can harm it."""

from __future__ import annotations

import io
import os
import socket
import subprocess
import tarfile
import tempfile
import time
from types import TracebackType
from typing import IO, Callable, Iterator, List, NamedTuple, Optional, Sequence, Tuple, Type, Union

from mayfly.archive import Unpacker
from mayfly.command import LARGEST_CAPTURE, Command, Process, exit_status, run_to_end
from mayfly.frames import (DATA, LONGEST_PAYLOAD, AgentError, AgentTimeout, Connection, Deadline, Fields, Value, encode, encode_bytes,
                           encode_request, to_number)
from mayfly.sockets import PATIENCE, StrPath, listen, vsock_connect

PORT = 1024
LARGEST_IN_MEMORY = 64 << 20
LARGEST_FILE = 16 << 30
MOST_ENTRIES = 1_000_000
MOST_PID = 1 << 22

Options = List[Tuple[str, Value]]
Sink = Callable[[bytes], object]


class Info(NamedTuple):
    """What the agent says of its guest."""
    agent: str
    kernel: str
    uptime: float  # seconds
    main: str  # "none", "running" or "ended"
    returncode: Optional[int]  # of main, when it has ended


class ProcessInfo(NamedTuple):
    """One process of the container's."""
    pid: int
    ppid: int
    uid: int
    state: str
    rss_kb: int
    comm: str


class DialOut:
    """
    Where the agent calls when it has started, so that nobody has to ask again and again: listen before the microVM is started.

        with DialOut("/tmp/vm.vsock") as dial_out:
            vm.start()
            agent = dial_out.agent()
    """

    def __init__(self, uds_path: StrPath, port: int = PORT, owner: Optional[Tuple[int, int]] = None):
        """owner: uid and gid that Mayfly runs as, where that is not who calls."""
        self.uds_path, self.port = os.fspath(uds_path), port
        self.path = f"{self.uds_path}_{port}"
        self._listener = listen(self.path, owner)

    def accept(self, timeout: float = PATIENCE) -> Connection:
        """The connection that the agent makes."""
        self._listener.settimeout(timeout)
        try:
            return Connection(self._listener.accept()[0])
        except socket.timeout:
            raise AgentTimeout(f"no agent called within {timeout} s") from None

    def agent(self, timeout: float = PATIENCE) -> Agent:
        """The agent that calls; its connection is used for what is asked first. Nobody is listened to after it: that would be a program in the guest."""
        first = self.accept(timeout)
        self.close()
        return Agent(self.uds_path, self.port, first=first)

    def close(self) -> None:
        self._listener.close()
        if os.path.lexists(self.path):
            os.unlink(self.path)

    def __enter__(self) -> DialOut:
        return self

    def __exit__(self, kind: Optional[Type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]) -> None:
        self.close()


class Agent:
    """
    The agent of one guest, behind the socket of its vsock device. Each request is a connection of its own, so threads may share it.
    Whatever the guest does wrong or refuses is an AgentError.
    """

    def __init__(self, uds_path: StrPath, port: int = PORT, patience: float = PATIENCE, first: Optional[Connection] = None):
        """patience: seconds to wait for the agent to listen, and for each answer. first: a connection that there is already (DialOut)."""
        self.uds_path, self.port, self.patience = os.fspath(uds_path), port, patience
        self._first = [first] if first else []

    # -- connections --

    def connect(self, deadline: Deadline) -> Connection:
        """A connection that has not been asked anything."""
        try:
            return self._first.pop()
        except IndexError:
            pass
        left = deadline.left()
        wait = self.patience if left is None else left
        try:
            return Connection(vsock_connect(self.uds_path, self.port, timeout=wait, wait=wait))
        except socket.timeout:
            raise AgentTimeout(f"{self.uds_path}: no answer of an agent on port {self.port} within {wait} s") from None
        except OSError as error:
            raise AgentError(f"{self.uds_path}: no agent on port {self.port}: {error.strerror or error}") from None

    def _begin(self, op: str, fields: Sequence[Tuple[str, Value]], deadline: Deadline) -> Connection:
        request = encode_request(op, fields)
        connection = self.connect(deadline)
        try:
            connection.send(request, deadline)
        except BaseException:
            connection.close()
            raise
        return connection

    def ask(self, op: str, *fields: Tuple[str, Value], timeout: Optional[float] = None) -> Fields:
        """A request that has one answer."""
        deadline = Deadline(self.patience if timeout is None else timeout)
        connection = self._begin(op, fields, deadline)
        try:
            return connection.reply(deadline)
        finally:
            connection.close()

    # -- commands --

    def run(self, command: Union[Command, Sequence[str]], input: Optional[bytes] = None,  # pylint: disable=redefined-builtin
            capture_output: bool = False, timeout: Optional[float] = None, check: bool = False,
            limit: int = LARGEST_CAPTURE) -> subprocess.CompletedProcess[bytes]:
        """
        Run a command to its end, as subprocess.run does. input: its standard input, else /dev/null. limit: bytes to capture at most.
        AgentTimeout after timeout seconds, which ends it and has what it said by then.
        """
        wanted = command if isinstance(command, Command) else Command(command)
        deadline = Deadline(timeout)
        stdin: Options = [("stdin", 1)] if input is not None else []
        connection = self._begin("exec", [*wanted.fields(), *stdin], deadline)
        try:
            connection.reply(deadline)
            done = run_to_end(connection, wanted.args, input, deadline, capture_output, limit)
        finally:
            connection.close()
        if check:
            done.check_returncode()
        return done

    def popen(self, command: Union[Command, Sequence[str]], stdin: bool = True) -> Process:
        """Start a command and go on while it runs."""
        wanted = command if isinstance(command, Command) else Command(command)
        return self._start("exec", wanted, [("stdin", 1)] if stdin else [])

    def main(self, command: Optional[Command] = None, stdin: bool = False) -> Process:
        """Start the image's command, once; command says what is different from the image's configuration. The guest ends with it."""
        return self._start("main", command or Command([]), [("stdin", 1)] if stdin else [])

    def main_detached(self, command: Optional[Command] = None) -> None:
        """The same, with its output on the guest's console."""
        self.ask("main", *(command or Command([])).fields(), ("detach", 1))

    def attach(self) -> Process:
        """Streams and end of the image's command, which runs already; what it said last while nobody was there comes first."""
        return self._start("main", Command([]), [("attach", 1)])

    def _start(self, op: str, command: Command, more: Options) -> Process:
        deadline = Deadline(self.patience)
        connection = self._begin(op, [*command.fields(), *more], deadline)
        try:
            reply = connection.reply(deadline)
            pid = reply.number("pid", 1, MOST_PID) if reply.all("pid") else None
        except BaseException:
            connection.close()
            raise
        return Process(connection, command.args, pid, ("stdin", 1) in more or ("attach", 1) in more, self.patience)

    def kill(self, pid: Union[int, str], signal: int) -> None:
        """Send a signal to a process, or to "main"; at once, whatever that process's own connection waits for."""
        self.ask("kill", ("pid", pid), ("signal", int(signal)))

    def kill_all(self, signal: int) -> None:
        """Send a signal to all of the container's processes."""
        self.ask("kill", ("all", 1), ("signal", int(signal)))

    def stop(self, seconds: float = 10, signal: Optional[int] = None) -> Optional[int]:
        """
        End the image's command by its stop signal, by SIGKILL after so many seconds; its exit status. Without such a command the guest
        is switched off, and there is none.
        """
        wish: Options = [("seconds", int(seconds)), *([("signal", int(signal))] if signal is not None else [])]
        reply = self.ask("stop", *wish, timeout=seconds + self.patience)
        return exit_status(reply) if reply.all("code") or reply.all("signal") else None

    def list(self) -> List[ProcessInfo]:
        """The container's processes."""
        return [_process_info(line) for line in self.ask("list").all("process")]

    # -- files --

    def put(self, path: str, data: Union[bytes, IO[bytes]], mode: int = 0o644, uid: Optional[int] = None, gid: Optional[int] = None,
            timeout: Optional[float] = None) -> None:
        """Write a file in the guest: bytes, or what a file of ours holds from where it stands. It appears whole, or not at all."""
        self._upload(path, _pieces(io.BytesIO(data) if isinstance(data, bytes) else data), [("mode", f"{mode:04o}"), *_owner(uid, gid)], timeout)

    def put_tar(self, path: str, archive: IO[bytes], timeout: Optional[float] = None) -> None:
        """Unpack a tar of ours below a directory of the guest."""
        self._upload(path, _pieces(archive), [("tar", 1)], timeout)

    def put_tree(self, path: str, source: StrPath, timeout: Optional[float] = None) -> None:
        """Copy what is in a directory of ours below a directory of the guest, where it belongs to root."""
        with tempfile.TemporaryFile() as archive:
            with tarfile.open(fileobj=archive, mode="w", format=tarfile.GNU_FORMAT) as tar:
                tar.add(os.fspath(source), arcname=".", filter=_of_root)
            archive.seek(0)
            self.put_tar(path, archive, timeout)

    def get(self, path: str, limit: int = LARGEST_IN_MEMORY, timeout: Optional[float] = None) -> bytes:
        """What a file of the guest holds; AgentError when that is more than limit bytes."""
        data = bytearray()
        self._download(path, [], data.extend, limit, timeout)
        return bytes(data)

    def get_file(self, path: str, destination: StrPath, limit: int = LARGEST_FILE, timeout: Optional[float] = None) -> None:
        """Copy a file of the guest; ours appears whole, or not at all, readable by its owner alone."""
        folder = os.path.dirname(os.path.abspath(destination))
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".mayfly-", delete=False) as file:
            try:
                self._download(path, [], file.write, limit, timeout)
                file.flush()
                os.replace(file.name, destination)
            except BaseException:
                os.unlink(file.name)
                raise

    def get_tar(self, path: str, archive: IO[bytes], limit: int = LARGEST_FILE, timeout: Optional[float] = None) -> None:
        """A file or directory of the guest as a tar. A guest made it: unpack it with care, or by get_tree."""
        self._download(path, [("tar", 1)], archive.write, limit, timeout)

    def get_tree(self, path: str, destination: StrPath, limit: int = LARGEST_FILE, most_entries: int = MOST_ENTRIES,
                 timeout: Optional[float] = None) -> None:
        """
        Copy a directory of the guest into one of ours, which is there. Files, directories and links alone (FIFOs are left out), the caller's
        own, and nothing outside of the directory, whatever the guest sends; links in it are never followed.
        """
        deadline, unpacker = Deadline(timeout), Unpacker(destination, limit, most_entries)
        try:
            connection = self._begin("get", [("path", path), ("tar", 1)], deadline)
            try:
                connection.reply(_shorter(deadline, self.patience))
                unpacker.unpack(_reader(self._pieces_of(connection, deadline)))
            finally:
                connection.close()
        finally:
            unpacker.close()

    def _upload(self, path: str, pieces: Iterator[bytes], fields: Options, timeout: Optional[float]) -> None:
        deadline = Deadline(timeout)
        connection = self._begin("put", [("path", path), *fields], deadline)
        try:
            broken: Optional[AgentError] = None
            try:
                for piece in pieces:
                    connection.send(encode_bytes(DATA, piece), _shorter(deadline, self.patience))
                    if connection.has_come():  # it has something against it already
                        break
                else:
                    connection.send(encode(DATA), _shorter(deadline, self.patience))
            except AgentError as error:
                broken = error
            try:
                connection.reply(_shorter(deadline, self.patience))
            except AgentError as error:
                raise broken if broken and "hung up" in str(error) else error from None
        finally:
            connection.close()

    def _download(self, path: str, fields: Options, sink: Sink, limit: int, timeout: Optional[float]) -> None:
        deadline = Deadline(timeout)
        connection = self._begin("get", [("path", path), *fields], deadline)
        try:
            connection.reply(_shorter(deadline, self.patience))
            for piece in self._pieces_of(connection, deadline):
                limit -= len(piece)
                if limit < 0:
                    raise AgentError(f"{path}: the guest sends more than was asked for")
                sink(piece)
        finally:
            connection.close()

    def _pieces_of(self, connection: Connection, deadline: Deadline) -> Iterator[bytes]:
        """The payloads of DATA frames up to the end."""
        while piece := connection.receive(_shorter(deadline, self.patience), DATA)[1]:
            yield piece

    # -- the guest --

    def info(self) -> Info:
        """What it is; waits until the agent listens."""
        reply = self.ask("info")
        if reply.number("version") < 1:
            raise AgentError("the guest's agent is of no known version")
        main = reply.text("main")
        status = exit_status(reply) if main == "ended" else None
        return Info(reply.text("agent"), reply.text("kernel"), reply.number("uptime_us") / 1e6, main, status)

    def clock(self, ns: Optional[int] = None) -> None:
        """Set the guest's wall clock: nanoseconds since 1970, or our own."""
        self.ask("clock", ("ns", time.time_ns() if ns is None else ns))

    def reseed(self, seed: Optional[bytes] = None, hostname: Optional[str] = None) -> None:
        """Give the guest 32 random bytes and another identity, as a clone should have."""
        self.ask("reseed", ("seed", (os.urandom(32) if seed is None else seed).hex()), *([("hostname", hostname)] if hostname else []))

    def hostname(self, name: str) -> None:
        self.ask("hostname", ("name", name))

    def network(self, ip: Optional[str] = None, gw: Optional[str] = None, ip6: Optional[str] = None, gw6: Optional[str] = None,
                dns: Sequence[str] = (), search: Optional[str] = None, mtu: Optional[int] = None) -> None:
        """Set up the guest's first interface anew: ip and ip6 as ADDRESS/PREFIX."""
        fields = {"ip": ip, "gw": gw, "ip6": ip6, "gw6": gw6, "dns": ",".join(dns) or None, "search": search, "mtu": mtu}
        self.ask("network", *((name, value) for name, value in fields.items() if value is not None))


def _process_info(line: str) -> ProcessInfo:
    words = line.split(" ", 5)
    if len(words) != 6:
        raise AgentError(f"the guest says {line[:64]!r} of a process")
    pid, ppid, uid, state, rss, comm = words
    return ProcessInfo(to_number(pid, "PID", 1, MOST_PID), to_number(ppid, "PPID", 0, MOST_PID), to_number(uid, "UID", 0, (1 << 32) - 1),
                       state[:1], to_number(rss, "RSS", 0, 1 << 52), comm[:64])


def _owner(uid: Optional[int], gid: Optional[int]) -> Options:
    return [(name, value) for name, value in (("uid", uid), ("gid", gid)) if value is not None]


def _pieces(file: IO[bytes]) -> Iterator[bytes]:
    while piece := file.read(LONGEST_PAYLOAD):
        yield piece


def _of_root(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = ""
    return entry


def _reader(pieces: Iterator[bytes]) -> Callable[[int], bytes]:
    """So many bytes at most of what comes in pieces."""
    left = memoryview(b"")

    def read(count: int) -> bytes:
        nonlocal left
        if not left:
            left = memoryview(next(pieces, b""))
        part, left = left[:count], left[count:]
        return bytes(part)
    return read


def _shorter(deadline: Deadline, seconds: float) -> Deadline:
    """So many seconds from now on, or what is left."""
    left = deadline.left()
    return Deadline(seconds) if left is None or left > seconds else deadline
