"""
Faults on purpose: system calls of a program under test that fail as if the host had failed, by seccomp on the program itself.

refusing() is stateless and costs nothing: "this system call, with these arguments, always answers this error". An Injector looks at every
call in this process (SECCOMP_RET_USER_NOTIF), knows what each is about ("read timerfd", "ioctl KVM_RUN", "openat disk.img"), and so can
let the second one of a kind fail, or each other one. Both are preexec functions; neither needs root.
"""

import collections
import ctypes
import errno
import fcntl
import os
import re
import select
import signal
import socket
import struct
import sys
import threading
from typing import NamedTuple

HEADERS = "/usr/include"
AUDIT_ARCH_X86_64 = 0xC000003E
LISTENER_FD = 1000  # where the new program's side of the way back is, out of everybody's way

# linux/seccomp.h
SET_MODE_FILTER, FLAG_NEW_LISTENER = 1, 8
RET_KILL, RET_ALLOW, RET_ERRNO, RET_USER_NOTIF = 0x80000000, 0x7FFF0000, 0x00050000, 0x7FC00000
NOTIF_RECV, NOTIF_SEND, NOTIF_CONTINUE = 0xC0502100, 0xC0182101, 1
NOTIF = struct.Struct("<QIIiIQ6Q")
RESPONSE = struct.Struct("<QqiI")

# linux/bpf_common.h: load a word of seccomp_data, compare, return.
LD, JEQ, RET = 0x20, 0x15, 0x06
DATA_NR, DATA_ARCH, DATA_ARGS = 0, 4, 16
PR_SET_NO_NEW_PRIVS, SYS_SECCOMP = 38, 317


def _defines(path, pattern):
    with open(os.path.join(HEADERS, path), encoding="utf-8") as header:
        return re.findall(pattern, header.read(), re.M)


SYSCALLS = {name: int(number) for name, number in _defines("x86_64-linux-gnu/asm/unistd_64.h", r"^#define __NR_(\w+) (\d+)$")}
SYSCALL_NAMES = {number: name for name, number in SYSCALLS.items()}


def _ioctls():
    """Names by direction, type and number; of several names for one, the first."""
    found = {}
    for path, kind, prefix in (("linux/kvm.h", 0xAE, "KVM_(?!PPC_|S390_|ARM_)"), ("linux/if_tun.h", ord("T"), "TUN")):
        for name, way, number in _defines(path, rf"^#define\s+({prefix}\w+)\s+_IO(W?R?)\(\s*(?:KVMIO|'T'),\s*(0x[0-9a-fA-F]+|\d+)"):
            found.setdefault(("W" in way) << 30 | ("R" in way) << 31 | kind << 8 | int(number, 0), name)
    for path in ("asm-generic/ioctls.h", "linux/sockios.h"):
        for name, number in _defines(path, r"^#define\s+(\w+)\s+(0x[0-9a-fA-F]{4})\b"):
            found.setdefault(int(number, 0), name)
    return found


IOCTLS = _ioctls()
FCNTLS = {1: "F_GETFD", 2: "F_SETFD", 3: "F_GETFL", 4: "F_SETFL", 1030: "F_DUPFD_CLOEXEC"}
EPOLL_OPS = {1: "ADD", 2: "DEL", 3: "MOD"}
BY_PATH = {"open": 0, "openat": 1, "access": 0, "faccessat": 1, "readlink": 0, "unlink": 0, "stat": 0, "lstat": 0, "newfstatat": 1,
           "execve": 0, "unlinkat": 1}
BY_DESCRIPTOR = {"read", "write", "readv", "writev", "pread64", "pwrite64", "preadv", "pwritev", "preadv2", "pwritev2", "fstat", "close",
                 "lseek", "bind", "listen", "accept", "accept4", "connect", "recvfrom", "sendto", "recvmsg", "sendmsg", "shutdown",
                 "setsockopt", "getsockopt", "getsockname", "ftruncate", "fallocate", "fsync", "fdatasync", "io_uring_enter"}
STANDARD = {0: "stdin", 1: "stdout", 2: "stderr"}


# ---- what a call is about ----

