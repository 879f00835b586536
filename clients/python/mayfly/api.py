"""A client of Mayfly's API: start a microVM, configure it, watch it, talk to its vsock. Needs nothing but Python's own library."""

from __future__ import annotations

import http.client
import json
import os
import select
import socket
import struct
import subprocess
import time
from typing import Any, Iterator, Sequence, TypedDict

PATIENCE = 30.0  # seconds for any one answer; nothing that works comes near it


# ---- what is sent ----

class BootSource(TypedDict, total=False):
    kernel_image_path: str
    initrd_path: str
    boot_args: str


class MachineConfig(TypedDict, total=False):
    vcpu_count: int
    mem_size_mib: int
    smt: bool
    cpu_template: str
    track_dirty_pages: bool
    huge_pages: str


class TokenBucket(TypedDict, total=False):
    size: int
    one_time_burst: int
    refill_time: int


class RateLimiter(TypedDict, total=False):
    bandwidth: TokenBucket
    ops: TokenBucket


class Drive(TypedDict, total=False):
    path_on_host: str
    overlay_path: str
    is_root_device: bool
    is_read_only: bool
    partuuid: str
    cache_type: str
    io_engine: str
    rate_limiter: RateLimiter


class EgressRule(TypedDict, total=False):
    cidr: str
    protocol: str
    port: int | str


class Egress(TypedDict, total=False):
    anti_spoof: bool
    addresses: list[str]
    block_link_local: bool
    default: str
    allow: list[EgressRule]


class NetworkInterface(TypedDict, total=False):
    host_dev_name: str
    guest_mac: str
    mtu: int
    rx_rate_limiter: RateLimiter
    tx_rate_limiter: RateLimiter
    egress: Egress


class Vsock(TypedDict, total=False):
    guest_cid: int
    uds_path: str


class MmdsConfig(TypedDict, total=False):
    network_interfaces: list[str]
    version: str
    ipv4_address: str
    imds_compat: bool


class Logger(TypedDict, total=False):
    log_path: str
    level: str
    show_level: bool
    show_log_origin: bool
    module: str


class Metrics(TypedDict, total=False):
    metrics_path: str
    emit_id: bool
    properties: dict[str, str]


class Serial(TypedDict, total=False):
    serial_out_path: str
    serial_socket_path: str
    rate_limiter: TokenBucket


# ---- what comes back ----

class ApiError(Exception):
    """A request that was refused: status and fault_message are the server's."""

    def __init__(self, method: str, path: str, status: int, fault_message: str):
        super().__init__(f"{method} {path}: {status} {fault_message}")
        self.method, self.path, self.status, self.fault_message = method, path, status, fault_message


class Ended(Exception):
    """The process ended before it did what was waited for."""


class Answer:
    """Status, headers (names in lower case) and body of an answer."""

    def __init__(self, status: int, headers: dict[str, str], body: bytes):
        self.status, self.headers, self.body = status, headers, body

    def json(self) -> Any:
        return json.loads(self.body)

    def fault_message(self) -> str:
        try:
            return str(self.json()["fault_message"])
        except (ValueError, KeyError, TypeError):
            return self.body.decode(errors="replace")


def connect_to(stream: socket.socket, path: str | os.PathLike[str]) -> None:
    """Connect, also to a socket that was bound a moment ago and does not listen yet."""
    until = time.monotonic() + 1
    while True:
        try:
            return stream.connect(os.fspath(path))
        except ConnectionRefusedError:
            if time.monotonic() > until:
                raise
            time.sleep(0.005)


def connect(path: str | os.PathLike[str], timeout: float = PATIENCE) -> socket.socket:
    """A stream to the Unix socket at path. TimeoutError when the one who listens is too busy to take it for timeout seconds."""
    stream = socket.socket(socket.AF_UNIX)
    try:
        # Python's own time-outs make the socket non-blocking, and such a connect fails at once when the queue is full.
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", int(timeout), int(timeout % 1 * 1e6)))
        connect_to(stream, path)
    except BlockingIOError:
        stream.close()
        raise TimeoutError(f"{os.fspath(path)}: nobody took the connection for {timeout} s") from None
    except BaseException:
        stream.close()
        raise
    stream.settimeout(timeout)
    return stream


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout: float):
        super().__init__("localhost", timeout=timeout)
        self.path = path

    def connect(self) -> None:
        self.sock = connect(self.path, self.timeout)


class Events(Iterator[dict[str, Any]]):
    """One dict for each event, until the process ends or close()."""

    def __init__(self, connection: _UnixConnection, response: http.client.HTTPResponse):
        self._connection, self._response = connection, response

    def __next__(self) -> dict[str, Any]:
        try:
            line = self._response.readline()
        except (http.client.IncompleteRead, ConnectionResetError):
            line = b""  # a process that ends does not finish its sentence
        if not line:
            self.close()
            raise StopIteration
        return json.loads(line)

    def close(self) -> None:
        self._response.close()
        self._connection.close()


