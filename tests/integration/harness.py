"""What every integration test uses: where things were built, and a mayfly process that always ends."""

import itertools
import json
import os
import re
import select
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "clients/python"))

from mayfly import Api, wait_ready  # noqa: E402 (found by the line above)

ROOT = Path(__file__).resolve().parents[2]
BUILD = (ROOT / os.environ.get("BUILD", "build")).resolve()
IN_LAB = bool(os.environ.get("MAYFLY_LAB"))
# Seconds. Only there so that a hang ends as a failure; nothing that works comes near them.
PATIENCE = 90 if IN_LAB else 30

# vmm/exit_codes.h, for users in docs/exit-codes.md.
BAD_CONFIG, BAD_ARGUMENTS, HOST_CANNOT, GUEST_CRASHED, INTERNAL_ERROR = 152, 153, 154, 155, 156

# test_seccomp_rules.py looks at every system call of other tests: a folder for what strace writes (-DDD: Mayfly stays our own child, strace is none of ours).
TRACES = os.environ.get("MAYFLY_TRACES")
TRACER = ["strace", "-DDD", "-ff", "-q", "-e", "raw=!seccomp", "-e", "signal=none"]
COUNTER = itertools.count()

SANITIZER_ENV = {
    # What a machine holds is left to the end of the process on purpose, so leaks are not looked for here (unit tests do).
    "ASAN_OPTIONS": "detect_leaks=0:exitcode=99:abort_on_error=0",
    "UBSAN_OPTIONS": "print_stacktrace=1:halt_on_error=1",
}
SANITIZER_REPORT = re.compile(r"AddressSanitizer|LeakSanitizer|UndefinedBehaviorSanitizer|runtime error:")

MADE_BY = {
    "mayfly": "make all",
    "mayfly-debug": "make debug",
    "mayfly-seccompiler": "make all",
    "seccomp": "make all",
    "mayfly-attack": "make build/mayfly-attack",
    "mayfly-tsan": "make build/mayfly-tsan",
    "mayfly-jailer": "make all",
    "mayfly-jailer-debug": "make debug",
    "mayfly-oci": "make all",
    "mayfly-snapshot": "make all",
    "mayfly-snapshot-debug": "make debug",
    "tests": "make guest",
    "integration": "make check-native",
    "kernel": "make kernel",
    "images": "make rootfs",
}


def artifact(name):
    """The path of build/NAME; a missing one is an error that says how to make it, never a skipped test."""
    path = BUILD / name
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing: run `{MADE_BY[name.split('/')[0]]}` first")
    return path


class Outcome(NamedTuple):
    code: int  # exit status, negative for a signal
    out: str  # the guest's console
    err: str  # logs and errors
    seconds: float

    def lines(self):
        return self.err.splitlines()


class Collector(threading.Thread):
    """Reads one stream to its end, so that a full pipe never stops the process under test."""

    def __init__(self, fd, news):
        super().__init__(daemon=True)
        self.fd, self.news = fd, news
        self.data = bytearray()
        self.ended = False
        self.start()

    def run(self):
        while True:
            try:
                chunk = os.read(self.fd, 65536)
            except OSError:  # a pty whose other side is gone
                chunk = b""
            with self.news:
                self.data += chunk
                self.ended = not chunk
                self.news.notify_all()
            if not chunk:
                return


def has_variable(entry, variable):
    """Whether the process of that folder of /proc was started with NAME=VALUE."""
    return variable.encode() in (entry / "environ").read_bytes().split(b"\0")


def processes_where(ours):
    """{pid: command line} of the processes of whose folder in /proc that is true; zombies are none."""
    found = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if ours(entry) and "State:\tZ" not in (entry / "status").read_text(errors="replace"):
                found[int(entry.name)] = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
    return found


