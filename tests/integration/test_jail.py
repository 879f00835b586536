"""What the process gives up by itself: seen from outside, and tried by system calls that are forced on its threads. Needs root."""

import contextlib
import ctypes
import fcntl
import os
import pty
import re
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import termios
import time
from pathlib import Path

import pytest

from api_machines import boot, is_fault, prepare
from harness import BAD_CONFIG, PATIENCE, artifact, machine, sparse
from inject import captive
from mayfly import Api, wait_ready

SETS = ("CapInh", "CapPrm", "CapEff", "CapAmb")
GUEST_ARGS = "console=ttyS0 mayfly.test='print READY; wait x; print END'"
RDONLY, WRONLY, RDWR, CREAT = os.O_RDONLY, os.O_WRONLY, os.O_RDWR, os.O_CREAT
SECRET = {"MAYFLY_SECRET": "tell nobody"}


def landlock_abi():
    """Of this kernel; 0 without."""
    return max(0, ctypes.CDLL(None).syscall(444, None, 0, 1))


needs_landlock = pytest.mark.host_has(landlock_abi())


def threads(running):
    folder = Path(f"/proc/{running.pid}/task")
    return {int(tid): (folder / tid / "comm").read_text().strip() for tid in os.listdir(folder)}


def status(pid, tid):
    return dict(line.split(":\t") for line in Path(f"/proc/{pid}/task/{tid}/status").read_text().splitlines() if ":\t" in line)


def open_files(running):
    return set(map(int, os.listdir(f"/proc/{running.pid}/fd")))


def started(vmm, **popen):
    """A microVM that waits for an x, once it runs."""
    prepare(vmm.directory)
    running, api = boot(vmm, GUEST_ARGS, stdin=subprocess.PIPE, **popen)
    running.expect(b"READY")
    return running, api


def finish(running):
    running.send(b"x")
    outcome = running.wait()
    assert outcome.code == 0 and "END" in outcome.out, f"{outcome.code}\n{outcome.out}\n{outcome.err}"
    return outcome


# ---- seen from outside ----

def test_of_every_thread(mayfly):
    running, api = started(mayfly, args=["--allow-path", "."])
    assert len(threads(running)) >= 2
    for tid, name in threads(running).items():
        found = status(running.pid, tid)
        assert found["NoNewPrivs"] == "1", name
        assert {key: int(found[key], 16) for key in SETS} == dict.fromkeys(SETS, 0), name
    limits = Path(f"/proc/{running.pid}/limits").read_text()
    assert re.search(r"^Max core file size +0 +0 ", limits, re.M)
    soft, hard = re.search(r"^Max open files +(\d+) +(\d+) ", limits, re.M).groups()
    assert soft == hard == str(resource.getrlimit(resource.RLIMIT_NOFILE)[1])
    assert api.instance()["jail"] == {"no_new_privs": True, "dumpable": False, "core_limit": 0, "capabilities": "none",
                                      "landlock": landlock_abi() or None, "seccomp": "default"}
    finish(running)


def test_before_the_start(mayfly):
    """What needs no configuration holds from the beginning; the rest follows with the guest."""
    _, api = mayfly.start_api()
    assert api.instance()["jail"] == {"no_new_privs": True, "dumpable": False, "core_limit": 0, "capabilities": "inherited", "landlock": None,
                                      "seccomp": "default"}


def test_environment_is_gone(mayfly):
    running, _ = started(mayfly, env=SECRET)
    assert Path(f"/proc/{running.pid}/environ").read_bytes().strip(b"\0") == b""
    running.close()


def test_not_dumpable(release):
    """Another process of the same user cannot look into it; nor does it leave a core file."""
    running, _ = started(release)
    assert os.stat(f"/proc/{running.pid}/mem").st_uid == 0
    # As if root, but with no capability: what a neighbour of the same user is.
    plain = ("setpriv", "--bounding-set=-all", "--inh-caps=-all", "--no-new-privs", "--")
    trying = subprocess.run([*plain, "cat", f"/proc/{running.pid}/maps"], capture_output=True, timeout=60)
    assert trying.returncode and b"Permission denied" in trying.stderr
    running.signal(signal.SIGABRT)
    assert running.process.wait(30) == -signal.SIGABRT
    # Bit 7 of the wait status, which Python does not tell: no file either way.
    assert not list(release.directory.glob("core*"))