# ---- the API ----

class Api:
    """The API behind a socket. One connection is kept and used again; not for several threads at once."""

    def __init__(self, api_sock: str | os.PathLike[str], timeout: float = PATIENCE):
        self.api_sock = os.fspath(api_sock)
        self.timeout = timeout
        self._connection: _UnixConnection | None = None

    def hang_up(self) -> None:
        if self._connection:
            self._connection.close()
            self._connection = None

    def request(self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None) -> Answer:
        """Send a request (body: bytes as they are, anything else as JSON; None for none) and return whatever is answered."""
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        sent = {"Content-Type": "application/json", **(headers or {})} if data is not None else headers or {}
        reused = self._connection is not None
        try:
            return self._exchange(method, path, data, sent)
        except (http.client.RemoteDisconnected, BrokenPipeError, ConnectionResetError):
            self.hang_up()
            if not reused:
                raise
        return self._exchange(method, path, data, sent)  # the server had closed a connection that lay idle

    def _exchange(self, method: str, path: str, data: bytes | None, headers: dict[str, str]) -> Answer:
        if self._connection is None:
            self._connection = _UnixConnection(self.api_sock, self.timeout)
        try:
            self._connection.request(method, path, data, headers)
            response = self._connection.getresponse()
            answer = Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())
        except BaseException:
            self.hang_up()
            raise
        if response.will_close:
            self.hang_up()
        return answer

    def call(self, method: str, path: str, body: Any = None) -> Any:
        """A request that must succeed; returns the body (None, text, or what the JSON says) or raises ApiError."""
        answer = self.request(method, path, body)
        if answer.status >= 300:
            raise ApiError(method, path, answer.status, answer.fault_message())
        if not answer.body:
            return None
        return answer.json() if "json" in answer.headers.get("content-type", "json") else answer.body.decode()

    def get(self, path: str) -> Any:
        return self.call("GET", path)

    def put(self, path: str, body: Any) -> None:
        self.call("PUT", path, body)

    def patch(self, path: str, body: Any) -> None:
        self.call("PATCH", path, body)

    def delete(self, path: str) -> None:
        self.call("DELETE", path)

    # -- the whole --

    def instance(self) -> dict[str, Any]:
        return self.get("/")

    def version(self) -> dict[str, str]:
        return self.get("/version")

    def config(self) -> dict[str, Any]:
        return self.get("/vm/config")

    def start(self) -> None:
        self.put("/actions", {"action_type": "InstanceStart"})

    def flush_metrics(self) -> None:
        self.put("/actions", {"action_type": "FlushMetrics"})

    def send_ctrl_alt_del(self) -> None:
        self.put("/actions", {"action_type": "SendCtrlAltDel"})

    def renew_generation_id(self) -> None:
        self.put("/actions", {"action_type": "RenewGenerationId"})

    def pause(self) -> None:
        self.patch("/vm", {"state": "Paused"})

    def resume(self) -> None:
        self.patch("/vm", {"state": "Resumed"})

    def prometheus(self) -> str:
        return self.get("/metrics")

    def events(self, timeout: float | None = None) -> Events:
        """What has happened lately and what happens from now on. timeout: seconds without an event, then TimeoutError."""
        connection = _UnixConnection(self.api_sock, self.timeout)
        connection.request("GET", "/events")
        sock = connection.sock  # which the response takes over
        response = connection.getresponse()
        if response.status != 200:
            answer = Answer(response.status, {}, response.read())
            connection.close()
            raise ApiError("GET", "/events", answer.status, answer.fault_message())
        sock.settimeout(timeout)
        return Events(connection, response)

    # -- one resource each --

    def boot_source(self) -> BootSource:
        return self.get("/boot-source")

    def put_boot_source(self, source: BootSource) -> None:
        self.put("/boot-source", source)

    def machine_config(self) -> MachineConfig:
        return self.get("/machine-config")

    def put_machine_config(self, machine: MachineConfig) -> None:
        self.put("/machine-config", machine)

    def patch_machine_config(self, changes: MachineConfig) -> None:
        self.patch("/machine-config", changes)

    def cpu_config(self) -> dict[str, Any]:
        return self.get("/cpu-config")

    def put_cpu_config(self, template: dict[str, Any]) -> None:
        self.put("/cpu-config", template)

    def drives(self) -> list[Drive]:
        return self.get("/drives")

    def drive(self, drive_id: str) -> Drive:
        return self.get(f"/drives/{drive_id}")

    def put_drive(self, drive_id: str, drive: Drive) -> None:
        self.put(f"/drives/{drive_id}", {"drive_id": drive_id, **drive})

    def patch_drive(self, drive_id: str, changes: Drive) -> None:
        self.patch(f"/drives/{drive_id}", {"drive_id": drive_id, **changes})

    def delete_drive(self, drive_id: str) -> None:
        self.delete(f"/drives/{drive_id}")

    def network_interfaces(self) -> list[NetworkInterface]:
        return self.get("/network-interfaces")

    def network_interface(self, iface_id: str) -> NetworkInterface:
        return self.get(f"/network-interfaces/{iface_id}")

    def put_network_interface(self, iface_id: str, interface: NetworkInterface) -> None:
        self.put(f"/network-interfaces/{iface_id}", {"iface_id": iface_id, **interface})

    def patch_network_interface(self, iface_id: str, changes: NetworkInterface) -> None:
        self.patch(f"/network-interfaces/{iface_id}", {"iface_id": iface_id, **changes})

    def delete_network_interface(self, iface_id: str) -> None:
        self.delete(f"/network-interfaces/{iface_id}")

    def vsock(self) -> Vsock:
        return self.get("/vsock")

    def put_vsock(self, vsock: Vsock) -> None:
        self.put("/vsock", vsock)

    def delete_vsock(self) -> None:
        self.delete("/vsock")

    def mmds(self) -> dict[str, Any]:
        return self.get("/mmds")

    def put_mmds(self, data: dict[str, Any]) -> None:
        self.put("/mmds", data)

    def patch_mmds(self, changes: dict[str, Any]) -> None:
        self.patch("/mmds", changes)

    def mmds_config(self) -> MmdsConfig:
        return self.get("/mmds/config")

    def put_mmds_config(self, config: MmdsConfig) -> None:
        self.put("/mmds/config", config)

    def logger(self) -> Logger:
        return self.get("/logger")

    def put_logger(self, logger: Logger) -> None:
        self.put("/logger", logger)

    def put_metrics(self, metrics: Metrics) -> None:
        self.put("/metrics", metrics)

    def serial(self) -> Serial:
        return self.get("/serial")

    def put_serial(self, serial: Serial) -> None:
        self.put("/serial", serial)


