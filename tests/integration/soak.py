#!/usr/bin/python3
"""
soak.py [SECONDS]: a Linux guest with all its devices busy at once while the API is asked all the time; then a table, and status 1 if
anything was corrupted, lost, leaked or late. Without SECONDS: SOAK_SECONDS, or 600.
"""

import fcntl
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from harness import PATIENCE, Vmm, artifact, drive, sparse
from linux_guest import SMP, Guest, counter
from net_peer import Namespace
from traffic import (GUEST, HOST, MIB, begin_echo, begin_fio, begin_streams, connect_iperf, end_fio, end_iperf, end_streams, limiter)

MS = 1000000
STREAMS, MEM_MIB = 200, 512
THINK, PAUSE_EVERY, PROGRESS_EVERY = 0.01, 5, 10
# What must hold at the end.
API_P99_NS = 5 * MS
MEMORY_GROWTH_KIB = 256


# ---- the API, asked all the time ----

class Call(NamedTuple):
    wall_ns: int
    thread_ns: int


class Yardstick:
    """
    How many times slower this machine is than a processor of today: the time for some work of the kind that the vmm thread does, system
    calls and copying, measured again and again while the soak runs. In the lab, whose processor is emulated on a machine that others use
    too, that is a large number, and a limit in milliseconds means nothing without it.
    """

    REFERENCE_NS = 92000  # what turn() takes on an AMD EPYC: 512 KiB through a pipe, in 64 KiB pieces

    def __init__(self):
        self.reader, self.writer = os.pipe()
        fcntl.fcntl(self.writer, fcntl.F_SETPIPE_SZ, MIB)
        self.data = bytes(64 << 10)
        self.times = []

    def turn(self):
        begin = time.thread_time_ns()
        for _ in range(8):
            os.write(self.writer, self.data)
            os.read(self.reader, len(self.data))
        self.times.append(time.thread_time_ns() - begin)

    def factor(self):
        return max(1.0, percentile(self.times, 0.5) / self.REFERENCE_NS)


def on_cpu_ns(pid):
    """How long the vmm thread, which is the process's first, has been on a CPU."""
    with open(f"/proc/{pid}/task/{pid}/schedstat", encoding="ascii") as f:
        return int(f.read().split()[0])


class Asker:
    """Times requests in two ways: by the clock, and by what the vmm thread did until the answer was there."""

    def __init__(self, guest):
        self.api, self.pid = guest.api, guest.running.pid
        self.calls = {}
        self.yardstick = Yardstick()
        self.next_pause = time.monotonic() + PAUSE_EVERY
        self.turn = 0

    def timed(self, name, call):
        thread, wall = on_cpu_ns(self.pid), time.monotonic_ns()
        call()
        wall = time.monotonic_ns() - wall
        self.calls.setdefault(name, []).append(Call(wall, on_cpu_ns(self.pid) - thread))

    def ask(self):
        self.turn += 1
        if self.turn % 10 == 1:
            self.yardstick.turn()
        if time.monotonic() >= self.next_pause:
            self.timed("pause", self.api.pause)
            self.timed("GET /, paused", self.api.instance)
            self.timed("resume", self.api.resume)
            self.next_pause = time.monotonic() + PAUSE_EVERY
        elif self.turn % 4 == 0:
            # Now narrow, now wide, now none at all.
            limit = {"bandwidth": limiter((16, 256, 0)[self.turn // 4 % 3])}
            if self.turn % 8:
                self.timed("PATCH drive", lambda: self.api.patch_drive("data", {"rate_limiter": limit}))
            else:
                self.timed("PATCH network", lambda: self.api.patch_network_interface("eth0", {"rx_rate_limiter": limit, "tx_rate_limiter": limit}))
        else:
            self.timed("GET /", self.api.instance)

    def all(self):
        return [call for calls in self.calls.values() for call in calls]


def percentile(values, part):
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * part))]


# ---- what the process holds ----

class Holds(NamedTuple):
    mappings: dict  # private KiB by address and name, without guest RAM
    descriptors: int

    @property
    def private_kib(self):
        return sum(self.mappings.values())


