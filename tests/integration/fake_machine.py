#!/usr/bin/env python3
"""
Stands in for mayfly-jailer where no Linux boots: takes its command line, and is the machine and its agent as well; commands run on the host.
FAKE_MACHINE in the environment makes it one that breaks the rules (see MODES).
"""

import ctypes
import fcntl
import io
import json
import os
import pty
import selectors
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tarfile
import termios
import threading
import time
from pathlib import Path

REQUEST, REPLY, STDIN, STDOUT, STDERR, SIGNAL, RESIZE, EXIT, DATA = range(1, 10)
MODE = os.environ.get("FAKE_MACHINE", "")
EVIL = b"\x1b]0;evil\x07\r\nforged line"
MODES = {
    "crash": "ends without a word from the agent", "panic": "the kernel gives up", "silent": "the agent never calls", "refuse": "an error that steers terminals",
    "not-found": "an error with code=127", "long-frame": "a frame longer than allowed", "bad-type": "a frame of type 99", "reserved": "reserved bytes that are not 0",
    "no-fields": "a reply that is no fields", "exit-first": "EXIT in place of a reply", "bad-exit": "an exit status that is none",
    "no-exit": "hangs up in place of EXIT", "half-frame": "hangs up in the middle of a frame", "request-back": "a REQUEST to the host", "flood": "output without end",
    "linger": "the machine does not end after the command", "ignores-term": "nor at SIGTERM", "link": "the socket is a link to another one",
    "dribble": "answers a byte at a time, and does nothing", "empty-flood": "frames without bytes, and without end",
}


LIBC = ctypes.CDLL(None)


def end_with_the_machine(tty=False):
    LIBC.prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    if tty:
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def fields(payload):
    out = {}
    for field in payload.split(b"\0")[:-1]:
        key, _, value = field.partition(b"=")
        out.setdefault(key.decode(), []).append(value.decode(errors="surrogateescape"))
    return out


def pack(**values):
    return b"".join(f"{key}={value}".encode() + b"\0" for key, value in values.items())


class Peer:
    def __init__(self, sock):
        self.sock, self.lock = sock, threading.Lock()

    def send(self, kind, payload=b""):
        with self.lock:
            self.sock.sendall(struct.pack("<IBBH", len(payload), kind, 0, 0) + payload)

    def exactly(self, count):
        data = b""
        while len(data) < count:
            chunk = self.sock.recv(count - len(data))
            if not chunk:
                raise EOFError
            data += chunk
        return data

    def receive(self):
        length, kind, zero, zeros = struct.unpack("<IBBH", self.exactly(8))
        assert length <= 65536 and not zero and not zeros and 1 <= kind <= 9, (length, kind, zero, zeros)
        return kind, self.exactly(length)

    def request(self):
        text = b""
        while not text.endswith(b"end=1\0"):
            kind, payload = self.receive()
            assert kind == REQUEST, kind
            text += payload
        return fields(text)


