"""The jailer: what a program in it has and has not, what is left behind, and who can fool it."""

import contextlib
import fcntl
import json
import os
import re
import select
import shutil
import signal
import socket
import stat
import subprocess
import tempfile
import time
from pathlib import Path

import pytest

from harness import BAD_ARGUMENTS, BAD_CONFIG, HOST_CANNOT, PATIENCE, ROOT, artifact, drive, machine
from jailer import GID, UID, Jailer, Report, build_probe, mount_points, namespaces, tree
from mayfly import Api

EPERM, ENOENT, EACCES, EINVAL = "1", "2", "13", "22"
NO_LIMIT = 2**64 - 1
EVERY_NS = ("--new-pid-ns", "--new-user-ns", "--new-net-ns", "--new-ipc-ns", "--new-uts-ns")
V1 = Path("/sys/fs/cgroup/memory/cgroup.procs").exists()


@pytest.fixture(scope="module")
def probe(tmp_path_factory):
    return build_probe(tmp_path_factory.mktemp("probe"))


@pytest.fixture(params=["release", "debug"])
def jailer(request, tmp_path, probe):
    instance = Jailer(request.param, tmp_path, probe)
    yield instance
    instance.close()


@pytest.fixture
def outside(tmp_path):
    """A place nothing may reach, with a secret in it."""
    path = tmp_path / "outside"
    path.mkdir()
    (path / "secret").write_text("secret")
    return path


def ready(running):
    """The probe has said everything and waits."""
    running.expect(rb"\ndone\n")
    return Report(bytes(running.out.data).decode())


def wait_gone(pid, timeout=10):
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        assert select.select([fd], [], [], timeout)[0], f"process {pid} lives on"
    finally:
        os.close(fd)


def wait_until(condition):
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def process_file(pid, name):
    """What /proc has of a process, empty once that is gone."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{pid}/{name}").read_bytes()
    return b""


def files_of(pid):
    """What its descriptors are; one may go while we look."""
    found = set()
    for fd in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(FileNotFoundError):
            found.add(os.readlink(f"/proc/{pid}/fd/{fd}"))
    return found


# ---- what is inside ----

def test_what_a_program_sees(jailer):
    report = jailer.report(env={"SECRET": "x", "PATH": "/bin"}, extra_groups=[4242], what="one two")
    assert set(report.files) == {"/dev", "/dev/kvm", "/dev/net", "/dev/net/tun", "/dev/urandom", "/dev/userfaultfd", "/run", "/probe.pid"}
    for name, (mode, uid, gid, device) in report.files.items():
        if name == "/probe.pid":
            assert (mode, uid, gid) == (0o100644, 0, 0)
            continue
        assert (uid, gid) == (UID, GID), name
        st = os.stat(name)
        expected = (0o20600, f"{os.major(st.st_rdev)}:{os.minor(st.st_rdev)}") if stat.S_ISCHR(st.st_mode) else (0o40700, "0:0")
        assert (mode, device) == expected, name
    assert report.one("uid") == f"{UID} {UID} {UID}" and report.one("gid") == f"{GID} {GID} {GID}"
    assert report.all("group") == [] and report.all("env") == [] and report.all("blocked") == []
    assert report.all("fd") == ["0", "1", "2"]
    assert report.table("cap") == {"effective": "000000000", "permitted": "000000000", "inheritable": "000000000", "bounding": "0"}
    assert report.one("no_new_privs") == "1" and report.one("cwd") == "/" and report.one("deathsig") == "0"
    args = report.all("arg")
    assert args[:3] == ["/probe", "--id", "vm1"] and args[3:9:2] == ["--start-time-us", "--start-time-cpu-us", "--parent-cpu-time-us"]
    assert args[9:] == ["--allow-path", "/", "one two"]
    assert 0 < time.monotonic() * 1e6 - int(args[4]) < 60e6 and 0 < int(args[6]) < 10e6 and 0 < int(args[8]) < 10e6


@pytest.mark.parametrize("more", [[], ["--new-user-ns"], EVERY_NS, ["--new-pid-ns"]], ids=lambda m: "+".join(m) or "plain")
def test_no_way_out(jailer, more):
    words = [*more, "--cleanup"]
    report = jailer.report(*words, what="escape")
    assert report.table("try") == {
        "climb": "stays", "mount": EPERM, "umount": EPERM, "remount": EPERM, "mknod": EPERM, "chroot": EPERM, "netdev": EPERM,
        "hostname": EPERM, "setgroups": EPERM, "setuid": EINVAL if "--new-user-ns" in more else EPERM, "proc": ENOENT, "urandom": "ok", "kvm": "ok",
        "tun": "ok", "userfaultfd": "ok", "write": "ok", "exec": EACCES,
    }
    assert report.table("cap")["bounding"] == "0"


@pytest.mark.parametrize("more,new", [
    ([], {"mnt"}), (["--new-pid-ns"], {"mnt", "pid"}), (["--new-user-ns"], {"mnt", "user"}), (["--new-net-ns"], {"mnt", "net"}),
    (["--new-ipc-ns"], {"mnt", "ipc"}), (["--new-uts-ns"], {"mnt", "uts"}), (EVERY_NS, {"mnt", "pid", "user", "net", "ipc", "uts"}),
], ids=lambda m: "+".join(sorted(m)))
def test_namespaces(jailer, more, new):
    running = jailer.start(*more, "--daemonize", what="pause", stdin=subprocess.PIPE)
    assert running.process.wait(PATIENCE) == 0
    pid = jailer.pid()
    try:
        ours, theirs = namespaces("self"), namespaces(pid)
        assert {name for name in ours if ours[name] != theirs[name]} == new
        assert mount_points(pid) == ["/"]
        assert os.readlink(f"/proc/{pid}/cwd") == "/" and Path(f"/proc/{pid}/comm").read_text().strip() in ("probe", *"0123456789", "10", "11", "12")
        wait_until(lambda: files_of(pid) == {"/dev/null"})  # the probe reads directories first
        if "--new-user-ns" in more:
            assert Path(f"/proc/{pid}/uid_map").read_text().split() == [str(UID), str(UID), "1"]
    finally:
        os.kill(pid, signal.SIGKILL)
        wait_gone(pid)


def test_process_of_its_own(jailer):
    """Firecracker's: the program has the PID of the jailer, and the PID file says so."""
    running = jailer.start(what="hold", stdin=subprocess.PIPE)
    report = ready(running)
    assert int(report.one("pid")) == running.pid == jailer.pid()
    assert not jailer.root().parent.joinpath(".jailer.lock").exists()
    running.process.stdin.close()
    assert running.wait().code == 0


