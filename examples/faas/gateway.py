#!/usr/bin/python3
"""gateway.py CONFIG.json: functions behind HTTP. Each request is answered by a microVM of its own, forked from one that is warm, and thrown away."""

from __future__ import annotations

import argparse
import contextlib
import errno
import http.server
import json
import os
import queue
import re
import resource
import select
import shutil
import signal
import socket
import socketserver
import stat
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Dict, List, NamedTuple, Optional, Sequence

TOP = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(TOP / "clients/python"))

from mayfly import ApiError, Bind, Jail, Jailed, vsock_connect  # noqa: E402 (found by the line above)

PORT = 8000  # of the loader in the guest
LARGEST_BODY = 1 << 20
LARGEST_REPLY = 1 << 20
LONGEST_HEAD = 128
BOOT_PATIENCE = float(os.environ.get("FAAS_BOOT_SECONDS", "60"))
PARENT_CGROUP = f"faas-{os.getpid()}"
VMM_MEMORY = 16 << 20  # what Mayfly itself needs for one microVM, generously
SETTLE = 0.1  # seconds in which the guest comes to rest, so that no copy has to finish what the zygote had begun
FIRST_UID = 1879048192  # as root each function has a user of its own, from here on: numbers that no distribution gives to anybody
GUEST_COMMAND = "mount -t erofs -o ro /dev/vdb /mnt && exec /mnt/start"


@dataclass(frozen=True)
class Function:
    """What CONFIG.json says of one function."""
    name: str
    kernel: str
    runtime: str  # the guest's root, read-only
    code: str  # a disk with `start`, mounted at /mnt
    memory_mib: int = 128  # of each microVM
    seconds: float = 5.0  # for one request
    instances: int = 8  # at a time
    warm: Sequence[Dict[str, str]] = ()  # requests ({"path", "body"}) that the zygote answers before it is forked

    @classmethod
    def read(cls, name: str, said: Dict[str, Any], folder: Path) -> Function:
        unknown = set(said) - set(cls.__dataclass_fields__)
        if unknown or not re.fullmatch(r"[a-z0-9-]{1,32}", name):
            raise ValueError(f"{name}: {', '.join(unknown) or 'a name of a-z, 0-9 and - is needed'}")
        paths = {key: str(folder / said[key]) for key in ("kernel", "runtime", "code")}
        return cls(name=name, **{**said, **paths})


class Failed(Exception):
    """A request that has no answer of the function's: an HTTP status and a sentence."""

    def __init__(self, status: int, sentence: str):
        super().__init__(sentence)
        self.status = status


class Reply(NamedTuple):
    """What a function answered."""
    status: int
    content_type: str
    body: bytes
    microseconds: int  # of CPU, as the guest measured it


class Sockets:
    """The folder of a jail's sockets, open since before a guest ran: what is in it may be the work of one that has taken over its monitor."""
    fd = -1

    def __init__(self, path: Path):
        self.fd = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)

    def __del__(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)

    def connect(self, name: str, seconds: float, wait: float) -> socket.socket:
        """To the loader behind the socket of this name; no link is followed."""
        fd = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self.fd)
        try:
            if not stat.S_ISSOCK(os.fstat(fd).st_mode):
                raise OSError(errno.ENOTSOCK, os.strerror(errno.ENOTSOCK))
            return vsock_connect(f"/proc/self/fd/{fd}", PORT, timeout=seconds, wait=wait)
        finally:
            os.close(fd)

    def remove(self, name: str) -> None:
        with contextlib.suppress(OSError):
            os.unlink(name, dir_fd=self.fd)


def converse(sockets: Sockets, name: str, method: str, path: str, body: bytes, seconds: float, wait: float = 0) -> Reply:
    """One request to the loader in a guest. Nothing that the guest sends is taken at its word."""
    until = time.monotonic() + seconds
    try:
        with sockets.connect(name, seconds, wait) as stream:
            until += wait
            stream.sendall(f"{method} {path} {len(body)} {time.time_ns()}\n".encode() + body)
            come = _receive(stream, b"", LONGEST_HEAD, until, lambda data: b"\n" in data)
            line, _, rest = come.partition(b"\n")
            head = re.fullmatch(rb"([2-5]\d\d) ([a-z]+/[a-z0-9.+-]+) (\d{1,8}) (\d{1,12})", line)
            if not head or int(head[3]) > LARGEST_REPLY:
                raise Failed(502, "the function's answer cannot be read")
            length = int(head[3])
            data = _receive(stream, rest, length, until, lambda data: len(data) >= length)
            return Reply(int(head[1]), head[2].decode(), data[:length], int(head[4]))
    except socket.timeout:
        raise Failed(504, f"the function did not answer within {seconds:g} s") from None
    except OSError as error:
        raise Failed(502, f"the function ended without an answer ({error.strerror or error})") from None