def test_terminal_watcher(release):
    """The small process that restores the terminal after a kill -9 has no rights either."""
    master, slave = pty.openpty()
    try:
        running = release.start(machine(artifact("tests/guest/guest.elf"), GUEST_ARGS), stdin=slave, stdout=slave,
                                preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0))
        seen = b""
        while b"READY" not in seen:
            seen += os.read(master, 4096)
        watcher, = running.session()
        deadline = time.monotonic() + PATIENCE
        while any(int(status(watcher, watcher)[key], 16) for key in SETS):
            assert time.monotonic() < deadline, status(watcher, watcher)
            time.sleep(0.01)
        assert status(watcher, watcher)["NoNewPrivs"] == "1"
        assert os.stat(f"/proc/{watcher}/mem").st_uid == 0
        if landlock_abi():
            with captive(watcher) as thread:
                assert thread.error("open", b"/etc/passwd", RDONLY) == "EACCES"
        os.write(master, b"\x01x")
        assert running.wait().code == 0
        running.wait_session_gone()
    finally:
        os.close(master)
        os.close(slave)


@contextlib.contextmanager
def leaked(*numbers):
    """Descriptors that a careless parent leaves open, at these numbers; pairs of (number, our end of the pipe)."""
    pipes = []
    try:
        for number in numbers:
            read, write = os.pipe()
            os.dup2(write, number)
            os.close(write)
            pipes.append((number, read))
        yield pipes
    finally:
        for number, read in pipes:
            os.close(read)
            with contextlib.suppress(OSError):
                os.close(number)


def is_closed(read):
    """Does nobody hold the other end of this pipe?"""
    return os.read(read, 1) == b""


def test_leaked_descriptors_are_closed(mayfly):
    with leaked(140, 141, 255, 256, 257, 900) as pipes:
        numbers = [number for number, _ in pipes]
        config = machine(artifact("tests/guest/guest.elf"), GUEST_ARGS)
        running = mayfly.start(config, stdin=subprocess.PIPE, pass_fds=numbers)
        running.expect(b"READY")
        held = open_files(running)
        assert not set(numbers) & held, held
        # Nor under another number.
        for number, read in pipes:
            os.close(number)
            assert is_closed(read)
        finish(running)


@pytest.mark.parametrize("number", [200, 300, 301])
def test_named_descriptors_stay(mayfly, number):
    """--api-fd and --ready-fd, below 256 and above, between others that do not."""
    with leaked(199, 299, 302) as pipes, socket.socket(socket.AF_UNIX) as listener:
        path = mayfly.directory / "api.socket"
        listener.bind(str(path))
        listener.listen()
        os.dup2(listener.fileno(), number)
        ready, tell = os.pipe()
        os.dup2(tell, 600)
        os.close(tell)
        running = mayfly.start(args=["--api-fd", number, "--ready-fd", 600], pass_fds=[number, 600, *(n for n, _ in pipes)])
        os.close(600)
        wait_ready(ready, PATIENCE)
        held = open_files(running)
        assert number in held and not {299, 302} & held, held
        os.close(number)
        api = Api(path, PATIENCE)
        api.put_boot_source({"kernel_image_path": str(artifact("tests/guest/guest.elf")), "boot_args": GUEST_ARGS})
        api.start()
        running.expect(b"READY")
        assert api.instance()["jail"]["capabilities"] == "none" and number in open_files(running)
        api.hang_up()
        for high, read in pipes[1:]:
            os.close(high)
            assert is_closed(read)


def test_descriptor_that_the_api_names_stays(mayfly):
    """Until the start nobody knows which are meant; after it the others are closed."""
    prepare(mayfly.directory)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs, leaked(90, 91) as pipes:
        os.dup2(theirs.fileno(), 92)
        running, api = mayfly.start_api(pass_fds=[90, 91, 92], stdin=subprocess.PIPE)
        os.close(92)
        assert {90, 91, 92} <= open_files(running)
        api.put_boot_source({"kernel_image_path": "vmlinux", "boot_args": GUEST_ARGS})
        api.put_network_interface("eth0", {"host_dev_name": "fd:92"})
        api.start()
        running.expect(b"READY")
        held = open_files(running)
        assert 92 in held and not {90, 91} & held, held
        for number, read in pipes:
            os.close(number)
            assert is_closed(read)
        finish(running)


# ---- seen from inside: whoever has taken over the process ----

