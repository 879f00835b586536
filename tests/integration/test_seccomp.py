"""The filters of system calls, attacked from inside: threads of mayfly-attack make calls that nobody should make."""

import ctypes
import os
import random
import re
import signal
import socket
import subprocess
from pathlib import Path

import pytest

from harness import BAD_ARGUMENTS, BAD_CONFIG, drive, vmm_threads
from seccomp_model import ALLOW, ARCH_I386, FILES, KILL, POLICIES, THREADS, TRAP, compile_to, compiler, deny_io_uring, numbers, programs, rules, run_bpf
from test_guest import configure

SIGSYS_STATUS = -signal.SIGSYS
IDLE = "print ready; wait g"
EACCES = 13


# ---- attacks ----

# Of each the call and its arguments: numbers as in the kernel's headers for x86-64, @ for text, {other} for a process that is not Mayfly's.
MAIN, VCPU = "main", "fc_vcpu 0"
ATTACKS = {
    "make a file": ("open", "@/tmp/mayfly-attack-made", "0x41", "0600"),
    "make a file, openat": ("openat", "-100", "@/tmp/mayfly-attack-made", "0x41", "0600"),
    "truncate a file": ("open", "@/tmp/mayfly-attack-cut", "0x201"),
    "make a file without a name": ("open", "@/tmp", "0x410001", "0600"),
    "creat": ("creat", "@/tmp/mayfly-attack-made", "0600"),
    "openat": ("openat", "-100", "@/etc/passwd", "0"),
    "openat2": ("openat2", "-100", "@/etc/passwd", "0", "24"),
    "execve": ("execve", "@/bin/true", "0", "0"),
    "execveat": ("execveat", "-100", "@/bin/true", "0", "0", "0"),
    "fork": ("fork",),
    "vfork": ("vfork",),
    "a new process": ("clone", "17", "0", "0", "0", "0"),
    "a new thread": ("clone", "0x7d0f00", "0", "0", "0", "0"),
    "clone3": ("clone3", "0", "0"),
    "socket AF_INET": ("socket", str(int(socket.AF_INET)), "1", "0"),
    "socket AF_INET6": ("socket", str(int(socket.AF_INET6)), "2", "0"),
    "socket AF_NETLINK": ("socket", "16", "3", "0"),
    "socket AF_PACKET": ("socket", "17", "3", "0"),
    "socket AF_VSOCK": ("socket", "40", "1", "0"),
    "bind": ("bind", "0", "0", "0"),
    "listen": ("listen", "0", "1"),
    "ptrace": ("ptrace", "0", "0", "0", "0"),
    "read another's memory": ("process_vm_readv", "1", "0", "0", "0", "0", "0"),
    "write another's memory": ("process_vm_writev", "1", "0", "0", "0", "0", "0"),
    "mprotect PROT_EXEC": ("mprotect", "0", "4096", "5"),
    "mprotect PROT_EXEC and odd bits": ("mprotect", "0", "4096", "0x100000005"),
    "pkey_mprotect": ("pkey_mprotect", "0", "4096", "5", "-1"),
    "mmap PROT_EXEC": ("mmap", "0", "4096", "7", "0x22", "-1", "0"),
    "mmap a file": ("mmap", "0", "4096", "3", "1", "0", "0"),
    "memfd_create": ("memfd_create", "@x", "0"),
    "userfaultfd": ("userfaultfd", "0"),
    "unshare": ("unshare", "0x10000000"),
    "setns": ("setns", "0", "0"),
    "mount": ("mount", "@/", "@/", "0", "4096", "0"),
    "chroot": ("chroot", "@/"),
    "pivot_root": ("pivot_root", "@/", "@/"),
    "kill another": ("kill", "{other}", "0"),
    "tkill another": ("tkill", "{other}", "0"),
    "tgkill another": ("tgkill", "{other}", "{other}", "10"),
    "tgkill ourselves by another signal": ("tgkill", "{pid}", "{pid}", "9"),
    "pidfd_open": ("pidfd_open", "{other}", "0"),
    "pidfd_getfd": ("pidfd_getfd", "0", "0", "0"),
    "io_uring_setup": ("io_uring_setup", "1", "0"),
    "io_uring_register": ("io_uring_register", "0", "0", "0", "0"),
    "bpf": ("bpf", "0", "0", "0"),
    "perf_event_open": ("perf_event_open", "0", "0", "-1", "-1", "0"),
    "prctl": ("prctl", "4", "1", "0", "0", "0"),
    "another filter": ("seccomp", "1", "0", "0"),
    "personality": ("personality", "0xffffffff"),
    "setuid": ("setuid", "0"),
    "keyctl": ("keyctl", "0", "0", "0", "0", "0"),
    "init_module": ("init_module", "0", "0", "@"),
    "link": ("link", "@/tmp/mayfly-a", "@/tmp/mayfly-b"),
    "rename": ("rename", "@/tmp/mayfly-a", "@/tmp/mayfly-b"),
    "chmod": ("chmod", "@/tmp/mayfly-a", "0777"),
    "type on a terminal": ("ioctl", "0", "0x5412", "@x"),
    "type on a terminal, with odd bits": ("ioctl", "0", "0x100005412", "@x"),
    "a new VM": ("ioctl", "0", "0xae01", "0"),
    "map more memory into the guest": ("ioctl", "0", "0x4020ae46", "0"),
    "a call that does not exist": ("1000",),
}