def _receive(stream: socket.socket, data: bytes, most: int, until: float, enough: Any) -> bytes:
    while not enough(data):
        left = until - time.monotonic()
        if left <= 0:
            raise socket.timeout
        stream.settimeout(left)
        part = stream.recv(65536)
        if not part or len(data) > most:
            raise Failed(502, "the function ended without an answer")
        data += part
    return data


class Instance:
    """A microVM for one request: a fork of a zygote's, ended by kill() and bury()."""

    def __init__(self, name: str, pid: int, sockets: Sockets, parents: Sequence[int]):
        self.name, self.pid, self.sockets = name, pid, sockets
        try:
            self.pidfd = os.pidfd_open(pid)
        except (OSError, OverflowError):
            sockets.remove(name)
            raise Failed(502, "the microVM ended as it began") from None
        # The number comes from a process that a guest may have taken over: it has to be one of the zygote's own.
        if _parent_of(pid) not in parents:
            os.close(self.pidfd)
            raise Failed(502, f"{name}: the zygote names a process that is none of its copies")

    def kill(self) -> None:
        """End it, whatever it does."""
        try:
            signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)
        except ProcessLookupError:
            pass

    def bury(self) -> None:
        """Wait until it is gone, and remove its socket."""
        poll = select.poll()
        poll.register(self.pidfd, select.POLLIN)
        poll.poll(10_000)
        os.close(self.pidfd)
        self.sockets.remove(self.name)


def _parent_of(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text("ascii", "replace").rpartition(")")[2].split()[1])
    except (FileNotFoundError, ProcessLookupError):
        return 0


class Zygote:
    """The warm microVM of one function, paused; it is copied for each request."""

    def __init__(self, function: Function, number: int, folder: Path, programs: Path):
        self.function = function
        self.lock = threading.Lock()  # the API takes one request at a time
        self.count = 0
        root = os.geteuid() == 0
        guest_bytes = function.memory_mib << 20
        jail = Jail(function.name, programs / "mayfly", uid=FIRST_UID + number if root else None, gid=FIRST_UID + number if root else None,
                    chroot_base_dir=folder, new_user_ns=not root, new_net_ns=True, new_ipc_ns=True, new_uts_ns=True, cleanup=True,
                    memory_max=(function.instances + 1) * (guest_bytes + VMM_MEMORY) if root else None,
                    cgroup={"pids.max": str(64 + 16 * function.instances)} if root and Path("/sys/fs/cgroup/cgroup.controllers").exists() else {},
                    parent_cgroup=PARENT_CGROUP if root else None,
                    bind=[Bind(function.kernel, "/kernel", True), Bind(function.runtime, "/runtime", True), Bind(function.code, "/code", True),
                          Bind("/dev/null", "/dev/null")])
        self.jail = jail
        self.vm = Jailed(programs / "mayfly-jailer", jail, ["--allow-fork", "--level", "Warn"], stdout=open(folder / f"{function.name}.console", "wb"))
        try:
            self.sockets = Sockets(jail.outside("/run"))
            self._boot()
            self.parents = [self.vm.pid, *_children_of(self.vm.pid)]
            if not root:  # no cgroup then: copies inherit from the process that makes them what they may map
                for pid in self.parents[1:]:
                    resource.prlimit(pid, resource.RLIMIT_AS, (_mapped(self.vm.pid) + VMM_MEMORY,) * 2)
        except BaseException:
            self.close()
            raise

    def _boot(self) -> None:
        function, vm = self.function, self.vm
        vm.put_boot_source({"kernel_image_path": "/kernel", "boot_args": f'console=ttyS0 quiet reboot=k panic=-1 "mayfly.exec={GUEST_COMMAND}"'})
        vm.put_machine_config({"vcpu_count": 1, "mem_size_mib": function.memory_mib})
        vm.put_drive("runtime", {"path_on_host": "/runtime", "is_root_device": True, "is_read_only": True})
        vm.put_drive("code", {"path_on_host": "/code", "is_root_device": False, "is_read_only": True})
        vm.put_vsock({"guest_cid": 3, "uds_path": "/run/zygote"})
        vm.put_serial({"rate_limiter": {"size": 65536, "refill_time": 1000}})
        vm.start()
        converse(self.sockets, "zygote", "WARM", "/", b"", function.seconds, wait=BOOT_PATIENCE)
        for request in function.warm:
            converse(self.sockets, "zygote", "POST", request.get("path", "/"), request.get("body", "").encode(), BOOT_PATIENCE)
        time.sleep(SETTLE)
        vm.pause()

    def fork(self) -> Instance:
        """A copy that runs."""
        with self.lock:
            self.count += 1
            name = str(self.count)
            try:
                copy, = self.vm.fork([{"id": f"r{name}", "vsock_override": {"uds_path": f"/run/{name}"}}])
                pid = int(copy["pid"])
            except Exception as error:
                if not isinstance(error, ApiError):  # no answer, or none that can be read: if there is a copy, it ends with its zygote
                    self.vm.stop()
                raise Failed(502, f"{self.function.name}: no microVM for this request: {error}") from None
        return Instance(name, pid, self.sockets, self.parents)

    def is_alive(self) -> bool:
        return self.vm.process.poll() is None

    def cpu_seconds(self) -> Optional[float]:
        """CPU time of all its processes, those that are gone too; None where there is no cgroup that counts it."""
        try:
            text = Path(f"/sys/fs/cgroup/{self.jail.parent_cgroup}/{self.function.name}/cpu.stat").read_text("ascii")
        except OSError:
            return None
        return int(text.split()[1]) / 1e6

    def close(self) -> None:
        with self.lock:
            self.vm.stop()