class Running:
    """A mayfly process in a session of its own; close() ends whatever is left of it."""

    def __init__(self, argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, **popen):
        self.news = threading.Condition()
        self.started = time.monotonic()
        env = {**os.environ, **SANITIZER_ENV, **popen.pop("env", {})}
        popen.setdefault("start_new_session", True)
        if TRACES:
            test = re.sub(r"\W", "-", os.environ.get("PYTEST_CURRENT_TEST", "").split("/")[-1].removesuffix(" (call)"))
            argv = [*TRACER, "-o", f"{TRACES}/{next(COUNTER)}-{test}", *argv]
        self.process = subprocess.Popen([str(a) for a in argv], stdin=stdin, stdout=stdout, stderr=subprocess.PIPE, env=env, **popen)
        self.pid = self.process.pid
        self.err = Collector(self.process.stderr.fileno(), self.news)
        self.out = Collector(self.process.stdout.fileno(), self.news) if stdout == subprocess.PIPE else None

    def expect(self, pattern, stream="out", timeout=PATIENCE):
        """Wait until the stream holds a match of pattern (bytes regex); returns it, or fails with all that was said."""
        source = getattr(self, stream)
        deadline = time.monotonic() + timeout
        with self.news:
            while True:
                match = re.search(pattern, bytes(source.data), re.S)
                if match:
                    return match
                left = deadline - time.monotonic()
                if source.ended or left <= 0:
                    why = "ended" if source.ended else f"said nothing of it within {timeout} s"
                    raise AssertionError(f"{stream} {why}: no {pattern!r} in\n{self.said()}")
                self.news.wait(left)

    def wait_file(self, path, timeout=PATIENCE):
        """Wait until there is a file at path; fails when the process ends first."""
        deadline = time.monotonic() + timeout
        while not os.path.lexists(path):
            assert self.process.poll() is None and time.monotonic() < deadline, f"no {path}\n{self.said()}"
            time.sleep(0.005)

    def said(self):
        parts = [("console", self.out), ("stderr", self.err)]
        return "\n".join(f"--- {name}\n{bytes(c.data[-4000:]).decode(errors='replace')}" for name, c in parts if c)

    def send(self, data):
        self.process.stdin.write(data)
        self.process.stdin.flush()

    def signal(self, number):
        os.kill(self.pid, number)

    def wait(self, timeout=PATIENCE):
        """Wait for its end; returns the Outcome. A sanitizer's report is a failure whatever else was expected."""
        try:
            code = self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still running after {timeout} s\n{self.said()}") from None
        seconds = time.monotonic() - self.started
        for collector in filter(None, (self.out, self.err)):
            collector.join(5)
        err = bytes(self.err.data).decode(errors="replace")
        assert not SANITIZER_REPORT.search(err), err
        out = bytes(self.out.data).decode(errors="replace") if self.out else ""
        return Outcome(code, out, err, seconds)

    def session(self):
        """Processes of its session that are alive, apart from itself and zombies."""
        found = []
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit() or int(entry.name) == self.pid:
                continue
            try:
                fields = (entry / "stat").read_text(errors="replace").rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[3]) == self.pid and fields[0] not in "ZX":
                found.append(int(entry.name))
        return found

    def wait_session_gone(self, timeout=5):
        """Fails when a process of its session outlives it by timeout seconds."""
        for pid in self.session():
            try:
                fd = os.pidfd_open(pid)
            except ProcessLookupError:
                continue
            try:
                gone = select.select([fd], [], [], timeout)[0]
            finally:
                os.close(fd)
            assert gone, f"process {pid} ({Path(f'/proc/{pid}/comm').read_text().strip()}) was left behind"

    def threads(self):
        return len(os.listdir(f"/proc/{self.pid}/task"))

    def close(self):
        for pid in [self.pid, *self.session()]:
            if pid != self.pid or self.process.poll() is None:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
        self.process.wait(10)
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            if stream:
                try:
                    stream.close()
                except OSError:  # what was not flushed to a pipe that is gone
                    pass