def test_new_pid_namespace(jailer):
    running = jailer.start("--new-pid-ns", what="hold", stdin=subprocess.PIPE)
    report = ready(running)
    assert running.process.wait(PATIENCE) == 0
    pid = jailer.pid()
    assert report.one("pid") == "1" and pid != running.pid
    assert f"NSpid:\t{pid}\t1" in Path(f"/proc/{pid}/status").read_text()
    running.process.stdin.close()
    wait_gone(pid)


@pytest.mark.parametrize("more", [[], ["--new-pid-ns"], ["--cleanup"], ["--new-pid-ns", "--cleanup"]], ids=lambda m: "+".join(m) or "plain")
def test_daemonize(jailer, more):
    running = jailer.start("--daemonize", *more, what="pause")
    outcome = running.wait()
    assert outcome.code == 0 and not outcome.out and not outcome.err
    assert running.out.ended and running.err.ended, "someone still holds the caller's pipes"
    pid = jailer.pid()
    assert os.getsid(pid) not in (os.getsid(0), running.pid) and os.getsid(pid) != pid
    assert {os.readlink(f"/proc/{pid}/fd/{fd}") for fd in range(3)} == {"/dev/null"}
    os.kill(pid, signal.SIGKILL)
    wait_gone(pid)
    if "--cleanup" in more:
        wait_until(lambda: not jailer.root().parent.exists())


def test_daemon_that_cannot_start_says_so(jailer, probe, tmp_path):
    late = tmp_path / "not-executable"
    late.write_bytes(probe.read_bytes())
    late.chmod(0o700)
    jailer.refused(BAD_CONFIG, "--exec-file: .*executable by uid", "--daemonize", program=late)


def test_host_name(jailer):
    assert jailer.report("--new-uts-ns").one("host") == "vm1"
    assert os.uname().nodename != "vm1"


def test_limits(jailer):
    report = jailer.report("--resource-limit", "no-file=77", "--resource-limit", "fsize=4096")
    assert report.all("limit") == ["no-file 77 77", "fsize 4096 4096"]
    report = jailer.report(name="vm2")
    assert report.all("limit") == ["no-file 2048 2048", f"fsize {NO_LIMIT} {NO_LIMIT}"]


def test_umask_is_the_callers(jailer):
    assert jailer.report(umask=0o27).one("umask") == "27"


def test_network_namespace(jailer, namespace):
    path = f"/proc/{namespace.holder.pid}/ns/net"
    running = jailer.start("--netns", path, what="hold", stdin=subprocess.PIPE)
    ready(running)
    assert os.readlink(f"/proc/{running.pid}/ns/net") == os.readlink(path)


def test_mounts_of_the_host_are_not_copied(jailer, tmp_path):
    """The namespace that is copied is the kernel's own small one; where that is out of sight, as in a container, the whole."""
    trace = tmp_path / "trace"
    jailer.wrapper = ("strace", "-f", "-qq", "-a", "0", "-e", "trace=setns,unshare", "-o", trace)
    jailer.report(what="escape")
    assert re.search(r"setns\(\d+, CLONE_NEWNS\) = 0\n.*unshare\(CLONE_NEWNS\) = 0\n", trace.read_text())
    jailer.wrapper = ("unshare", "--fork", "--pid", "--mount-proc", *jailer.wrapper)
    report = jailer.report(name="vm2", what="escape")
    assert "setns(" not in trace.read_text() and "unshare(CLONE_NEWNS) = 0" in trace.read_text()
    assert report.table("try")["climb"] == "stays" and set(report.files) > {"/dev/kvm", "/run"}


# ---- binds ----

def test_binds(jailer, tmp_path):
    (tmp_path / "disk").write_text("disk")
    (tmp_path / "link").symlink_to("disk")
    (tmp_path / "a:b").mkdir()
    (tmp_path / "a:b" / "file").write_text("inside")
    os.chmod(tmp_path / "disk", 0o666)
    binds = ["--bind", f"{tmp_path}/disk:/disks/one/rw", "--bind", f"{tmp_path}/link:ro.img:ro", "--bind", f"{tmp_path}/a:b:/dir"]
    report = jailer.report(*binds, what="cat=/disks/one/rw")
    assert report.one("read") == "4 disk" and report.table("try")["append"] == "ok"
    assert report.files["/dir/file"] and report.files["/disks"][1:3] == (0, 0)
    report = jailer.report(*binds, "--new-user-ns", name="vm2", what="cat=/ro.img")
    assert report.one("read") == "4 disk" and report.table("try")["append"] == "30"  # EROFS
    assert (jailer.root() / "ro.img").read_text() == "", "a place for the mount is all that the host has"


def test_bind_of_a_device(jailer):
    report = jailer.report("--bind", "/dev/zero:/zero", what="cat=/zero", user=(UID, GID))
    assert report.one("read").startswith("255")


def test_what_the_host_mounts_later_is_seen(jailer, tmp_path):
    """Kata Containers hands disks to a jail that runs so."""
    (tmp_path / "disk").write_text("later")
    jailer.wrapper = ("unshare", "-m", "--propagation", "private", "sh", "-c",
                      f"mount --bind {jailer.base} {jailer.base} && mount --make-shared {jailer.base} && mkdir -p {jailer.root()} && touch {jailer.root()}/disk "
                      f"&& {{ sleep 60 & echo $!; }} && exec \"$@\"", "sh")
    running = jailer.start(what="hold", stdin=subprocess.PIPE)
    ready(running)
    holder = int(bytes(running.out.data).split()[0])
    try:
        subprocess.run(["nsenter", "-t", str(holder), "-m", "mount", "--bind", tmp_path / "disk", jailer.root() / "disk"], check=True, timeout=10)
        assert mount_points(running.pid) == ["/", "/disk"]
    finally:
        os.kill(holder, signal.SIGKILL)


# ---- descriptors ----

def test_descriptors(jailer):
    reader, writer = os.pipe()
    other = os.open("/dev/zero", os.O_RDONLY)
    try:
        report = jailer.report("--pass-fd", str(writer), pass_fds=[reader, writer, other])
        assert report.all("fd") == ["0", "1", "2", str(writer)]
    finally:
        for fd in (reader, writer, other):
            os.close(fd)


def test_descriptors_that_lead_out(jailer, outside):
    fd = os.open(outside, os.O_RDONLY)
    try:
        jailer.refused(BAD_ARGUMENTS, f"--pass-fd {fd}: a directory", "--pass-fd", str(fd), pass_fds=[fd])
        jailer.refused(BAD_ARGUMENTS, "standard descriptor 0: a directory", stdin=fd)
    finally:
        os.close(fd)
    jailer.refused(BAD_ARGUMENTS, "--pass-fd 99: not open", "--pass-fd", "99")


