#!/usr/bin/python3
"""Real load for a Linux guest that checks itself: fio on a disk, iperf3 through a TAP, streams through vsock. The soak and the tests of snapshots use it."""

import json
import os
import re
import selectors
import socket
import subprocess
import sys

from harness import PATIENCE, drive, sparse
from mayfly import connect, vsock_connect

HOST, GUEST = "10.9.0.1", "10.9.0.2"
ECHO_PORT, IPERF_PORT = 1000, 5201
MIB = 1 << 20


def limiter(mib_per_s):
    """The bandwidth of a rate limiter: so many MiB/s, or without a limit."""
    return {"size": mib_per_s * MIB // 10, "refill_time": 100 if mib_per_s else 0}


# ---- fio ----

def bytes_written(path):
    """Bytes of a sparse file that there are."""
    return os.stat(path).st_blocks * 512


def begin_fio(guest, disk, mib, *options):
    """In the background of the guest: random writes, of blocks that say what and where they are, and reads that check them."""
    guest.run(f"fio --name=verify --filename={disk} --direct=1 --ioengine=libaio --iodepth=8 --rw=randwrite --bs=16k --size={mib}m "
              f"--verify=crc32c --verify_fatal=1 --verify_state_save=0 {' '.join(options)} "
              "--eta=never --output-format=terse --terse-version=3 --output=/tmp/fio >/tmp/fio.errors 2>&1 & fio=$!")


def end_fio(guest):
    """Wait for its end: what it complains of (None: nothing), bytes read, bytes written."""
    text = guest.run("wait $fio; echo status $?; cat /tmp/fio.errors /tmp/fio")
    # fio's HOWTO, "terse output": version 3 has the error at 4, KiB read at 5 and KiB written at 46.
    report = re.search(r"^3;fio-.*$", text, re.M)
    fields = report.group().split(";") if report else ["3"] + ["0"] * 50
    well = report and fields[4] == "0" and text.startswith("status 0\n")
    return None if well else text[:2000], int(fields[5]) * 1024, int(fields[46]) * 1024


class Fio:
    """fio writes each block of a disk once, in no order, and then reads all of them: also those it wrote before a snapshot in between."""

    def __init__(self, directory, mib, **fields):
        """fields: more of the drive."""
        self.bytes = mib * MIB
        self.image = sparse(directory / "fio.img", self.bytes)
        self.drive = drive("fio", self.image, cache_type="Writeback", **fields)

    def begin(self, guest, disk):
        begin_fio(guest, disk, self.bytes // MIB)

    def end(self, guest):
        error, read, written = end_fio(guest)
        assert not error, error
        assert (read, written) == (self.bytes, self.bytes)


# ---- iperf3 ----

def iperf_server(namespace, *options, port=IPERF_PORT):
    """In the namespace, listening when this returns."""
    server = namespace.start("iperf3", "-s", "-B", HOST, "-p", str(port), "--forceflush", *options, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL)
    assert b"---" in server.stdout.readline()
    return server


def iperf_client(port, *options):
    """The guest's command."""
    return f"iperf3 -c {HOST} -p {port} -i 0 {' '.join(options)}"


def begin_iperf(guest, *options, port=IPERF_PORT):
    guest.run(f"{iperf_client(port, *options)} >/tmp/iperf.{port} 2>&1 & iperf{port}=$!")


def connect_iperf(guest, namespace, *options, port):
    """
    A server that ends with its client, and that client, once they are connected. Setting up takes them many messages, and either gives up over
    some of these when the machine stands still for a while: so they have three tries, before there is any load. Returns the server.
    """
    for _ in range(3):
        server = iperf_server(namespace, "-1", port=port)
        begin_iperf(guest, *options, port=port)
        while line := server.stdout.readline():
            if b"connected to" in line:
                return server
        server.communicate()
        print(f"iperf3 {options}: server's status {server.returncode}; {end_iperf(guest, port)[0]}")
    raise AssertionError("iperf3 does not get as far as a connection")


def iperf_report(text):
    """What it complains of (None: nothing), and what was received: bytes by direction, which is TX-C or RX-C or nothing."""
    error = re.search(r"^iperf3: .*$", text, re.M)
    lines = re.findall(r"^\[ *\d+\](?:\[([RT]X-C)\])? .* sec +([\d.]+) ([KMGT]?)Bytes .* receiver$", text, re.M)
    received = {way: int(float(number) * 1024 ** " KMGT".index(unit or " ")) for way, number, unit in lines}
    return error.group() if error else None if received else text[-2000:], received


def end_iperf(guest, port=IPERF_PORT):
    return iperf_report(guest.run(f"wait $iperf{port}; cat /tmp/iperf.{port}"))


# ---- vsock ----

# In the guest: whatever comes to a port of vsock goes back.
ECHO = f"""
import selectors, socket
select = selectors.DefaultSelector()
listener = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
listener.bind((socket.VMADDR_CID_ANY, {ECHO_PORT}))
listener.listen(400)
select.register(listener, selectors.EVENT_READ)
print("listening", flush=True)
def serve(sock, rest):
    try:
        rest = rest or sock.recv(65536)
        if rest:
            rest = rest[sock.send(rest):]
            select.modify(sock, selectors.EVENT_WRITE if rest else selectors.EVENT_READ, rest)
            return
    except BlockingIOError:
        select.modify(sock, selectors.EVENT_WRITE, rest)
        return
    except OSError as error:
        print("lost", type(error).__name__, flush=True)
    select.unregister(sock)
    sock.close()
while True:
    for key, _ in select.select():
        if key.fileobj is listener:
            sock = listener.accept()[0]
            sock.setblocking(False)
            select.register(sock, selectors.EVENT_READ, b"")
        else:
            serve(key.fileobj, key.data)
"""


def begin_echo(guest, uds_path):
    """The server in the guest, whose process is $server; it has $idle descriptors without a connection. It answers when this returns."""
    guest.run(f"printf '{ECHO.encode('unicode_escape').decode()}' >/tmp/echo.py; python3 -u /tmp/echo.py >/tmp/echo 2>&1 & server=$!")
    guest.run("until grep -q listening /tmp/echo; do sleep 0.1; done; idle=$(ls /proc/$server/fd | wc -l)")
    with vsock_connect(uds_path, ECHO_PORT, PATIENCE) as sock:
        sock.sendall(b"x")
        assert sock.recv(1) == b"x"


class Stream:
    """One connection after the other: sends what nobody else sends, takes it back, compares every byte."""

    def __init__(self, select, path, number, size):
        self.select, self.path, self.number, self.size = select, path, number, size
        self.connections = self.bytes = 0
        self.connect()

    def connect(self):
        self.data = memoryview(os.urandom(self.size + 997 * self.number))
        self.line, self.sent, self.got = b"", 0, 0
        self.sock = connect(self.path, PATIENCE)
        self.select.register(self.sock, selectors.EVENT_READ, self)
        self.sock.sendall(f"CONNECT {ECHO_PORT} {PATIENCE * 1000}\n".encode())
        self.sock.setblocking(False)

    def serve(self, events):
        """Send and take what is possible now. True: this connection is over, and all was well."""
        if events & selectors.EVENT_WRITE:
            self.sent += self.sock.send(self.data[self.sent:self.sent + 65536])
            if self.sent == len(self.data):
                self.sock.shutdown(socket.SHUT_WR)
                self.select.modify(self.sock, selectors.EVENT_READ, self)
        if events & selectors.EVENT_READ:
            chunk = self.sock.recv(65536)
            if not chunk and (self.got < len(self.data) or not self.line.endswith(b"\n")):
                raise ConnectionResetError(f"{self.got} of {len(self.data)} bytes came back")
            if not chunk:
                return True
            self.take(chunk)
        return False

    def take(self, chunk):
        if not self.line.endswith(b"\n"):
            line, newline, chunk = chunk.partition(b"\n")
            self.line += line + newline
            if newline:
                assert self.line.startswith(b"OK "), self.line
                self.select.modify(self.sock, selectors.EVENT_READ | selectors.EVENT_WRITE, self)
        assert chunk == self.data[self.got:self.got + len(chunk)], f"differs after byte {self.got}"
        self.got += len(chunk)
        self.bytes += len(chunk)

    def end(self):
        self.select.unregister(self.sock)
        self.sock.close()
        self.connections += 1

    def __str__(self):
        return f"stream {self.number}, connection {self.connections}, {self.sent} sent and {self.got} received of {len(self.data)}"


def streams(path, count, size):
    """This many at once, until our standard input ends or each was cut; then says how it was."""
    select = selectors.DefaultSelector()
    select.register(sys.stdin, selectors.EVENT_READ)
    running = {Stream(select, path, number, size) for number in range(count)}
    everyone, errors, ending = list(running), [], False
    while running:
        ready = select.select(PATIENCE)
        if not ready:
            errors += [f"{stream}: nothing for {PATIENCE} s" for stream in running]
            break
        for key, events in ready:
            stream = key.data
            if not stream:
                ending = True
                select.unregister(sys.stdin)
                continue
            try:
                if not stream.serve(events):
                    continue
                stream.end()
                if not ending:
                    stream.connect()
                    continue
            except (OSError, AssertionError) as error:
                errors.append(f"{stream}: {error!r}")
                if stream.sock.fileno() >= 0:
                    stream.end()
            running.remove(stream)
    print(json.dumps({"connections": sum(s.connections for s in everyone), "bytes": sum(s.bytes for s in everyone), "errors": errors}))


def begin_streams(uds_path, count, size=20000):
    """In a process of its own, which is returned. size: how many bytes each connection takes, or some more."""
    return subprocess.Popen([sys.executable, __file__, uds_path, str(count), str(size)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def end_streams(process):
    """What was sent and came back until now: connections, bytes, errors."""
    out, _ = process.communicate(timeout=3 * PATIENCE)
    return json.loads(out)


if __name__ == "__main__":
    streams(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