class Machine:
    def __init__(self, folder, config):
        self.folder, self.config = folder, config
        self.main = None
        self.main_ended = threading.Event()
        self.status = 0

    # ---- processes ----

    def command(self, peer, request, is_main):
        argv = [word for word in request.get("entrypoint", []) if word] + request.get("arg", [])
        env = {"PATH": os.environ["PATH"], "REQUEST": json.dumps(request), "CONFIG": json.dumps(self.config)}
        env.update(word.split("=", 1) for word in request.get("env", []))
        tty = "tty" in request
        terminal = None
        try:
            if tty:
                terminal, slave = pty.openpty()
                if "rows" in request:
                    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", int(request["rows"][0]), int(request["cols"][0]), 0, 0))
                process = subprocess.Popen(argv, env=env, stdin=slave, stdout=slave, stderr=slave, start_new_session=True, cwd=request.get("cwd", ["/"])[0],
                                           preexec_fn=lambda: end_with_the_machine(True))
                os.close(slave)
            else:
                process = subprocess.Popen(argv, env=env, stdin=subprocess.PIPE if "stdin" in request else subprocess.DEVNULL, stdout=subprocess.PIPE,
                                           stderr=subprocess.PIPE, start_new_session=True, cwd=request.get("cwd", ["/"])[0],
                                           preexec_fn=end_with_the_machine)
        except OSError as error:
            peer.send(REPLY, pack(error=f"{argv[0]}: {error.strerror}", code=127 if error.errno == 2 else 126))
            return None
        if is_main:
            self.main = process
        peer.send(REPLY, pack(ok=1, pid=process.pid))
        threading.Thread(target=self.take_input, args=(peer, process, terminal), daemon=True).start()
        self.relay(peer, process, terminal)
        code = process.wait()
        peer.send(EXIT, pack(signal=-code) if code < 0 else pack(code=code))
        return 128 - code if code < 0 else code

    def take_input(self, peer, process, terminal):
        try:
            while True:
                kind, payload = peer.receive()
                if kind == STDIN and terminal is not None:
                    os.write(terminal, payload or b"\x04")
                elif kind == STDIN and payload:
                    process.stdin.write(payload)
                    process.stdin.flush()
                elif kind == STDIN:
                    process.stdin.close()
                elif kind == SIGNAL:
                    process.send_signal(int(fields(payload)["signal"][0]))
                elif kind == RESIZE:
                    size = fields(payload)
                    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", int(size["rows"][0]), int(size["cols"][0]), 0, 0))
        except (EOFError, OSError, ValueError):
            pass

    def relay(self, peer, process, terminal):
        kinds = {terminal: STDOUT} if terminal is not None else {process.stdout.fileno(): STDOUT, process.stderr.fileno(): STDERR}
        chooser = selectors.DefaultSelector()
        for fd in kinds:
            chooser.register(fd, selectors.EVENT_READ)
        while kinds:
            for key, _ in chooser.select():
                try:
                    data = os.read(key.fd, 65536)
                except OSError:
                    data = b""
                peer.send(kinds[key.fd], data)
                if not data:
                    chooser.unregister(key.fd)
                    del kinds[key.fd]

    # ---- the rules broken ----

    def break_rules(self, peer):
        ok = pack(ok=1, pid=1)
        raw = peer.sock.sendall
        if MODE == "refuse":
            peer.send(REPLY, b"error=" + EVIL + b"\0")
        elif MODE == "not-found":
            peer.send(REPLY, pack(error="nosuch: not found", code=127))
        elif MODE == "long-frame":
            raw(struct.pack("<IBBH", 1 << 31, REPLY, 0, 0) + bytes(100000))
        elif MODE == "bad-type":
            peer.send(99, b"")
        elif MODE == "reserved":
            raw(struct.pack("<IBBH", 0, REPLY, 1, 7))
        elif MODE == "no-fields":
            peer.send(REPLY, b"ok=1")
        elif MODE == "exit-first":
            peer.send(EXIT, pack(code=0))
        elif MODE == "bad-exit":
            peer.send(REPLY, ok)
            peer.send(EXIT, pack(code=-5))
        elif MODE == "no-exit":
            peer.send(REPLY, ok)
            peer.send(STDOUT, b"half a ")
        elif MODE == "half-frame":
            peer.send(REPLY, ok)
            raw(struct.pack("<IBBH", 100, STDOUT, 0, 0) + b"abc")
        elif MODE == "request-back":
            peer.send(REPLY, ok)
            peer.send(REQUEST, pack(op="main"))
        elif MODE == "empty-flood":
            peer.send(REPLY, ok)
            while True:
                raw(struct.pack("<IBBH", 0, STDOUT, 0, 0) * 4096)
        elif MODE == "flood":
            peer.send(REPLY, ok)
            while True:
                peer.send(STDOUT, b"x" * 65536)
        else:
            return False
        return True

    # ---- requests ----

    def serve(self, sock):
        peer = Peer(sock)
        try:
            request = peer.request()
            op = request["op"][0]
            if op == "main":
                if not self.break_rules(peer):
                    self.status = self.command(peer, request, True)
                    if self.status is None:
                        self.status = 0
                self.main_ended.set()
            else:
                getattr(self, op)(peer, request)
            sock.shutdown(socket.SHUT_WR)
            while sock.recv(65536):  # until the host hangs up
                pass
        except (EOFError, OSError):
            if request_is_main(locals()):
                self.main_ended.set()
        finally:
            sock.close()

    def exec(self, peer, request):
        self.command(peer, request, False)

    def dribble(self, peer):
        peer.sock.sendall(struct.pack("<IBBH", 60000, REPLY, 0, 0))
        while True:
            peer.sock.sendall(b"x")
            time.sleep(0.5)

    def stop(self, peer, request):
        if MODE == "dribble":
            self.dribble(peer)
        self.main.send_signal(int(request.get("signal", ["15"])[0]))
        if not self.main_ended.wait(float(request.get("seconds", ["10"])[0])):
            self.main.kill()
            self.main_ended.wait(30)
        peer.send(REPLY, pack(ok=1, code=0))

    def kill(self, peer, request):
        if MODE == "dribble":
            self.dribble(peer)
        self.main.send_signal(int(request["signal"][0]))
        peer.send(REPLY, pack(ok=1))

    def send_data(self, peer, data):
        for at in range(0, len(data), 60000):
            peer.send(DATA, data[at:at + 60000])
        peer.send(DATA)

    def get(self, peer, request):
        path = self.folder / "files" / request["path"][0].lstrip("/")
        if MODE == "evil-tar" and "tar" in request:
            peer.send(REPLY, pack(ok=1, type="directory", mode="0755"))
            data = (self.folder / "evil.tar").read_bytes()
            self.send_data(peer, data)
        elif "tar" in request and path.is_dir():
            peer.send(REPLY, pack(ok=1, type="directory", mode="0755"))
            archive = io.BytesIO()
            with tarfile.open(fileobj=archive, mode="w", format=tarfile.PAX_FORMAT) as tar:
                for child in sorted(path.iterdir()):
                    tar.add(child, child.name)
            self.send_data(peer, archive.getvalue())
        elif "tar" not in request and path.is_file():
            peer.send(REPLY, pack(ok=1, type="file", mode=f"{path.stat().st_mode & 0o7777:04o}", size=path.stat().st_size))
            self.send_data(peer, path.read_bytes())
        else:
            peer.send(REPLY, pack(error=f"path={request['path'][0]}: No such file or directory"))

    def put(self, peer, request):
        data = b""
        while True:
            kind, payload = peer.receive()
            assert kind == DATA, kind
            if not payload:
                break
            data += payload
        with tarfile.open(fileobj=io.BytesIO(data)) as tar:
            tar.extractall(self.folder / "files" / request["path"][0].lstrip("/"))
        peer.send(REPLY, pack(ok=1))