def vsock_connect(uds_path: str | os.PathLike[str], port: int, timeout: float = PATIENCE) -> socket.socket:
    """A stream to a port of the guest, through the socket of its vsock device. ConnectionRefusedError when nobody listens there."""
    stream = connect(uds_path, timeout)
    try:
        stream.sendall(f"CONNECT {port}\n".encode())
        reply = b""
        while not reply.endswith(b"\n"):  # byte by byte: what follows the line is the guest's
            byte = stream.recv(1)
            if not byte:
                raise ConnectionRefusedError(f"nobody in the guest listens on port {port}")
            reply += byte
        if not reply.startswith(b"OK "):
            raise ConnectionError(f"{reply!r} instead of OK")
    except BaseException:
        stream.close()
        raise
    return stream


# ---- a process ----

def wait_ready(fd: int, timeout: float = PATIENCE) -> None:
    """Wait for the byte that --ready-fd gets at the other end of fd, and close fd. Raises Ended or TimeoutError."""
    try:
        poll = select.poll()  # select() knows no descriptor above 1023
        poll.register(fd, select.POLLIN)
        if not poll.poll(timeout * 1000):
            raise TimeoutError(f"no request could be sent for {timeout} s")
        if not os.read(fd, 1):
            raise Ended("the process ended before it took requests")
    finally:
        os.close(fd)


class Mayfly(Api):
    """
    A process with its API. Use it as a context manager:

        with Mayfly("build/mayfly", "/tmp/vm.socket") as vm:
            vm.put_boot_source({"kernel_image_path": "vmlinux"})
            vm.put_drive("rootfs", {"path_on_host": "rootfs.ext4", "is_root_device": True})
            vm.start()
            vm.wait()
    """

    def __init__(self, binary: str | os.PathLike[str], api_sock: str | os.PathLike[str], args: Sequence[str] = (), timeout: float = PATIENCE,
                 **popen: Any):
        super().__init__(api_sock, timeout)
        popen.setdefault("stdin", subprocess.DEVNULL)
        # A relative socket is relative to where the process is started, and so is ours then.
        self.api_sock = os.path.join(popen.get("cwd") or "", self.api_sock)
        ready, tell = os.pipe()
        try:
            self.process = subprocess.Popen([os.fspath(binary), "--api-sock", os.fspath(api_sock), "--ready-fd", str(tell), *args],
                                            pass_fds=(tell, *popen.pop("pass_fds", ())), **popen)
        except BaseException:
            os.close(ready)
            raise
        finally:
            os.close(tell)
        try:
            wait_ready(ready, timeout)
        except BaseException:
            self.stop()
            raise

    def __enter__(self) -> Mayfly:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        return self.process.pid

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end; returns the exit status, a signal as its negative number."""
        return self.process.wait(timeout)

    def stop(self, timeout: float = 10) -> int:
        """End it: SIGTERM, and SIGKILL when that has done nothing after timeout seconds. Returns the exit status."""
        self.hang_up()
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(timeout)
            except subprocess.TimeoutExpired:
                self.process.kill()
        return self.process.wait()
