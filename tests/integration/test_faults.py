"""The host fails: system calls, memory, descriptors, log readers, time itself. The microVM goes on, or ends with a sentence; it never hangs."""

import contextlib
import ctypes
import errno
import os
import re
import resource
import signal
import socket
import subprocess
import threading
import time

import pytest

import fault_sweep
from cycles import MemoryGroup, surroundings as cycle_surroundings
from faults import Injector, Rule, refusing
from harness import BAD_CONFIG, GUEST_CRASHED, HOST_CANNOT, IN_LAB, INTERNAL_ERROR, descriptors, drive, machine, sparse
from images import MIB, READY_IDLE, TRIPLE_FAULT, elf, load
from linux_guest import Guest
from mayfly import Api, ApiError, connect, vsock_connect
from net_peer import Echo, Messages, Stream
from test_guest import configure, is_as_modelled, succeeded

SOON = 5
SYS_TGKILL = 234
NO_URING = Rule("io_uring_setup", errno.EPERM)


@pytest.fixture
def around():
    with fault_sweep.surroundings() as found:
        yield found


# ---- every system call of a whole microVM ----

def test_sweep(around):
    """The first call of each kind fails; `make faults` tries more of them, with more errors."""
    counts = fault_sweep.record(around, "release")
    rows = fault_sweep.sweep(around, "release", fault_sweep.plan(counts, quick=True))
    assert len(rows) > 70 and sum(row.reached for row in rows) > len(rows) * 0.9, rows
    assert not [f"{row.fault}: {row.words}" for row in rows if not row.ok]


@pytest.mark.parametrize("binary", ["release", "debug"])
def test_interrupted_everywhere(around, binary):
    """Every other call that a signal could interrupt is interrupted, and nobody notices."""
    def decide(_call, label, nth):
        return errno.EINTR if nth % 2 and errno.EINTR in fault_sweep.errors_of(label) else 0

    result = fault_sweep.run(around, binary, decide, fault_sweep.interruptible())
    ok, words = fault_sweep.judge(fault_sweep.Fault("everything", 1, errno.EINTR), result)
    assert ok and words == "goes on", f"{words}\n{result}"
    assert len(result.injected) > 15 and result.injected.total() > 300, result.injected


# ---- disks ----

@pytest.mark.parametrize("code", [errno.EPERM, errno.ENOSYS, errno.ENOMEM], ids=errno.errorcode.get)
def test_io_uring_refused(mayfly, scratch, code):
    script = "blk 0 fuzz seed=1 n=1000 span=16384 ops=rwfdz depth=16 discard=zero"
    before = scratch.read_bytes()
    outcome = mayfly.run(configure(script, [drive("d", scratch, cache_type="Writeback")]), preexec_fn=refusing(Rule("io_uring_setup", code)))
    succeeded(outcome)
    assert re.search(r"io_uring: .*; the drive uses a worker thread instead", outcome.err)
    is_as_modelled(scratch, before, script)


@pytest.mark.parametrize("rule,script", [
    (Rule("preadv", errno.EIO), "blk 0 read 0 8 expect=ioerr; blk 0 write 0 8; blk 0 flush; blk 0 read 8 8 expect=ioerr"),
    (Rule("pwritev", errno.ENOSPC), "blk 0 write 0 8 expect=ioerr; blk 0 read 0 8 zero=1; blk 0 flush; blk 0 write 8 8 expect=ioerr"),
    (Rule("fdatasync", errno.EIO), "blk 0 write 0 8 seed=1; blk 0 flush expect=ioerr; blk 0 read 0 8 seed=1; blk 0 flush expect=ioerr"),
    (Rule("fallocate", errno.EOPNOTSUPP), "blk 0 write 0 8 seed=1; blk 0 discard 0 8; blk 0 write-zeroes 8 8; blk 0 read 8 8 zero=1; blk 0 flush"),
    (Rule("fallocate", errno.ENOSPC), "blk 0 write 0 8 seed=1; blk 0 read 0 8 seed=1; blk 0 flush"),
], ids=lambda value: f"{value.syscall}-{errno.errorcode[value.errno]}" if isinstance(value, Rule) else "")
def test_worker_thread_is_refused(mayfly, scratch, rule, script):
    """Each failure is told to the guest, in the request it concerns; what did not fail still works."""
    succeeded(mayfly.run(configure(script, [drive("d", scratch, cache_type="Writeback")]), preexec_fn=refusing(NO_URING, rule)))


