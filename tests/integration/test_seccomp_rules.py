"""No rule of the policies is there for nothing, and none is missing: every system call of many runs is held against them."""

import ctypes
import fcntl
import json
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import pytest

from harness import BAD_CONFIG, GUEST_CRASHED, ROOT, TRACES, artifact, drive, machine, sparse
from mayfly import ApiError
from net_peer import Echo, Messages
from page_handler import PageHandler
from seccomp_model import THREADS, deny_io_uring, programs, rules
from seccomp_trace import Coverage
from test_guest import configure, succeeded
from test_jail import AS_NOBODY
from test_snapshot import Snapshot, begin, create, end
from vsock_peer import Peers, exchange, receive_all, stream

# Tests that, together with those of this file, need nearly every rule.
ELSEWHERE = [
    "test_lifecycle.py::test_terminal_ctrl_a_x[release]",
    "test_lifecycle.py::test_terminal_signal[release-SIGKILL]",
    "test_lifecycle.py::test_log_goes_where_it_is_told[release]",
    "test_net.py::test_tap_deleted_and_made_again[release]",
    "test_net.py::test_inherited_socket[release-dgram]",
    "test_net.py::test_unix_server_comes_back[release]",
    "test_vsock.py::test_slow_reader_stalls_only_itself[release]",
    "test_vsock.py::test_listener_that_is_busy[release]",
    "test_cpu_template.py::test_start_again_without",
    "test_console_socket.py::test_file_and_socket_get_the_same[release]",
    "test_seccomp.py::test_attack_from_a_drives_thread[execve]",
    "test_overlay.py::test_survives_signal_without_a_flush[release]",
    "test_working_set.py::test_zeros_are_not_in_the_list[release]",
    "test_working_set.py::test_memory_file_cut_short_while_recorded",
    "test_working_set.py::test_list_made_by_hand[release]",
    "test_inherited.py::test_files_in_memory",
]

# A host whose kernel has no /dev/userfaultfd.
NO_DEVICE = ["unshare", "-m", "sh", "-c", 'mount --bind /dev/null /dev/userfaultfd && exec "$@"', "sh"]

# Rules that no run on an ordinary host needs, by thread and call, and what host does.
NOT_SEEN = {
    ("vmm", "clock_gettime"): "one whose clock the vDSO cannot read",
    ("vcpu", "clock_gettime"): "the same",
    ("block_io", "clock_gettime"): "the same",
    ("startup", "restart_syscall"): "one that nobody traces: test_stopped_while_it_waits dies without it, but strace's own stops hide it",
    ("vmm", "restart_syscall"): "the same",
    ("vcpu", "restart_syscall"): "one that is slow, so that a thread is stopped while it asks whether its line would block",
    ("block_io", "restart_syscall"): "the same",
    ("working_set", "clock_gettime"): "the same as of vmm",
    ("working_set", "restart_syscall"): "the same",
    ("vmm", "mprotect"): "musl's allocator needs it where it cannot grow by brk",
}

# Requests of ioctl likewise.
NOT_SEEN_REQUESTS = {
    0x9000AECF: "KVM_GET_XSAVE2: one whose processor has more state than 4 KiB (AMX)",
    0xAEA2: "KVM_SET_TSC_KHZ: one whose TSC runs at another speed than where the snapshot was taken",
}

# Policies that are made of others, which are seen where they stand alone.
SEEN_ELSEWHERE = [("snapshot", "vmm.policy"), ("fork", "vmm.policy"), ("fork", "snapshot.policy"), ("copies", "startup.policy")]

LIBC = ctypes.CDLL(None, use_errno=True)


def lose_the_rights_of_root():
    """To read what file modes forbid, in the process that is executed next: its files are root's all the same."""
    for capability in (1, 2, 12):  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH, CAP_NET_ADMIN
        LIBC.prctl(24, capability, 0, 0, 0)


# ---- workloads ----

# The IOAPIC's pins of the serial port (4) and of the first device (5): vector 0x30, edge, to CPU 0, not masked.
UNMASK = "; ".join(f"mmio w 4 0xfec00000 {0x10 + 2 * pin:#x}; mmio w 4 0xfec00010 0x30" for pin in (4, 5, 6))


