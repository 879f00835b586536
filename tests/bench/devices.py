"""Rows about devices: what the host's CPU does for one block request, frame or byte, on the same guest under each monitor."""

import ctypes
import mmap
import os
import re
import select
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, Optional

from figures import Progress, number, print_table, ratio, summary
from monitors import Firecracker, Machine, Qemu

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests/integration"))

from net_peer import Namespace  # noqa: E402

TAP = "tap0"
READY = b"PHASE\n"
PATIENCE = 60  # seconds for a phase
DISK_MIB = 64
VSOCK_PORT = 4000
CHUNK = 1 << 18  # bytes of one read or write of the vsock's peer


class Phase(NamedTuple):
    """A stretch of a run that is measured: a step of the guest's script, and what the host does meanwhile."""

    title: str
    step: str
    count: int  # operations, or bytes
    helper: Optional[object] = None  # context manager factory, entered before the guest begins: helper(run)


class Case(NamedTuple):
    """One microVM per run; all phases are measured in it, one after the other."""

    machine: Machine
    warm_up: str  # steps before the first phase: rings set up, notifications settled, guest memory touched
    phases: list
    wrapper: list = []  # in front of the monitor's command


def read_stat(path):
    """The fields of a stat file of /proc from the third on; man 5 proc counts from 1."""
    return path.read_text(encoding="ascii").rpartition(")")[2].split()


def vcpu_of(pid):
    """The thread that has spent most time inside the guest."""
    threads = Path(f"/proc/{pid}/task").iterdir()
    return max(threads, key=lambda thread: int(read_stat(thread / "stat")[43 - 3]))


class Snapshot(NamedTuple):
    """
    Seconds. Guest time (field 43) is sampled at clock ticks and too large on a busy machine, so it is not subtracted from anything:
    the vCPU's part is its system time, which the kernel gives as a share of the thread's exact time. What the vCPU thread does in
    user space, outside the guest, is left out: nothing, as long as notifications are ioeventfds.
    """

    wall: float
    threads: float  # CPU of all threads but the vCPU's, those that have ended included
    vcpu: float  # CPU of the vCPU thread in the host's kernel

    @classmethod
    def take(cls, pid, vcpu):
        process = time.clock_gettime((~pid << 3) | 2)  # as clock_getcpuclockid(3)
        alone = int((vcpu / "schedstat").read_text(encoding="ascii").split()[0]) / 1e9
        return cls(time.monotonic(), process - alone, int(read_stat(vcpu / "stat")[15 - 3]) / os.sysconf("SC_CLK_TCK"))


