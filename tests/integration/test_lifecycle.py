"""Every way a microVM ends or is left alone: signals, terminals, pipes, the guest's own end. Nothing may be left behind."""

import contextlib
import fcntl
import json
import os
import pty
import random
import re
import select
import signal
import struct
import subprocess
import termios
import time
from pathlib import Path

import pytest

from harness import GUEST_CRASHED, drive, machine, sparse
from mayfly import Api, connect
from images import ECHO, FLOOD, IDLE, MIB, READY_IDLE, RESET, TRIPLE_FAULT, bzimage, counting, elf, load, pvh_elf, report_status

# Seconds for an end that takes milliseconds; the machines that run this are busy.
SOON = 5
STOP = [signal.SIGTERM, signal.SIGINT, signal.SIGHUP]
CLOSED = {"stdin": "<&-", "stdout": ">&-", "all": "<&- >&- 2>&-"}


@pytest.fixture
def guest(tmp_path):
    """A configuration for a guest of these instructions."""
    def make(code, **sections):
        path = tmp_path / "kernel"
        path.write_bytes(code if code.startswith(b"\x7fELF") else elf(load(code)))
        return machine(path, **sections)
    return make


# ---- signals ----

@pytest.mark.parametrize("number", STOP, ids=lambda n: n.name)
@pytest.mark.parametrize("code", [READY_IDLE, FLOOD], ids=["idle", "flooding"])
def test_signal(mayfly, guest, number, code):
    vm = mayfly.start(guest(code))
    vm.expect(b"F")
    vm.signal(number)
    outcome = vm.wait(SOON)
    assert outcome.code == 128 + number
    assert f"signal {int(number)}" in outcome.err
    vm.wait_session_gone()


def test_kill(mayfly, guest):
    vm = mayfly.start(guest(READY_IDLE))
    vm.expect(b"F")
    vm.signal(signal.SIGKILL)
    assert vm.wait(SOON).code == -signal.SIGKILL
    vm.wait_session_gone()


def test_signal_while_flooding_a_quick_reader(mayfly, guest):
    """The guest prints faster than it can be told to stop: the loop must see the signal all the same."""
    vm = mayfly.start(guest(FLOOD), stdout=subprocess.DEVNULL)
    time.sleep(0.5)
    vm.signal(signal.SIGTERM)
    assert vm.wait(SOON).code == 128 + signal.SIGTERM


def test_kick_signal_blocked_by_the_parent(mayfly, guest):
    """The signal mask survives exec, and the vCPUs are called out of the guest by a signal."""
    vm = mayfly.start(guest(READY_IDLE), preexec_fn=lambda: signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1}))
    vm.expect(b"F")
    vm.signal(signal.SIGTERM)
    assert vm.wait(SOON).code == 128 + signal.SIGTERM


def test_signal_many_vcpus(mayfly, guest):
    config = guest(READY_IDLE)
    config["machine-config"]["vcpu_count"] = 32
    vm = mayfly.start(config)
    vm.expect(b"F")
    assert vm.threads() >= 33
    vm.signal(signal.SIGTERM)
    assert vm.wait(SOON).code == 128 + signal.SIGTERM


def test_signal_at_any_time(mayfly, guest):
    """Signals that come during start-up: it ends, by the default action or by its own."""
    config = guest(IDLE)
    chance = random.Random(1)
    for _ in range(30):
        vm = mayfly.start(config)
        select.select([], [], [], chance.uniform(0, 0.012 if mayfly.name == "release" else 0.1))
        vm.signal(signal.SIGTERM)
        assert vm.wait(SOON).code in (128 + signal.SIGTERM, -signal.SIGTERM)
        vm.wait_session_gone()
        vm.close()


# ---- the guest's own end ----

@pytest.mark.parametrize("status,code", [(0, 0), (1, 1), (42, 42), (127, 127), (128, 127), (255, 127), (2**32 - 1, 127)])
def test_guest_status(mayfly, guest, status, code):
    outcome = mayfly.run(guest(pvh_elf(report_status(status))))
    assert outcome.code == code, outcome.err
    assert f"status {status}" in outcome.err