def test_interrupts(release, scratch):
    """Which take KVM_SIGNAL_MSI, of the main thread for a disk and of the vCPU for the serial port."""
    outcome = release.run(configure(f"{UNMASK}; out8 0x3f9 2; print hello; blk 0 read 0 8; blk 0 write 0 8", [drive("d0", scratch)]))
    assert outcome.code == 0, outcome.out


def test_busy_queue(release, scratch):
    """Gets an ioeventfd. While a worker of the kernel's flushes, the device sleeps, so that each request needs a notification."""
    assert release.run(configure("blk 0 fuzz seed=1 n=1500 ops=f depth=1", [drive("d0", scratch, cache_type="Writeback")])).code == 0


def test_disk_without_a_ring(release, scratch):
    """The drive's thread reads, writes, syncs and discards."""
    script = "blk 0 fuzz seed=1 n=300 span=2048 ops=rwfdz; blk 0 flush"
    outcome = release.run(configure(script, [drive("d0", scratch, cache_type="Writeback")]), preexec_fn=deny_io_uring)
    assert outcome.code == 0 and "the drive uses a worker thread instead" in outcome.err


def test_signal_from_outside(release, scratch):
    """SIGUSR1, which interrupts vCPUs, may come from anyone and to any thread."""
    vm = release.start(configure("print ready; wait g; blk 0 read 0 8", [drive("d0", scratch)]), stdin=subprocess.PIPE, preexec_fn=deny_io_uring)
    vm.expect(rb"ready")
    for task in os.listdir(f"/proc/{vm.pid}/task"):
        LIBC.syscall(234, vm.pid, int(task), signal.SIGUSR1)  # tgkill
    vm.send(b"g")
    assert vm.wait().code == 0


def test_stopped_while_it_waits(release):
    """SIGSTOP and SIGCONT while the end waits for who reads the console: the kernel goes on waiting by a call of its own."""
    read_end, write_end = os.pipe()
    os.set_blocking(write_end, False)
    with pytest.raises(BlockingIOError):
        while True:
            os.write(write_end, b"x" * 4096)
    os.set_blocking(write_end, True)
    vm = release.start(configure("print ready; spin"), stdout=write_end)
    os.close(write_end)
    time.sleep(0.5)  # until there is something to write
    vm.signal(signal.SIGTERM)
    for number in (signal.SIGSTOP, signal.SIGCONT, signal.SIGUSR1):
        time.sleep(0.1)
        vm.signal(number)
    assert vm.wait().code == 128 + signal.SIGTERM
    os.close(read_end)


def test_failed_start_without_a_ring(release, scratch):
    """The drive's thread was there already, and ends."""
    config = configure("print never", [drive("d0", scratch), drive("d1", "/nonexistent")])
    assert release.run(config, preexec_fn=deny_io_uring).code == BAD_CONFIG


def test_large_bodies(release):
    """Make musl move memory, before the start and after it."""
    vm, api = release.start_api(["--http-api-max-payload-size", 8 << 20, "--mmds-size-limit", 8 << 20])
    document = {str(i): "x" * 1000 for i in range(4000)}
    api.put("/mmds", document)
    assert api.get("/mmds") == document
    config = configure("print ready; wait g")
    api.put("/boot-source", config["boot-source"])
    api.start()
    vm.expect(rb"ready")
    api.put("/mmds", document)
    assert api.get("/mmds") == document
    vm.signal(signal.SIGTERM)
    vm.wait()


def test_metadata_after_the_start(release):
    """Its keys are made when it is first asked for."""
    vm, api = release.start_api()
    config = configure("print ready; wait g")
    api.put("/boot-source", config["boot-source"])
    api.start()
    vm.expect(rb"ready")
    api.put("/mmds", {"a": "b"})
    vm.signal(signal.SIGTERM)
    vm.wait()