class Events:
    """Counts a process's system calls, and its guest's accesses to devices, with the kernel's trace points."""

    NAMES = {"raw_syscalls:sys_enter": "calls", "kvm:kvm_mmio": "exits"}

    def __init__(self, pid, folder):
        self.out = Path(folder) / "perf.out"
        control, acknowledged = Path(folder) / "control", Path(folder) / "acknowledged"
        for fifo in (control, acknowledged):
            fifo.unlink(missing_ok=True)
            os.mkfifo(fifo)
        self.fds = [os.open(fifo, os.O_RDWR) for fifo in (control, acknowledged)]
        self.perf = subprocess.Popen(
            ["perf", "stat", "-x", ",", "-o", str(self.out), "-e", ",".join(self.NAMES), "-D", "-1",
             "--control", f"fifo:{control},{acknowledged}", "-p", str(pid)],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # fmt: skip

    def tell(self, what):
        os.write(self.fds[0], what)
        return bool(select.select([self.fds[1]], [], [], 5)[0] and os.read(self.fds[1], 64))

    def start(self):
        return self.tell(b"enable\n")

    def stop(self):
        self.tell(b"disable\n")
        self.perf.send_signal(2)
        self.perf.wait(10)
        for fd in self.fds:
            os.close(fd)
        text = self.out.read_text(encoding="ascii") if self.out.exists() else ""  # no trace points, or not for us
        lines = [line.split(",") for line in text.splitlines()]
        return {self.NAMES[line[2]]: int(line[0]) for line in lines if len(line) > 2 and line[2] in self.NAMES and line[0].isdigit()}


class Run:
    """One microVM on its way through the phases of a case."""

    def __init__(self, case, command):
        self.case = case
        self.text = b""
        self.process = subprocess.Popen([*case.wrapper, *command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self.pid = self.process.pid

    def expect(self, what):
        deadline = time.monotonic() + PATIENCE
        out = self.process.stdout.fileno()
        while not (found := re.search(what, self.text)):
            ready = select.select([out], [], [], max(0, deadline - time.monotonic()))[0]
            data = os.read(out, 4096) if ready else b""
            if not data or b"FAILED step" in self.text:
                self.process.kill()
                said = self.text[-300:] + self.process.stderr.read()[-300:]
                raise RuntimeError(f"{self.process.args}: {'ended' if ready else 'says nothing'}: {said.decode(errors='replace')}")
            self.text += data.replace(b"\r", b"")
        self.text = self.text[found.end():]

    def go(self):
        self.process.stdin.write(b"g")
        self.process.stdin.flush()

    def measure(self, phase, counter=None):
        with phase.helper(self) if phase.helper else no_helper():
            if counter:
                counter.start()
            vcpu = vcpu_of(self.pid)
            before = Snapshot.take(self.pid, vcpu)
            self.go()
            self.expect(rb" ticks.*\n")
            after = Snapshot.take(self.pid, vcpu)
            events = counter.stop() if counter else {}
        self.expect(READY)
        return {
            "wall": after.wall - before.wall,
            "threads": after.threads - before.threads,
            "vcpu": after.vcpu - before.vcpu,
            **events,
        }

    def end(self):
        self.process.kill()
        self.process.wait(10)
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            stream.close()


@contextmanager
def no_helper():
    yield


def script(case):
    phases = "".join(f" print PHASE; wait g; {phase.step};" for phase in case.phases)
    return f"{case.warm_up};{phases} print PHASE; idle"


def run_once(case, monitor, folder, count_events=False):
    """Every phase of one run, as dictionaries."""
    machine = case.machine._replace(boot_args=f"console=ttyS0 mayfly.test='{script(case)}'")
    if machine.vsock:
        machine.vsock.unlink(missing_ok=True)
    run = Run(case, monitor.command(machine, folder))
    try:
        run.expect(READY)
        return [run.measure(phase, Events(run.pid, folder) if count_events and shutil.which("perf") else None) for phase in case.phases]
    finally:
        run.end()


def measure(what, case, monitors, runs):
    """All monitors in turn, round after round. The first round warms up, and counts events."""
    results = {monitor: [] for monitor in monitors}
    counted = {}
    progress = Progress(what, len(monitors) * runs)
    with tempfile.TemporaryDirectory(prefix="mayfly-bench.") as folder:
        for n in range(runs + 1):
            for monitor in monitors:
                phases = run_once(case, monitor, folder, count_events=n == 0)
                if n:
                    results[monitor].append(phases)
                    progress.step()
                else:
                    counted[monitor] = phases
    progress.end()
    return [{"monitor": monitor.name, "phases": [figures(case.phases[i], [r[i] for r in results[monitor]], counted[monitor][i])
                                                 for i in range(len(case.phases))]} for monitor in monitors]


def figures(phase, measured, counted):
    return {
        "title": phase.title,
        "count": phase.count,
        "per_second": summary([phase.count / m["wall"] for m in measured]),
        "cpu_us": summary([(m["threads"] + m["vcpu"]) / phase.count * 1e6 for m in measured]),
        "threads_us": summary([m["threads"] / phase.count * 1e6 for m in measured]),
        "calls": counted["calls"] / phase.count if "calls" in counted else None,
        "exits": counted["exits"] / phase.count if "exits" in counted else None,
    }


# ---- the three kinds of device ----

@contextmanager
def locked_in_memory(path):
    """The file's pages stay in the page cache."""
    libc = ctypes.CDLL(None, use_errno=True)
    with open(path, "r+b") as file, mmap.mmap(file.fileno(), 0) as mapping:
        view = (ctypes.c_char * len(mapping)).from_buffer(mapping)
        if libc.mlock(ctypes.byref(view), ctypes.c_size_t(len(mapping))):
            raise OSError(ctypes.get_errno(), f"mlock {path}")
        yield
        del view


def row_block(monitors, qemu, runs, build):
    disk = build / "bench/disk.img"
    disk.write_bytes(os.urandom(DISK_MIB << 20))  # a file without holes
    os.sync()
    case = Case(
        Machine(build / "tests/guest/guest.elf", disk=disk, virtio_1=True),
        "blk 0 open; blk 0 bench n=3000 depth=1; blk 0 bench n=20000 depth=32",
        [Phase("4 KiB random reads, 32 at a time", "blk 0 bench n=150000 depth=32", 150000),
         Phase("4 KiB random reads, one at a time", "blk 0 bench n=10000 depth=1", 10000),
         Phase("64 KiB sequential reads, 8 at a time", "blk 0 bench n=15000 depth=8 bs=64k seq=1", 15000)],
    )  # fmt: skip
    peers = [Qemu(qemu.binary, aio) for aio in ("threads", "io_uring")] + [Qemu(qemu.binary, "io_uring", iothread=True)]
    with locked_in_memory(disk):
        return measure("block device", case, [*monitors, *peers], runs)


def frames_for(frames, namespace, length):
    @contextmanager
    def helper(run):
        sender = namespace.start(str(frames), TAP, str(length))
        try:
            yield
        finally:
            sender.kill()
            sender.wait(10)
    return helper


def row_net(monitors, qemu, runs, build, frames):
    namespace = Namespace()
    try:
        namespace.tap(TAP)
        phases = [Phase(f"frames of {n} bytes from the guest", f"net 0 bench dir=tx n={c} len={n}", c) for n, c in ((64, 150000), (1514, 150000))]
        phases += [Phase(f"frames of {n} bytes to the guest", f"net 0 bench dir=rx n={c}", c, frames_for(frames, namespace, n))
                   for n, c in ((64, 150000), (1514, 150000))]
        case = Case(Machine(build / "tests/guest/guest.elf", tap=TAP, virtio_1=True), "net 0 open; net 0 bench dir=tx n=3000 depth=1", phases, namespace.enter)
        return measure("network device", case, [*monitors, qemu], runs)
    finally:
        namespace.close()


def vsock_peer(path, receives, count):
    """The host's end of the guest's next connection, which takes or gives count bytes."""
    @contextmanager
    def helper(run):
        address = f"{path}_{VSOCK_PORT}"
        child = subprocess.Popen([sys.executable, __file__, address, "take" if receives else "give", str(count)], stdout=subprocess.PIPE)
        child.stdout.readline()  # it listens
        try:
            yield
        finally:
            child.kill()
            child.wait(10)
            child.stdout.close()
            Path(address).unlink(missing_ok=True)
    return helper


def row_vsock(mayfly, runs, build):
    """
    Mayfly alone: QEMU has no vsock device of its own (vhost's is a part of the host's kernel, and missing on many hosts), and old
    Firecracker wants header and data of a packet in two descriptors, where this guest uses one.
    """
    with tempfile.TemporaryDirectory(prefix="mayfly-vsock.") as folder:
        path = Path(folder) / "v.sock"
        total = 256 << 20
        case = Case(
            Machine(build / "tests/guest/guest.elf", vsock=path),
            "vsock open; print OPEN",
            [Phase("bytes from the guest", f"vsock bench {VSOCK_PORT} dir=tx bytes={total}", total, vsock_peer(path, True, total)),
             Phase("bytes to the guest", f"vsock bench {VSOCK_PORT} dir=rx bytes={total}", total, vsock_peer(path, False, total))],
        )  # fmt: skip
        return measure("vsock device", case, [mayfly], runs)


def serve_vsock(address, what, count):
    """The process behind vsock_peer()."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(address)
    listener.listen(1)
    print("ready", flush=True)
    connection = listener.accept()[0]
    buffer = bytearray(CHUNK)
    left = count
    while left and what == "take":
        n = connection.recv_into(buffer)
        left = left - n if n else 0
    while left:
        left -= connection.send(memoryview(buffer)[:min(left, CHUNK)])
    connection.shutdown(socket.SHUT_WR)
    while connection.recv(CHUNK):
        pass


# ---- tables ----

def print_device(title, results, unit="operation", scale=1):
    """scale: how many of what was counted make one unit, as 2**20 for MiB."""
    for i, phase in enumerate(results[0]["phases"]):
        base = phase["cpu_us"]["median"]
        rows = []
        for result in results:
            p = result["phases"][i]
            cpu, speed = p["cpu_us"], p["per_second"]
            calls, exits = (p[what] and p[what] * scale for what in ("calls", "exits"))
            rows.append([
                result["monitor"], cpu["n"], number(speed["median"] / scale, 0), number(speed["iqr"] / scale, 0),
                number(cpu["median"] * scale, 2), number(cpu["iqr"] * scale, 2), number(p["threads_us"]["median"] * scale, 2),
                number(1e6 / (cpu["median"] * scale), 0),
                ratio(cpu["median"], base), number(exits, 2), number(calls, 2),
            ])  # fmt: skip
        print_table(
            f"{title}: {phase['title']}",
            "CPU: of all the monitor's threads, and of the vCPU's thread in the host's kernel. Ratio: of that. Runs in turn.",
            ["monitor", "runs", f"{unit}s/s", "IQR", f"CPU µs per {unit}", "IQR", "w/o vCPU", f"{unit}s per CPU s", "ratio", "exits", "system calls"],
            rows,
        )


def peers(monitors):
    """Those that have all three devices behind the same configuration: Mayfly, and Firecracker with its filters."""
    return [m for m in monitors if m.name.startswith("mayfly") or (isinstance(m, Firecracker) and m.seccomp)]


if __name__ == "__main__":
    serve_vsock(sys.argv[1], sys.argv[2], int(sys.argv[3]))