@pytest.fixture
def victim(mayfly):
    """A microVM with a disk that may be written, one that may only be read, and a folder that was allowed; without filters, so that what else holds shows."""
    prepare(mayfly.directory)
    folder = mayfly.directory / "allowed"
    (folder / "below").mkdir(parents=True)
    sparse(folder / "below/disk.img", 1 << 20)
    (folder / "way-out.img").symlink_to("../other.img")
    running, api = mayfly.start_api(["--allow-path", "allowed", "--no-seccomp"], stdin=subprocess.PIPE)
    api.put_boot_source({"kernel_image_path": "vmlinux", "boot_args": GUEST_ARGS})
    api.put_drive("rw", {"path_on_host": "disk.img", "is_root_device": False})
    api.put_drive("ro", {"path_on_host": "initrd.img", "is_root_device": False, "is_read_only": True})
    api.put_vsock({"guest_cid": 3, "uds_path": "vsock.socket"})
    api.start()
    running.expect(b"READY")
    yield running, api
    finish(running)
    left = {path.name for path in mayfly.directory.iterdir() if path.is_socket()}
    assert not left, "sockets were left behind"


def captives(running, api):
    """Each thread in turn. Paused meanwhile: registers of a vCPU thread are the guest's in the middle of KVM_RUN, where KVM is PVM."""
    api.patch("/vm", {"state": "Paused"})
    # KVM's and io_uring's own threads never leave the kernel.
    found = {tid: name for tid, name in threads(running).items() if name.startswith("mayfly")}
    assert len(found) == 2, found
    for tid, name in found.items():
        with captive(running.pid, tid) as thread:
            yield name, thread
    api.patch("/vm", {"state": "Resumed"})


def local_port(port):
    """A struct sockaddr_in."""
    return socket.AF_INET.to_bytes(2, "little") + port.to_bytes(2, "big") + socket.inet_aton("127.0.0.1") + bytes(8)


NINE = local_port(9)


@needs_landlock
def test_files_out_of_reach(victim, mayfly, tmp_path):
    """Of all files, a thread that was taken over opens its disks, as they were configured, and what was allowed."""
    expected = {
        ("open", b"/etc/passwd", RDONLY): "EACCES",
        ("open", b"/proc/self/maps", RDONLY): "EACCES",
        ("open", b"/dev/kvm", RDWR): "EACCES",
        ("open", b"/dev/null", RDWR): "EACCES",
        ("open", b".", RDONLY | os.O_DIRECTORY): "EACCES",
        ("open", b"other.img", RDONLY): "EACCES",
        ("open", b"vmlinux", RDONLY): "EACCES",
        ("open", b"new.img", RDWR | CREAT, 0o600): "EACCES",
        ("open", b"disk.img", RDWR): "",
        ("open", b"disk.img", RDWR | os.O_TRUNC): "EACCES" if landlock_abi() >= 3 else "",
        ("open", b"initrd.img", RDONLY): "",
        ("open", b"initrd.img", WRONLY): "EACCES",
        ("open", b"allowed/below/disk.img", RDWR): "",
        ("open", b"allowed/way-out.img", RDWR): "EACCES",
        ("open", b"allowed/below/../../other.img", RDWR): "EACCES",
        ("open", b"allowed/new.img", RDWR | CREAT, 0o600): "",
        ("execve", b"/bin/true", 0, 0): "EACCES",
        ("mkdir", b"folder", 0o700): "EACCES",
        ("mknod", b"pipe", 0o010600, 0): "EACCES",
        ("symlink", b"/etc/passwd", b"allowed/link.img"): "EACCES",
        ("link", b"other.img", b"allowed/link.img"): "EXDEV",
        ("rename", b"other.img", b"disk.img"): "EACCES",
        ("unlink", b"/etc/passwd"): "EACCES",
        ("unlink", bytes(tmp_path.parent / "nothing-of-ours")): "ENOENT",
    }
    for name, thread in captives(*victim):
        assert {call: thread.error(*call) for call in expected} == expected, name