def holds(guest):
    """The private memory besides guest RAM, and descriptors other than the ioeventfds that busy queues get, for good."""
    pid = guest.running.pid
    # [start, end, name, private KiB] for each mapping; guest RAM is as large as it is, or anonymous and next to the kernel's file.
    maps = []
    for line in Path(f"/proc/{pid}/smaps").read_text(encoding="utf-8").splitlines():
        words = line.split()
        if not words[0].endswith(":"):
            start, end = (int(word, 16) for word in words[0].split("-"))
            maps.append([start, end, words[5] if len(words) > 5 else "", 0])
        elif words[0].startswith("Private_"):
            maps[-1][3] += int(words[1])
    kernel = str(artifact(SMP).resolve())
    edges = {edge for start, end, name, _ in maps if name == kernel for edge in (start, end)}
    ours = {f"{start:x} {name}".strip(): kib for start, end, name, kib in maps
            if name != kernel and end - start < MEM_MIB * MIB // 2 and (name or not edges & {start, end})}
    return Holds(ours, len(os.listdir(f"/proc/{pid}/fd")) - counter(guest.api, "virtio_ioeventfd_switched"))


# ---- the whole ----

class Report:
    """Lines for the table, and what is wrong."""

    def __init__(self):
        self.lines, self.wrong = [], []

    def add(self, name, text, *wrong):
        self.lines.append(f"  {name:<22} {text}" + "".join(f"  WRONG: {w}" for w in wrong if w))
        self.wrong += [f"{name}: {w}" for w in wrong if w]

    def __str__(self):
        return "\n".join(self.lines)


def start_guest(vmm, namespace):
    image = sparse(vmm.directory / "data.img", 32 * MIB)
    guest = Guest(vmm, wrapper=namespace.enter, mem_mib=MEM_MIB, drives=[drive("data", image, cache_type="Writeback")],
                  vsock={"guest_cid": 3, "uds_path": str(vmm.directory / "v.sock")},
                  **{"network-interfaces": [{"iface_id": "eth0", "host_dev_name": "tap0"}]})
    guest.run(f"ip link set eth0 up && ip address add {GUEST}/24 dev eth0 && ping -c 1 -W 30 {HOST}")
    # Every device once, so that what is there at the start is what is there with all in use.
    guest.run("dd if=/dev/vdc of=/dev/null bs=1M count=1 iflag=direct status=none")
    begin_echo(guest, vmm.directory / "v.sock")
    return guest


def start_work(guest, namespace, seconds):
    """iperf3 both ways and fio; each leaves its report in a file of the guest's. Returns the servers of the former."""
    servers = [connect_iperf(guest, namespace, option, f"-t {seconds}", port=port) for port, option in ((5201, ""), (5202, "-R"))]
    begin_fio(guest, "/dev/vdc", 32, "--verify_backlog=64", "--time_based", f"--runtime={seconds}")
    return servers


def report_iperf(report, guest, port, name):
    error, received = end_iperf(guest, port)
    total = sum(received.values())
    report.add(name, f"{total / MIB:10.1f} MiB", error, "nothing received" if not total else None)


def report_fio(report, guest):
    error, read, written = end_fio(guest)
    report.add("fio, verified", f"{read / MIB:10.1f} MiB read, {written / MIB:.1f} MiB written", error, "too little of it" if min(read, written) < MIB else None)


def report_streams(report, process):
    answer = end_streams(process)
    report.add(f"{STREAMS} vsock streams", f"{answer['bytes'] / MIB:10.1f} MiB each way, {answer['connections']} connections",
               f"{len(answer['errors'])} errors, first: {answer['errors'][0]}" if answer["errors"] else None,
               "less than one connection each" if answer["connections"] < STREAMS else None)


def report_api(report, asker):
    for name, calls in sorted(asker.calls.items()):
        times = "  ".join(f"{what} {percentile(v, 0.5) / MS:.2f} / {percentile(v, 0.99) / MS:.2f} / {max(v) / MS:.2f}"
                          for what, v in (("clock", [c.wall_ns for c in calls]), ("vmm thread", [c.thread_ns for c in calls])))
        report.add(name, f"{len(calls):6} times; ms, p50 / p99 / max: {times}")
    # Of a few hundred requests the slowest hundredth is two or three, and tells what else the host of the lab did.
    nr, factor = len(asker.all()), asker.yardstick.factor()
    share = 0.99 if nr >= 1000 else 0.9
    late = percentile([c.thread_ns for c in asker.all()], share)
    report.add("all requests", f"{nr:6} times; p{share * 100:.0f} of the vmm thread {late / MS:.2f} ms, on a machine {factor:.0f} times slower than usual: "
               f"{late / factor / MS:.2f} ms", "too long" if late / factor > API_P99_NS else None)


def report_holds(report, before, after):
    grown = after.private_kib - before.private_kib
    most = max(after.mappings, key=lambda name: after.mappings[name] - before.mappings.get(name, 0))
    report.add("memory beside RAM", f"{before.private_kib} KiB at the start, {after.private_kib} KiB at the end",
               f"{grown} KiB more, most of it at {most}" if grown > MEMORY_GROWTH_KIB else None)
    report.add("descriptors", f"{before.descriptors} at the start, {after.descriptors} at the end", "leak" if after.descriptors > before.descriptors else None)


def progress(asker, begun, seconds, say):
    numbers = dict(line.split() for line in asker.api.prometheus().splitlines() if line.startswith("mayfly_"))
    mib = {name: int(numbers[f"mayfly_{name}_total"]) / MIB for name in ("net_tx_bytes_count", "net_rx_bytes_count", "block_read_bytes", "block_write_bytes",
                                                                        "vsock_tx_bytes_count", "vsock_rx_bytes_count")}
    late = percentile([c.thread_ns for c in asker.all()], 0.99) / MS
    say(f"soak: {time.monotonic() - begun:4.0f} of {seconds} s; MiB out/in: net {mib['net_tx_bytes_count']:.0f}/{mib['net_rx_bytes_count']:.0f}, "
        f"disk {mib['block_write_bytes']:.0f}/{mib['block_read_bytes']:.0f}, vsock {mib['vsock_tx_bytes_count']:.0f}/{mib['vsock_rx_bytes_count']:.0f}; "
        f"{len(asker.all())} requests, p99 {late:.2f} ms of the vmm thread")


def drained(guest, before):
    """The streams' descriptors are closed when the guest has heard of their end; wait for that."""
    deadline = time.monotonic() + PATIENCE
    while (now := holds(guest)).descriptors > before.descriptors and time.monotonic() < deadline:
        time.sleep(0.1)
    return now


def load(guest, namespace, vmm, seconds, say):
    """Everything at once for so many seconds. Returns the Report."""
    report = Report()
    servers, peer = [], None
    try:
        asker = Asker(guest)
        asker.ask()
        before = holds(guest)
        servers = start_work(guest, namespace, seconds)
        peer = begin_streams(vmm.directory / "v.sock", STREAMS)
        begun = said = time.monotonic()
        while time.monotonic() < begun + seconds:
            asker.ask()
            if time.monotonic() - said > PROGRESS_EVERY:
                progress(asker, begun, seconds, say)
                said = time.monotonic()
            time.sleep(THINK)
        report_streams(report, peer)
        guest.api.patch_network_interface("eth0", {name: {"bandwidth": limiter(0)} for name in ("rx_rate_limiter", "tx_rate_limiter")})
        guest.api.patch_drive("data", {"rate_limiter": {"bandwidth": limiter(0)}})
        report_iperf(report, guest, 5201, "iperf3, out")
        report_iperf(report, guest, 5202, "iperf3, in")
        report_fio(report, guest)
        if report.wrong:
            say(namespace.run("ss", "-tinmo") + namespace.run("ip", "-s", "link", "show", "tap0"))
        report_api(report, asker)
        report_holds(report, before, drained(guest, before))
    finally:
        for process in [*servers, *([peer] if peer else [])]:
            process.kill()
            process.communicate()
    return report


def soak(vmm, seconds, say=print):
    """Returns the Report of a guest's busy life; raises when something stops working altogether."""
    namespace = Namespace()
    try:
        namespace.tap()
        guest = start_guest(vmm, namespace)
        report = load(guest, namespace, vmm, seconds, say)
        guest.finish()
        return report
    finally:
        vmm.close()
        namespace.close()


def main():
    seconds = int(sys.argv[1] if len(sys.argv) > 1 else os.environ.get("SOAK_SECONDS", "600"))
    with tempfile.TemporaryDirectory() as directory:
        report = soak(Vmm("release", directory), seconds, lambda line: print(line, flush=True))
    print(f"soak: {seconds} s, a guest with 2 vCPUs\n{report}")
    print("soak: " + ("; ".join(report.wrong) or "all is well"))
    return 1 if report.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