def test_triple_fault(mayfly, guest):
    outcome = mayfly.run(guest(TRIPLE_FAULT))
    assert outcome.code == GUEST_CRASHED and "crashed" in outcome.err


def test_triple_fault_after_a_status(mayfly, guest):
    """Some kernels reboot by triple fault: one that has said how it ended has not crashed."""
    assert mayfly.run(guest(pvh_elf(report_status(3, TRIPLE_FAULT)))).code == 3


@pytest.mark.parametrize("image", [elf(load(RESET)), pvh_elf(RESET), bzimage()], ids=["64-bit", "PVH", "bzImage"])
def test_reset(mayfly, guest, tmp_path, image):
    (tmp_path / "image").write_bytes(image)
    outcome = mayfly.run(machine(tmp_path / "image"))
    assert (outcome.code, outcome.out, outcome.err) == (0, "", "")
    assert outcome.seconds < SOON


# ---- terminals ----

class Terminal:
    """A pseudo-terminal; the program on it has it as its controlling one."""

    def __init__(self):
        self.master, self.slave = pty.openpty()
        self.before = self.attributes()

    def attributes(self):
        return termios.tcgetattr(self.slave)

    def is_raw(self):
        return not self.attributes()[3] & (termios.ICANON | termios.ECHO | termios.ISIG)

    def start(self, vmm, config, **options):
        def own_terminal():
            fcntl.ioctl(0, termios.TIOCSCTTY, 0)

        return vmm.start(config, stdin=self.slave, stdout=self.slave, preexec_fn=own_terminal, **options)

    def type(self, data):
        os.write(self.master, data)

    def expect(self, data, timeout=SOON):
        seen = b""
        while data not in seen:
            assert select.select([self.master], [], [], timeout)[0], f"no {data!r} in {seen!r}"
            seen += os.read(self.master, 4096)
        return seen

    def close(self):
        for fd in (self.master, self.slave):
            try:
                os.close(fd)
            except OSError:
                pass


@pytest.fixture
def terminal():
    instance = Terminal()
    yield instance
    instance.close()


def started_on(terminal, vmm, config):
    vm = terminal.start(vmm, config)
    terminal.expect(b"F")
    assert terminal.is_raw()
    return vm


def is_as_before(terminal, vm):
    vm.wait_session_gone()
    assert terminal.attributes() == terminal.before


def test_terminal_ctrl_a_x(mayfly, guest, terminal):
    vm = started_on(terminal, mayfly, guest(READY_IDLE))
    terminal.type(b"\x01x")
    assert vm.wait(SOON).code == 0
    is_as_before(terminal, vm)


@pytest.mark.parametrize("number", [*STOP, signal.SIGKILL], ids=lambda n: n.name)
def test_terminal_signal(mayfly, guest, terminal, number):
    vm = started_on(terminal, mayfly, guest(READY_IDLE))
    vm.signal(number)
    assert vm.wait(SOON).code == (-9 if number == signal.SIGKILL else 128 + number)
    is_as_before(terminal, vm)


def test_background_job_leaves_the_terminal_alone(mayfly, guest, terminal):
    """Reading what is typed into the shell would stop it (SIGTTIN), with the guest in it."""
    shell = ["sh", "-c", 'set -m; "$0" "$@" & echo "job $!"; wait $!; echo "code $?"']
    terminal.start(mayfly, guest(ECHO), wrapper=shell)
    seen = terminal.expect(b"F")
    job = int(re.search(rb"job (\d+)", seen)[1])
    assert not terminal.is_raw()
    terminal.type(b"typed\n")
    terminal.expect(b"typed")
    # Nothing tells when the guest listens; a second is many times what it takes.
    end = time.monotonic() + 1
    while time.monotonic() < end:
        assert Path(f"/proc/{job}/stat").read_text().rpartition(")")[2].split()[0] != "T"
        time.sleep(0.01)
    os.kill(job, signal.SIGTERM)
    terminal.expect(b"code 143")