@needs_landlock
def test_others_out_of_reach(victim):
    """No TCP, no abstract socket of another process, no signal to one, none that could be debugged, nothing that takes a capability."""
    abi = landlock_abi()
    abstract = b"\0mayfly-test-%d" % os.getpid()
    with socket.socket(socket.AF_UNIX) as outside, socket.socket() as web:
        outside.bind(abstract)
        outside.listen()
        web.bind(("127.0.0.1", 0))
        web.listen()
        to_web = local_port(web.getsockname()[1])
        to_abstract = socket.AF_UNIX.to_bytes(2, "little") + abstract
        for name, thread in captives(*victim):
            tcp, unix = (thread.call("socket", family, socket.SOCK_STREAM, 0) for family in (socket.AF_INET, socket.AF_UNIX))
            assert tcp >= 0 and unix >= 0
            assert thread.error("kill", os.getpid(), 0) == ("EPERM" if abi >= 6 else ""), name
            assert thread.error("connect", unix, to_abstract, len(to_abstract)) == ("EPERM" if abi >= 6 else ""), name
            assert thread.error("connect", tcp, to_web, len(to_web)) == ("EACCES" if abi >= 4 else ""), name
            assert thread.error("bind", tcp, NINE, len(NINE)) == "EACCES", name
            assert thread.error("ptrace", 16, os.getpid(), 0, 0) == "EPERM", name
            assert thread.error("unshare", 0x00020000) == "EPERM", name  # CLONE_NEWNS
            assert thread.error("mount", b"none", b"/", b"tmpfs", 0, 0) == "EPERM", name
            thread.call("close", tcp)
            thread.call("close", unix)


@needs_landlock
def test_drives_change_within_what_is_allowed(victim):
    running, api = victim
    change = lambda path, drive_id="rw": api.request("PATCH", f"/drives/{drive_id}", {"drive_id": drive_id, "path_on_host": path})
    for path in ("disk.img", "allowed/below/disk.img", "./allowed/../disk.img"):
        assert change(path).status == 204
    for path in ("other.img", "/etc/passwd", "allowed/way-out.img", "allowed/../other.img", "vmlinux"):
        sentence = is_fault(change(path))
        assert sentence == (f"drives[rw].path_on_host: {path}: a running microVM opens only the files it was started with "
                            "(or else start Mayfly with --allow-path and the file or its folder)")
    # Reading is what was granted here.
    assert change("initrd.img", "ro").status == 204
    is_fault(change("initrd.img"), naming="--allow-path")
    # What has no other reason keeps its own.
    is_fault(change("allowed/none.img"), naming="No such file")
    is_fault(change("allowed/below"), naming="Is a directory")
    assert api.get("/drives/rw")["path_on_host"] == "./allowed/../disk.img"


@needs_landlock
def test_a_file_put_in_place_of_a_disk(mayfly):
    """The disk itself was allowed, not its name; the folder's files are, whatever is put there."""
    running, api = started(mayfly)
    directory = mayfly.directory
    os.replace(directory / "other.img", directory / "disk.img")
    is_fault(api.request("PATCH", "/drives/rootfs", {"drive_id": "rootfs", "path_on_host": "disk.img"}), naming="--allow-path")
    finish(running)


def test_a_file_put_in_place_in_an_allowed_folder(mayfly):
    running, api = started(mayfly, args=["--allow-path=/proc/../proc", "--allow-path", "."])
    os.replace(mayfly.directory / "other.img", mayfly.directory / "disk.img")
    api.patch_drive("rootfs", {"path_on_host": "disk.img"})
    finish(running)


@pytest.fixture
def block_device(tmp_path):
    made = subprocess.run(["losetup", "--find", "--show", sparse(tmp_path / "loop.img", 3 << 20)], capture_output=True, text=True, timeout=60)
    if made.returncode:
        pytest.skip(f"no loop device: {made.stderr.strip()}")
    yield made.stdout.strip()
    subprocess.run(["losetup", "--detach", made.stdout.strip()], check=True, timeout=60)


def test_block_devices(mayfly, block_device):
    """They are asked for their size by ioctl, which Landlock can refuse, too."""
    running, api = started(mayfly, args=["--allow-path", block_device])
    api.patch_drive("rootfs", {"path_on_host": block_device})
    api.patch_drive("rootfs", {"path_on_host": "disk.img"})
    finish(running)


def test_an_allowed_path_that_is_not_there(mayfly):
    outcome = mayfly.run(machine(artifact("tests/guest/guest.elf"), GUEST_ARGS), ["--allow-path", "/etc/no\nsuch"])
    assert outcome.code == BAD_CONFIG
    assert outcome.err == "mayfly: --allow-path: /etc/no\\nsuch: No such file or directory (needs a file or folder that is there)\n"


