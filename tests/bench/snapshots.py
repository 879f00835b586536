"""The row about snapshots and forks: how soon a guest goes on that was saved, loaded or copied, and what a copy has for itself."""

import array
import fcntl
import http.client
import json
import os
import signal
import socket
import subprocess
import termios
import time
from pathlib import Path

from figures import Progress, number, print_table, ratio, summary
from monitors import Firecracker

SIZES_MIB = (128, 2048, 65536)
COPIES = 1000
PATIENCE = 60


class Connection(http.client.HTTPConnection):
    def __init__(self, path):
        super().__init__("localhost", timeout=PATIENCE)
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self.path))


class Process:
    """A monitor under its API. The guest's console goes to a pipe."""

    def __init__(self, monitor, sock, options=()):
        Path(sock).unlink(missing_ok=True)
        self.process = subprocess.Popen([*monitor.api_command("--api-sock", str(sock)), *options], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + PATIENCE
        self.connection = Connection(sock)
        while True:
            try:
                self.connection.connect()
                break
            except (FileNotFoundError, ConnectionRefusedError):
                assert self.process.poll() is None and time.monotonic() < deadline, "the monitor has not started"
                time.sleep(0.001)

    def call(self, method, path, body):
        """The seconds until the answer, and the answer."""
        text = json.dumps(body)
        begun = time.perf_counter()
        self.connection.request(method, path, text, {"Content-Type": "application/json"})
        response = self.connection.getresponse()
        answer = response.read()
        took = time.perf_counter() - begun
        assert response.status < 300, f"{method} {path}: {answer}"
        return took, answer

    def until(self, text):
        seen = b""
        while text not in seen:
            part = os.read(self.process.stdout.fileno(), 65536)
            assert part, "the guest has ended"
            seen += part

    def type(self, letter):
        """On the console, which has taken it afterwards."""
        left, deadline = array.array("i", [1]), time.monotonic() + PATIENCE
        os.write(self.process.stdin.fileno(), letter)
        while left[0]:
            assert time.monotonic() < deadline, "the monitor does not read its console"
            fcntl.ioctl(self.process.stdin, termios.FIONREAD, left)

    def end(self):
        self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            stream.close()
        self.connection.close()


def begin(monitor, guest, mib, folder, options, script):
    """Started, and ready for what the script says next."""
    process = Process(monitor, folder / "bench.sock", options)
    config = {"vcpu_count": 1, "mem_size_mib": mib, **({"ht_enabled": False} if isinstance(monitor, Firecracker) else {})}
    process.call("PUT", "/machine-config", config)
    process.call("PUT", "/boot-source", {"kernel_image_path": str(guest), "boot_args": f"console=ttyS0 mayfly.test='touch 8M; print ready; {script}'"})
    process.call("PUT", "/actions", {"action_type": "InstanceStart"})
    process.until(b"ready")
    return process


def save(monitor, guest, mib, folder, options):
    """A snapshot of a guest for which the letter has come already; its two files."""
    process = begin(monitor, guest, mib, folder, options, "wait g; print goes-on; idle")
    process.type(b"x")  # so the guest listens
    process.call("PATCH", "/vm", {"state": "Paused"})
    if not isinstance(monitor, Firecracker):  # which reads nothing now; its guest waits on
        process.type(b"g")
    files = {"snapshot_path": str(folder / f"{monitor.name[:3]}{mib}.state"), "mem_file_path": str(folder / f"{monitor.name[:3]}{mib}.memory")}
    process.call("PUT", "/snapshot/create", {"snapshot_type": "Full", **files})
    process.end()
    return files


def loaded(monitor, files, folder):
    """Seconds of one load+resume call in a process that waits for it."""
    process = Process(monitor, folder / "bench.sock")
    took, _ = process.call("PUT", "/snapshot/load", {**files, "resume_vm": True}) if not isinstance(monitor, Firecracker) else old_load(process, files)
    process.end()
    return took


def old_load(process, files):
    """Firecracker before 1.0 resumes by a call of its own."""
    took, _ = process.call("PUT", "/snapshot/load", {**files, "enable_diff_snapshots": False})
    more, _ = process.call("PATCH", "/vm", {"state": "Resumed"})
    return took + more, b""


def private_kib(pid):
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines()[1:]
    fields = {line.split(":")[0]: int(line.split()[1]) for line in lines}
    return fields["Private_Dirty"] + fields["Private_Clean"]


def forks(mayfly, guest, runs, folder):
    """Of a paused microVM: one copy after the other, then very many in one call."""
    process = begin(mayfly, guest, 128, folder, ["--allow-fork", "--allow-path", str(folder)], "idle")
    process.call("PATCH", "/vm", {"state": "Paused"})
    single, pids = [], []
    for n in range(runs + 1):
        took, answer = process.call("PUT", "/fork", {"copies": [{"id": f"one-{n}"}]})
        os.kill(json.loads(answer)["copies"][0]["pid"], signal.SIGKILL)
        single += [took] if n else []
    took, answer = process.call("PUT", "/fork", {"copies": [{"id": f"many-{n}"} for n in range(COPIES)]})
    pids = [copy["pid"] for copy in json.loads(answer)["copies"]]
    kib = [private_kib(pid) for pid in pids[:: COPIES // 50]]
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    process.end()
    return {"one_s": summary(single), "many_s": took, "many": len(pids), "private_kib": summary(kib)}


def row_snapshots(timed, mayfly, firecracker, guest, runs, folder):
    """timed: one command under the timer until the guest's word. firecracker may be None."""
    folder = Path(folder)
    ways = [(mayfly, mib, save(mayfly, guest, mib, folder, ["--allow-path", str(folder)])) for mib in SIZES_MIB]
    if firecracker:
        ways.append((firecracker, SIZES_MIB[0], save(firecracker, guest, SIZES_MIB[0], folder, [])))
    progress = Progress("snapshots", (runs + 1) * len(ways))
    calls, execs = [[] for _ in ways], [[] for _ in ways]
    for n in range(runs + 1):
        for i, (monitor, _, files) in enumerate(ways):
            took = loaded(monitor, files, folder)
            calls[i] += [took] if n else []
            if monitor is mayfly:
                run = timed([*mayfly.api_command()[:1], "--no-api", "--load-snapshot", files["snapshot_path"], "--memory", files["mem_file_path"]])
                execs[i] += [run["marker_ns"]] if n and run["marker_ns"] else []
            progress.step()
    progress.end()
    return {
        "loads": [{"monitor": m.name, "mib": mib, "call_s": summary(calls[i]), "exec_ns": summary(execs[i])} for i, (m, mib, _) in enumerate(ways)],
        "forks": forks(mayfly, guest, runs, folder),
    }


def print_snapshots(figures):
    def cells(s, unit):
        return [number(s[k] * unit, 2) for k in ("min", "median", "iqr")] if s else ["–"] * 3
    base = figures["loads"][0]["call_s"]["median"]
    print_table(
        "A saved guest goes on; milliseconds",
        "Call: PUT /snapshot/load with resume_vm, answered, in a process that waits for it. Exec: --load-snapshot until the guest's first word.\n"
        "  The page cache is warm. Runs in turn.",
        ["monitor", "RAM, MiB", "call: min", "median", "IQR", "ratio", "exec: min", "median", "IQR"],
        [[f["monitor"], number(f["mib"], 0), *cells(f["call_s"], 1e3), ratio(f["call_s"] and f["call_s"]["median"], base), *cells(f["exec_ns"], 1e-6)] for f in figures["loads"]],
    )
    f = figures["forks"]
    print_table(
        "Copies of a paused microVM of 128 MiB",
        "One: PUT /fork, answered when the copy runs. Many: one call. Private: of one among many, without what its guest shares with the original.",
        ["", "min", "median", "IQR"],
        [["one, ms", *cells(f["one_s"], 1e3)], [f"{f['many']} in one call, s", "", number(f["many_s"], 2), ""], ["private, kB", *cells(f["private_kib"], 1)]],
    )