@pytest.mark.parametrize("code", [errno.EINTR, errno.EAGAIN, errno.EBUSY, errno.ENOMEM], ids=errno.errorcode.get)
def test_submitting_fails_now_and_then(release, scratch, code):
    """Two of three io_uring_enter fail: what was not submitted is tried again, and no request is lost or done twice."""
    script = "blk 0 fuzz seed=1 n=300 span=4096 ops=rwf depth=16"
    before = scratch.read_bytes()
    with Injector(release.path, lambda call, label, nth: code if nth % 3 else 0, ["io_uring_enter"]) as injector:
        succeeded(release.run(configure(script, [drive("d", scratch)]), preexec_fn=injector.preexec))
    assert len(injector.injected) > 50
    is_as_modelled(scratch, before, script)


# ---- network ----

@pytest.mark.parametrize("kind,label", [
    (socket.SOCK_SEQPACKET, "epoll_ctl ADD socket"), (socket.SOCK_STREAM, "epoll_ctl ADD socket"),
    (socket.SOCK_SEQPACKET, "recvmsg socket"), (socket.SOCK_DGRAM, "recvmsg socket"), (socket.SOCK_STREAM, "recvfrom socket"),
])
def test_network_without_memory(mayfly, kind, label):
    """No memory to wait or to read with, twice: the link is served again a moment later, though nobody could connect it anew."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, kind)
    echo = Echo(Stream(ours) if kind == socket.SOCK_STREAM else Messages(ours))
    net = {"iface_id": "eth0", "host_dev_name": f"fd:{theirs.fileno()}", "guest_mac": "06:00:ac:10:00:02"}
    # What is sent while the host cannot wait for the link is lost, and so would be the first frame where that fails at once.
    first, number = ("net 0 open", 0) if "epoll" in label else ("net 0 send 1", 1)
    script = f"{first}; print READY; wait c; net 0 recv {number}; net 0 send 20; net 0 recv 20"
    config = configure(script, **{"network-interfaces": [net]})
    with Injector(mayfly.path, lambda call, found, nth: errno.ENOMEM if found == label and nth <= 2 else 0, [label.split()[0]],
                  "openat config.json") as injector:
        with theirs:
            vm = mayfly.start(config, stdin=subprocess.PIPE, pass_fds=[theirs.fileno()], preexec_fn=injector.preexec)
        vm.expect(b"READY")
        vm.expect(rb"memory; trying again.*: is back.*memory; trying again.*: is back", "err")
        vm.send(b"c")
        succeeded(vm.wait())
    assert len(injector.injected) == 2 and len(echo.frames) == 20 + number
    ours.close()


# ---- log, metrics, console ----

def test_log_reader_gone(mayfly, scratch):
    """The reader of a pipe with the log ends while the guest runs: lines are lost, and counted."""
    reader, writer = os.pipe()
    vm = mayfly.start(configure("print READY; wait c; blk 0 fuzz seed=1 n=100 span=4096 ops=rwf; triplefault", [drive("d", scratch)]),
                      stdin=subprocess.PIPE, wrapper=("bash", "-c", f'exec "$@" 2>&{writer}', "bash"), pass_fds=(writer,))
    os.close(writer)
    vm.expect(b"READY")
    os.close(reader)
    vm.send(b"c")
    assert vm.wait(SOON).code == GUEST_CRASHED


def test_log_and_metrics_on_a_full_disk(mayfly):
    running, api = mayfly.start_api(["--log-path", "/dev/full", "--metrics-path", "/dev/full", "--level", "Debug"])
    api.put_boot_source({"kernel_image_path": str(kernel(mayfly, READY_IDLE))})
    api.start()
    running.expect(b"F")
    with pytest.raises(ApiError, match="No space left on device"):
        api.flush_metrics()
    missed = re.search(r"^mayfly_logger_missed_log_count_total (\d+)$", api.prometheus(), re.M)
    assert missed and int(missed[1]) > 0
    running.signal(signal.SIGTERM)
    assert running.wait(SOON).code == 128 + signal.SIGTERM


def test_input_that_fails(mayfly):
    """An error is not the end of input, and somebody should hear of it; the guest goes on."""
    rule = Rule("read", errno.EIO, {0: 0})
    vm = mayfly.start(configure("print READY; wait c"), stdin=subprocess.PIPE, preexec_fn=refusing(rule))
    vm.expect(b"READY")
    vm.send(b"c")
    vm.expect(rb"console: standard input: (I/O|Input/output) error", "err")
    vm.signal(signal.SIGTERM)
    assert vm.wait(SOON).code == 128 + signal.SIGTERM


def test_input_that_cannot_be_watched(mayfly):
    """No memory to watch standard input with, three times: it is tried again, and nobody waits in a read meanwhile."""
    with Injector(mayfly.path, lambda call, label, nth: errno.ENOMEM if label == "epoll_ctl ADD stdin" and nth <= 3 else 0,
                  ["epoll_ctl"]) as injector:
        vm = mayfly.start(args=["--config-file", mayfly.config_file(configure("print READY; wait c")), "--api-sock", mayfly.directory / "s"],
                          stdin=subprocess.PIPE, preexec_fn=injector.preexec)
        vm.expect(b"READY")
        api = Api(mayfly.directory / "s", SOON)
        while len(injector.injected) < 3:
            assert api.instance()["state"] == "Running"
        api.hang_up()
        vm.send(b"c")
        succeeded(vm.wait())


# ---- descriptors ----

def free_descriptors(pid, n):
    """Leaves a process room for n more descriptors."""
    used = {int(fd) for fd in os.listdir(f"/proc/{pid}/fd")}
    limit, free = 0, n
    while free or limit in used:
        free -= limit not in used
        limit += 1
    _, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (limit, hard))


def test_last_descriptor(mayfly):
    """The client that takes the last descriptor is served; the next one takes its place."""
    running, api = mayfly.start_api()
    descriptors(running.pid)  # its VM is there
    free_descriptors(running.pid, 1)
    for _ in range(3):
        assert api.instance()["state"] == "Not started"
        with contextlib.closing(connect(api.api_sock, SOON)) as other:
            other.sendall(b"GET / HTTP/1.1\r\n\r\n")
            assert other.recv(4096).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("syscall", ["openat", "eventfd2", "epoll_create1", "socket"])
def test_no_descriptors_is_the_hosts_fault(release, syscall):
    outcome = release.run(args=["--config-file", release.config_file(configure("print no")), "--api-sock", release.directory / "s"],
                          preexec_fn=refusing(Rule(syscall, errno.EMFILE)))
    assert outcome.code == HOST_CANNOT and len(outcome.lines()) == 1 and "No file descriptors" in outcome.err


def test_no_memory_for_an_answer(release):
    """From some moment on, no memory at all: clients are told so, in JSON, and it works again when there is some."""
    starved = threading.Event()
    with Injector(release.path, lambda *_: errno.ENOMEM if starved.is_set() else 0, ["mmap", "brk"]) as injector:
        running, api = release.start_api(preexec_fn=injector.preexec)
        api.put_mmds({str(n): "x" * 1000 for n in range(40)})
        starved.set()
        with pytest.raises(ApiError) as told:
            for n in range(200):
                api.get("/mmds")
                api.patch_mmds({f"more{n}": "x" * 200})
        assert told.value.status in (400, 500, 503) and "emory" in told.value.fault_message, told.value
        starved.clear()
        api.patch_mmds({"after": "y"})
        assert api.get("/mmds")["after"] == "y"
        running.signal(signal.SIGTERM)
        assert running.wait(SOON).code == 128 + signal.SIGTERM
        api.hang_up()


# ---- the vCPU ----

def kernel(vmm, code):
    path = vmm.directory / "kernel"
    path.write_bytes(elf(load(code)))
    return path


# What KVM on PVM cannot emulate in kernel mode, and what no handler is there for elsewhere.
HARD = {"int3": "cc", "cmpxchg16b": "480fc70f", "xrstor": "0fae2f"}


@pytest.mark.parametrize("name", HARD)
def test_instruction_that_kvm_cannot_emulate(mayfly, name):
    outcome = mayfly.run(machine(kernel(mayfly, bytes.fromhex(HARD[name]) + TRIPLE_FAULT)))
    assert outcome.code == GUEST_CRASHED and "the guest crashed" in outcome.err
    if "could not emulate" in outcome.err:
        assert re.search(r"suberror 0x1.*\n.*vCPU 0: rip 0x[0-9a-f]+ .*\n.*vCPU 0: rax ", outcome.err), outcome.err
    else:
        assert "triple fault" in outcome.err


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOMEM, errno.EFAULT], ids=errno.errorcode.get)
def test_kvm_run_fails(mayfly, scratch, code):
    """On the second vCPU, in the middle of the first one's I/O."""
    with Injector(mayfly.path, lambda call, label, nth: code if label == "ioctl KVM_RUN" and nth == 400 else 0, ["ioctl"]) as injector:
        outcome = mayfly.run(configure("blk 0 fuzz n=100000 span=4096 ops=rwf; print END", [drive("d", scratch)], vcpus=2),
                             preexec_fn=injector.preexec)
    assert outcome.code == INTERNAL_ERROR and "END" not in outcome.out
    assert re.search(r"vCPU \d: KVM_RUN: ", outcome.err) and re.search(r"vCPU \d: rip 0x", outcome.err)


