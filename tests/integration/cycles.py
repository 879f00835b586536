#!/usr/bin/python3
"""
cycles.py [N]: starts and ends N microVMs (10 000), in every way there is to end one, and looks whether anything stays behind: processes,
descriptors, sockets, mounts, control groups, files, memory of the host. Status 1 if so.
"""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from harness import BAD_CONFIG, PATIENCE, Vmm, artifact, drive, machine, sparse
from mayfly import Api, wait_ready
from net_peer import Namespace

MIB = 1 << 20
# What the kernel keeps for itself when all microVMs are gone (caches of caches) may grow by this, and by this for each cycle.
MARGIN, MARGIN_EACH = 6 * MIB, 256


# ---- a control group, whose memory is charged for what the microVMs and the kernel on their behalf hold ----

class MemoryGroup:
    """A memory control group below our own, of either version; enter is a preexec function."""

    def __init__(self, limit=None):
        self.v2 = os.path.exists("/sys/fs/cgroup/cgroup.controllers")
        root = Path("/sys/fs/cgroup" if self.v2 else "/sys/fs/cgroup/memory")
        if self.v2:
            # From the top, since a group with processes of its own cannot hand controllers down.
            (root / "cgroup.subtree_control").write_text("+memory", encoding="ascii")
        else:
            ours = next(line for line in Path("/proc/self/cgroup").read_text(encoding="ascii").splitlines() if ":memory:" in line)
            root /= ours.rpartition(":")[2].strip("/")
        self.path = Path(tempfile.mkdtemp(prefix="mayfly-test-", dir=root))
        if limit:
            self.write("memory.max" if self.v2 else "memory.limit_in_bytes", limit)

    def write(self, name, value):
        (self.path / name).write_text(str(value), encoding="ascii")

    def enter(self):
        self.write("cgroup.procs", os.getpid())

    def oom_kills(self):
        text = (self.path / ("memory.events" if self.v2 else "memory.oom_control")).read_text(encoding="ascii")
        return int(dict(line.split() for line in text.splitlines())["oom_kill"])

    def held(self):
        """Bytes, without the page cache of files, which the host takes back when it likes."""
        stat = dict(line.split() for line in (self.path / "memory.stat").read_text(encoding="ascii").splitlines())
        usage = int((self.path / ("memory.current" if self.v2 else "memory.usage_in_bytes")).read_text(encoding="ascii"))
        return usage - int(stat["file" if self.v2 else "cache"])

    def close(self):
        """Ends who is still in it, after a test that failed; the kernel may take a moment to let go of the last one."""
        for pid in (self.path / "cgroup.procs").read_text(encoding="ascii").split():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
        deadline = time.monotonic() + 10
        while True:
            try:
                return self.path.rmdir()
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.01)


# ---- what there is ----

class Seen(NamedTuple):
    """All that could be left behind, as sets of names and as numbers."""

    descriptors: int
    sockets: frozenset
    mounts: frozenset
    groups: frozenset
    shared: frozenset
    files: frozenset
    processes: frozenset
    memory: int


def look(directory, group):
    groups = [str(p) for p in group.path.rglob("*") if p.is_dir()]
    sockets = [line.split()[-1] for line in Path("/proc/net/unix").read_text(encoding="utf-8").splitlines() if str(directory) in line]
    processes = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdigit() and str(directory) in (entry / "cmdline").read_text(encoding="utf-8"):
                processes.append(entry.name)
    mounts = Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines()
    return Seen(len(os.listdir("/proc/self/fd")), frozenset(sockets), frozenset(mounts), frozenset(groups),
                frozenset(n for n in os.listdir("/dev/shm") if "mayfly" in n),
                frozenset(str(p.relative_to(directory)) for p in directory.rglob("*")), frozenset(processes), group.held())


def differences(before, after, cycles):
    """What is more than it was, in words."""
    found = []
    if after.descriptors > before.descriptors:
        found.append(f"descriptors: {before.descriptors} before, {after.descriptors} after")
    for name in ("sockets", "mounts", "groups", "shared", "files", "processes"):
        more = sorted(getattr(after, name) - getattr(before, name))
        if more:
            found.append(f"{name}: {len(more)} more, as {more[0]}")
    if after.memory - before.memory > MARGIN + MARGIN_EACH * cycles:
        found.append(f"memory: {before.memory >> 10} KiB before, {after.memory >> 10} KiB after")
    return found


# ---- the cycles ----

