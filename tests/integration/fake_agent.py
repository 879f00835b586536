"""An agent on the host, for tests of its client: real commands and files in a folder, or whatever bytes a test wants sent."""

import os
import select
import signal
import socket
import struct
import subprocess
import threading

from harness import PATIENCE

REQUEST, REPLY, STDIN, STDOUT, STDERR, SIGNAL, RESIZE, EXIT, DATA = range(1, 10)


def frame(kind, payload=b""):
    return struct.pack("<IBBH", len(payload), kind, 0, 0) + payload


def fields(*pairs):
    return b"".join(key.encode() + b"=" + (value if isinstance(value, bytes) else str(value).encode()) + b"\0" for key, value in pairs)


def reply(**pairs):
    return frame(REPLY, fields(*pairs.items()))


OK = reply(ok=1)


class Peer:
    """The guest's end of one connection."""

    def __init__(self, sock):
        sock.settimeout(PATIENCE)
        self.sock = sock

    def exactly(self, count):
        data = b""
        while len(data) < count:
            part = self.sock.recv(count - len(data))
            if not part:
                raise EOFError
            data += part
        return data

    def frame(self):
        length, kind, zero, zeros = struct.unpack("<IBBH", self.exactly(8))
        assert length <= 65536 and not zero and not zeros and 1 <= kind <= 9
        return kind, self.exactly(length)

    def request(self):
        """A whole request, as (key, value) pairs without version and end."""
        pairs, total = [], 0
        while True:
            kind, payload = self.frame()
            total += len(payload)
            assert kind == REQUEST and payload.endswith(b"\0") and total <= 1 << 20
            pairs += [tuple(os.fsdecode(part) for part in one.split(b"=", 1)) for one in payload.split(b"\0")[:-1]]
            if pairs[-1] == ("end", "1"):
                assert pairs[0] == ("version", "1") and pairs[1][0] == "op"
                return pairs[1:-1]

    def send(self, *frames):
        self.sock.sendall(b"".join(frames))


class FakeAgent:
    """Listens where Mayfly would, at path; each connection is given to `serve(peer, pairs)`, its request read, in a thread."""

    def __init__(self, path, serve):
        self.path, self.serve = path, serve
        self.errors, self.requests = [], []
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(path))
        self.listener.listen(64)
        self.threads = [threading.Thread(target=self._accept, daemon=True)]
        self.threads[0].start()

    def _accept(self):
        while True:
            try:
                sock = self.listener.accept()[0]
            except OSError:
                return
            self.threads.append(threading.Thread(target=self.talk, args=[sock], daemon=True))
            self.threads[-1].start()

    def talk(self, sock, connect=True):
        """One connection, from its CONNECT on."""
        peer = Peer(sock)
        try:
            if connect:
                line = b""
                while not line.endswith(b"\n"):
                    line += peer.exactly(1)
                assert line.startswith(b"CONNECT 1024"), line
                peer.send(b"OK 7\n")
            pairs = peer.request()
            self.requests.append(pairs)
            self.serve(peer, pairs)
        except (EOFError, BrokenPipeError, ConnectionResetError):
            pass  # the client may hang up whenever it likes
        except BaseException as error:  # pylint: disable=broad-except
            self.errors.append(error)
        finally:
            sock.close()

    def close(self):
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        for thread in self.threads:
            thread.join(PATIENCE)
            assert not thread.is_alive()
        assert not self.errors, self.errors


def honest(folder):
    """What an agent does, with files in the folder and processes of the host's."""
    def serve(peer, pairs):
        said = dict(pairs)
        {"info": info, "exec": execute, "main": execute, "put": put, "get": get, "list": processes}.get(said["op"], nothing)(peer, pairs, said, folder)
    return serve


def info(peer, *_):
    peer.send(reply(ok=1, version=1, agent="0.1.0", kernel="6.12.0", uptime_us=1500000, main="none"))


def nothing(peer, *_):
    peer.send(OK)


def processes(peer, *_):
    peer.send(frame(REPLY, fields(("ok", 1), ("process", "1 0 0 S 400 init"), ("process", "17 1 1000 R 12 a b"))))


def execute(peer, pairs, said, _folder):
    argv = [value for key, value in pairs if key == "arg"]
    env = {**os.environ, **dict(value.split("=", 1) for key, value in pairs if key == "env")}
    try:
        child = subprocess.Popen(argv, stdin=subprocess.PIPE if "stdin" in said else subprocess.DEVNULL, stdout=subprocess.PIPE,
                                 stderr=subprocess.PIPE, env=env, cwd=said.get("cwd"), start_new_session=True)
    except OSError as error:
        return peer.send(reply(error=f"{argv[0]}: {error.strerror}", code=127))
    peer.send(reply(ok=1, pid=child.pid))
    streams = {child.stdout: STDOUT, child.stderr: STDERR}
    try:
        while streams:
            for ready in select.select([*streams, peer.sock], [], [], PATIENCE)[0]:
                if ready is peer.sock:
                    listen(peer, child)
                    continue
                data = os.read(ready.fileno(), 65536)
                peer.send(frame(streams[ready], data))
                if not data:
                    del streams[ready]
        code = child.wait(PATIENCE)
        peer.send(frame(EXIT, fields(("signal", -code) if code < 0 else ("code", code))))
    finally:
        for stream in (child.stdin, child.stdout, child.stderr):
            try:
                if stream:
                    stream.close()
            except BrokenPipeError:
                pass
        if child.poll() is None:
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()


def listen(peer, child):
    """What the client says while a command runs."""
    kind, payload = peer.frame()
    if kind == STDIN and payload:
        try:
            child.stdin.write(payload)
            child.stdin.flush()
        except BrokenPipeError:  # it takes no more
            pass
    elif kind == STDIN:
        child.stdin.close()
    elif kind == SIGNAL:
        os.killpg(child.pid, int(payload.split(b"=")[1][:-1]))


def put(peer, _pairs, said, folder):
    path = folder / said["path"].lstrip("/")
    if not path.parent.is_dir():
        return peer.send(reply(error=f"{said['path']}: No such file or directory"))
    data = b""
    while part := peer.frame()[1]:
        data += part
    if "tar" in said:
        subprocess.run(["tar", "x", "-C", path], input=data, check=True)
    else:
        path.write_bytes(data)
        path.chmod(int(said["mode"], 8))
    peer.send(OK)


def get(peer, _pairs, said, folder):
    path = folder / said["path"].lstrip("/")
    if not path.exists():
        return peer.send(reply(error=f"{said['path']}: No such file or directory"))
    data = subprocess.run(["tar", "c", "-C", path, "."], capture_output=True, check=True).stdout if "tar" in said else path.read_bytes()
    peer.send(reply(ok=1, mode=f"{path.stat().st_mode & 0o7777:04o}", size=len(data)))
    peer.send(*(frame(DATA, data[at:at + 50000]) for at in range(0, len(data), 50000)), frame(DATA))
