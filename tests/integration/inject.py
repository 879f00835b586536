"""Makes a thread of a running process do a system call of ours: what an attacker does who has taken over Mayfly. Needs root (CAP_SYS_PTRACE)."""

import contextlib
import ctypes
import errno
import os
import signal
import time

from harness import PATIENCE

libc = ctypes.CDLL(None, use_errno=True)
libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
libc.ptrace.restype = ctypes.c_long

# <linux/ptrace.h>, <asm/unistd_64.h>
CONT, SINGLESTEP, GETREGS, SETREGS, DETACH, SEIZE, INTERRUPT = 7, 9, 12, 13, 17, 0x4206, 0x4207
WALL = 0x40000000
SYSCALL_INSTRUCTION = b"\x0f\x05"
NUMBERS = {"write": 1, "open": 2, "close": 3, "access": 21, "socket": 41, "connect": 42, "bind": 49, "execve": 59, "kill": 62, "rename": 82,
           "mkdir": 83, "link": 86, "unlink": 87, "symlink": 88, "ptrace": 101, "mknod": 133, "mount": 165, "unshare": 272}


class Registers(ctypes.Structure):
    """struct user_regs_struct"""
    _fields_ = [(name, ctypes.c_ulonglong) for name in (
        "r15 r14 r13 r12 rbp rbx r11 r10 r9 r8 rax rcx rdx rsi rdi orig_rax rip cs eflags rsp ss fs_base gs_base ds es fs gs").split()]


def ptrace(request, tid, address=None, data=None):
    if libc.ptrace(request, tid, address, data) < 0:
        raise OSError(ctypes.get_errno(), f"ptrace({request:#x}, {tid}): {os.strerror(ctypes.get_errno())}")


def wait_stopped(tid):
    signal.alarm(PATIENCE)  # nobody catches it: the tests end
    try:
        _, status = os.waitpid(tid, WALL)
    finally:
        signal.alarm(0)
    assert os.WIFSTOPPED(status), f"thread {tid} is gone: {status:#x}"


class Captive:
    """A thread that is stopped; call() has it do one system call."""

    def __init__(self, pid, tid):
        self.pid, self.tid = pid, tid
        self.kept = Registers()
        ptrace(SEIZE, tid)
        self.stop()
        deadline = time.monotonic() + PATIENCE
        while not self.in_system_call():  # it may still be busy with what the test asked for last
            assert time.monotonic() < deadline, "the thread does not come to stand in a system call"
            ptrace(CONT, tid)
            time.sleep(0.01)
            self.stop()

    def stop(self):
        ptrace(INTERRUPT, self.tid)
        wait_stopped(self.tid)
        ptrace(GETREGS, self.tid, None, ctypes.addressof(self.kept))

    def in_system_call(self):
        """It stopped behind the instruction with which it had entered the kernel."""
        return self.memory(self.kept.rip - 2, size=2) == SYSCALL_INSTRUCTION

    def memory(self, address, data=None, size=0):
        with open(f"/proc/{self.pid}/mem", "r+b", buffering=0) as mem:
            mem.seek(address)
            return mem.read(size) if data is None else mem.write(data)

    def call(self, name, *args):
        """Numbers are passed as they are, bytes by their address. Returns the result, a negative errno for an error."""
        place = self.kept.rsp - 16384  # below what the thread uses
        values = []
        for arg in args:
            if isinstance(arg, bytes):
                self.memory(place, arg + b"\0")
                values.append(place)
                place += len(arg) // 16 * 16 + 16
            else:
                values.append(arg & (1 << 64) - 1)
        registers = Registers.from_buffer_copy(self.kept)
        # -1: not a call that could be begun again.
        registers.rip, registers.rax, registers.orig_rax = self.kept.rip - 2, NUMBERS[name], -1 & (1 << 64) - 1
        for register, value in zip(("rdi", "rsi", "rdx", "r10", "r8", "r9"), [*values, 0, 0, 0, 0, 0, 0]):
            setattr(registers, register, value)
        ptrace(SETREGS, self.tid, None, ctypes.addressof(registers))
        ptrace(SINGLESTEP, self.tid)
        wait_stopped(self.tid)
        ptrace(GETREGS, self.tid, None, ctypes.addressof(registers))
        return ctypes.c_longlong(registers.rax).value

    def error(self, name, *args):
        """The name of the error that the call ends with, "" when it works."""
        result = self.call(name, *args)
        if result >= 0 and name in ("open", "socket"):
            self.call("close", result)
        return errno.errorcode.get(-result, str(result)) if result < 0 else ""

    def release(self):
        ptrace(SETREGS, self.tid, None, ctypes.addressof(self.kept))
        ptrace(DETACH, self.tid)


@contextlib.contextmanager
def captive(pid, tid=None):
    thread = Captive(pid, tid or pid)
    try:
        yield thread
    finally:
        thread.release()
