#!/usr/bin/python3
"""
fault_sweep.py [--debug] [--quick] [PATTERN…]: one workload with every device and the API, again and again, each time with another system
call that fails in a way the host could make it fail; a table of what each fault leads to, and status 1 if one led to anything bad.
--quick: the first call of each kind, with one error.
--debug: the build with sanitizers, without the calls that the sanitizers make. PATTERN: only labels that contain it ("openat", "KVM_",
"read eventfd").

A fault may go unnoticed (what is interrupted is done again, what is optional is left out), be told to whom it concerns (a log line, the
answer to a request, an I/O error in the guest), or end the process with one sentence and the exit code that docs/exit-codes.md gives it.
It must never crash or hang it, leave a socket behind, or lose data that the guest was told is safe.
"""

import collections
import contextlib
import errno
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import NamedTuple

from blk_model import SECTOR, pattern
from faults import SYSCALLS, Injector
from harness import (BAD_ARGUMENTS, BAD_CONFIG, GUEST_CRASHED, HOST_CANNOT, INTERNAL_ERROR, SANITIZER_REPORT, Vmm, artifact, drive, machine,
                     sparse)
from mayfly import Api, ApiError, vsock_connect
from net_peer import Echo, Messages, Namespace

WAIT = 10  # seconds for what takes milliseconds; a fault that is waited for so long has stopped something
SCRIPT = ("print START; blk 0 fill 0 256 seed=3; blk 0 flush; blk 0 verify 0 256 seed=3; net 0 send 5; net 1 send 5; net 1 recv 5; "
          "vsock client 53 bytes=9000 echo=1; print ECHO; vsock echo 52 n=1; print ASK; wait c; blk 0 fill 300 64 seed=4; "
          "blk 0 verify 300 64 seed=4; blk 0 discard 400 8; blk 0 flush; print END")
SECTORS = 2048

