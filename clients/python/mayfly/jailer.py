"""Mayfly in a jail: mayfly-jailer's options as arguments, and where a file of the jail is on the host."""

from __future__ import annotations

import os
import re
import select
import signal
import subprocess
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, List, Mapping, Optional, Sequence, Union

from mayfly.api import Api
from mayfly.process import Ended, Mayfly
from mayfly.sockets import PATIENCE, StrPath


@dataclass(frozen=True)
class Bind:
    """Show the host's file, directory or device `source` in the jail as `destination`, an absolute path there."""
    source: StrPath
    destination: str
    read_only: bool = False


@dataclass(frozen=True)
class Jail:
    """What mayfly-jailer is told (docs/jailer.md). What is left out, the jailer decides."""
    id: str
    exec_file: StrPath  # mayfly's release build
    uid: Optional[int] = None  # needed, but for new_user_ns without root
    gid: Optional[int] = None
    chroot_base_dir: StrPath = "/srv/jailer"
    netns: Optional[StrPath] = None
    cgroup: Mapping[str, str] = field(default_factory=dict)  # {"pids.max": "64"}
    cgroup_version: Optional[int] = None
    parent_cgroup: Optional[str] = None
    resource_limit: Mapping[str, int] = field(default_factory=dict)  # {"no-file": 4096}
    daemonize: bool = False
    new_pid_ns: bool = False
    new_user_ns: bool = False
    new_net_ns: bool = False
    new_ipc_ns: bool = False
    new_uts_ns: bool = False
    bind: Sequence[Bind] = ()
    pass_fd: Sequence[int] = ()
    memory_max: Union[None, int, str] = None  # bytes, or "256M"
    cpu_max: Optional[int] = None  # percent: 150 is one and a half CPUs
    io_max: Mapping[str, str] = field(default_factory=dict)  # {"/srv": "rbps=100M,wiops=2000"}
    cleanup: bool = False

    @property
    def root(self) -> Path:
        """The directory of the host that is the jail's root."""
        return Path(self.chroot_base_dir) / Path(self.exec_file).name / self.id / "root"

    @property
    def has_own_process(self) -> bool:
        """Whether the program is another process than the jailer that was started."""
        return self.new_pid_ns or self.daemonize or self.cleanup

    def outside(self, path: StrPath) -> Path:
        """Where a path of the jail is on the host: below a bind, or below the root. ValueError when it is not absolute or has .. in it."""
        inner = PurePosixPath(os.fspath(path))
        if not inner.is_absolute() or ".." in inner.parts:
            raise ValueError(f"{inner}: needs an absolute path of the jail, without ..")
        for bind in sorted(self.bind, key=lambda b: len(PurePosixPath(b.destination).parts), reverse=True):
            if inner == PurePosixPath(bind.destination) or PurePosixPath(bind.destination) in inner.parents:
                return Path(bind.source) / inner.relative_to(bind.destination)
        return self.root / inner.relative_to("/")

    def inside(self, path: StrPath) -> str:
        """What a path of the host is called in the jail. ValueError when the jail does not have it."""
        outer = Path(os.path.abspath(path))
        places = [(Path(os.path.abspath(bind.source)), bind.destination) for bind in self.bind] + [(Path(os.path.abspath(self.root)), "/")]
        for source, destination in places:
            if outer == source or source in outer.parents:
                return str(PurePosixPath(destination) / outer.relative_to(source))
        raise ValueError(f"{outer}: the jail {self.id} does not have it (bind it)")

    def options(self, pass_fd: Sequence[int] = ()) -> List[str]:
        """The jailer's command line, up to --. pass_fd: further descriptors to leave open."""
        said: List[str] = ["--id", self.id, "--exec-file", os.fspath(self.exec_file), "--chroot-base-dir", os.fspath(self.chroot_base_dir)]
        for name, value in (("uid", self.uid), ("gid", self.gid), ("netns", self.netns), ("cgroup-version", self.cgroup_version),
                            ("parent-cgroup", self.parent_cgroup), ("memory-max", self.memory_max)):
            if value is not None:
                said += [f"--{name}", str(value)]
        if self.cpu_max is not None:
            said += ["--cpu-max", f"{self.cpu_max}%"]
        for name, mapping, between in (("cgroup", self.cgroup, "="), ("resource-limit", self.resource_limit, "="), ("io-max", self.io_max, ":")):
            for key, wanted in mapping.items():
                said += [f"--{name}", f"{key}{between}{wanted}"]
        for bind in self.bind:
            said += ["--bind", f"{os.fspath(bind.source)}:{bind.destination}{':ro' if bind.read_only else ''}"]
        for fd in (*self.pass_fd, *pass_fd):
            said += ["--pass-fd", str(fd)]
        for name in ("daemonize", "new-pid-ns", "new-user-ns", "new-net-ns", "new-ipc-ns", "new-uts-ns", "cleanup"):
            if getattr(self, name.replace("-", "_")):
                said.append(f"--{name}")
        return said