def test_new_disk(release, tmp_path, scratch):
    vm, api = release.start_api(["--allow-path", str(tmp_path)])
    config = configure("print ready; wait g", [drive("d0", scratch)])
    api.put("/boot-source", config["boot-source"])
    api.put("/drives/d0", config["drives"][0])
    api.start()
    vm.expect(rb"ready")
    other = tmp_path / "other.img"
    other.write_bytes(bytes(1 << 20))
    api.patch("/drives/d0", {"drive_id": "d0", "path_on_host": str(other)})
    assert api.request("PATCH", "/drives/d0", {"drive_id": "d0", "path_on_host": "/etc/passwd"}).status == 400  # the jail refuses that
    vm.signal(signal.SIGTERM)
    vm.wait()


def test_new_disk_that_cannot_be_opened(release, tmp_path, scratch):
    """Is told in a sentence that names the user, and changes nothing."""
    secret = tmp_path / "secret.img"
    secret.write_bytes(bytes(4096))
    os.chmod(secret, 0)
    vm, api = release.start_api(preexec_fn=lose_the_rights_of_root)
    config = configure("print ready; wait g", [drive("d0", scratch)])
    api.put("/boot-source", config["boot-source"])
    api.put("/drives/d0", config["drives"][0])
    api.start()
    vm.expect(rb"ready")
    with pytest.raises(ApiError, match="Permission denied"):
        api.patch("/drives/d0", {"drive_id": "d0", "path_on_host": str(secret)})
    with pytest.raises(ApiError, match="No such file"):
        api.patch("/drives/d0", {"drive_id": "d0", "path_on_host": "/nonexistent"})
    assert api.instance()["state"] == "Running"
    vm.signal(signal.SIGTERM)
    vm.wait()


def test_block_device(release):
    """Looks at its size; before the start, and when it takes a disk's place. (A host without any is no host for drives of this kind.)"""
    names = [name for name in sorted(os.listdir("/sys/class/block")) if name.startswith(("loop", "vd", "sd", "nvme", "sr", "zram"))
             and os.path.exists(f"/dev/{name}")]
    vm, api = release.start_api()
    config = configure("print ready; wait g", [drive("d0", f"/dev/{names[0]}", is_read_only=True)])
    api.put("/boot-source", config["boot-source"])
    api.put("/drives/d0", config["drives"][0])
    api.start()
    vm.expect(rb"ready")
    api.patch("/drives/d0", {"drive_id": "d0", "path_on_host": f"/dev/{names[0]}"})
    vm.signal(signal.SIGTERM)
    vm.wait()


def test_huge_pages(release):
    config = configure("touch 8M")
    config["machine-config"]["huge_pages"] = "Transparent"
    assert release.run(config).code == 0


def test_kernel_of_our_own(release):
    """It is looked for beside the program; found or not."""
    _, api = release.start_api()
    api.put("/boot-source", {"boot_args": "panic=-1"})
    answer = api.request("PUT", "/actions", {"action_type": "InstanceStart"})
    assert answer.status == 204 or "no vmlinux-up" in answer.fault_message()


def test_sentences_about_rights(release, tmp_path):
    """They name the user."""
    secret = tmp_path / "secret.img"
    secret.write_bytes(bytes(4096))
    os.chmod(secret, 0)
    outcome = release.run(configure("print never", [drive("d0", secret)]), preexec_fn=lose_the_rights_of_root)
    assert outcome.code == BAD_CONFIG and f"needs to be readable and writable by uid {os.getuid()}" in outcome.err, outcome.err
    config = {**configure("print never"), "network-interfaces": [{"iface_id": "n0", "host_dev_name": "mayflynone"}]}
    outcome = release.run(config, preexec_fn=lose_the_rights_of_root)
    assert outcome.code == BAD_CONFIG and f"mode tap user {os.getuid()} makes it" in outcome.err, outcome.err


def test_inherited_tap(release):
    placeholder = os.open("/dev/null", os.O_RDWR)

    def tap():
        """In a network namespace of its own, in the place of the descriptor that is passed on."""
        if LIBC.unshare(0x40000000):
            os._exit(98)
        tun = os.open("/dev/net/tun", os.O_RDWR)
        fcntl.ioctl(tun, 0x400454CA, struct.pack("16sH22x", b"mayfly0", 0x5002))  # TUNSETIFF: IFF_TAP, IFF_NO_PI, IFF_VNET_HDR
        os.dup2(tun, placeholder)
    config = {**configure("print hello"), "network-interfaces": [{"iface_id": "n0", "host_dev_name": f"fd:{placeholder}"}]}
    outcome = release.run(config, pass_fds=[placeholder], preexec_fn=tap)
    os.close(placeholder)
    assert outcome.code == 0, outcome.err