def _children_of(pid: int) -> List[int]:
    return [int(word) for task in os.listdir(f"/proc/{pid}/task") for word in Path(f"/proc/{pid}/task/{task}/children").read_text().split()]


def _mapped(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[0]) * resource.getpagesize()


class Service:
    """A function, its zygote, and who may use it at the same time."""

    def __init__(self, function: Function):
        self.function = function
        self.zygote: Optional[Zygote] = None
        self.not_before, self.pause = 0.0, 1.0  # seconds
        self.free = threading.BoundedSemaphore(function.instances)
        self.lock = threading.Lock()
        self.ended: queue.SimpleQueue[Optional[Instance]] = queue.SimpleQueue()
        threading.Thread(target=self.bury, daemon=True).start()
        self.figures = {"requests": 0, "failed": 0, "function_microseconds": 0, "live": 0, "memory_kib": 0}

    def count(self, **changes: int) -> None:
        with self.lock:
            for key, change in changes.items():
                self.figures[key] += change

    def answer(self, method: str, path: str, body: bytes, weigh: bool) -> Reply:
        """By a microVM that is there for nothing else. weigh: note what memory it had for itself at the end."""
        if not self.free.acquire(timeout=self.function.seconds):
            raise Failed(503, f"{self.function.name}: {self.function.instances} requests are under way")
        self.count(requests=1, live=1)
        instance: Optional[Instance] = None
        try:
            zygote = self.zygote
            if not zygote:
                raise Failed(503, f"{self.function.name}: is being started")
            instance = zygote.fork()
            reply = converse(instance.sockets, instance.name, method, path, body, self.function.seconds)
            if weigh:
                self.figures["memory_kib"] = _own_memory(instance.pid)
            self.count(function_microseconds=reply.microseconds)
            return reply
        except Failed:
            self.count(failed=1)
            raise
        finally:
            if instance:
                instance.kill()
            self.ended.put(instance)

    def bury(self) -> None:
        """The kernel takes its time to take a microVM apart, which no client should wait for. Its place is free again when it is gone."""
        while True:
            instance = self.ended.get()
            if instance:
                instance.bury()
            self.count(live=-1)
            self.free.release()


def _own_memory(pid: int) -> int:
    """KiB of pages that are its own: copied as it wrote to them, or new; 0 when that cannot be seen."""
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text("ascii")
    except OSError:
        return 0
    return sum(int(kib) for kib in re.findall(r"^Anonymous: +(\d+) kB$", text, re.M))


class Gateway(socketserver.ThreadingMixIn, http.server.HTTPServer):
    """HTTP: /FUNCTION/PATH. GET / says how all of them are."""
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, address: str, port: int, services: Dict[str, Service]):
        self.services = services
        super().__init__((address, port), Handler)

    def figures(self) -> Dict[str, Any]:
        functions = {name: {**service.figures, "ready": bool(service.zygote), "cpu_seconds": service.zygote.cpu_seconds() if service.zygote else None}
                     for name, service in self.services.items()}
        return {"gateway_cpu_seconds": time.process_time(), "functions": functions}


