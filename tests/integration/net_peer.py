"""The other side of a guest's network device: frames as the test guest makes them, over any kind of socket, and namespaces."""

import os
import queue
import signal
import socket
import struct
import subprocess
import sys
import threading
import time

ETHERTYPE = 0x88B5
DATA_AT = 22


NGINX = """
user root;
pid pid;
error_log error.log;
events { }
http {
    access_log off;
    client_body_temp_path tmp; proxy_temp_path tmp; fastcgi_temp_path tmp; uwsgi_temp_path tmp; scgi_temp_path tmp;
    server { listen 80; listen [::]:80; root .; }
}
"""


def frame(number, length, seed, source=b"\x02\0\0\0\0\1"):
    """What `net N send` sends; tests/guest/net.c makes the same."""
    head = b"\xff" * 6 + source + struct.pack(">H", ETHERTYPE) + struct.pack("<II", number, seed)
    return head + bytes((seed + number * 13 + i * 7 + (i >> 8)) & 0xFF for i in range(DATA_AT, length))


def length(number, shortest, longest):
    return shortest + number * 251 % (longest - shortest + 1)


def is_ours(data):
    return data[12:14] == struct.pack(">H", ETHERTYPE)


class Messages:
    """One frame per message: datagram, seqpacket and packet sockets."""

    def __init__(self, sock):
        self.sock = sock

    def recv(self):
        return self.sock.recv(70000)

    def send(self, data):
        self.sock.send(data)


class Stream:
    """passt's protocol."""

    def __init__(self, sock):
        self.sock = sock
        self.file = sock.makefile("rb")

    def recv(self):
        prefix = self.file.read(4)
        return self.file.read(struct.unpack(">I", prefix)[0]) if len(prefix) == 4 else b""

    def send(self, data):
        self.sock.sendall(struct.pack(">I", len(data)) + data)


class Echo(threading.Thread):
    """Sends every frame of ours back, without ever making the guest wait; keeps them all."""

    def __init__(self, link):
        super().__init__(daemon=True)
        self.link, self.frames, self.back = link, [], queue.Queue()
        self.sender = threading.Thread(target=self.send_back, daemon=True)
        self.sender.start()
        self.start()

    def run(self):
        while True:
            try:
                data = self.link.recv()
            except OSError:
                data = b""
            if not data:
                self.back.put(None)
                return
            if is_ours(data):
                self.frames.append(data)
                self.back.put(data)

    def send_back(self):
        while (data := self.back.get()) is not None:
            try:
                self.link.send(data)
            except OSError:
                return


class Namespace:
    """A network namespace of its own (with a user namespace where one has to be root to make one), gone at the end."""

    def __init__(self):
        user = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
        self.holder = subprocess.Popen(["unshare", *user, "--net", "sh", "-c", "echo ready; exec cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self.holder.stdout.readline() == b"ready\n", "no network namespace"
        flags = ["--net"] if not user else ["--user", "--preserve-credentials", "--net"]
        self.enter = ["nsenter", "--target", str(self.holder.pid), *flags, "--"]
        self.servers = []
        self.ip("link set lo up")

    def run(self, *command, **options):
        return subprocess.run([*self.enter, *command], check=True, timeout=60, capture_output=True, text=True, **options).stdout

    def ip(self, arguments):
        return self.run("ip", *arguments.split())

    def ip_batch(self, *lines):
        """Many at once, for one process's time."""
        self.run("ip", "-batch", "-", input="\n".join(lines) + "\n")

    def tap(self, name="tap0", address="10.9.0.1/24", mtu=1500, new=True):
        """new: it is not one that came from another namespace."""
        self.run("sh", "-c", "echo 1 >/proc/sys/net/ipv6/conf/default/disable_ipv6")
        self.ip_batch(*([f"tuntap add {name} mode tap"] if new else []), f"link set {name} mtu {mtu} up", f"address add {address} dev {name}")

    def wait_up(self, name):
        """Until the host's stack sends on the interface: the kernel gets round to that up to a second after the carrier is there."""
        deadline = time.monotonic() + 30
        while "LOWER_UP" not in (state := self.ip(f"link show {name}")) or "qdisc noop" in state:
            assert time.monotonic() < deadline, state
            time.sleep(0.02)

    def start(self, *command, **options):
        return subprocess.Popen([*self.enter, *command], **options)

    def web(self, directory):
        """nginx with the files of a directory, on port 80 of all addresses; listens when this returns. Namespace.close() ends it."""
        (directory / "nginx.conf").write_text(NGINX)
        # In the background once it listens; its master ends when it is told to, its workers with it.
        self.run("nginx", "-p", directory, "-c", "nginx.conf", "-e", "error.log")
        self.servers.append(int((directory / "pid").read_text()))

    def echo(self, interface="tap0"):
        """A process that echoes frames on an interface, ready when this returns."""
        process = self.start(sys.executable, __file__, interface, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL)
        assert process.stdout.readline() == b"ready\n"
        return process

    def close(self):
        for pid in self.servers:
            os.kill(pid, signal.SIGTERM)
        self.holder.stdin.close()
        self.holder.wait(10)
        self.holder.stdout.close()


def main():
    sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETHERTYPE))
    sock.bind((sys.argv[1], ETHERTYPE))
    # What we send on the interface is not for us (linux/if_packet.h: PACKET_IGNORE_OUTGOING).
    sock.setsockopt(263, 23, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
    print("ready", flush=True)
    Echo(Messages(sock)).join()


if __name__ == "__main__":
    main()