def request_is_main(names):
    return names.get("op") == "main"


def listen(machine, path):
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen(64)

    def accept():
        while True:
            sock, _ = listener.accept()
            line = b""
            while not line.endswith(b"\n"):
                line += sock.recv(1) or b"\n"
            assert line.startswith(b"CONNECT 1024 "), line
            sock.sendall(b"OK 1073741824\n")
            threading.Thread(target=machine.serve, args=(sock,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()


def main():
    words = sys.argv[1:]
    options = dict(zip(words, words[1:]))
    binds = {word.split(":")[1]: word.split(":")[0] for option, word in zip(words, words[1:]) if option == "--bind"}
    place = Path(options["--chroot-base-dir"]) / "mayfly" / options["--id"]
    config = json.loads(Path(binds["/config.json"]).read_text())
    for drive in config["drives"]:
        os.fstat(int(drive["path_on_host"].removeprefix("fd:")))  # was passed on
    (place / "root").mkdir(parents=True)
    vsock = Path(binds["/vsock"])
    folder = Path(os.environ["FAKE_FOLDER"])
    machine = Machine(folder, config)

    def end(*_):
        if MODE == "ignores-term":
            return
        shutil.rmtree(place)
        os._exit(143)

    signal.signal(signal.SIGTERM, end)
    if MODE == "link":
        (vsock / "v").symlink_to(folder / "other.socket")
    elif MODE != "silent":
        listen(machine, vsock / "v")
    if MODE == "crash":
        print("mayfly: guest memory: something broke", file=sys.stderr, flush=True)
    elif MODE == "panic":
        print("[    0.1] Kernel panic - not syncing: " + EVIL.decode(), flush=True)
    elif MODE == "silent":
        time.sleep(600)
    else:
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(str(vsock / "v_1024"))
        serving = threading.Thread(target=machine.serve, args=(sock,), daemon=True)
        serving.start()
        machine.main_ended.wait()
        serving.join(5)
        if MODE in ("linger", "ignores-term"):
            while True:
                time.sleep(1)
    (vsock / "v").unlink(missing_ok=True)
    shutil.rmtree(place)
    sys.stdout.flush()
    os._exit(machine.status if machine.status < 128 else 127)


if __name__ == "__main__":
    main()