class Cycles:
    """Surroundings for many short microVMs."""

    def __init__(self, vmm, group, namespace):
        self.vmm, self.group = vmm, group
        self.directory = vmm.directory
        self.enter = namespace.enter if namespace else []
        self.disk = sparse(self.directory / "disk.img", MIB)
        self.ways = [self.by_guest, self.by_signal, self.by_kill, self.by_api, self.refused]

    def config(self, script):
        nets = [{"iface_id": "eth0", "host_dev_name": "tap0"}] if self.enter else []
        return machine(artifact("tests/guest/guest.elf"), f"console=ttyS0 mayfly.test='{script}'", [drive("d", self.disk)], mem_mib=32,
                       vsock={"guest_cid": 3, "uds_path": str(self.directory / "v.sock")}, **{"network-interfaces": nets})

    def start(self, config, *args, **popen):
        command = [*self.enter, self.vmm.path, "--config-file", self.vmm.config_file(config), *args]
        return subprocess.Popen([str(word) for word in command], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                preexec_fn=self.group.enter, **popen)

    def end(self, process, code):
        out, err = process.communicate(timeout=PATIENCE)
        assert process.returncode == code, f"{process.returncode} instead of {code}\n{out.decode()}\n{err.decode()}"

    def running(self, *args, **popen):
        process = self.start(self.config("blk 0 fill 0 64; print READY; spin"), *args, **popen)
        said = b""
        while b"READY" not in said:
            chunk = os.read(process.stdout.fileno(), 4096)
            assert chunk, process.communicate(timeout=PATIENCE)
            said += chunk
        return process

    def by_guest(self):
        self.end(self.start(self.config("blk 0 fill 0 64; print done"), "--no-api"), 0)

    def by_signal(self):
        process = self.running("--no-api")
        process.terminate()
        self.end(process, 128 + signal.SIGTERM)

    def by_kill(self):
        """Its socket stays, as everybody's would."""
        process = self.running("--no-api")
        process.kill()
        self.end(process, -signal.SIGKILL)
        (self.directory / "v.sock").unlink()

    def by_api(self):
        ready, tell = os.pipe()
        try:
            process = self.running("--api-sock", self.directory / "api.sock", "--ready-fd", str(tell), pass_fds=[tell])
        finally:
            os.close(tell)
        wait_ready(ready)
        api = Api(self.directory / "api.sock")
        api.pause()
        api.resume()
        with socket.socket(socket.AF_UNIX) as rude:
            rude.connect(str(self.directory / "v.sock"))
            process.terminate()
            self.end(process, 128 + signal.SIGTERM)
        api.hang_up()

    def refused(self):
        """A start that fails half-way: the last device finds its place taken."""
        (self.directory / "v.sock").touch()
        self.end(self.start(self.config("print no"), "--no-api"), BAD_CONFIG)
        (self.directory / "v.sock").unlink()

    def run(self, n, show=lambda *_: None):
        """n cycles after a few to warm up; returns what was left behind."""
        warm_up = max(20, n // 20)
        for i in range(warm_up):
            self.ways[i % len(self.ways)]()
        before = look(self.directory, self.group)
        begin = time.monotonic()
        for i in range(n):
            self.ways[i % len(self.ways)]()
            if (i + 1) % 500 == 0:
                show(i + 1, time.monotonic() - begin, self.group.held() - before.memory)
        return differences(before, look(self.directory, self.group), n)


@contextlib.contextmanager
def surroundings(binary="release"):
    """A Cycles with a namespace, a TAP and a control group of its own."""
    namespace = Namespace()
    folder = tempfile.mkdtemp(prefix="mayfly-cycles-")
    group = MemoryGroup()
    try:
        namespace.tap()
        yield Cycles(Vmm(binary, folder), group, namespace)
    finally:
        namespace.close()
        shutil.rmtree(folder)
        group.close()


def main():
    n = int(sys.argv[1]) if len(sys.argv) > 1 else 10000
    print(f"{n} microVMs, ended by the guest, by SIGTERM, by SIGKILL, with clients connected, and refused half-way", flush=True)

    def show(done, seconds, memory):
        print(f"  {done:>6}  {seconds:7.1f} s  {1000 * seconds / done:6.1f} ms each  memory {memory / 1024:+8.0f} KiB", flush=True)

    with surroundings() as cycles:
        left = cycles.run(n, show)
    print("\n".join(f"LEFT BEHIND {line}" for line in left) or "nothing was left behind")
    return 1 if left else 0


if __name__ == "__main__":
    sys.exit(main())
