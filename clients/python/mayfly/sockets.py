"""Connections to Unix sockets: with a limit of time, also where the path is long, and through them to a port of a guest."""

from __future__ import annotations

import os
import re
import socket
import struct
import time
from contextlib import contextmanager
from typing import Iterator, Optional, Tuple, Union

StrPath = Union[str, "os.PathLike[str]"]

PATIENCE = 30.0  # seconds for any one answer; nothing that works comes near it
LONGEST_PATH = 107  # what the kernel takes as the path of a Unix socket


def connect_to(stream: socket.socket, path: StrPath) -> None:
    """Connect, also to a socket that was bound a moment ago and does not listen yet."""
    until = time.monotonic() + 1
    while True:
        try:
            with short_path(path) as short:
                return stream.connect(short)
        except ConnectionRefusedError:
            if time.monotonic() > until:
                raise
            time.sleep(0.005)


@contextmanager
def short_path(path: StrPath) -> Iterator[str]:
    """The path, or another one for the same file that fits into the address of a socket."""
    long = os.fspath(path)
    if len(os.fsencode(long)) <= LONGEST_PATH:
        yield long
        return
    folder = os.open(os.path.dirname(long), os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{folder}/{os.path.basename(long)}"
    finally:
        os.close(folder)


def connect(path: StrPath, timeout: float = PATIENCE) -> socket.socket:
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


def vsock_connect(uds_path: StrPath, port: int, timeout: float = PATIENCE, wait: float = 0) -> socket.socket:
    """
    A stream to a port of the guest, through the socket of its vsock device. wait: seconds for somebody to listen there, while the guest
    boots, say. ConnectionRefusedError when nobody does.
    """
    stream = connect(uds_path, timeout)
    try:
        stream.settimeout(timeout + wait)
        stream.sendall(f"CONNECT {port}{f' {int(wait * 1000)}' if wait else ''}\n".encode())
        reply = b""
        while not reply.endswith(b"\n") and len(reply) < 32:  # byte by byte: what follows the line is the guest's
            byte = stream.recv(1)
            if not byte:
                raise ConnectionRefusedError(f"nobody in the guest listens on port {port}")
            reply += byte
        if not re.fullmatch(rb"OK \d+\n", reply):
            raise ConnectionError(f"{reply!r} instead of OK and a port")
        stream.settimeout(timeout)
    except BaseException:
        stream.close()
        raise
    return stream


def listen(path: StrPath, owner: Optional[Tuple[int, int]] = None) -> socket.socket:
    """A Unix socket made at path, which only its owner (uid, gid; left out: who calls) and root can connect to."""
    stream = socket.socket(socket.AF_UNIX)
    try:
        os.fchmod(stream.fileno(), 0o600)  # what the file will have: no moment in which others could connect
        with short_path(path) as short:
            stream.bind(short)
        if owner:
            os.chown(path, *owner)
        stream.listen()
    except BaseException:
        stream.close()
        raise
    return stream
