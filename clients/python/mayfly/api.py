"""Mayfly's REST API: a method for each request of api-server/openapi.yaml."""

from __future__ import annotations

import http.client
import json
import os
import socket
from typing import Any, Dict, Iterator, List, Optional, cast
from urllib.parse import quote

from mayfly.schemas import (BootSource, Config, Copy, CpuConfig, Drive, DriveUpdate, Event, ForkedCopy, Instance, Logger, MachineConfig,
                            MachineConfigUpdate, Metrics, MmdsConfig, MmdsData, NetworkInterface, NetworkInterfaceUpdate, Sent, Serial,
                            SnapshotCreate, SnapshotLoad, Version, Vsock)
from mayfly.sockets import PATIENCE, StrPath, connect

LARGEST_ANSWER = 64 << 20  # a microVM's guest may have taken over the process that answers
LONGEST_EVENT = 1 << 16


class ApiError(Exception):
    """A request that was refused: status and fault_message are the server's."""

    def __init__(self, method: str, path: str, status: int, fault_message: str):
        super().__init__(f"{method} {path}: {status} {fault_message}")
        self.method, self.path, self.status, self.fault_message = method, path, status, fault_message


class Answer:
    """Status, headers (names in lower case) and body of an answer."""

    def __init__(self, status: int, headers: Dict[str, str], body: bytes):
        self.status, self.headers, self.body = status, headers, body

    def json(self) -> Any:
        return json.loads(self.body)

    def fault_message(self) -> str:
        try:
            return str(self.json()["fault_message"])
        except (ValueError, KeyError, TypeError):
            return self.body.decode(errors="replace")


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout: float):
        super().__init__("localhost", timeout=timeout)
        self.path = path
        self.patience = timeout

    def connect(self) -> None:
        self.sock = connect(self.path, self.patience)


class Events(Iterator[Event]):
    """One dict for each event, until the process ends or close()."""

    def __init__(self, connection: _UnixConnection, response: http.client.HTTPResponse):
        self._connection, self._response = connection, response

    def __next__(self) -> Event:
        try:
            line = self._response.readline(LONGEST_EVENT)
        except (http.client.IncompleteRead, ConnectionResetError):
            line = b""  # a process that ends does not finish its sentence
        if not line:
            self.close()
            raise StopIteration
        return cast(Event, json.loads(line))

    def wait_for(self, *names: str) -> Event:
        """The next event of one of these names, such as "snapshot_written", "snapshot_failed". EOFError when the process ends instead."""
        for event in self:
            if event["event"] in names:
                return event
        raise EOFError(f"the process ended without an event {' or '.join(names)}")

    def close(self) -> None:
        self._response.close()
        self._connection.close()