# ---- other users, other kernels ----

@pytest.fixture
def for_all(mayfly):
    """A directory that any user may use, with mayfly told to work there."""
    with tempfile.TemporaryDirectory(prefix="mayfly-jail.") as directory:
        os.chmod(directory, 0o777)
        mayfly.directory = Path(directory)
        prepare(mayfly.directory)
        for path in mayfly.directory.iterdir():
            if not path.is_symlink():
                os.chmod(path, 0o666)
        yield mayfly


# A /dev/kvm for everybody, in a mount namespace of the test's own.
AS_NOBODY = ("unshare", "--mount", "sh", "-ec", 'mknod -m 666 kvm c 10 232; mount --bind kvm /dev/kvm; rm kvm 2>/dev/null || :; '
             'exec setpriv --reuid=65534 --regid=65534 --clear-groups -- "$@"', "sh")


def test_as_nobody(for_all):
    running, api = boot(for_all, GUEST_ARGS, stdin=subprocess.PIPE, wrapper=AS_NOBODY, args=["--allow-path", "."])
    running.expect(b"READY")
    for tid, name in threads(running).items():
        found = status(running.pid, tid)
        assert found["Uid"].split() == ["65534"] * 4 and found["NoNewPrivs"] == "1", name
        assert {key: int(found[key], 16) for key in SETS} == dict.fromkeys(SETS, 0), name
    api.patch_drive("rootfs", {"path_on_host": "other.img"})
    finish(running)
    assert not [path for path in for_all.directory.iterdir() if path.is_socket()]


# Seccomp answers a list of system calls with ENOSYS, as a kernel does that is older than they are. exec follows.
OLD_KERNEL = """
import ctypes, os, struct, sys
numbers = [int(n) for n in sys.argv[1].split(",")]
def step(code, jt, jf, k): return struct.pack("HBBI", code, jt, jf, k)
program = step(0x20, 0, 0, 0)
for i, n in enumerate(numbers): program += step(0x15, len(numbers) - i, 0, n)
program += step(0x06, 0, 0, 0x7fff0000) + step(0x06, 0, 0, 0x00050000 | 38)
code = ctypes.create_string_buffer(program)
class Fprog(ctypes.Structure): _fields_ = [("n", ctypes.c_ushort), ("p", ctypes.c_void_p)]
fprog = Fprog(len(program) // 8, ctypes.addressof(code))
libc = ctypes.CDLL(None, use_errno=True)
assert libc.prctl(38, 1, 0, 0, 0) == 0 and libc.prctl(22, 2, ctypes.byref(fprog), 0, 0) == 0
os.execv(sys.argv[2], sys.argv[2:])
"""
LANDLOCK, CLOSE_RANGE = "444,445,446", "436"


def test_a_kernel_without_landlock(mayfly):
    """Says so once, reports null, and does all else."""
    prepare(mayfly.directory)
    wrapper = (sys.executable, "-c", OLD_KERNEL, f"{LANDLOCK},{CLOSE_RANGE}")
    running, api = boot(mayfly, GUEST_ARGS, stdin=subprocess.PIPE, wrapper=wrapper)
    running.expect(b"READY")
    assert api.instance()["jail"] == {"no_new_privs": True, "dumpable": False, "core_limit": 0, "capabilities": "none", "landlock": None,
                                      "seccomp": "default"}
    api.patch_drive("rootfs", {"path_on_host": "other.img"})
    found = status(running.pid, running.pid)
    assert {key: int(found[key], 16) for key in SETS} == dict.fromkeys(SETS, 0)
    assert finish(running).err.count("Landlock: ") == 1


def test_root_needs_permissions_like_everybody(mayfly):
    """A program of another user's that waits for the guest's connection has to let root's Mayfly in, which says so if it does not."""
    path = mayfly.directory / "v.socket_5000"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        os.chmod(path, 0o755)
        os.chown(path, 65534, 65534)
        running = mayfly.start(machine(artifact("tests/guest/guest.elf"), "console=ttyS0 mayfly.test='vsock client 5000 bytes=1 refused=1'",
                                       vsock={"guest_cid": 3, "uds_path": "v.socket"}), cwd=mayfly.directory)
        outcome = running.wait()
    assert outcome.code == 0 and "0 failed" in outcome.out, outcome
    assert "vsock: v.socket_5000: Permission denied (needs to be writable by uid 0)" in outcome.err