@pytest.fixture
def attacked(attack):
    """Starts mayfly-attack, makes one of its threads strike, and returns the process."""
    def strike(thread, call, *args, options=(), drives=(), before="", io=False):
        env = {"MAYFLY_ATTACK": ",".join([str(numbers().get(call, call)), *args]).format(other=os.getpid(), pid="{pid}")}
        script = f"{before}{IDLE}" if before else IDLE
        vm = attack.start(configure(script, drives), options, stdin=subprocess.PIPE, env={**env, **({"MAYFLY_ATTACK_IO": "1"} if io else {})},
                          preexec_fn=deny_io_uring if io else None)
        if io:
            return vm
        vm.expect(rb"ready")
        main, vcpu = vmm_threads(vm.pid)
        assert ctypes.CDLL(None, use_errno=True).syscall(numbers()["tgkill"], vm.pid, {MAIN: main, VCPU: vcpu}[thread], signal.SIGUSR2) == 0
        return vm
    return strike


def is_blocked(outcome, thread, call):
    """The process died of SIGSYS, and the last line of its log says of which call and thread."""
    assert outcome.code == SIGSYS_STATUS, outcome.err
    assert "attack: returned" not in outcome.err
    name = call if call in numbers() else "a system call without a name"
    assert re.search(rf"^\S+ \[anonymous-instance:{thread}\] seccomp: blocked {name}\(0x[^)]*\), system call "
                     rf"{numbers().get(call, call)}: the process ends", outcome.err.splitlines()[-1]), outcome.err


@pytest.mark.parametrize("thread", [MAIN, VCPU])
@pytest.mark.parametrize("what", ATTACKS)
def test_attack(attacked, what, thread):
    call, *args = ATTACKS[what]
    is_blocked(attacked(thread, call, *args).wait(), thread, call)
    assert not os.path.exists("/tmp/mayfly-attack-made")


@pytest.mark.parametrize("call,args", [
    ("open", ["@/etc/passwd", "0"]), ("socket", ["1", "1", "0"]), ("connect", ["0", "0", "0"]), ("mmap", ["0", "4096", "3", "0x22", "-1", "0"]),
    ("munmap", ["0", "0"]), ("read", ["0", "0", "0"]), ("close", ["99"]), ("unlink", ["@/tmp/mayfly-a"]), ("exit_group", ["0"]),
    ("epoll_ctl", ["0", "0", "0", "0"]), ("tgkill", ["0", "0", "0"]), ("io_uring_enter", ["0", "0", "0", "0", "0", "0"]),
    ("ioctl", ["0", "0x4040ae79", "0"]), ("sendmsg", ["0", "0", "0"]), ("accept4", ["0", "0", "0", "0"]),
])
def test_vcpu_may_less_than_the_main_thread(attacked, call, args):
    is_blocked(attacked(VCPU, call, *args).wait(), VCPU, call)