E = errno
FILE = (E.EINTR, E.EIO, E.ENOMEM)
SEND = (E.EINTR, E.EAGAIN, E.ENOBUFS, E.EPIPE)
# Without EAGAIN, since some sockets are watched for news only: there it cannot come while there is something to read.
RECEIVE = (E.EINTR, E.ECONNRESET, E.ENOMEM)
NEW_DESCRIPTOR = (E.EMFILE, E.ENOMEM)
# What a host in trouble, a limit, a policy or an older kernel answers, by label, by its first two words, or by its first. Calls that are
# not here cannot fail, or not where Mayfly makes them; close(2) can, but Linux closes all the same, and a call that is not made does not.
ERRORS = {
    "open": (E.EMFILE, E.EINTR, E.ENOMEM, E.EACCES, E.EIO), "openat": (E.EMFILE, E.EINTR, E.ENOMEM, E.EACCES, E.EIO),
    "access": (E.EACCES, E.EIO), "readlink": (E.EACCES, E.ENOMEM), "unlink": (E.EACCES, E.EROFS, E.EIO), "fstat": (E.EIO, E.ENOMEM),
    "stat": (E.EACCES, E.EIO), "lstat": (E.EACCES, E.EIO), "newfstatat": (E.EIO, E.ENOMEM),
    "read": (*FILE, E.EAGAIN), "readv": (*FILE, E.EAGAIN), "pread64": FILE, "preadv": FILE,
    "read eventfd": (E.EINTR, E.EAGAIN), "read config.json": FILE, "read socket": RECEIVE, "readv socket": RECEIVE,
    "write": (E.EINTR, E.ENOSPC, E.EIO, E.EAGAIN), "writev": (E.EINTR, E.ENOSPC, E.EIO, E.EAGAIN), "pwritev": (E.EINTR, E.ENOSPC, E.EIO),
    "write eventfd": (E.EINTR,), "fallocate": (E.EINTR, E.ENOSPC, E.EOPNOTSUPP), "fdatasync": (E.EINTR, E.EIO, E.ENOSPC),
    "lseek": (E.EIO,), "fcntl F_SETFL": (E.EPERM,), "fcntl F_DUPFD_CLOEXEC": (E.EMFILE,),
    "poll": (E.EINTR, E.ENOMEM), "epoll_pwait": (E.EINTR,), "epoll_wait": (E.EINTR,), "futex wait": (E.EINTR, E.EAGAIN),
    "epoll_create1": NEW_DESCRIPTOR, "eventfd2": NEW_DESCRIPTOR, "signalfd4": NEW_DESCRIPTOR, "timerfd_create": NEW_DESCRIPTOR,
    "epoll_ctl ADD": (E.ENOMEM, E.ENOSPC), "epoll_ctl MOD": (E.ENOMEM,), "socket": (E.EMFILE, E.ENOMEM, E.EACCES),
    "socketpair": NEW_DESCRIPTOR, "pipe2": NEW_DESCRIPTOR, "bind": (E.EACCES, E.ENOSPC, E.EROFS), "listen": (E.EADDRINUSE,),
    "accept4": (E.EINTR, E.EAGAIN, E.EMFILE, E.ENOMEM, E.ECONNABORTED), "connect": (E.EAGAIN, E.ECONNREFUSED, E.ENOMEM),
    "recvfrom": RECEIVE, "recvmsg": RECEIVE, "sendmsg": SEND, "sendto": (E.EINTR, E.ENOBUFS, E.EPIPE), "setsockopt": (E.ENOMEM,),
    "mmap": (E.ENOMEM,), "munmap": (E.ENOMEM,), "mprotect": (E.ENOMEM,), "madvise": (E.ENOMEM, E.EINVAL), "brk": (E.ENOMEM,),
    "clone": (E.EAGAIN, E.ENOMEM), "clone3": (E.ENOSYS, E.EAGAIN), "nanosleep": (E.EINTR,), "clock_nanosleep": (E.EINTR,),
    "prlimit64": (E.EPERM,), "getrandom": (E.EINTR, E.ENOSYS), "io_uring_setup": (E.EPERM, E.ENOSYS, E.ENOMEM, E.EMFILE),
    "io_uring_enter": (E.EINTR, E.EAGAIN, E.EBUSY, E.ENOMEM), "io_uring_register": (E.ENOMEM,),
    "ioctl": (E.EPERM, E.ENOMEM, E.EINVAL), "ioctl KVM_RUN": (E.EINTR, E.EAGAIN, E.EFAULT, E.EIO, E.ENOMEM),
    "ioctl KVM_CREATE_VM": (E.EINTR, E.ENOMEM, E.EMFILE), "ioctl KVM_CREATE_VCPU": (E.ENOMEM, E.EMFILE, E.EEXIST),
    "ioctl KVM_SET_USER_MEMORY_REGION": (E.ENOMEM, E.EINVAL), "ioctl KVM_IOEVENTFD": (E.ENOMEM, E.ENOSPC),
    "ioctl TUNSETIFF": (E.EPERM, E.EBUSY, E.EINVAL, E.ENOMEM),
}
# Sanitizers end the process when these fail, and say so.
ALLOCATING = {"mmap", "munmap", "mprotect", "madvise", "brk", "clone", "clone3"}
# Interrupted, or told to come again: whoever asked must never learn of it.
TRANSIENT = {E.EINTR, E.EAGAIN}
# … except where the number means something else: too many processes, too little memory, a FIFO that nobody drains.
LASTING_EAGAIN = {"clone", "clone3", "io_uring_enter", "write metrics"}


class Fault(NamedTuple):
    label: str
    nth: int
    errno: int

    def decide(self, _call, label, nth):
        return self.errno if (label, nth) == (self.label, self.nth) else 0

    @property
    def syscall(self):
        return self.label.partition(" ")[0]

    def is_transient(self):
        return self.errno in TRANSIENT and not (self.errno == E.EAGAIN and {self.label, self.syscall} & LASTING_EAGAIN)

    def __str__(self):
        return f"{self.label} #{self.nth} {errno.errorcode[self.errno]}"


def errors_of(label):
    words = label.split()
    return next((ERRORS[key] for key in (label, " ".join(words[:2]), words[0]) if key in ERRORS), ())


# ---- one run ----

class Result(NamedTuple):
    code: int
    err: str  # standard error
    log: list  # lines with a level of WARN or ERROR
    console: str
    told: list  # what clients heard instead of success
    stuck: str  # what was waited for in vain, if anything
    counted: list  # metrics that speak of something lost
    left: list  # sockets that are still there
    wrong_data: str  # what the disks should hold and do not, although the guest was told so
    counts: collections.Counter
    injected: collections.Counter