class Call:
    """One system call of the program, stopped before it is done."""

    def __init__(self, pid, number, args):
        self.pid, self.number, self.args = pid, number, args
        self.name = SYSCALL_NAMES.get(number, str(number))

    def text(self, arg):
        """The string in the program's memory that the argument points to."""
        try:
            with open(f"/proc/{self.pid}/mem", "rb", buffering=0) as memory:
                memory.seek(self.args[arg])
                return memory.read(256).partition(b"\0")[0].decode(errors="replace")
        except (OSError, OverflowError):
            return "?"

    def object(self, fd):
        """What a descriptor stands for: a file's name, "eventfd", "socket"; the standard three by their names."""
        fd &= 0xFFFFFFFF
        if fd in STANDARD:
            return STANDARD[fd]
        try:
            target = os.readlink(f"/proc/{self.pid}/fd/{fd}")
        except OSError:
            return "?"
        target = target.removesuffix(" (deleted)").removeprefix("anon_inode:").strip("[]")
        return target if target.startswith("/dev/") else os.path.basename(target.partition(":")[0])

    def label(self):
        """The kind of call this is, as people would say it."""
        detail = self._detail()
        return f"{self.name} {detail}" if detail else self.name

    def _detail(self):
        name, args = self.name, self.args
        if name == "ioctl":
            return IOCTLS.get(args[1] & 0xC000FFFF, hex(args[1] & 0xFFFFFFFF))
        if name == "fcntl":
            return f"{FCNTLS.get(args[1], args[1])} {self.object(args[0])}"
        if name == "epoll_ctl":
            return f"{EPOLL_OPS.get(args[1], args[1])} {self.object(args[2])}"
        if name in BY_PATH:
            path = self.text(BY_PATH[name])
            return path if path.startswith(("/dev/", "/proc/", "/sys/")) else os.path.basename(path)
        if name == "mmap":
            return "anonymous" if args[3] & 0x20 else self.object(args[4])
        if name == "futex":
            return "wait" if args[1] & 0x7F in (0, 6, 9) else "wake"
        if name == "socket":
            return {1: "AF_UNIX", 2: "AF_INET", 16: "AF_NETLINK"}.get(args[0], args[0])
        return self.object(args[0]) if name in BY_DESCRIPTOR else ""


# ---- filters ----

class Rule(NamedTuple):
    """This system call fails with this error; args: only where these arguments have these values (their lower 32 bits)."""

    syscall: str
    errno: int
    args: dict = {}


def _statement(code, k, jt=0, jf=0):
    return struct.pack("<HBBI", code, jt, jf, k)


def _program(rules):
    """rules: (number, {argument: value}, what to return). The first that fits counts; None for a number is every call."""
    code = [_statement(LD, DATA_ARCH), _statement(JEQ, AUDIT_ARCH_X86_64, 1, 0), _statement(RET, RET_KILL)]
    for number, args, action in rules:
        tests = [] if number is None else [(DATA_NR, number)]
        tests += [(DATA_ARGS + 8 * index, value & 0xFFFFFFFF) for index, value in args.items()]
        for at, (offset, value) in enumerate(tests):
            # What does not fit goes on behind this rule's return.
            code += [_statement(LD, offset), _statement(JEQ, value, 0, 2 * (len(tests) - at) - 1)]
        code.append(_statement(RET, action))
    code.append(_statement(RET, RET_ALLOW))
    return b"".join(code)


_libc = ctypes.CDLL(None, use_errno=True)