def test_vcpu_has_no_room_in_the_upper_half(attacked):
    """The kernel takes 32 bits of an ioctl's number: KVM_GET_REGS with more in front is KVM_GET_REGS, and allowed as such."""
    outcome = attacked(VCPU, "ioctl", "0", "0xffffffff8090ae81", "0").wait()
    assert re.search(r"attack: returned -\d+", outcome.err), outcome.err


@pytest.mark.parametrize("what", ["execve", "socket AF_INET", "make a file", "mprotect PROT_EXEC", "fork", "tgkill another", "io_uring_setup",
                                  "openat", "ptrace"])
def test_attack_from_a_drives_thread(attacked, scratch, what):
    """Where the host denies io_uring, a thread does the I/O."""
    call, *args = ATTACKS[what]
    outcome = attacked(None, call, *args, drives=[drive("d0", scratch)], before="blk 0 read 0 8; ", io=True).wait()
    assert "io_uring: Operation not permitted; the drive uses a worker thread instead" in outcome.err
    is_blocked(outcome, "block_io", call)


def test_ring_opens_no_file(attacked, scratch):
    """No filter sees what a ring does, so the ring itself was told what it is for."""
    outcome = attacked(MAIN, "ring", "/etc/passwd", drives=[drive("d0", scratch)], before="blk 0 read 0 8; ").wait()
    assert outcome.code == 0 and f"attack: returned -{EACCES}" in outcome.err, outcome.err


@pytest.mark.parametrize("what", ["openat", "socket AF_INET", "mmap PROT_EXEC", "memfd_create"])
def test_the_hook_strikes(attacked, what):
    """Without filters, and with every file allowed, the same attacks succeed, or the tests above would show nothing."""
    call, *args = ATTACKS[what]
    outcome = attacked(VCPU, call, *args, options=["--no-seccomp", "--allow-path", "/"]).wait()
    assert outcome.code == 0 and re.search(r"attack: returned \d+", outcome.err), outcome.err


# ---- when they are on ----

def status_of(pid, task):
    return Path(f"/proc/{pid}/task/{task}/status").read_text()


def filters_of(pid):
    """{thread id: (mode, number of filters)}"""
    found = {}
    for task in vmm_threads(pid):
        try:
            status = status_of(pid, task)
        except (FileNotFoundError, ProcessLookupError):
            continue  # as in vmm_threads
        assert re.search(r"^NoNewPrivs:\s1$", status, re.M)
        found[task] = tuple(int(re.search(rf"^{name}:\s(\d+)$", status, re.M)[1]) for name in ("Seccomp", "Seccomp_filters"))
    return found


def test_every_thread_is_confined(mayfly):
    vm, api = mayfly.start_api(stdin=subprocess.PIPE)
    assert set(filters_of(vm.pid).values()) == {(2, 1)}  # before anything was asked
    config = configure("print ready; wait g", vcpus=3)
    api.put("/boot-source", config["boot-source"])
    api.put("/machine-config", config["machine-config"])
    assert set(filters_of(vm.pid).values()) == {(2, 1)}
    api.start()
    vm.expect(rb"ready")
    assert list(filters_of(vm.pid).values()) == [(2, 2)] * 4
    assert api.instance()["jail"]["seccomp"] == "default"
    vm.send(b"g")
    assert vm.wait().code == 0


def test_off_is_said(mayfly):
    vm, api = mayfly.start_api(["--no-seccomp"])
    assert api.instance()["jail"]["seccomp"] == "off"
    assert "--no-seccomp: this microVM runs without seccomp filters" in bytes(vm.err.data).decode()
    assert re.search(r"^Seccomp:\s0$", status_of(vm.pid, vm.pid), re.M)


# ---- filters of the user's ----