class Api:
    """The API behind a socket. One connection is kept and used again; not for several threads at once."""

    def __init__(self, api_sock: StrPath, timeout: float = PATIENCE):
        self.api_sock = os.fspath(api_sock)
        self.timeout = timeout
        self._connection: Optional[_UnixConnection] = None

    def hang_up(self) -> None:
        if self._connection:
            self._connection.close()
            self._connection = None

    def request(self, method: str, path: str, body: Any = None, headers: Optional[Dict[str, str]] = None) -> Answer:
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

    def _exchange(self, method: str, path: str, data: Optional[bytes], headers: Dict[str, str]) -> Answer:
        if self._connection is None:
            self._connection = _UnixConnection(self.api_sock, self.timeout)
        try:
            self._connection.request(method, path, data, headers)
            response = self._connection.getresponse()
            held = response.read(LARGEST_ANSWER)
            if response.read(1):
                raise ConnectionError(f"{method} {path}: the answer is longer than {LARGEST_ANSWER} bytes")
            answer = Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, held)
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

    def put(self, path: str, body: Any) -> Any:
        return self.call("PUT", path, body)

    def patch(self, path: str, body: Any) -> None:
        self.call("PATCH", path, body)

    def delete(self, path: str) -> None:
        self.call("DELETE", path)

    # -- the whole --

    def instance(self) -> Instance:
        return cast(Instance, self.get("/"))

    def version(self) -> Version:
        return cast(Version, self.get("/version"))

    def config(self) -> Config:
        return cast(Config, self.get("/vm/config"))

    def action(self, action_type: str) -> None:
        self.put("/actions", {"action_type": action_type})

    def start(self) -> None:
        self.action("InstanceStart")

    def flush_metrics(self) -> None:
        self.action("FlushMetrics")

    def send_ctrl_alt_del(self) -> None:
        self.action("SendCtrlAltDel")

    def renew_generation_id(self) -> None:
        self.action("RenewGenerationId")

    def pause(self) -> None:
        self.patch("/vm", {"state": "Paused"})

    def resume(self) -> None:
        self.patch("/vm", {"state": "Resumed"})

    def prometheus(self) -> str:
        """All counters, in Prometheus' text format."""
        return str(self.get("/metrics"))

    def events(self, timeout: Optional[float] = None) -> Events:
        """What has happened lately and what happens from now on. timeout: seconds without an event, then TimeoutError."""
        connection = _UnixConnection(self.api_sock, self.timeout)
        try:
            connection.request("GET", "/events")
            sock: socket.socket = connection.sock  # which the response takes over
            response = connection.getresponse()
            if response.status != 200:
                answer = Answer(response.status, {}, response.read(LARGEST_ANSWER))
                raise ApiError("GET", "/events", answer.status, answer.fault_message())
        except BaseException:
            connection.close()
            raise
        sock.settimeout(timeout)
        return Events(connection, response)

    # -- snapshots and forks --

    def create_snapshot(self, snapshot: SnapshotCreate) -> Optional[Sent]:
        """
        Write the paused microVM to two files, or send it through a socket ("unix:…" or "fd:N" without mem_file_path), which returns what
        was sent. With "background": True it may be resumed at once, and is written when an event says so: events().wait_for(
        "snapshot_written", "snapshot_failed"), with events() called before this.
        """
        return cast(Optional[Sent], self.put("/snapshot/create", snapshot))

    def load_snapshot(self, snapshot: SnapshotLoad) -> None:
        """Be the microVM that the snapshot holds: from files, from a page-fault handler, or from a stream ("unix:…" or "fd:N")."""
        self.put("/snapshot/load", snapshot)

    def fork(self, copies: List[Copy]) -> List[ForkedCopy]:
        """Make copies of the microVM, each a process of its own: all or none. Returns what they are, in this order."""
        return cast(List[ForkedCopy], self.put("/fork", {"copies": copies})["copies"])

    # -- one resource each --

    def boot_source(self) -> BootSource:
        return cast(BootSource, self.get("/boot-source"))

    def put_boot_source(self, source: BootSource) -> None:
        self.put("/boot-source", source)

    def machine_config(self) -> MachineConfig:
        return cast(MachineConfig, self.get("/machine-config"))

    def put_machine_config(self, machine: MachineConfig) -> None:
        self.put("/machine-config", machine)

    def patch_machine_config(self, changes: MachineConfigUpdate) -> None:
        self.patch("/machine-config", changes)

    def cpu_config(self) -> CpuConfig:
        return cast(CpuConfig, self.get("/cpu-config"))

    def put_cpu_config(self, template: CpuConfig) -> None:
        self.put("/cpu-config", template)

    def drives(self) -> List[Drive]:
        return cast(List[Drive], self.get("/drives"))

    def drive(self, drive_id: str) -> Drive:
        return cast(Drive, self.get(_path("drives", drive_id)))

    def put_drive(self, drive_id: str, drive: Drive) -> None:
        self.put(_path("drives", drive_id), {"drive_id": drive_id, **drive})

    def patch_drive(self, drive_id: str, changes: DriveUpdate) -> None:
        self.patch(_path("drives", drive_id), {"drive_id": drive_id, **changes})

    def delete_drive(self, drive_id: str) -> None:
        self.delete(_path("drives", drive_id))

    def network_interfaces(self) -> List[NetworkInterface]:
        return cast(List[NetworkInterface], self.get("/network-interfaces"))

    def network_interface(self, iface_id: str) -> NetworkInterface:
        return cast(NetworkInterface, self.get(_path("network-interfaces", iface_id)))

    def put_network_interface(self, iface_id: str, interface: NetworkInterface) -> None:
        self.put(_path("network-interfaces", iface_id), {"iface_id": iface_id, **interface})

    def patch_network_interface(self, iface_id: str, changes: NetworkInterfaceUpdate) -> None:
        self.patch(_path("network-interfaces", iface_id), {"iface_id": iface_id, **changes})

    def delete_network_interface(self, iface_id: str) -> None:
        self.delete(_path("network-interfaces", iface_id))

    def vsock(self) -> Vsock:
        return cast(Vsock, self.get("/vsock"))

    def put_vsock(self, vsock: Vsock) -> None:
        self.put("/vsock", vsock)

    def delete_vsock(self) -> None:
        self.delete("/vsock")

    def mmds(self) -> MmdsData:
        return cast(MmdsData, self.get("/mmds"))

    def put_mmds(self, data: MmdsData) -> None:
        self.put("/mmds", data)

    def patch_mmds(self, changes: MmdsData) -> None:
        self.patch("/mmds", changes)

    def mmds_config(self) -> MmdsConfig:
        return cast(MmdsConfig, self.get("/mmds/config"))

    def put_mmds_config(self, config: MmdsConfig) -> None:
        self.put("/mmds/config", config)

    def logger(self) -> Logger:
        return cast(Logger, self.get("/logger"))

    def put_logger(self, logger: Logger) -> None:
        self.put("/logger", logger)

    def put_metrics(self, metrics: Metrics) -> None:
        self.put("/metrics", metrics)

    def serial(self) -> Serial:
        return cast(Serial, self.get("/serial"))

    def put_serial(self, serial: Serial) -> None:
        self.put("/serial", serial)


def _path(collection: str, name: str) -> str:
    return f"/{collection}/{quote(name, safe='')}"