class Vmm:
    """One of the binaries, with a directory for its files."""

    def __init__(self, name, directory):
        self.name = name
        self.path = artifact({"release": "mayfly", "debug": "mayfly-debug", "attack": "mayfly-attack", "tsan": "mayfly-tsan"}[name])
        self.directory = Path(directory)
        self.running = []
        self.apis = []

    def config_file(self, config, name="config.json"):
        """Write config (a dict, or str or bytes as they are) and return the path."""
        path = self.directory / name
        data = config if isinstance(config, (str, bytes)) else json.dumps(config)
        path.write_bytes(data if isinstance(data, bytes) else data.encode())
        return path

    def start(self, config=None, args=None, wrapper=(), **popen):
        """Start it with a config (dict, str, bytes) or with bare args; the fixture ends it with the test."""
        if args is None:
            args = []
        if config is not None:
            args = ["--no-api", "--config-file", self.config_file(config), *args]
        running = Running([*wrapper, self.path, *args], **popen)
        self.running.append(running)
        return running

    def start_api(self, args=(), **popen):
        """Start it with its API, in its own directory; returns the process and the client."""
        name = f"api-{len(self.running)}.socket"
        ready, tell = os.pipe()
        try:
            running = self.start(args=["--api-sock", name, "--ready-fd", tell, *args], cwd=self.directory,
                                 pass_fds=[tell, *popen.pop("pass_fds", ())], **popen)
        finally:
            os.close(tell)
        wait_ready(ready, PATIENCE)
        self.apis.append(Api(self.directory / name, PATIENCE))
        return running, self.apis[-1]

    def run(self, config=None, args=None, timeout=PATIENCE, **popen):
        """Run it to its end."""
        running = self.start(config, args, **popen)
        try:
            return running.wait(timeout)
        finally:
            running.close()

    def close(self):
        for api in self.apis:
            api.hang_up()
        for running in self.running:
            running.close()


def descriptors(pid):
    """
    What the process has open, by name, while nothing is under way. It has /dev/kvm for the VM that waits or runs, and for a moment another
    to ask what KVM offers.
    """
    folder, deadline = f"/proc/{pid}/fd", time.monotonic() + PATIENCE
    while True:
        assert time.monotonic() < deadline
        try:
            names = sorted(os.readlink(f"{folder}/{fd}").split("[")[0] for fd in os.listdir(folder))
        except FileNotFoundError:  # closed while we looked
            continue
        if (names.count("/dev/kvm"), names.count("anon_inode:kvm-vm")) == (1, 1):
            return names


def vmm_threads(pid):
    """
    The ids of the main thread and of those it made, in this order, which is the kernel's (ids begin again at 300 some day); its own
    in the process (kvm-nx-…, iou-…) are none of them.
    """
    def is_ours(task):
        try:
            return Path(f"/proc/{pid}/task/{task}/comm").read_text().startswith("mayfly")
        except (FileNotFoundError, ProcessLookupError):
            return False  # the thread that asks for the CPUID ends meanwhile
    return [int(task) for task in os.listdir(f"/proc/{pid}/task") if is_ours(task)]


def copies_of(pid):
    """The processes below one that was started with --allow-fork: the one that makes copies, and these."""
    found = subprocess.run(["ps", "-eo", "pid=,ppid="], capture_output=True, text=True, check=True).stdout.split()
    parent = dict(zip(map(int, found[::2]), map(int, found[1::2])))
    def descends(p):
        while p > 1 and p != pid:
            p = parent.get(p, 0)
        return p == pid
    return [p for p in parent if p != pid and descends(p)]


def drive(drive_id, path, **fields):
    return {"drive_id": drive_id, "path_on_host": str(path), "is_root_device": False, "is_read_only": False, **fields}


def machine(kernel, boot_args=None, drives=(), vcpus=1, mem_mib=128, initrd=None, **sections):
    """A configuration dict."""
    boot = {"kernel_image_path": str(kernel)}
    if boot_args is not None:
        boot["boot_args"] = boot_args
    if initrd is not None:
        boot["initrd_path"] = str(initrd)
    return {
        "boot-source": boot,
        "machine-config": {"vcpu_count": vcpus, "mem_size_mib": mem_mib},
        "drives": list(drives),
        **sections,
    }


def sparse(path, size):
    """A file of size bytes that takes no room."""
    with open(path, "wb") as f:
        f.truncate(size)
    return path