def threads(pid):
    return [int(tid) for tid in os.listdir(f"/proc/{pid}/task")]


def test_storm_of_signals(mayfly, scratch):
    """The signal that calls vCPUs out of the guest, from outside, to every thread, as fast as it goes."""
    script = "print READY; blk 0 fuzz seed=1 n=3000 span=8192 ops=rwfdz depth=16 discard=zero"
    before = scratch.read_bytes()
    libc = ctypes.CDLL(None)
    sent = 0
    vm = mayfly.start(configure(script, [drive("d", scratch)], vcpus=2))
    vm.expect(b"READY")
    while vm.process.poll() is None:
        with contextlib.suppress(FileNotFoundError):
            for tid in threads(vm.pid):
                sent += libc.syscall(SYS_TGKILL, vm.pid, tid, signal.SIGUSR1) == 0
    succeeded(vm.wait())
    assert sent > 100
    is_as_modelled(scratch, before, script)


def test_killed_through_one_of_its_threads(mayfly):
    """Linux knows no death of one thread: a fatal signal to a vCPU's ends all, and nothing is left."""
    vm = mayfly.start(configure("print READY; spin", vcpus=4))
    vm.expect(b"READY")
    ctypes.CDLL(None).syscall(SYS_TGKILL, vm.pid, max(threads(vm.pid)), signal.SIGKILL)
    assert vm.wait(SOON).code == -signal.SIGKILL
    vm.wait_session_gone()