def test_custom_filters(release, tmp_path, scratch):
    """A policy of the user's is as good as the built-in one; here it also breaks a disk."""
    broken = tmp_path / "broken.policy"
    broken.write_text("io_uring_setup -> errno EPERM # makes the I/O visible to filters\n"
                      "pwritev -> errno EIO # every write to a disk\n")
    filters = compile_to(tmp_path / "filters", {thread: [FILES[thread], broken] for thread in THREADS})
    vm, api = release.start_api(["--seccomp-filter", filters], stdin=subprocess.PIPE)
    assert api.instance()["jail"]["seccomp"] == "custom"
    vm.signal(signal.SIGTERM)
    vm.wait()
    outcome = release.run(configure("blk 0 read 0 8; blk 0 write 0 8", [drive("d0", scratch)]), ["--seccomp-filter", filters])
    assert outcome.code == 1
    assert re.search(r"FAILED step 2: ", outcome.out), outcome.out
    assert scratch.read_bytes() == bytes(8 << 20)


def test_default_log_and_exit(release, tmp_path):
    """`default log` lets everything pass, so that a policy can be tried out."""
    loose = tmp_path / "loose.policy"
    loose.write_text("default log\n")
    filters = compile_to(tmp_path / "filters", {thread: loose for thread in THREADS})
    outcome = release.run(configure("print hello"), ["--seccomp-filter", filters])
    assert outcome.code == 0 and "hello" in outcome.out


def test_kill_says_nothing(release, tmp_path):
    strict = tmp_path / "strict.policy"
    strict.write_text("default kill\n")
    filters = compile_to(tmp_path / "filters", {**POLICIES, "vcpu": strict})
    outcome = release.run(configure("print hello"), ["--seccomp-filter", filters])
    assert outcome.code == SIGSYS_STATUS and "seccomp" not in outcome.err


@pytest.mark.parametrize("content,why", [
    (b"", "is no filter of mayfly-seccompiler's"), (b"{}", "is no filter of mayfly-seccompiler's"), (b"MAYFLYBP", "is cut short"),
    (b"MAYFLYBP\x01" + bytes(39), "is of another version"),
])
def test_bad_filter_file(mayfly, tmp_path, content, why):
    path = tmp_path / "bad.filter"
    path.write_bytes(content)
    outcome = mayfly.run(configure("print hello"), ["--seccomp-filter", path])
    assert outcome.code == BAD_CONFIG
    assert re.fullmatch(r"mayfly: --seccomp-filter: \S*bad\.filter: " + why + r".*\n", outcome.err), outcome.err


def test_no_filter_file(mayfly, tmp_path):
    assert mayfly.run(configure("print hello"), ["--seccomp-filter", tmp_path / "none"]).code == BAD_CONFIG
    assert mayfly.run(configure("print hello"), ["--seccomp-filter", "/", "--no-seccomp"]).code == BAD_ARGUMENTS


# ---- the compiler ----

@pytest.mark.parametrize("policy,why", [
    ("read\nopenn\n", ':2: "openn" is no system call of x86-64'),
    ("socketcall\n", ':1: "socketcall" is no system call of x86-64'),
    ("read if\n", ':1: "" is no argument (needs arg0 to arg5)'),
    ("read if arg6 == 1\n", ':1: "arg6" is no argument'),
    ("read if arg0 = 1\n", ':1: "=" after arg0 (needs arg0 == VALUE, or arg0 & VALUE == VALUE)'),
    ("read if arg0 == \n", ':1: "" is no value'),
    ("read if arg0 == NO_SUCH\n", ':1: "NO_SUCH" is no value'),
    ("read if arg0 == 0x100000000\n", ':1: "0x100000000" is no value'),
    ("read if arg0 == 12x\n", ':1: "12x" is no value'),
    ("read if arg0 == 1||2\n", ':1: "" is no value'),
    ("read if arg0 & 1 == 2\n", ":1: arg0: can never be true"),
    ("read if arg0 == 1 and arg0 == 2\n", ":1: arg0: twice in one rule"),
    ("read if arg0 == 1 or arg1 == 2\n", ':1: "or" is too much here'),
    ("read write\n", ':1: "write" is too much here'),
    ("read -> perhaps\n", ':1: "perhaps" is no action'),
    ("read -> errno 0\n", ":1: errno: no error has this number"),
    ("read -> errno 4096\n", ":1: errno: no error has this number"),
    ("read\nread\n", ":2: says the same as line 1"),
    ("read\nread if arg0 == 1\n", ":2: line 1 is about this call, too, and one of the two has no condition"),
    ("read\ndefault log\n", ":2: default: comes too late"),
    ("default\n", ':1: "" is no action'),
    ("read" + " x" * 100 + "\n", ":1: more than 64 words"),
])
def test_wrong_policy(tmp_path, policy, why):
    path = tmp_path / "wrong.policy"
    path.write_text(policy)
    result = compiler("--output", tmp_path / "filters", f"vcpu={path}", f"startup={POLICIES['startup']}")
    assert result.returncode == 1
    assert f"wrong.policy{why}" in result.stderr, result.stderr
    assert not (tmp_path / "filters").exists()