def test_closed_standard_descriptors(jailer):
    """What is opened next must not take their numbers."""
    out = jailer.directory / "out"
    argv = " ".join(map(str, jailer.argv(what="hold")))
    subprocess.run(["sh", "-c", f"{argv} <&- >{out} 2>&-"], check=True, timeout=PATIENCE, env={"ASAN_OPTIONS": "detect_leaks=0"})
    assert Report(out.read_text()).all("fd") == ["0", "1", "2"]


# ---- the end ----

@pytest.mark.parametrize("what,code", [("exit=0", 0), ("exit=9", 9), ("kill=6", 134)])
@pytest.mark.parametrize("more", [[], EVERY_NS], ids=["plain", "namespaces"])
def test_cleanup(jailer, what, code, more):
    outcome = jailer.run("--cleanup", *more, what=what)
    assert outcome.code == (0 if more and what == "kill=6" else code), outcome  # init of a PID namespace does not die of its own signals
    assert not outcome.err and set(tree(jailer.base)) == {".", "probe"}


def test_cleanup_of_litter(jailer, outside):
    """A directory three thousand deep, names in the way, links out: all goes, and nothing else does."""
    before = tree(outside)
    outcome = jailer.run("--cleanup", what=f"litter={outside}")
    assert "littered" in outcome.out and outcome.code == 0 and not outcome.err
    assert set(tree(jailer.base)) == {".", "probe"} and tree(outside) == before


@pytest.mark.parametrize("where,what", [
    ("", "exit=0"), ("mounted", "exit=0"), ("root/mounted", "exit=0"), ("root/disks of a client/mounted", "exit=0"),
    ("root/disks/mounted", "litter=/"), ("root/" + "d/" * 40 + "mounted", "litter=/"),
], ids=["itself", "beside", "inside", "below", "litter", "litter-deep"])
def test_cleanup_leaves_what_the_host_mounted(jailer, outside, where, what):
    """Where it is, and as it is, also where directories have to move for others to be removed."""
    inside = jailer.root().parent / where
    inside.mkdir(parents=True)
    subprocess.run(["mount", "--bind", outside, inside], check=True, timeout=10)
    try:
        outcome = jailer.run("--cleanup", what=what)
        assert outcome.code == 0 and len(outcome.lines()) == 1
        assert re.search("--cleanup: .*%s: mounted by the host, and left " % re.escape(str(inside)[-100:]), outcome.err.replace(r"\040", " ")), outcome.err
        assert (outside / "secret").read_text() == "secret" and inside.samefile(outside)
        if what == "exit=0" and where:
            assert os.listdir(inside.parent) == ["mounted"]
    finally:
        subprocess.run(["umount", inside], check=True, timeout=10)
        subprocess.run(["rm", "-rf", jailer.root().parent], check=True, timeout=PATIENCE)  # nothing else gets so deep


@pytest.mark.parametrize("more", [[], ["--new-user-ns"], ["--new-pid-ns"], ["--daemonize"]], ids=lambda m: "+".join(m) or "plain")
def test_cleanup_ends_what_the_program_left(jailer, more):
    """Children that left its session and lost their parent, some making others without rest; and nobody else's."""
    jailer.wrapper = ("sh", "-c", 'sleep 600 <&- >&- 2>&- & echo "helper $!"; exec "$@"', "sh")
    running = jailer.start("--cleanup", *more, what="leave=20", stdin=subprocess.PIPE)
    helper = int(running.expect(rb"helper (\d+)\n")[1])
    marked = f"/{jailer.probe.name}\0--id\0vm1\0".encode()
    try:
        outcome = running.wait()
        assert outcome.code == 0 and not outcome.err, outcome
        wait_until(lambda: not jailer.root().parent.exists())
        left = {os.getpgid(int(pid)) for pid in os.listdir("/proc") if pid.isdigit() and process_file(pid, "cmdline").startswith(marked)}
        for group in left:
            os.killpg(group, signal.SIGKILL)
        assert not left
        assert process_file(helper, "cmdline").startswith(b"sleep")
    finally:
        os.kill(helper, signal.SIGKILL)