def test_pause(release):
    vm, api = release.start_api()
    api.put("/boot-source", configure("print ready; spin")["boot-source"])
    api.start()
    vm.expect(rb"ready")
    api.pause()
    api.resume()
    api.pause()
    vm.signal(signal.SIGTERM)
    vm.wait()


def test_inherited_api_socket(release, tmp_path):
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "api.socket"))
    listener.listen()
    vm = release.start(args=["--api-fd", listener.fileno(), "--start-time-us", 1], pass_fds=[listener.fileno()])
    client = socket.socket(socket.AF_UNIX)
    client.settimeout(30)
    client.connect(str(tmp_path / "api.socket"))
    client.sendall(b"GET / HTTP/1.1\r\n\r\n")
    assert client.recv(65536).startswith(b"HTTP/1.1 200")
    client.sendall(b"nonsense\r\n\r\n")
    assert client.recv(65536).startswith(b"HTTP/1.1 400")
    client.close()
    listener.close()
    vm.signal(signal.SIGTERM)
    vm.wait()


def test_snapshots(release, tmp_path, scratch):
    """Written by one that was booted and by one that was loaded, the whole and what is new, and given up where there is no room."""
    files = {"snapshot_path": str(tmp_path / "state"), "mem_file_path": str(tmp_path / "memory")}
    vm, api = release.start_api(["--allow-path", str(tmp_path)], stdin=subprocess.PIPE)
    config = configure("print ready; wait g; print bye", [drive("d0", scratch)])
    config["machine-config"]["track_dirty_pages"] = True
    for name in ("boot-source", "machine-config"):
        api.put(f"/{name}", config[name])
    api.put("/drives/d0", config["drives"][0])
    api.start()
    vm.expect(rb"ready")
    api.pause()
    api.put("/snapshot/create", files)
    api.put("/snapshot/create", {"snapshot_type": "Diff", "snapshot_path": str(tmp_path / "diff"), "mem_file_path": str(tmp_path / "pages")})
    events = api.events(timeout=30)
    api.put("/snapshot/create", {**files, "background": True})
    assert any(event["event"] == "snapshot_written" for event in events)
    (tmp_path / "folder").mkdir()
    assert api.request("PUT", "/snapshot/create", {**files, "mem_file_path": str(tmp_path / "folder")}).status == 400
    vm.signal(signal.SIGTERM)
    vm.wait()
    vm, api = release.start_api(["--allow-path", str(tmp_path)], stdin=subprocess.PIPE)
    api.put("/snapshot/load", files)
    api.put("/snapshot/create", files)
    api.resume()
    vm.send(b"g")
    assert vm.wait().code == 0


@pytest.mark.parametrize("wrapper", [(), NO_DEVICE], ids=["device", "system-call"])
def test_memory_from_a_handler(release, tmp_path, scratch, wrapper):
    """The userfaultfd is the device's, or where there is none, the system call's; and a load that fails when it has been handed over."""
    snapshot = Snapshot(tmp_path)
    vm, api = begin(release, "cycle 4M; print bye", [drive("d0", scratch)])
    vm.expect(rb"round 0")
    create(api, snapshot)
    end(vm)
    override = json.dumps({"drive_overrides": [{"drive_id": "d0", "path_on_host": "nothing"}]})
    for name, more, code in [("a", [], 0), ("b", ["--override", override], BAD_CONFIG)]:
        handler = PageHandler(tmp_path / name, snapshot.memory)
        vm = release.start(args=["--no-api", "--load-snapshot", str(snapshot.state), "--memory", f"uffd:{handler.path}", *more],
                           stdin=subprocess.PIPE, wrapper=wrapper)
        if not code:
            vm.send(b"q")
        assert vm.wait().code == code


