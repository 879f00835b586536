"""Host programs that speak to a guest over vsock: the CONNECT handshake, servers at uds_path_PORT, checked streams."""

import hashlib
import select
import socket
import struct
import threading
import time

from harness import PATIENCE
from mayfly import connect_to


class Refused(Exception):
    """The connection ended before the OK."""


class Peers:
    """The host's end of one guest's vsock at path; close() closes every socket that came from here."""

    def __init__(self, path):
        self.path = path
        self.sockets = []

    def keep(self, sock):
        sock.settimeout(PATIENCE)
        self.sockets.append(sock)
        return sock

    def wait(self, process):
        """Until process listens at path; fails when it ends instead."""
        deadline = time.monotonic() + PATIENCE
        while not self.path.is_socket():
            assert process.poll() is None and time.monotonic() < deadline, f"nobody listens at {self.path}"
            time.sleep(0.01)

    def connect(self, data=b""):
        """A socket connected to path, data sent."""
        sock = self.keep(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
        # Blocking: with a timeout of Python's, a full backlog would be an error at once.
        sock.settimeout(None)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("@ll", PATIENCE, 0))
        connect_to(sock, self.path)
        sock.settimeout(PATIENCE)
        sock.sendall(data)
        return sock

    def dial(self, port, wait_ms=None):
        """A stream to the guest's port; Refused when there is none."""
        sock = self.connect(f"CONNECT {port}\n".encode() if wait_ms is None else f"CONNECT {port} {wait_ms}\n".encode())
        line = b""
        while not line.endswith(b"\n"):
            byte = sock.recv(1)  # what follows the line is data
            if not byte:
                raise Refused(f"port {port}")
            line += byte
        assert line.startswith(b"OK "), line
        return sock

    def listen(self, port, backlog=128):
        """A listener that the guest reaches as CID 2, port."""
        sock = self.keep(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
        sock.bind(f"{self.path}_{port}")
        sock.listen(backlog)
        return sock

    def accept(self, listener):
        return self.keep(listener.accept()[0])

    def close(self):
        for sock in self.sockets:
            sock.close()


def stream(seed, length):
    """The bytes that the test guest sends for a seed."""
    return bytes((seed * 31 + i * 7 + (i >> 8) + (i >> 16)) & 255 for i in range(length))


def receive_all(sock):
    data = bytearray()
    while chunk := sock.recv(65536):
        data += chunk
    return bytes(data)


def exchange(sock, data):
    """Send data and then the end, take what comes meanwhile until its end; returns that."""
    got, sent, ended = bytearray(), 0, False
    sock.setblocking(False)
    deadline = time.monotonic() + PATIENCE
    while True:
        assert time.monotonic() < deadline, f"{sent} of {len(data)} bytes sent, {len(got)} received"
        if sent == len(data) and not ended:
            sock.shutdown(socket.SHUT_WR)
            ended = True
        readable, writable, _ = select.select([sock], [] if ended else [sock], [], 1)
        if writable:
            sent += sock.send(data[sent:sent + 65536])
        if readable:
            chunk = sock.recv(65536)
            if not chunk:
                assert ended
                sock.close()
                return bytes(got)
            got += chunk
            deadline = time.monotonic() + PATIENCE


def digest(data):
    return hashlib.sha256(data).hexdigest()


def together(work, items):
    """Call work for each item at the same time; the first failure is raised."""
    errors = []

    def one(item):
        try:
            work(item)
        except BaseException as error:  # pylint: disable=broad-except
            errors.append(error)

    threads = [threading.Thread(target=one, args=[item], daemon=True) for item in items]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(2 * PATIENCE)
        assert not thread.is_alive(), "a peer hangs"
    if errors:
        raise errors[0]