# ---- time ----

def test_stopped_for_two_seconds(mayfly, scratch):
    """As a suspended host does it: SIGSTOP in the middle of I/O, under a rate limit, with clients connected; then SIGCONT."""
    limit = {"ops": {"size": 50, "refill_time": 100}}
    script = "print READY; vsock echo 52 n=1; blk 0 fuzz seed=1 n=300 span=4096 ops=rwf depth=8"
    before = scratch.read_bytes()
    config = configure(script, [drive("d", scratch, rate_limiter=limit)], vcpus=2,
                       vsock={"guest_cid": 3, "uds_path": str(mayfly.directory / "v.sock")})
    vm, api = mayfly.start_api(["--config-file", mayfly.config_file(config)])
    vm.expect(b"READY")
    with vsock_connect(mayfly.directory / "v.sock", 52) as stream:
        stream.sendall(b"before")
        assert stream.recv(6) == b"before"
        assert api.instance()["state"] == "Running"
        vm.signal(signal.SIGSTOP)
        stream.sendall(b"while")
        time.sleep(2)  # the gap itself
        vm.signal(signal.SIGCONT)
        assert stream.recv(5) == b"while"
    assert api.instance()["state"] == "Running"
    api.pause()
    api.resume()
    succeeded(vm.wait())
    is_as_modelled(scratch, before, script.replace("vsock echo 52 n=1", "print -"))