def test_forks(release, tmp_path, scratch):
    """One that was paused, one that runs and has run, each with its overlay, and a call that fails when one of two copies is there."""
    vm, api = release.start_api(["--allow-fork", "--allow-path", str(tmp_path)], stdin=subprocess.PIPE)
    config = configure("blk 0 write 0 8; touch 4194304; print ready; wait g; print bye", [drive("d0", scratch, overlay_path=str(tmp_path / "delta"))], vcpus=2)
    for name in ("boot-source", "machine-config"):
        api.put(f"/{name}", config[name])
    api.put("/drives/d0", config["drives"][0])
    api.start()
    vm.expect(rb"ready")

    def wish(name):
        return {"id": name, "serial_override": {"serial_socket_path": str(tmp_path / name)},
                "drive_overrides": [{"drive_id": "d0", "overlay_path": str(tmp_path / f"{name}.delta")}]}
    for copies in (["a", "b"], ["c"]):
        pids = [copy["pid"] for copy in api.call("PUT", "/fork", {"copies": [wish(name) for name in copies]})["copies"]]
        (tmp_path / "e").touch()  # its console is in the way
        assert api.request("PUT", "/fork", {"copies": [wish("d"), wish("e")]}).status == 400
        for pid in pids:
            os.kill(pid, signal.SIGTERM)
    vm.send(b"g")
    assert vm.wait().code == 0


def test_crash(release, tmp_path):
    """The registers are in the log of a guest that jumps to where no memory is: KVM cannot go on."""
    image = artifact("tests/guest/first.elf").read_bytes()
    at = image.index(b"\x66\xba\xf8\x03")  # its first instruction
    jump = b"\xb8\x00\x00\x00\xd0\xff\xe0"  # mov $0xd0000000, %eax; jmp *%eax
    kernel = tmp_path / "crash.elf"
    kernel.write_bytes(image[:at] + jump + image[at + len(jump):])
    outcome = release.run(machine(kernel))
    assert outcome.code == GUEST_CRASHED and "rip 0xd0000000" in outcome.err, outcome.err