def test_terminal_watcher_keeps_no_connection(mayfly, guest, terminal, tmp_path):
    """The process that looks after the terminal is forked when clients are connected: they must see the end of theirs all the same."""
    code = guest(READY_IDLE)["boot-source"]["kernel_image_path"]
    sock = tmp_path / "api.socket"

    def own_terminal():
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)

    vm = mayfly.start(args=["--api-sock", sock], stdin=terminal.slave, stdout=terminal.slave, preexec_fn=own_terminal)
    vm.wait_file(sock)
    early = connect(sock, SOON)
    with contextlib.closing(early):
        early.sendall(b"GET / HTTP/1.1\r\n\r\n")
        assert early.recv(4096).startswith(b"HTTP/1.1 200")
        api = Api(sock)
        api.put_boot_source({"kernel_image_path": str(code)})
        api.start()
        api.hang_up()
        terminal.expect(b"F")
        assert terminal.is_raw()
        early.sendall(b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n")
        while early.recv(4096):
            pass
    vm.signal(signal.SIGTERM)
    vm.wait(SOON)
    is_as_before(terminal, vm)


def test_terminal_hung_up(mayfly, guest, terminal):
    """The window is closed: the kernel sends SIGHUP, and reads and writes fail from then on."""
    vm = started_on(terminal, mayfly, guest(READY_IDLE))
    os.close(terminal.slave)
    os.close(terminal.master)
    assert vm.wait(SOON).code == 128 + signal.SIGHUP
    vm.wait_session_gone()


def test_terminal_hung_up_while_flooding(mayfly, guest, terminal):
    vm = started_on(terminal, mayfly, guest(FLOOD))
    os.close(terminal.slave)
    os.close(terminal.master)
    assert vm.wait(SOON).code == 128 + signal.SIGHUP
    vm.wait_session_gone()


def test_terminal_keys(mayfly, guest, terminal):
    """Keys that mean something to a terminal are the guest's; Ctrl-A is ours, typed twice it is one of the guest's."""
    vm = started_on(terminal, mayfly, guest(ECHO))
    terminal.type(b"\x03\x1a\x1c\x04\x11\x13\x7f")  # interrupt, suspend, quit, end of file, flow control, erase
    terminal.expect(b"\x03\x1a\x1c\x04\x11\x13\x7f")
    terminal.type(b"\x01\x01b\x01qc")
    terminal.expect(b"\x01bc")
    terminal.type(b"\x01")
    terminal.type(b"x")
    assert vm.wait(SOON).code == 0
    is_as_before(terminal, vm)


@pytest.mark.parametrize("code,expected", [(RESET, 0), (TRIPLE_FAULT, GUEST_CRASHED)], ids=["reset", "triple fault"])
def test_terminal_after_the_guests_end(mayfly, guest, terminal, code, expected):
    vm = terminal.start(mayfly, guest(code))
    assert vm.wait(SOON).code == expected
    is_as_before(terminal, vm)


def test_terminal_after_a_failed_start(mayfly, guest, terminal):
    vm = terminal.start(mayfly, guest(IDLE, drives=[drive("d", "/none")]))
    assert vm.wait(SOON).code == 152
    is_as_before(terminal, vm)


def test_terminal_output_not_read(mayfly, guest, terminal):
    """Nobody reads the terminal, as after Ctrl-S: the end comes all the same."""
    vm = started_on(terminal, mayfly, guest(FLOOD))
    vm.signal(signal.SIGTERM)
    assert vm.wait(SOON).code == 128 + signal.SIGTERM
    is_as_before(terminal, vm)


# ---- standard input, output, error that are no terminal ----

def is_alive(vm):
    """It has every reason to end by mistake now; give it a moment to do so."""
    with pytest.raises(subprocess.TimeoutExpired):
        vm.process.wait(0.3)


def test_input_at_its_end(mayfly, guest):
    vm = mayfly.start(guest(ECHO), stdin=subprocess.PIPE)
    vm.send(b"last words")
    vm.expect(b"last words")
    vm.process.stdin.close()
    is_alive(vm)
    vm.signal(signal.SIGTERM)
    assert vm.wait(SOON).code == 128 + signal.SIGTERM


def test_input_longer_than_the_fifo(mayfly, guest):
    """A file of input: the guest gets all of it, at its own pace."""
    text = bytes(32 + n % 90 for n in range(3000))
    vm = mayfly.start(guest(ECHO), stdin=subprocess.PIPE)
    vm.send(text)
    vm.expect(re.escape(text))
    vm.signal(signal.SIGTERM)
    vm.wait(SOON)


def test_input_from_a_file(mayfly, guest, tmp_path):
    text = bytes(32 + n % 90 for n in range(1000))
    (tmp_path / "typed").write_bytes(text)
    with open(tmp_path / "typed", "rb") as typed:
        vm = mayfly.start(guest(ECHO), stdin=typed)
        vm.expect(re.escape(text))
    is_alive(vm)
    vm.signal(signal.SIGTERM)
    assert vm.wait(SOON).code == 128 + signal.SIGTERM


@pytest.mark.parametrize("what", CLOSED)
def test_descriptors_closed(mayfly, guest, scratch, what):
    """A drive opened where standard output should be must not get the console's output."""
    config = guest(counting(300), drives=[drive("d", scratch)])
    outcome = mayfly.run(config, wrapper=("sh", "-c", f'exec "$@" {CLOSED[what]}', "sh"))
    assert outcome.code == 0
    assert scratch.read_bytes().count(0) == scratch.stat().st_size


def test_output_without_reader(mayfly, guest):
    """The reader of the pipe is gone (`mayfly | head`): the guest goes on to its own end."""
    read_end, write_end = os.pipe()
    vm = mayfly.start(guest(counting(20000)), stdout=write_end)
    os.close(write_end)
    os.close(read_end)
    assert vm.wait().code == 0


def test_output_to_a_full_disk(mayfly, guest):
    with open("/dev/full", "wb") as full:
        vm = mayfly.start(guest(counting(20000)), stdout=full)
        assert vm.wait().code == 0


def queued(fd):
    return struct.unpack("i", fcntl.ioctl(fd, termios.FIONREAD, b"\0" * 4))[0]


def fill_pipe(vm, read_end, deadline=10):
    """Wait until the guest's output has come to a stop in the pipe; returns how much is in it."""
    end, last, since = time.monotonic() + deadline, -1, time.monotonic()
    while time.monotonic() < end:
        now = queued(read_end)
        if now != last:
            last, since = now, time.monotonic()
        elif last and time.monotonic() - since > 0.3:
            return last
        assert vm.process.poll() is None, vm.said()
        select.select([], [], [], 0.02)  # a full pipe wakes nobody who reads it
    raise AssertionError(f"the pipe never filled up: {last} bytes")


@pytest.mark.parametrize("code", [FLOOD, counting(MIB)], ids=["careless", "careful"])
def test_full_pipe_does_not_stop_the_end(mayfly, guest, code):
    """Nobody reads: the pipe fills up, and a signal ends the microVM all the same."""
    read_end, write_end = os.pipe()
    fcntl.fcntl(write_end, fcntl.F_SETPIPE_SZ, 4096)
    vm = mayfly.start(guest(code), stdout=write_end)
    os.close(write_end)
    fill_pipe(vm, read_end)
    vm.signal(signal.SIGTERM)
    assert vm.wait(SOON).code == 128 + signal.SIGTERM
    os.close(read_end)


def test_full_log_pipe_stops_nothing(mayfly, guest):
    """stderr is a pipe that somebody opened and never reads: log lines are lost, the microVM goes on to its end."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    with pytest.raises(BlockingIOError):
        while True:
            os.write(writer, bytes(4096))
    os.set_blocking(writer, True)
    try:
        vm = mayfly.start(guest(TRIPLE_FAULT), wrapper=("bash", "-c", f'exec "$@" 2>&{writer}', "bash"), pass_fds=(writer,))
        assert vm.wait(SOON).code == GUEST_CRASHED
    finally:
        os.close(reader)
        os.close(writer)


def test_console_rate_limit(mayfly, guest, tmp_path):
    out, size, refill_ms = tmp_path / "console", 1000, 100
    limit = {"size": size, "refill_time": refill_ms}
    start = time.monotonic()
    vm = mayfly.start(guest(FLOOD, serial={"serial_out_path": str(out), "rate_limiter": limit}))
    time.sleep(1.5)
    written, elapsed_ms = out.stat().st_size, 1000 * (time.monotonic() - start)
    vm.signal(signal.SIGTERM)
    vm.wait(SOON)
    chunk = 1024  # is paid for after it was written
    assert size < written <= size + chunk + size * elapsed_ms / refill_ms


def test_slow_reader_gets_everything(mayfly, guest):
    """The guest's writes wait for a reader that stops and starts; not a byte is lost or out of order."""
    read_end, write_end = os.pipe()
    fcntl.fcntl(write_end, fcntl.F_SETPIPE_SZ, 4096)
    total = 40000
    vm = mayfly.start(guest(counting(total)), stdout=write_end)
    os.close(write_end)
    fill_pipe(vm, read_end)
    data = b""
    while chunk := os.read(read_end, 777):
        data += chunk
    os.close(read_end)
    assert vm.wait().code == 0
    assert len(data) == total and data == bytes(range(256)) * (total // 256) + bytes(range(total % 256))


def test_all_output_before_the_end(mayfly, guest):
    """What the guest wrote before its last instruction is there when the process is gone."""
    vm = mayfly.start(guest(counting(9999)))
    assert vm.wait().code == 0
    assert bytes(vm.out.data) == (bytes(range(256)) * 40)[:9999]


def test_console_in_a_file(mayfly, guest, tmp_path):
    config = guest(counting(500), serial={"serial_out_path": str(tmp_path / "console")})
    outcome = mayfly.run(config)
    assert (outcome.code, outcome.out) == (0, "")
    assert (tmp_path / "console").read_bytes() == (bytes(range(256)) * 2)[:500]


@pytest.mark.parametrize("section,field", [("serial", "serial_out_path"), ("logger", "log_path"), ("metrics", "metrics_path")])
def test_fifo_without_reader(mayfly, guest, tmp_path, section, field):
    os.mkfifo(tmp_path / "fifo")
    outcome = mayfly.run(guest(counting(500), **{section: {field: str(tmp_path / "fifo")}}))
    assert outcome.code == 0


# ---- what it leaves in log and metrics ----

def test_metrics_at_the_end(mayfly, guest, tmp_path):
    outcome = mayfly.run(guest(counting(100), metrics={"metrics_path": str(tmp_path / "metrics")}))
    assert outcome.code == 0
    line, = (tmp_path / "metrics").read_text().splitlines()
    metrics = json.loads(line)
    assert metrics["uart"]["write_count"] == 100
    assert metrics["i8042"]["reset_count"] == 1


def test_log_goes_where_it_is_told(mayfly, guest, tmp_path):
    log = tmp_path / "log"
    outcome = mayfly.run(guest(TRIPLE_FAULT), args=["--log-path", log, "--level", "Info", "--show-level", "--id", "vm-1"])
    assert outcome.code == GUEST_CRASHED and outcome.err == ""
    assert re.search(r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9} \[vm-1:main:ERROR\] ", log.read_text(), re.M), log.read_text()


def test_boot_timer(mayfly, guest):
    code = bytes.fromhex("bf000000c0 c6077b") + RESET
    outcome = mayfly.run(guest(pvh_elf(code)), args=["--boot-timer"])
    assert outcome.code == 0 and "user space" in outcome.err


def test_nothing_is_left_in_dev_shm_or_tmp(mayfly, guest, tmp_path):
    before = sorted(os.listdir("/dev/shm"))
    sparse(tmp_path / "disk", MIB)
    assert mayfly.run(guest(RESET, drives=[drive("d", tmp_path / "disk")])).code == 0
    assert sorted(os.listdir("/dev/shm")) == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["config.json", "disk", "kernel"]