class Workload:
    """The surroundings of one run: disks, a network, vsock peers, clients of the API."""

    def __init__(self, binary, directory, namespace):
        self.directory = Path(directory)
        self.vmm = Vmm(binary, self.directory)
        self.namespace = namespace
        self.disks = [sparse(self.directory / name, SECTORS * SECTOR) for name in ("a.img", "b.img")]
        self.told = []
        self.stuck = None

    def config(self, net_fd):
        names = {name: str(self.directory / name) for name in ("log", "metrics", "v.sock")}
        nets = [{"iface_id": "eth0", "host_dev_name": "tap0"}, {"iface_id": "eth1", "host_dev_name": f"fd:{net_fd}"}]
        return machine(artifact("tests/guest/guest.elf"), f"console=ttyS0 mayfly.test='{SCRIPT}'", [drive("a", self.disks[0])], mem_mib=64,
                       logger={"log_path": names["log"], "show_level": True}, metrics={"metrics_path": names["metrics"]},
                       vsock={"guest_cid": 3, "uds_path": names["v.sock"]}, **{"network-interfaces": nets})

    def run(self, decide, syscalls=None):
        """Returns the Result. Whatever happens to the program, this ends."""
        with contextlib.ExitStack() as stack:
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            stack.callback(ours.close)
            echo = Echo(Messages(ours))
            stack.enter_context(self.echo_server(self.directory / "v.sock_53"))
            begin = "openat config.json" if self.vmm.name == "debug" else None
            injector = stack.enter_context(Injector(self.vmm.path, decide, syscalls, begin))
            stack.callback(self.vmm.close)
            with theirs:
                vm = self.vmm.start(args=["--config-file", self.vmm.config_file(self.config(theirs.fileno())), "--api-sock",
                                          self.directory / "api.sock", "--allow-path", self.directory],
                                    wrapper=self.namespace.enter, stdin=subprocess.PIPE, pass_fds=[theirs.fileno()],
                                    preexec_fn=injector.preexec)
            self.use(vm)
            code = self.end(vm)
            vm.err.join(WAIT)
            vm.out.join(WAIT)
        assert len(echo.frames) <= 5
        console = bytes(vm.out.data).decode(errors="replace").replace("\r", "")
        return Result(code, bytes(vm.err.data).decode(errors="replace"), self.complaints(), console, self.told, self.stuck,
                      self.counted(), [name for name in ("api.sock", "v.sock") if os.path.lexists(self.directory / name)],
                      self.check_disks(console), injector.counts, collections.Counter(injector.injected))

    @contextlib.contextmanager
    def echo_server(self, path):
        """Where the guest connects to."""
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(path))
            listener.listen()

            def serve():
                with contextlib.suppress(OSError):
                    while True:
                        peer = listener.accept()[0]
                        with peer:
                            while data := peer.recv(65536):
                                peer.sendall(data)

            thread = threading.Thread(target=serve, daemon=True)
            thread.start()
            try:
                yield
            finally:
                listener.shutdown(socket.SHUT_RDWR)
                thread.join(WAIT)

    def reached(self, vm, text):
        """Until the console holds the text. False: the process ended, or nothing came for WAIT seconds."""
        if self.stuck:
            return False
        for seconds in (1, WAIT):
            with vm.news:
                if vm.news.wait_for(lambda: text in vm.out.data or vm.out.ended, seconds):
                    return text in vm.out.data
            if self.told or self.complaints():
                break  # it has been said why nothing more will come
        self.stuck = f"the guest does not come to {text.decode()}"
        return False

    def use(self, vm):
        if self.reached(vm, b"ECHO"):
            self.ask("vsock", self.speak)
        if self.reached(vm, b"ASK"):
            self.ask_all(Api(self.directory / "api.sock", WAIT))
            with contextlib.suppress(OSError):
                vm.send(b"c")
        self.reached(vm, b"END")

    def speak(self):
        with vsock_connect(self.directory / "v.sock", 52, WAIT) as stream:
            stream.sendall(b"hello")
            stream.shutdown(socket.SHUT_WR)
            said = b""
            while data := stream.recv(100):
                said += data
        if said != b"hello":
            raise ConnectionError(f"{said!r} came back")

    def ask_all(self, api):
        limit = {"rate_limiter": {"ops": {"size": 100000, "refill_time": 100}}}
        self.swapped = False
        try:
            self.ask("GET /", api.instance)
            self.ask("PATCH limits", lambda: api.patch_drive("a", limit))
            self.ask("PATCH limits", lambda: api.patch_network_interface("eth0", {"tx_rate_limiter": limit["rate_limiter"]}))
            self.swapped = self.ask("PATCH file", lambda: api.patch_drive("a", {"path_on_host": str(self.disks[1])}))
            self.ask("pause", api.pause)
            self.ask("resume", api.resume)
            self.ask("metadata", lambda: api.put_mmds({"a": 1}))
            self.ask("FlushMetrics", api.flush_metrics)
            self.ask("GET /metrics", api.prometheus)
            self.ask("GET /vm/config", api.config)
        finally:
            api.hang_up()

    def ask(self, name, call):
        """True if it went well; else what the client was told is kept."""
        try:
            call()
            return True
        except ApiError as error:
            self.told.append(f"{name}: {error.status} {error.fault_message}")
        except TimeoutError:
            self.stuck = self.stuck or f"{name} is not answered"
        except (OSError, EOFError) as error:
            self.told.append(f"{name}: {error}")
        except Exception as error:  # pylint: disable=broad-except
            self.told.append(f"{name}: {error!r}")
        return False

    def end(self, vm):
        """The exit status; None: it had to be killed."""
        for number in (None, signal.SIGTERM):
            if number:
                self.stuck = self.stuck or "the process does not end"
                vm.signal(number)
            elif self.stuck:
                continue
            with contextlib.suppress(subprocess.TimeoutExpired):
                return vm.process.wait(WAIT)
        return None

    def complaints(self):
        try:
            lines = (self.directory / "log").read_text(encoding="utf-8").splitlines()
        except OSError:
            return []
        return [line.partition("] ")[2] for line in lines if re.search(r":(WARN|ERROR)\]", line)]

    def counted(self):
        found = collections.Counter()
        with contextlib.suppress(OSError):
            for line in (self.directory / "metrics").read_text(encoding="utf-8").splitlines():
                for group, counters in json.loads(line).items():
                    for name, n in counters.items() if isinstance(counters, dict) else ():
                        found[f"{group}.{name}"] += n
        return [f"metrics: {name} {n}" for name, n in found.items() if n and re.search("fail|miss|drop", name)]

    def check_disks(self, console):
        """Only what the guest took for written: a failed step is told in its words, and nothing is promised about it then."""
        if "FAILED" in console:
            return ""
        wanted = []
        if "\nECHO" in console:
            wanted.append((0, range(0, 256), 3))
        if "\nEND" in console:
            wanted.append((1 if getattr(self, "swapped", False) else 0, range(300, 364), 4))
        for disk, sectors, seed in wanted:
            data = self.disks[disk].read_bytes()
            for n in sectors:
                if data[n * SECTOR:(n + 1) * SECTOR] != pattern(seed, n, 0):
                    return f"sector {n} of {self.disks[disk].name} is not what was written"
        return ""