class Jailed(Mayfly):
    """
    Mayfly in a jail, with its API. As Mayfly, a context manager:

        jail = Jail("vm1", "/usr/local/bin/mayfly", new_user_ns=True, cleanup=True, bind=[Bind("vmlinux", "/vmlinux", read_only=True)])
        with Jailed("/usr/local/bin/mayfly-jailer", jail) as vm:
            vm.put_boot_source({"kernel_image_path": "/vmlinux"})   # a path of the jail

    What is asked of the API are paths of the jail; jail.outside("/run/v.socket") is where it is on the host.
    """

    def __init__(self, jailer: StrPath, jail: Jail, args: Sequence[str] = (), api_sock: str = "/run/firecracker.socket",
                 timeout: float = PATIENCE, **popen: Any):
        """api_sock: a path of the jail. args: further options of Mayfly's. popen: of subprocess.Popen; descriptors of jail.pass_fd are passed."""
        Api.__init__(self, os.path.join(popen.get("cwd") or "", jail.outside(api_sock)), timeout)
        self.jail = jail
        self._program: Optional[int] = None  # a pidfd
        self._pid = 0
        popen["pass_fds"] = (*jail.pass_fd, *popen.get("pass_fds", ()))
        self._start(lambda fd: [os.fspath(jailer), *jail.options(pass_fd=[fd]), "--", "--api-sock", api_sock, "--ready-fd", str(fd), *args], **popen)
        try:
            self._pid = self._read_pid(popen.get("cwd") or "") if jail.has_own_process else self.process.pid
            if jail.has_own_process:
                self._program = os.pidfd_open(self._pid)
        except (OSError, ValueError) as error:
            self.stop()
            raise Ended(f"{jail.id}: the process in the jail ended as it began: {error}") from None

    def _read_pid(self, cwd: StrPath) -> int:
        """The PID file lies in a directory of the jail's user, so it is read once, before a guest runs, and no link is followed."""
        name = self.jail.root / f"{Path(self.jail.exec_file).name}.pid"
        fd = os.open(os.path.join(cwd, name), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            text = os.read(fd, 32)
        finally:
            os.close(fd)
        if not re.fullmatch(rb"[1-9]\d{0,9}\n?", text):
            raise ValueError(f"{name} holds {text!r} and no number of a process")
        return int(text)

    @property
    def pid(self) -> int:
        """The process of Mayfly itself, as the host numbers it."""
        return self._pid

    def wait(self, timeout: Optional[float] = None) -> int:
        """Wait for the end of the program, as far as that is known here: of one with new_pid_ns or daemonize and without cleanup it is not, see stop()."""
        return self.process.wait(timeout)

    def stop(self, timeout: float = 10) -> int:
        """End it, as Mayfly.stop(), whichever process it is. Returns the exit status of the jailer, which is the program's with cleanup."""
        self.hang_up()
        if self._program is None:
            return super().stop(timeout)
        try:
            if not _ends(self._program, signal.SIGTERM, timeout):
                _ends(self._program, signal.SIGKILL, timeout)
        finally:
            os.close(self._program)
            self._program = None
        try:
            return self.process.wait(timeout)  # with cleanup it has files to remove yet
        except subprocess.TimeoutExpired:
            self.process.kill()
        return self.process.wait()


def _ends(pidfd: int, number: int, timeout: float) -> bool:
    """Send the signal, and wait for the end."""
    try:
        signal.pidfd_send_signal(pidfd, number)
    except ProcessLookupError:
        return True
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(timeout * 1000))
