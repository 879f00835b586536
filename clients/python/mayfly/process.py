"""A Mayfly process with its API: started, waited for, ended."""

from __future__ import annotations

import os
import select
import subprocess
from types import TracebackType
from typing import Any, Callable, Optional, Sequence, Type, TypeVar

from mayfly.api import Api
from mayfly.sockets import PATIENCE, StrPath

Self = TypeVar("Self", bound="Mayfly")


class Ended(Exception):
    """The process ended before it did what was waited for."""


def wait_ready(fd: int, timeout: float = PATIENCE) -> None:
    """Wait for the byte that --ready-fd gets at the other end of fd, and close fd. Raises Ended or TimeoutError."""
    try:
        poll = select.poll()  # select() knows no descriptor above 1023
        poll.register(fd, select.POLLIN)
        if not poll.poll(timeout * 1000):
            raise TimeoutError(f"no request could be sent for {timeout} s")
        if not os.read(fd, 1):
            raise Ended("the process ended before it took requests; its line on standard error says why")
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

    def __init__(self, binary: StrPath, api_sock: StrPath, args: Sequence[str] = (), timeout: float = PATIENCE, **popen: Any):
        """args: further options of Mayfly's. popen: of subprocess.Popen, such as stdout, cwd or pass_fds; standard input is /dev/null."""
        # A relative socket is relative to where the process is started, and so is ours then.
        super().__init__(os.path.join(popen.get("cwd") or "", os.fspath(api_sock)), timeout)
        self._start(lambda fd: [os.fspath(binary), "--api-sock", os.fspath(api_sock), "--ready-fd", str(fd), *args], **popen)

    def _start(self, command: Callable[[int], Sequence[str]], pass_fds: Sequence[int] = (), **popen: Any) -> None:
        """Start the command, which is made for a descriptor that says when requests are taken, and wait for that."""
        popen.setdefault("stdin", subprocess.DEVNULL)
        ready, tell = os.pipe()
        try:
            self.process = subprocess.Popen(command(tell), pass_fds=(tell, *pass_fds), **popen)
        except BaseException:
            os.close(ready)
            raise
        finally:
            os.close(tell)
        try:
            wait_ready(ready, self.timeout)
        except BaseException:
            self.stop()
            raise

    def __enter__(self: Self) -> Self:
        return self

    def __exit__(self, kind: Optional[Type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        return self.process.pid

    def wait(self, timeout: Optional[float] = None) -> int:
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