def _install(program, flags=0):
    """Runs between fork and exec. Returns what seccomp(2) does."""
    held = ctypes.create_string_buffer(program, len(program))
    header = ctypes.create_string_buffer(struct.pack("<HxxxxxxQ", len(program) // 8, ctypes.addressof(held)), 16)
    if _libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "PR_SET_NO_NEW_PRIVS")
    result = _libc.syscall(SYS_SECCOMP, SET_MODE_FILTER, flags, header)
    if result < 0:
        raise OSError(ctypes.get_errno(), "seccomp")
    return result


def refusing(*rules):
    """A preexec function: what the rules say is refused to the program from its first instruction on, and to its children."""
    program = _program([(SYSCALLS[rule.syscall], rule.args, RET_ERRNO | rule.errno) for rule in rules])
    return lambda: _install(program)


class _PassedDescriptor:
    """A message with one descriptor, laid out beforehand."""

    def __init__(self):
        self.control = ctypes.create_string_buffer(struct.pack("<Qiiixxxx", 20, socket.SOL_SOCKET, socket.SCM_RIGHTS, -1), 24)
        self.byte = ctypes.create_string_buffer(b"x", 1)
        self.vector = ctypes.create_string_buffer(struct.pack("<QQ", ctypes.addressof(self.byte), 1), 16)
        self.header = ctypes.create_string_buffer(
            struct.pack("<QQQQQQQ", 0, 0, ctypes.addressof(self.vector), 1, ctypes.addressof(self.control), 24, 0), 56)

    def pass_on(self, fd):
        struct.pack_into("<i", self.control, 16, fd)
        if _libc.sendmsg(LISTENER_FD, self.header, 0) != 1:
            raise OSError(ctypes.get_errno(), "sendmsg")


# ---- the injector ----

class Injector:
    """
    Sees the system calls of one program, from its first one after the exec of `path` on; with begin, a label as "openat config.json", from
    the first such call on instead: what a dynamic linker and a sanitizer do before main() is theirs.

    decide(call, label, nth) returns an errno for a call that is to fail, 0 for one that is to be done; nth counts the calls of one label
    from 1. syscalls: names of those to look at (all if None); the rest run at full speed.

        with Injector(path, decide, ["read"]) as injector:
            subprocess.Popen([path], preexec_fn=injector.preexec)
    """

    def __init__(self, path, decide=lambda call, label, nth: 0, syscalls=None, begin=None):
        self.path, self.decide, self.begin = os.fspath(path), decide, begin
        self.counts = collections.Counter()
        self.injected = []  # labels of the calls that were made to fail
        self.error = None  # what went wrong in here, raised at the end
        ours = [(SYSCALLS["sendmsg"], {0: LISTENER_FD}, RET_ALLOW)]
        # Never worth a look, and a notification about them would only confuse the end of the program.
        ours += [(SYSCALLS[name], {}, RET_ALLOW) for name in ("exit", "exit_group", "rt_sigreturn", "restart_syscall")]
        numbers = [None] if syscalls is None else [SYSCALLS[name] for name in {*syscalls, "execve", (begin or "execve").split()[0]}]
        self._code = _program(ours + [(number, {}, RET_USER_NOTIF) for number in numbers])
        self._armed = False
        self._ours, self._theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, exception, *_):
        self._theirs.close()
        if exception:  # the program may still be there, and goes on being looked at
            return
        self._thread.join(10)
        assert not self._thread.is_alive(), "the program under test, or a child of its, is still there"
        if self.error:
            raise self.error

    def preexec(self):
        """In the child, between fork and exec. From the filter on until its listener is sent, any other call would wait for ever."""
        os.dup2(self._theirs.fileno(), LISTENER_FD, inheritable=False)
        message = _PassedDescriptor()
        message.pass_on(_install(self._code, FLAG_NEW_LISTENER))

    def _run(self):
        try:
            listener = self._receive()
            if listener is not None:
                self._serve(listener)
        except Exception as error:  # pylint: disable=broad-except
            self.error = error

    def _receive(self):
        with self._ours:
            message, ancillary, *_ = self._ours.recvmsg(1, socket.CMSG_SPACE(4))
        return struct.unpack("i", ancillary[0][2])[0] if message else None

    def _serve(self, listener):
        poll = select.poll()
        poll.register(listener, select.POLLIN)
        try:
            while True:
                events = poll.poll()[0][1]
                if events & select.POLLIN:
                    self._answer(listener)
                elif events & select.POLLHUP:  # nobody is left who could make a call
                    return
        finally:
            os.close(listener)  # whoever still waits gets ENOSYS

    def _answer(self, listener):
        request = bytearray(NOTIF.size)
        try:
            fcntl.ioctl(listener, NOTIF_RECV, request)
            cookie, pid, _, number, _, _, *args = NOTIF.unpack(request)
            code = self._judge(Call(pid, number, args))
            fcntl.ioctl(listener, NOTIF_SEND, RESPONSE.pack(cookie, 0, -code, 0 if code else NOTIF_CONTINUE))
        except FileNotFoundError:
            pass  # a signal took the caller away meanwhile
        except InterruptedError:
            pass

    def _judge(self, call):
        if not self._armed:
            self._armed = call.label() == self.begin if self.begin else call.name == "execve" and call.text(0) == self.path
            return 0
        label = call.label()
        self.counts[label] += 1
        code = self.decide(call, label, self.counts[label])
        if code:
            self.injected.append(label)
        return code


def main():
    """faults.py SYSCALL=ERROR… -- COMMAND: runs a command to which these calls are refused."""
    try:
        split = sys.argv.index("--")
        rules = [Rule(name, getattr(errno, code)) for name, _, code in (word.partition("=") for word in sys.argv[1:split])]
        refuse = refusing(*rules)
    except (ValueError, AttributeError, KeyError) as error:
        sys.exit(f"{main.__doc__} ({error!r})")
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    refuse()
    os.execvp(sys.argv[split + 1], sys.argv[split + 1:])


if __name__ == "__main__":
    main()