# ---- what to make of it ----

def judge(fault, result):
    """(is it acceptable, what happened in a few words)."""
    sentence = re.fullmatch(r"mayfly: \S+.*: .*[a-z]{3}.*\n", result.err)
    told = result.told + [f"log: {line}" for line in result.log]
    if SANITIZER_REPORT.search(result.err):
        return False, f"SANITIZER: {result.err}"
    if result.code is None:
        return False, f"HANGS: {result.stuck}; SIGTERM does nothing"
    if result.code < 0:
        return False, f"CRASHES: {signal.Signals(-result.code).name}"
    if result.left and "cannot be removed" not in " ".join(told):
        return False, f"LEAVES {', '.join(result.left)} behind, ends {result.code}"
    if result.wrong_data:
        return False, f"LOSES DATA: {result.wrong_data}"
    if result.stuck:
        told += result.counted
        ok = bool(told) and result.code == 143 and not fault.is_transient()
        return ok, f"{'waits' if ok else 'STUCK'}: {result.stuck} (SIGTERM: {result.code}); {first_of(told)}"
    if result.code in (BAD_CONFIG, BAD_ARGUMENTS, HOST_CANNOT):
        ok = bool(sentence) and not fault.is_transient()
        return ok, f"ends {result.code}: {result.err.strip().removeprefix('mayfly: ')}"
    if result.code in (GUEST_CRASHED, INTERNAL_ERROR):
        return bool(result.log) and not fault.is_transient(), f"ends {result.code}: {first_of(told)}"
    if result.code == 1:
        failed = re.search(r"FAILED.*", result.console)
        return bool(failed) and not fault.is_transient(), f"the guest sees: {failed[0] if failed else '?'}"
    if result.code:
        return False, f"ENDS {result.code}: {result.err}"
    return not (told and fault.is_transient()), f"goes on; {first_of(told)}" if told else "goes on"