def test_a_whole_life(release):
    """Every device and most of the API, as a user without any rights: disks and limits change, it sleeps and wakes, and is asked for metrics."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with tempfile.TemporaryDirectory(prefix="mayfly-life.") as directory, theirs:
        os.chmod(directory, 0o777)
        release.directory = Path(directory)
        shutil.copyfile(artifact("tests/guest/guest.elf"), release.directory / "vmlinux")
        for name in ("disk.img", "other.img", "log", "metrics"):
            sparse(release.directory / name, 4 << 20 if name.endswith(".img") else 0).chmod(0o666)
        peers = Peers(release.directory / "v.sock")
        listener = peers.listen(5000)
        os.chmod(listener.getsockname(), 0o666)
        echo = Echo(Messages(ours))
        work = "blk 0 fuzz seed=1 n=300 span=2048 ops=rwf; net 0 send 50 len=60 max=1514 seed=9; net 0 recv 50 len=60 max=1514 seed=9"
        vm, api = release.start_api(["--allow-path", "."], wrapper=AS_NOBODY, stdin=subprocess.PIPE, pass_fds=[theirs.fileno()])
        api.put_logger({"log_path": "log", "level": "Debug"})
        api.put_metrics({"metrics_path": "metrics"})
        api.put_machine_config({"vcpu_count": 2, "mem_size_mib": 64})
        api.put_boot_source({"kernel_image_path": "vmlinux", "boot_args": f"console=ttyS0 mayfly.test='{work}; print READY; wait g; {work}; "
                             "vsock client 5000 bytes=100000 seed=3 echo=0; vsock echo 80; wait x'"})
        api.put_drive("d0", {"path_on_host": "disk.img", "is_root_device": False})
        api.put_network_interface("eth0", {"host_dev_name": f"fd:{theirs.fileno()}", "guest_mac": "06:00:ac:10:00:02"})
        api.put_vsock({"guest_cid": 52, "uds_path": "v.sock"})
        api.put_mmds_config({"network_interfaces": ["eth0"]})
        api.put_mmds({"a": "b"})
        api.start()
        vm.expect(rb"READY")
        assert f"Uid:\t{65534}\t{65534}" in Path(f"/proc/{vm.pid}/status").read_text()
        events = api.events()
        api.pause()
        api.patch_drive("d0", {"path_on_host": "other.img"})
        api.patch_drive("d0", {"rate_limiter": {"bandwidth": {"size": 1 << 20, "refill_time": 100}}})
        api.patch_network_interface("eth0", {"rx_rate_limiter": {"ops": {"size": 1000, "refill_time": 100}}})
        api.patch_mmds({"c": "d"})
        api.flush_metrics()
        api.resume()
        vm.send(b"g")
        peer = peers.accept(listener)
        peer.shutdown(socket.SHUT_WR)
        assert receive_all(peer) == stream(3, 100000)
        assert exchange(peers.dial(80, 60000), b"hello") == b"hello"
        assert api.get("/mmds") == {"a": "b", "c": "d"} and api.config()["drives"] and "mayfly_" in api.prometheus()
        assert any(event["event"] for event in events)
        vm.send(b"x")
        succeeded(vm.wait())
        assert len(echo.frames) == 100 and (release.directory / "metrics").read_text()
        peers.close()
        ours.close()


# ---- the whole ----

def test_figures_of_the_pages():
    """docs/seccomp.md and docs/security.md say how many system calls, rules and instructions there are."""
    said = defaultdict(set)
    page = (ROOT / "docs/seccomp.md").read_text()
    for thread, calls, count in re.findall(r"^\| `(\w+)` \|.*\| (\d+) \| (\d+) \|$", page, re.M):
        said[thread].add((int(calls), int(count)))
    for thread, length in re.findall(r"^\| `(\w+)` \| (\d+) \| \d+ µs \|$", page, re.M):
        said[thread].add(int(length))
    page = (ROOT / "docs/security.md").read_text()
    names = {"main": "vmm", "each": "vcpu", "a": "block_io", "before": "startup"}
    for name, calls, count, length in re.findall(r"^\| (\w+)[^|]* \| (\d+) / (\d+) / (\d+) \|", page, re.M):
        said[names[name]].add((int(calls), int(count), int(length)))
    built = programs(artifact("seccomp/release.filter"))
    for thread in THREADS:
        allowed = [rule.call for rule in rules() if rule.thread == thread]
        calls, count, length = len(set(allowed)), len(allowed), len(built[thread])
        figures = {(calls, count), length} | ({(calls, count, length)} if thread in names.values() else set())
        assert said[thread] == figures, f"{thread}: {calls} calls, {count} rules, {length} instructions"


@pytest.mark.skipif(bool(TRACES), reason="this is the run that is traced")
def test_every_rule_is_needed_and_none_is_missing():
    traces = tempfile.mkdtemp(prefix="mayfly-traces-")
    os.chmod(traces, 0o777)
    try:
        # Whether they pass, slowed down as they are, is not the question here.
        subprocess.run([sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "not debug", *ELSEWHERE, "test_seccomp_rules.py"],
                       cwd=ROOT / "tests" / "integration", env={**os.environ, "MAYFLY_TRACES": traces}, stdout=subprocess.DEVNULL,
                       timeout=600, check=False)
        coverage = Coverage()
        coverage.add(traces)
        life = [path.read_text(errors="replace") for path in Path(traces).glob("*whole_life*")]
        assert life and all(text.endswith("+++ exited with 0 +++\n") for text in life)
    finally:
        shutil.rmtree(traces)
    refused = [line for line in coverage.refused if "_attack_" not in line]
    assert not refused, "\n".join(refused[:20])
    unused = [rule for rule in coverage.unused() if (rule.thread, rule.name) not in NOT_SEEN
              and not any(value in NOT_SEEN_REQUESTS for _, _, value in rule.conditions)
              and (rule.thread, rule.where.split(":")[0].rpartition("/")[2]) not in SEEN_ELSEWHERE]
    assert not unused, "\n".join(f"{rule.where} was needed by nothing" for rule in unused)