@pytest.mark.parametrize("number,code", [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_signals_reach_the_program(jailer, number, code):
    running = jailer.start("--cleanup", what="pause")
    ready(running)
    running.signal(number)
    assert running.wait().code == code
    assert set(tree(jailer.base)) == {".", "probe"}


def test_program_ends_with_the_process_that_would_clean_up(jailer):
    running = jailer.start("--cleanup", what="pause")
    ready(running)
    pid = jailer.pid()
    assert pid != running.pid
    running.signal(signal.SIGKILL)
    wait_gone(pid)


def test_waiting_process_has_little_left(jailer):
    running = jailer.start("--cleanup", what="pause")
    ready(running)
    wait_until(lambda: "CapPrm:\t000000000000002a\nCapEff:\t000000000000002a\n" in Path(f"/proc/{running.pid}/status").read_text())


# ---- processes that end before the program runs ----

def children(pid):
    return [int(word) for word in process_file(pid, f"task/{pid}/children").split()]


@pytest.mark.parametrize("more", [["--new-pid-ns"], ["--cleanup"], [*EVERY_NS, "--cleanup"], ["--daemonize"], ["--daemonize", "--cleanup"]],
                         ids=lambda m: "+".join(m))
@pytest.mark.parametrize("call", ["pivot_root", "execveat"])
def test_killed_before_the_program_runs(jailer, more, call):
    """No start, although the pipe that an exec closes is closed by that, too."""
    jailer.wrapper = ("strace", "-f", "-qq", "-o", "/dev/null", "-e", f"trace={call}", "-e", f"inject={call}:signal=KILL")
    jailer.refused(HOST_CANNOT, "process: ended by signal 9 before it ran the program", *more)


@pytest.mark.host_has(V1)
@pytest.mark.parametrize("more", [["--new-pid-ns"], ["--daemonize", "--cleanup"]], ids=lambda m: "+".join(m))
def test_too_little_memory_to_start(jailer, parent, more):
    jailer.refused(HOST_CANNOT, "process: ended by signal 9 before it ran the program .*--memory-max", *more, "--parent-cgroup", parent,
                   "--memory-max", "4K")


def test_daemon_killed_before_it_can_say_how_it_went(jailer):
    jailer.wrapper = ("strace", "-f", "-qq", "-o", "/dev/null", "-e", "trace=clone3", "-e", "inject=clone3:signal=KILL:when=1")
    outcome = jailer.run("--daemonize")
    assert outcome.code == HOST_CANNOT and "process: ended before it could say" in outcome.err, outcome


@pytest.mark.parametrize("more", [[], EVERY_NS], ids=lambda m: "+".join(m) or "plain")
def test_jailer_killed_before_its_end_would_be_noticed(jailer, more):
    """The program is not started without the process that would clean up after it."""
    jailer.wrapper = ("strace", "-f", "-qq", "-o", "/dev/null", "-e", "trace=pivot_root", "-e", "inject=pivot_root:delay_enter=1000000")
    running = jailer.start("--cleanup", *more, what="pause")
    wait_until(lambda: any(children(pid) for pid in children(running.pid)))
    (keeper, (child,)), = ((pid, children(pid)) for pid in children(running.pid))
    os.kill(keeper, signal.SIGKILL)
    wait_gone(child)
    assert "the jailer has ended before the program began" in running.wait().err


# ---- nothing is left of what failed ----

def test_undone(jailer, tmp_path, probe):
    """Whatever goes wrong, and however late: the host is as it was."""
    late = tmp_path / "not-executable"
    late.write_bytes(probe.read_bytes())
    late.chmod(0o700)
    text = tmp_path / "text"
    text.write_text("#!/bin/sh\n")
    text.chmod(0o755)
    odd = tmp_path / "odd"
    odd.write_bytes(probe.read_bytes()[:56] + b"\0\0" + probe.read_bytes()[58:])  # without segments: execve alone minds
    odd.chmod(0o755)
    foreign = tmp_path / "foreign"
    foreign.write_bytes(probe.read_bytes()[:18] + b"\xb7\0" + probe.read_bytes()[20:])
    kept = jailer.root()
    (kept / "empty").mkdir(parents=True)
    (kept / "kernel").write_text("put here by a client")
    for more in ([], ["--new-pid-ns"], ["--cleanup"], ["--new-user-ns"], ["--new-user-ns", "--new-pid-ns"], ["--daemonize", "--cleanup"]):
        jailer.refused(BAD_CONFIG, "--exec-file: .*executable by uid", *more, program=late)
        if more != ["--new-user-ns"]:  # the one case in which execve comes too late to undo: hence the checks before it
            jailer.refused(BAD_CONFIG, "--exec-file: .*Exec format error", *more, program=odd)
        jailer.refused(BAD_CONFIG, "--exec-file: .*x86-64", *more, program=foreign)
        jailer.refused(BAD_CONFIG, "--exec-file: .*not a program", *more, program=text)
        jailer.refused(BAD_CONFIG, "--exec-file: .*linked statically", *more, program="/usr/bin/true")
        jailer.refused(BAD_CONFIG, "--exec-file: .*not a file", *more, program="/dev/null")
        jailer.refused(BAD_CONFIG, "--exec-file: .*ends in a slash", *more, program=f"{probe}/")
        jailer.refused(BAD_CONFIG, "/kernel: is a file", *more, "--bind", f"{tmp_path}:/kernel")
        jailer.refused(BAD_CONFIG, "/empty: is a directory", *more, "--bind", f"{text}:/empty")
        jailer.refused(BAD_CONFIG, "--netns: .*not a network namespace", *more, "--netns", "/proc/self/ns/mnt")
        jailer.refused(BAD_CONFIG, "--netns: .*not a network namespace", *more, "--netns", text)
        jailer.refused(BAD_CONFIG, "--bind: .*No such file", *more, "--bind", f"{tmp_path}/missing:/x")
        jailer.refused(BAD_CONFIG, "/kernel: is a file", *more, "--bind", f"{text}:/a/b", "--bind", f"{text}:/kernel/x")
        jailer.refused(HOST_CANNOT, "cgroup: nosuch", *more, "--cgroup-version", "1", "--cgroup", "nosuch.file=1")
        jailer.refused(BAD_CONFIG, "--io-max: .*/missing: No such file", *more, "--io-max", f"{tmp_path}/missing:rbps=1M")
        jailer.refused(BAD_CONFIG, "--io-max: .*/proc: on no disk", *more, "--io-max", "/proc:rbps=1M")
    report = jailer.report(what="exit=0")
    assert report.files["/kernel"][1] == 0


def test_host_without_kvm(jailer):
    """Its fault, and not that of a path on the command line."""
    jailer.wrapper = ("unshare", "-m", "--propagation", "private", "sh", "-c", 'mount --bind /etc/hostname /dev/kvm; exec "$@"', "sh")
    jailer.refused(HOST_CANNOT, "/dev/kvm: not there")


@pytest.mark.parametrize("more", [[], ["--new-pid-ns", "--new-user-ns"], ["--daemonize", "--cleanup"]], ids=lambda m: "+".join(m) or "plain")
def test_few_descriptors(jailer, more, parent, tmp_path):
    """However few there are, it starts the program or says that they are too few, and leaves nothing."""
    words = ["--bind", f"{tmp_path}:/some/where", *dict.fromkeys([*more, "--cleanup"])]
    words += ["--memory-max", "1G", "--parent-cgroup", parent] if V1 else []
    for most in range(4 if jailer.name == "release" else 8, 64):
        jailer.wrapper = ("prlimit", f"--nofile={most}")
        outcome = jailer.run(*words)
        if outcome.code == 0:
            break
        assert outcome.code == HOST_CANNOT and re.search("No file descriptors available|Too many open files", outcome.err), (most, outcome)
        assert set(tree(jailer.base)) <= {".", "probe"}, most
    assert 10 < most < 40 and not outcome.err
    wait_until(lambda: not jailer.root().parent.exists())
    assert set(tree(jailer.base)) == {".", "probe"}


@pytest.mark.parametrize("more", [[], ["--cleanup"]], ids=lambda m: "+".join(m) or "plain")
def test_second_with_the_same_id(jailer, more):
    first = jailer.start(*more, what="hold", stdin=subprocess.PIPE)
    ready(first)
    jailer.refused(BAD_CONFIG, "--id: vm1: a jail with this id", what="hold")
    jailer.refused(BAD_CONFIG, "--id: vm1: a jail with this id", "--cleanup", "--new-pid-ns")
    assert first.process.poll() is None and (more or jailer.pid() == first.pid)
    if more:  # a program that removes what it can
        shutil.rmtree(jailer.root() / "dev")
        (jailer.root() / "probe.pid").unlink()
        jailer.refused(BAD_CONFIG, "--id: vm1: a jail with this id", "--cleanup")
    first.process.stdin.close()
    assert first.wait().code == 0


def test_second_while_the_first_is_removed(jailer):
    """It is refused until all is gone, and whoever is not has a whole jail. Each removal takes ten milliseconds here."""
    for number in range(30):
        (jailer.root() / f"of a client/{number}").mkdir(parents=True)
    jailer.wrapper = ("strace", "-qq", "-o", "/dev/null", "-e", "trace=unlinkat", "-e", "inject=unlinkat:delay_enter=10000")
    first = jailer.start("--cleanup", what="hold", stdin=subprocess.PIPE)
    ready(first)
    jailer.wrapper = ()
    first.process.stdin.close()
    refused = 0
    while True:
        second = jailer.start("--cleanup", what="hold", stdin=subprocess.PIPE)
        wait_until(lambda: second.process.poll() is not None or b"\ndone\n" in second.out.data)
        if second.process.poll() is None:
            break
        outcome = second.wait()
        assert outcome.code == BAD_CONFIG and "--id: vm1: a jail with this id" in outcome.err, outcome
        refused += 1
    assert refused and first.wait().code == 0
    assert set(tree(jailer.root())) == {".", "probe.pid", "run", "dev", "dev/kvm", "dev/net", "dev/net/tun", "dev/urandom", "dev/userfaultfd"}
    second.process.stdin.close()
    assert second.wait().code == 0 and set(tree(jailer.base)) == {".", "probe"}


def test_many_with_the_same_id_at_once(jailer, tmp_path):
    """One of them runs; the others, whatever they had begun, take nothing from it."""
    gate = (tmp_path / "gate").open("w")
    jailer.wrapper = ("flock", "--no-fork", "--shared", gate.name)
    for _ in range(8):
        (jailer.root() / "dev").mkdir(parents=True)
        fcntl.flock(gate, fcntl.LOCK_EX)
        running = [jailer.start("--cleanup", what="hold", stdin=subprocess.PIPE) for _ in range(10)]
        wait_until(lambda: all(Path(f"/proc/{r.pid}/stat").read_text().split()[1:3] == ["(flock)", "S"] for r in running))
        fcntl.flock(gate, fcntl.LOCK_UN)
        codes = []
        while len(codes) < 9:
            alive = {os.pidfd_open(r.pid): r for r in running}
            done = select.select(list(alive), [], [], PATIENCE)[0]
            for fd in alive:
                os.close(fd)
            ended = [r for fd, r in alive.items() if fd in done]
            assert ended, "more than one runs"
            codes += [r.wait().code for r in ended]
            running = [r for r in running if r not in ended]
        assert codes == [BAD_CONFIG] * 9
        ready(running[0])
        pid = jailer.pid()
        assert f"PPid:\t{running[0].pid}\n" in Path(f"/proc/{pid}/status").read_text()
        found = tree(jailer.root())
        assert set(found) == {".", "probe.pid", "run", "dev", "dev/kvm", "dev/net", "dev/net/tun", "dev/urandom", "dev/userfaultfd"}
        assert {what[1:3] for name, what in found.items() if name != "probe.pid"} == {(UID, GID)} and found["dev"][0] == "0o40700"
        running[0].process.stdin.close()
        assert running[0].wait().code == 0 and set(tree(jailer.base)) == {".", "probe"}
    gate.close()


# ---- hostile paths ----

@pytest.mark.parametrize("name", ["", "..", "../x", "a/b", "a_b", "a.b", "a" * 65, "é", "a\n"])
def test_ids(jailer, name):
    jailer.refused(BAD_ARGUMENTS, "--id: ", name=name)


def test_longest_id(jailer):
    assert jailer.report(name="a" * 64).all("arg")[2] == "a" * 64


@pytest.mark.parametrize("where", ["", "probe", "probe/vm1", "probe/vm1/root", "probe/vm1/root/dev", "probe/vm1/root/dev/net", "probe/vm1/root/run",
                                   "probe/vm1/root/disks"])
def test_symbolic_links_on_the_way(jailer, outside, where):
    """Whoever had the jail before may have left a link: nothing is made where it leads, nobody gets what it leads to."""
    link = jailer.base / where
    if not where:
        jailer.base = jailer.directory / "of-someone-else"
        link = jailer.base
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(outside)
    os.lchown(link, UID, GID)
    before = tree(outside)
    outcome = jailer.run("--bind", "/etc/hostname:/disks/x")
    assert outcome.code == BAD_CONFIG and len(outcome.lines()) == 1, outcome
    assert tree(outside) == before


@pytest.mark.parametrize("where", ["", "probe", "probe/vm1", "probe/vm1/root", "probe/vm1/root/dev"])
def test_directories_of_someone_else(jailer, where):
    path = jailer.base / where
    path.mkdir(parents=True, exist_ok=True)
    os.chown(path, 4711, 4711)
    jailer.refused(BAD_CONFIG, "belongs to someone else")


@pytest.mark.parametrize("where", ["", "probe", "probe/vm1"])
def test_directories_that_others_can_write_to(jailer, where):
    path = jailer.base / where
    path.mkdir(parents=True, exist_ok=True)
    path.chmod(0o777)
    jailer.refused(BAD_CONFIG, "others can write")
    path.chmod(0o775)
    jailer.refused(BAD_CONFIG, "others can write")


def test_roots_own_links_are_followed(jailer):
    """As /var/run is one."""
    link = jailer.directory / "link"
    link.symlink_to("jails/../jails")
    real, jailer.base = jailer.base, link
    assert jailer.report().one("cwd") == "/"
    assert real.joinpath("probe/vm1/root/probe.pid").exists()


def test_name_of_a_linked_program(jailer):
    """The name as given counts: a link called firecracker gets Firecracker's paths."""
    link = jailer.directory / "firecracker"
    link.symlink_to(jailer.probe)
    report = jailer.report(program=link)
    assert report.all("arg")[0] == "/firecracker" and (jailer.base / "firecracker/vm1/root/firecracker.pid").exists()


def test_links_of_others_to_what_is_named(jailer, outside):
    link = jailer.directory / "probe"
    link.symlink_to(jailer.probe)
    os.lchown(link, UID, GID)
    jailer.refused(BAD_CONFIG, "--exec-file: .*symbolic link", program=link)
    secret = jailer.directory / "disk"
    secret.symlink_to(outside / "secret")
    os.lchown(secret, UID, GID)
    jailer.refused(BAD_CONFIG, "--bind: .*symbolic link", "--bind", f"{secret}:/disk")
    loop = jailer.directory / "loop"
    loop.symlink_to("loop")
    jailer.refused(BAD_CONFIG, "--bind: .*(Too many levels|Symbolic link loop)", "--bind", f"{loop}:/disk")


@pytest.mark.parametrize("target", ["../x", "/../x", "a/../../x", ".", "/", "", "a//b", "a/./b", "x/"])
def test_bind_targets_that_climb(jailer, target):
    jailer.refused(BAD_ARGUMENTS, "--bind: ", "--bind", f"/etc/hostname:{target}")


@pytest.mark.parametrize("parent", ["..", "/", "/x", "//x", "a/../b", "a//..", "./a", ""])
def test_parent_cgroups_that_climb(jailer, parent):
    jailer.refused(BAD_ARGUMENTS, "--parent-cgroup: ", "--parent-cgroup", parent)


@pytest.mark.parametrize("what", ["link", "file", "directory"])
def test_planted_pid_file(jailer, outside, what):
    jailer.root().mkdir(parents=True)
    path = jailer.root() / "probe.pid"
    {"link": lambda: path.symlink_to(outside / "secret"), "file": path.touch, "directory": path.mkdir}[what]()
    os.chown(path, UID, GID, follow_symlinks=False)
    jailer.refused(BAD_CONFIG, "--id: vm1: ")
    assert (outside / "secret").read_text() == "secret"


def test_a_user_who_swaps_directories(jailer, probe, outside):
    """
    A process of the jail's user, outside of it, exchanges a directory of the jail and a link to a secret one without rest,
    while jails are made, undone and removed there.
    """
    disks = jailer.root() / "disks"
    disks.mkdir(parents=True)
    (outside / "x").write_text("not yours")
    (outside / "sub").mkdir()
    (outside / "sub" / "x").write_text("neither")
    before = tree(outside)
    os.chown(jailer.root(), UID, GID)
    os.chown(disks, UID, GID)
    late = jailer.directory / "late" / probe.name
    late.parent.mkdir()
    late.write_bytes(probe.read_bytes())
    late.chmod(0o700)
    swap = f"import ctypes, os\nos.chdir('{disks}')\nos.setgid({GID}); os.setuid({UID})\nos.mkdir('a'); os.symlink('{outside}', 'b')\n" \
           "print('go', flush=True)\nexchange = ctypes.CDLL(None).renameat2\nwhile exchange(-100, b'a', -100, b'b', 2) == 0:\n pass\n"
    with subprocess.Popen(["/usr/bin/python3", "-c", swap], stdout=subprocess.PIPE) as swapper:
        try:
            assert swapper.stdout.readline() == b"go\n"
            for _ in range(40):  # in a process of its own: the one that undoes still sees the host
                outcome = jailer.run("--new-pid-ns", "--bind", "/etc/hostname:/disks/a/sub/x", "--bind", "/etc/hostname:/disks/a/x", program=late)
                assert outcome.code in (BAD_CONFIG, HOST_CANNOT) and tree(outside) == before, outcome
            assert swapper.poll() is None
            jailer.run("--cleanup")
            assert tree(outside) == before
        finally:
            swapper.kill()


# ---- what a caller hands on without knowing ----

@pytest.mark.parametrize("more", [[], ["--new-pid-ns"], EVERY_NS], ids=lambda m: "+".join(m) or "plain")
def test_ambient_capabilities_stay_outside(jailer, more):
    """As systemd's AmbientCapabilities= gives them: exec hands them on unless somebody takes them."""
    some = "+sys_admin,+sys_ptrace,+dac_override"
    jailer.wrapper = ("setpriv", "--inh-caps", some, "--ambient-caps", some)
    caps = jailer.report(*more).table("cap")
    assert caps["effective"] == caps["permitted"] == "000000000", caps


def test_children_that_a_caller_ignores(jailer):
    """SIGCHLD ignored is inherited, and a child could not be waited for."""
    outcome = jailer.run("--cleanup", "--new-pid-ns", preexec_fn=lambda: signal.signal(signal.SIGCHLD, signal.SIG_IGN))
    assert outcome.code == 0, outcome
    assert not jailer.root().parent.exists()


def test_which_directory_is_in_the_way(jailer):
    """The sentence names that of the one jail, since whoever reads it may remove that."""
    running = jailer.start(what="hold", stdin=subprocess.PIPE)
    running.expect(rb"\ndone\n")
    jailer.refused(BAD_CONFIG, re.escape(f"left behind in {jailer.root().parent} ("))


# ---- cgroups ----

def cgroup(controller, name="vm1", parent="probe"):
    return Path(f"/sys/fs/cgroup/{controller}/{parent}/{name}")


@pytest.fixture
def parent(request):
    """A parent cgroup of the test's own, removed with all that is in it."""
    name = f"mayfly-test-{os.getpid()}"
    yield name
    for top in Path("/sys/fs/cgroup").iterdir():
        for path in sorted(top.glob(f"{name}/**/"), reverse=True):
            path.rmdir()


@pytest.mark.host_has(V1)
def test_cgroup_v1(jailer, parent):
    words = ["--parent-cgroup", f"{parent}//vms/", "--memory-max", "64M", "--cpu-max", "150%", "--cgroup", "cpuset.cpus=0",
             "--cgroup", "pids.max=5"]
    io = subprocess.run(["findmnt", "-no", "SOURCE", "/"], capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    if io.startswith("/dev/"):
        words += ["--io-max", f"{io}:rbps=10M,wiops=500"]
    running = jailer.start(*words, "--cleanup", what="hold", stdin=subprocess.PIPE)
    ready(running)
    pid = jailer.pid()

    def read(controller, name):
        return (cgroup(controller, parent=f"{parent}/vms") / name).read_text().strip()

    assert read("memory", "memory.limit_in_bytes") == str(64 << 20)
    assert (read("cpu", "cpu.cfs_quota_us"), read("cpu", "cpu.cfs_period_us")) == ("150000", "100000")
    assert read("cpuset", "cpuset.cpus") == "0" and read("cpuset", "cpuset.mems") == "0" and read("pids", "pids.max") == "5"
    if io.startswith("/dev/"):
        assert read("blkio", "blkio.throttle.read_bps_device").endswith(" 10485760")
        assert read("blkio", "blkio.throttle.write_iops_device").endswith(" 500")
    for controller in ("memory", "cpu", "cpuset", "pids"):
        assert read(controller, "cgroup.procs") == str(pid)
    jailer.refused(HOST_CANNOT, "cgroup: .*a process runs in it", *words, program=artifact("mayfly"))
    assert read("memory", "cgroup.procs") == str(pid)
    running.process.stdin.close()
    assert running.wait().code == 0
    for controller in ("memory", "cpu", "cpuset", "pids"):
        assert os.path.isdir(f"/sys/fs/cgroup/{controller}/{parent}/vms") and not cgroup(controller, parent=f"{parent}/vms").exists()


@pytest.mark.host_has(V1)
def test_cgroup_v1_limit_holds_and_failures_are_undone(jailer, parent):
    outcome = jailer.run("--parent-cgroup", parent, "--memory-max", "16M", "--cleanup", what="eat=64")
    assert outcome.code == 137
    jailer.refused(HOST_CANNOT, "cgroup: .*memory.limit_in_bytes: Invalid argument", "--parent-cgroup", parent, "--cpu-max", "50%",
                   "--cgroup", "memory.limit_in_bytes=x")
    assert not cgroup("cpu", parent=parent).exists() and not cgroup("memory", parent=parent).exists()
    # One that was already entered is left again first.
    private = jailer.directory / "private"
    shutil.copyfile(jailer.probe, private)
    private.chmod(0o700)
    jailer.refused(BAD_CONFIG, "executable by uid", "--parent-cgroup", parent, "--memory-max", "16M", program=private)
    assert not cgroup("memory", parent=parent).exists()
    # A dead one of the same name is used again, and stays when that fails.
    cgroup("memory", parent=parent).mkdir()
    jailer.refused(HOST_CANNOT, "cgroup: ", "--parent-cgroup", parent, "--cgroup", "memory.limit_in_bytes=x")
    assert cgroup("memory", parent=parent).exists()


@pytest.mark.host_has(V1)
def test_cgroup_v2_beside_v1(jailer, parent):
    jailer.refused(HOST_CANNOT, "cgroup: .*memory: this controller is not available", "--parent-cgroup", parent, "--cgroup-version", "2", "--memory-max", "1G")
    top = Path("/sys/fs/cgroup/unified") / parent
    assert jailer.report("--parent-cgroup", parent, "--cgroup-version", "2", name="vm2").one("cwd") == "/"
    assert not top.joinpath("vm2").exists()
    top.mkdir(exist_ok=True)
    running = jailer.start("--parent-cgroup", parent, "--cgroup-version", "2", name="vm3", what="hold", stdin=subprocess.PIPE)
    ready(running)
    assert top.joinpath("cgroup.procs").read_text().split() == [str(running.pid)]
    running.close()


# ---- without root ----

@pytest.fixture
def rootless(jailer):
    """The jailer as a user who may use KVM, and has nothing else."""
    with tempfile.TemporaryDirectory(prefix="mayfly-rootless-") as directory:
        home = Path(directory)
        home.chmod(0o755)
        kvm = home / "kvm"
        os.mknod(kvm, 0o20666, os.stat("/dev/kvm").st_rdev)
        kvm.chmod(0o666)
        jailer.base = home / "jails"
        jailer.base.mkdir()
        os.chown(jailer.base, UID, GID)
        for source in ("probe", "path"):
            program = Path(jailer.probe if source == "probe" else jailer.path)
            copy = home / program.name
            copy.write_bytes(program.read_bytes())
            copy.chmod(0o755)
            setattr(jailer, source, copy)
        jailer.wrapper = ("unshare", "-m", "--propagation", "private", "sh", "-c", f"mount --bind {kvm} /dev/kvm && cd / && exec setpriv "
                          f"--reuid {UID} --regid {GID} --groups 4242 --inh-caps=-all --bounding-set=-all -- \"$@\"", "sh")
        yield jailer
        jailer.close()


@pytest.mark.parametrize("more", [[], ["--new-pid-ns"], ["--cleanup"], EVERY_NS], ids=lambda m: "+".join(m) or "plain")
def test_rootless(rootless, more):
    (rootless.base / "mine").write_text("mine")
    os.chown(rootless.base / "mine", UID, GID)
    words = dict.fromkeys(["--new-user-ns", *more, "--bind"])
    report = rootless.report(*words, f"{rootless.base}/mine:/disk:ro", user=None, what="cat=/disk")
    assert report.one("uid") == f"{UID} {UID} {UID}" and report.one("gid") == f"{GID} {GID} {GID}"
    assert report.table("cap") == {"effective": "000000000", "permitted": "000000000", "inheritable": "000000000", "bounding": "0"}
    assert set(report.files) == {"/dev", "/dev/kvm", "/dev/net", "/dev/net/tun", "/dev/urandom", "/dev/userfaultfd", "/run", "/probe.pid", "/disk"}
    assert report.one("read") == "4 mine" and report.table("try")["append"] == "30"
    assert report.files["/dev/kvm"][0] == 0o20666 and report.all("fd") == ["0", "1", "2"]


def test_rootless_no_way_out(rootless):
    report = rootless.report("--new-user-ns", user=None, what="escape")
    tries = report.table("try")
    for name in ("net/tun", "userfaultfd"):  # they are the host's own, with the host's mode
        assert tries.pop(name.rpartition("/")[2]) == ("ok" if os.stat(f"/dev/{name}").st_mode & 0o6 == 0o6 else EACCES)
    assert tries == {"climb": "stays", "mount": EPERM, "umount": EPERM, "remount": EPERM, "mknod": EPERM, "chroot": EPERM, "netdev": EPERM,
                     "hostname": EPERM, "setgroups": EPERM, "setuid": EINVAL, "proc": ENOENT, "urandom": "ok", "kvm": "ok", "write": "ok", "exec": EACCES}


def test_rootless_cleanup_and_refusals(rootless, outside):
    outcome = rootless.run("--new-user-ns", "--cleanup", user=None, what=f"litter={outside}")
    assert "littered" in outcome.out and not outcome.err and set(tree(rootless.base)) == {".", "probe"}
    rootless.refused(HOST_CANNOT, "user: 12345 is not root .*--new-user-ns")
    rootless.refused(HOST_CANNOT, "only root can run it as someone else", "--new-user-ns", user=(1, 1))
    rootless.refused(HOST_CANNOT, "--netns: only root", "--new-user-ns", "--netns", "/proc/self/ns/net", user=None)
    os.chown(rootless.base, 4711, 4711)
    rootless.refused(BAD_CONFIG, "belongs to someone else", "--new-user-ns", user=None)


# ---- a microVM ----

GUEST = "tests/guest/guest.elf"


def vm_config(**options):
    return machine("/kernel", "console=ttyS0 mayfly.test='print HELLO; wait x'", **options)


@pytest.mark.parametrize("more", [[], EVERY_NS, [*EVERY_NS, "--cleanup", "--memory-max", "256M", "--cpu-max", "100%"]], ids=["plain", "namespaces", "all"])
def test_microvm(jailer, parent, more):
    """The real VMM with its API in the jail, and a guest that runs."""
    vmm = artifact("mayfly")
    running = jailer.start(*more, "--parent-cgroup", parent, "--bind", f"{artifact(GUEST)}:/kernel:ro", program=vmm, stdin=subprocess.PIPE)
    wait_until((jailer.root(program=vmm) / "run/firecracker.socket").exists)
    api = Api(jailer.root(program=vmm) / "run/firecracker.socket", PATIENCE)
    assert api.instance()["id"] == "vm1"
    api.put_boot_source(vm_config()["boot-source"])
    api.start()
    running.expect(b"HELLO")
    pid = jailer.pid(program=vmm)
    assert Path(f"/proc/{pid}/comm").read_text() == "mayfly\n"
    assert f"Uid:\t{UID}\t{UID}\t{UID}\t{UID}" in Path(f"/proc/{pid}/status").read_text()
    running.send(b"x")
    running.expect(b"guest: 2 steps, 0 failed")
    if "--cleanup" in more:
        assert running.wait().code == 0 and not jailer.root(program=vmm).parent.exists()
    else:
        wait_gone(pid)
    api.hang_up()


def test_microvm_without_root(rootless):
    vmm = rootless.base.parent / "mayfly"
    vmm.write_bytes(artifact("mayfly").read_bytes())
    kernel = rootless.base.parent / "guest.elf"
    kernel.write_bytes(artifact(GUEST).read_bytes())
    for path in (vmm, kernel):
        path.chmod(0o755)
    config = rootless.base.parent / "config.json"
    config.write_text(json.dumps(vm_config()))
    outcome_of = rootless.start(*EVERY_NS, "--cleanup", "--bind", f"{kernel}:/kernel:ro", "--bind", f"{config}:/config.json:ro", user=None,
                                program=vmm, what=["--no-api", "--config-file", "/config.json"], stdin=subprocess.PIPE)
    outcome_of.expect(b"HELLO")
    outcome_of.send(b"x")
    outcome = outcome_of.wait()
    assert outcome.code == 0 and "2 steps, 0 failed" in outcome.out, outcome
    assert set(tree(rootless.base)) == {".", "mayfly"}


@pytest.mark.parametrize("recipe,prefix", [("One microVM", ""), ("Without root", f"setpriv --reuid {UID} --regid {GID} --clear-groups")],
                         ids=["root", "rootless"])
def test_recipes_of_the_page(tmp_path, recipe, prefix):
    """docs/jailer.md, word by word, in a mount namespace where its paths exist."""
    page = (ROOT / "docs/jailer.md").read_text()
    words = page.split(f"**{recipe}")[1].split("```\n")[1]
    config = vm_config(drives=[] if prefix else [drive("root", "/root.ext4", is_read_only=True)])
    config["boot-source"] = {"kernel_image_path": "/vmlinux", "boot_args": "console=ttyS0 mayfly.test='print HELLO'"}
    (tmp_path / "vm1.json").write_text(json.dumps(config))
    (tmp_path / "recipe").write_text(f"set -e\ncd ~\n{words}")
    (tmp_path / "prepare").write_text(f"""set -e
        mount -t tmpfs -o mode=755 none /srv; mount -t tmpfs -o mode=755 none /usr/local/bin
        mkdir -p /srv/images /srv/home/bin
        mknod -m 666 /srv/kvm c 10 232; mount --bind /srv/kvm /dev/kvm
        cp {artifact("mayfly")} {artifact("mayfly-jailer")} /usr/local/bin; cp {artifact("mayfly")} /srv/home/bin
        cp {artifact(GUEST)} /srv/images/vmlinux; cp {artifact(GUEST)} /srv/home/vmlinux; truncate -s 1M /srv/images/root.ext4
        cp {tmp_path}/vm1.json {tmp_path}/recipe /srv; cp {tmp_path}/vm1.json /srv/home
        chmod 644 /srv/vm1.json /srv/home/vm1.json; chown -R {UID}:{GID} /srv/home
        export HOME=/srv/home
        {prefix} sh /srv/recipe || exit 1
        find /srv/jailer /srv/home/jails -mindepth 2 2>/dev/null || true
        """)
    result = subprocess.run(["unshare", "-m", "--propagation", "private", "sh", tmp_path / "prepare"], stdin=subprocess.DEVNULL,
                            capture_output=True, text=True, timeout=PATIENCE, check=False)
    for path in Path("/sys/fs/cgroup").glob("**/mayfly"):
        if not list(path.glob("*/")):
            path.rmdir()
    assert result.returncode == 0 and result.stdout.endswith("guest: 1 steps, 0 failed\n"), result


def test_client_of_firecracker(jailer, tmp_path):
    """As firecracker-go-sdk does: the directory first, a hard link in it once the jailer runs, the socket by its usual name."""
    firecracker = tmp_path / "firecracker"
    firecracker.symlink_to(artifact("mayfly"))
    root = jailer.base / "firecracker/vm1/root"
    root.mkdir(parents=True)
    running = jailer.start(program=firecracker, what=["--api-sock", "/run/api.socket", "--log-path", "/log"], stdin=subprocess.PIPE)
    running.wait_file(root / "run/api.socket")
    (root / "kernel").write_bytes(artifact(GUEST).read_bytes())
    os.chown(root / "kernel", UID, GID)
    api = Api(root / "run/api.socket", PATIENCE)
    api.put_boot_source(vm_config()["boot-source"])
    api.start()
    running.expect(b"HELLO")
    assert running.process.pid == int((root / "firecracker.pid").read_text())
    running.signal(signal.SIGTERM)
    assert running.wait().code == 143 and (root / "log").exists()
    api.hang_up()


def test_api_by_descriptor(jailer, tmp_path):
    """No path at all: the client keeps the socket, and the jail has nothing of it but a descriptor."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "api"))
    listener.listen()
    reader, writer = os.pipe()
    fds = [listener.fileno(), writer]
    running = jailer.start("--pass-fd", str(fds[0]), "--pass-fd", str(fds[1]), program=artifact("mayfly"), pass_fds=fds,
                           what=["--api-fd", str(fds[0]), "--ready-fd", str(fds[1])])
    os.close(writer)
    assert select.select([reader], [], [], PATIENCE)[0] and os.read(reader, 1)
    os.close(reader)
    api = Api(tmp_path / "api", PATIENCE)
    assert api.instance()["id"] == "vm1"
    api.hang_up()
    listener.close()
    running.signal(signal.SIGTERM)
    assert running.wait().code == 143