if IN_LAB:  # sets the clock of the machine it runs on
    @pytest.mark.linux
    @pytest.mark.parametrize("seconds", [-86400, 86400 * 365])
    def test_clock_jumps(release, tmp_path, seconds):
        """The host's clock is set while a guest sleeps, a limit counts, the log is written: only the time stamps know of it."""
        log = tmp_path / "log"
        guest = Guest(release, drives=[drive("d", sparse(tmp_path / "d", 4 * MIB), rate_limiter={"ops": {"size": 20, "refill_time": 1000}})],
                      logger={"log_path": str(log), "level": "Debug", "show_level": True})
        start = time.monotonic()
        guest.begin("a=$(cut -d. -f1 /proc/uptime); dd if=/dev/vdc of=/dev/null bs=4k count=60 iflag=direct; sleep 2; "
                    "echo $(($(cut -d. -f1 /proc/uptime) - a))")
        guest.api.pause()
        guest.api.resume()
        was, at = time.time(), time.monotonic()
        time.clock_settime(time.CLOCK_REALTIME, was + seconds)
        try:
            assert guest.api.instance()["state"] == "Running"
            guest.api.pause()
            guest.api.resume()
            slept = int(guest.end().splitlines()[-1])
            took = time.monotonic() - start
            assert 3 <= slept <= took + 2, f"the guest counted {slept} s in {took:.1f} s"
        finally:
            time.clock_settime(time.CLOCK_REALTIME, was + time.monotonic() - at)
        days = {line[:10] for line in log.read_text().splitlines()}
        assert len(days) == 2, log.read_text()
        guest.running.signal(signal.SIGTERM)
        assert guest.running.wait().code == 128 + signal.SIGTERM


# ---- memory ----

def out_of_memory(vmm):
    """A control group that holds less than the guest wants: the kernel kills it, and the next start says what was left behind."""
    group = MemoryGroup(limit=24 * MIB)
    sockets = ["--api-sock", vmm.directory / "api.sock"]
    config = configure("print READY; touch 100M; print END", vsock={"guest_cid": 3, "uds_path": str(vmm.directory / "v.sock")})
    try:
        vm = vmm.start(args=["--config-file", vmm.config_file(config), *sockets], preexec_fn=group.enter)
        outcome = vm.wait()
        assert outcome.code == -signal.SIGKILL and "READY" in outcome.out and "END" not in outcome.out, outcome
        vm.wait_session_gone()
        assert group.oom_kills() >= 1
    finally:
        group.close()
    again = vmm.run(args=["--config-file", vmm.config_file(config), *sockets])
    in_the_way = "there is something already (remove it if no microVM uses it)"
    assert again.code == BAD_CONFIG and again.err == f"mayfly: --api-sock: {vmm.directory}/api.sock: {in_the_way}\n"
    (vmm.directory / "api.sock").unlink()
    again = vmm.run(args=["--config-file", vmm.config_file(config), *sockets])
    assert again.code == BAD_CONFIG and f"vsock.uds_path: {vmm.directory}/v.sock: {in_the_way}" in again.err
    (vmm.directory / "v.sock").unlink()
    succeeded(vmm.run(args=["--config-file", vmm.config_file(config), *sockets]))


def test_memory_group_too_small(release):
    out_of_memory(release)


@pytest.mark.linux
def test_memory_group_too_small_where_linux_runs(release):
    """The same in the lab, whose control groups are of version 2."""
    out_of_memory(release)


@pytest.mark.parametrize("mib", [1, 3])
def test_no_address_space(release, mib):
    """ulimit -v: too little for the program's own needs, or for the guest."""
    outcome = release.run(configure("print no"), wrapper=("prlimit", f"--as={mib * MIB}", "--"))
    assert outcome.code == HOST_CANNOT and len(outcome.lines()) == 1, outcome


# ---- many ----

def test_start_and_stop(release):
    """300 microVMs, ended in every way; `make faults` does it 10 000 times."""
    with cycle_surroundings() as cycles:
        assert cycles.run(300) == []