def first_of(told):
    return told[0] + (f" (and {len(told) - 1} more)" if len(told) > 1 else "") if told else "nobody is told"


# ---- many runs ----

@contextlib.contextmanager
def surroundings():
    """A namespace with a TAP, and a folder; the runs share the former and get folders in the latter."""
    namespace = Namespace()
    folder = tempfile.mkdtemp(prefix="mayfly-faults-")
    try:
        namespace.tap()
        yield namespace, folder
    finally:
        namespace.close()
        shutil.rmtree(folder)


def run(around, binary, decide, syscalls=None):
    namespace, folder = around
    with tempfile.TemporaryDirectory(dir=folder) as directory:
        return Workload(binary, directory, namespace).run(decide, syscalls)


def run_fault(around, binary, fault):
    return run(around, binary, fault.decide, [fault.syscall])


def record(around, binary):
    """How often each kind of call is made, at least."""
    runs = [run(around, binary, lambda *_: 0) for _ in range(2)]
    for result in runs:
        assert (result.code, result.told, result.stuck, result.wrong_data) == (0, [], None, ""), result
    return {label: min(r.counts[label] for r in runs) for label in runs[0].counts if all(r.counts[label] for r in runs)}


def plan(counts, quick=False):
    """First, middle and last call of each kind with each error that it may have; quick: the first call, with the error that matters most."""
    faults = []
    for label, count in counts.items():
        errors = errors_of(label)
        if quick:
            faults += [Fault(label, 1, code) for code in errors if code not in TRANSIENT or len(errors) == 1][:1]
        else:
            faults += [Fault(label, nth, code) for nth in sorted({1, (count + 1) // 2, count}) for code in errors]
    return faults


def interruptible():
    """The system calls that a signal may interrupt."""
    return sorted({label.partition(" ")[0] for label, errors in ERRORS.items() if E.EINTR in errors} & SYSCALLS.keys())


class Row(NamedTuple):
    fault: Fault
    reached: bool
    ok: bool
    words: str


def sweep(around, binary, faults, show=lambda row: None):
    """Run each fault; returns a Row for each."""
    rows = []
    for fault in faults:
        result = run_fault(around, binary, fault)
        rows.append(Row(fault, bool(result.injected), *judge(fault, result)))
        show(rows[-1])
    return rows


def main():
    options = {word for word in sys.argv[1:] if word.startswith("--")}
    patterns = [word for word in sys.argv[1:] if not word.startswith("--")]
    binary = "debug" if "--debug" in options else "release"
    start = time.monotonic()
    with surroundings() as around:
        counts = record(around, binary)
        if binary == "debug":
            counts = {label: n for label, n in counts.items() if label.split()[0] not in ALLOCATING}
        counts = {label: n for label, n in counts.items() if not patterns or any(p in label for p in patterns)}
        faults = plan(counts, "--quick" in options)
        print(f"{len(counts)} kinds of system calls, {len(faults)} faults\n", flush=True)
        width = max((len(str(f)) for f in faults), default=0)

        def show(row):
            print(f"{'    ' if row.ok else 'BAD '}{row.fault!s:<{width}}  {row.words if row.reached else 'not reached: ' + row.words}", flush=True)

        rows = sweep(around, binary, faults, show)
    bad = [row for row in rows if not row.ok]
    print(f"\n{len(rows)} faults, {sum(not row.reached for row in rows)} not reached, {len(bad)} bad, {time.monotonic() - start:.0f} s")
    return 1 if bad or not rows else 0


if __name__ == "__main__":
    sys.exit(main())