class Handler(http.server.BaseHTTPRequestHandler):
    """One connection of a client's."""
    protocol_version = "HTTP/1.1"
    timeout = 60
    disable_nagle_algorithm = True
    wbufsize = -1  # head and body in one packet
    server: Gateway

    def serve(self) -> None:
        try:
            reply = self._reply()
        except Failed as error:
            reply = Reply(error.status, "text/plain", f"{error}\n".encode(), 0)
        if reply.status == 413:
            self.close_connection = True  # the body is still to come
        self.send_response(reply.status)
        self.send_header("Content-Type", reply.content_type)
        self.send_header("Content-Length", str(len(reply.body)))
        self.end_headers()
        self.wfile.write(reply.body)
        self.wfile.flush()

    do_GET = do_POST = do_PUT = do_DELETE = serve

    def _reply(self) -> Reply:
        length = self.headers.get("Content-Length", "0")
        if not re.fullmatch(r"\d{1,9}", length) or int(length) > LARGEST_BODY or "Transfer-Encoding" in self.headers:
            raise Failed(413, f"a body needs a Content-Length, at most {LARGEST_BODY}")
        body = self.rfile.read(int(length))
        if self.path == "/":
            return Reply(200, "application/json", json.dumps(self.server.figures()).encode(), 0)
        name, _, path = self.path[1:].partition("/")
        service = self.server.services.get(name)
        if not service or not re.fullmatch(r"[!-~]{0,1000}", path):
            raise Failed(404, f"no such function (there are: {', '.join(self.server.services)})")
        return service.answer(self.command, f"/{path}", body, weigh="X-Weigh" in self.headers)

    def log_message(self, *_: Any) -> None:
        """Not a line for every request."""


def keep_going(services: Sequence[Service], folder: Path, programs: Path, stop: threading.Event) -> None:
    """Start the zygotes, and start again those that end, until it is time to stop."""
    while not stop.is_set():
        for number, service in enumerate(services):
            if service.zygote and not service.zygote.is_alive():
                service.zygote.close()
                service.zygote = None
            if not service.zygote and not stop.is_set() and time.monotonic() >= service.not_before:
                # What does not start is tried again after 1, 2, 4 … 64 s.
                service.not_before, service.pause = time.monotonic() + service.pause, min(64, service.pause * 2)
                try:
                    service.zygote = Zygote(service.function, number, folder, programs)
                    service.pause = 1.0
                    print(f"gateway: {service.function.name} is ready", flush=True)
                except Exception as error:  # whatever one of them does, the others are served
                    print(f"gateway: {service.function.name} does not start: {error}", flush=True)
        stop.wait(1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", type=Path, help='{"NAME": {"kernel": …, "runtime": …, "code": …}, …}, paths relative to the file')
    parser.add_argument("--address", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8080)
    parser.add_argument("--programs", type=Path, default=TOP / "build", help="folder of mayfly and mayfly-jailer")
    parser.add_argument("--run", type=Path, help="folder for jails, made and removed, so it must not be there yet")
    options = parser.parse_args()
    config = json.loads(options.config.read_text())
    services = {name: Service(Function.read(name, said, options.config.resolve().parent)) for name, said in config.items()}
    folder = options.run or Path(tempfile.mkdtemp(prefix="faas-"))
    try:
        if options.run:
            folder.mkdir(mode=0o700)
    except OSError as error:
        parser.error(f"--run {folder}: {error.strerror} (needs a folder that can be made, and is removed at the end)")
    stop = threading.Event()

    def on_signal(_number: int, _frame: Optional[FrameType]) -> None:
        stop.set()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, on_signal)
    gateway = Gateway(options.address, options.port, services)
    threading.Thread(target=gateway.serve_forever, daemon=True).start()
    print(f"gateway: http://{options.address}:{gateway.server_port}", flush=True)
    try:
        keep_going(list(services.values()), folder, options.programs, stop)
    finally:
        gateway.shutdown()
        for service in services.values():
            if service.zygote:
                service.zygote.close()
        shutil.rmtree(folder, ignore_errors=True)
        for group in Path("/sys/fs/cgroup").glob(f"**/{PARENT_CGROUP}") if os.geteuid() == 0 else ():
            group.rmdir()


if __name__ == "__main__":
    main()