def test_missing_policy(tmp_path):
    result = compiler("--output", tmp_path / "filters", f"vmm={POLICIES['vmm']}")
    assert result.returncode == 1 and "startup= is missing" in result.stderr
    result = compiler("--output", tmp_path / "filters", "vmm=/nonexistent")
    assert result.returncode == 1 and "/nonexistent: No such file" in result.stderr
    result = compiler("--output", tmp_path / "filters", "gpu=x")
    assert result.returncode == 1 and '"gpu=x" (needs startup=, vmm=, snapshot=, fork=, copies=, vcpu=, block_io= or working_set=' in result.stderr
    assert compiler().returncode == 2 and compiler("--help").returncode == 0


def expected(found, thread, call, args):
    """What the policy says: the action of a rule that matches, else the default."""
    matching = {rule.action for rule in found if rule.thread == thread and rule.matches(call, args)}
    assert len(matching) <= 1
    return matching.pop() if matching else TRAP


def test_compiled_filters_do_what_the_policies_say(tmp_path):
    """Every call, with arguments that rules name, near misses of these, and noise, in the upper half too."""
    found, compiled = rules(), programs(compile_to(tmp_path / "filters"))
    chance = random.Random(1)
    for thread in THREADS:
        values = {0, 1, 2, 0xFFFFFFFF} | {v for rule in found for _, _, v in rule.conditions} | {m for rule in found for _, m, _ in rule.conditions}
        values = sorted(values | {v ^ 1 << chance.randrange(32) for v in values})
        for call in [*numbers().values(), 335, 1000, 0x3FFFFFFF]:
            rounds = 400 if any(rule.call == call and rule.conditions for rule in found) else 2
            for _ in range(rounds):
                args = [chance.choice(values) | chance.choice([0, 0xFFFFFFFF, chance.getrandbits(32)]) << 32 for _ in range(6)]
                assert run_bpf(compiled[thread], call, args) == expected(found, thread, call, args), (thread, call, [hex(a) for a in args])
            assert run_bpf(compiled[thread], call, [0] * 6, ARCH_I386) == KILL
            assert run_bpf(compiled[thread], call | 0x40000000, [0] * 6) == KILL


def test_policies_are_explained():
    """Each rule has its reason, with a caller that is there, or the C library."""
    for path in FILES.values():
        for number, line in enumerate(path.read_text().splitlines(), 1):
            rule, _, reason = line.partition("#")
            if not rule.strip():
                continue
            assert reason.strip(), f"{path.name}:{number}: no reason"
            named = re.findall(r"((?:vmm|virtio|api-server|mmds)/[\w/]+\.c)(?: (\w+))?", reason)
            assert named or "musl" in reason or "thread" in reason, f"{path.name}:{number}: no caller"
            for file, function in named:
                source = (path.parents[2] / file).read_text()
                assert not function or re.search(rf"^[\w* ].*\b{function}\(", source, re.M), f"{path.name}:{number}: no {function} in {file}"


def test_a_running_microvm_starts_what_startup_may(tmp_path):
    """What the later filters allow has to pass the first one, too, or the rule would mean nothing."""
    compiled = programs(compile_to(tmp_path / "filters"))
    for rule in rules():
        args = [0] * 6
        for n, mask, value in rule.conditions:
            args[n] = value & mask
        if rule.thread == "copies":
            continue  # which stands in the place of startup
        assert run_bpf(compiled["startup"], rule.call, args) == ALLOW, rule
