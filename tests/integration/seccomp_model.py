"""What policies and compiled filters say about a system call, each found out without the other; the names of system calls."""

import ctypes
import functools
import os
import re
import struct
import subprocess
from typing import NamedTuple

from harness import ROOT, artifact

THREADS = ["startup", "vmm", "snapshot", "fork", "copies", "vcpu", "block_io", "working_set"]
FILES = {thread: ROOT / "vmm" / "seccomp" / f"{thread}.policy" for thread in THREADS}
POLICIES = {**FILES, "snapshot": [FILES["vmm"], FILES["snapshot"]], "fork": [FILES["vmm"], FILES["snapshot"], FILES["fork"]],
            "copies": [FILES["startup"], FILES["copies"]]}
ARCH_X86_64, ARCH_I386 = 0xC000003E, 0x40000003
ALLOW, TRAP, KILL, LOG, ERRNO = 0x7FFF0000, 0x00030000, 0x80000000, 0x7FFC0000, 0x00050000
SELF = 0x5E1F5E1F


@functools.cache
def numbers():
    """Every system call of x86-64 by name."""
    text = subprocess.run(["gcc", "-E", "-dM", "-include", "asm/unistd_64.h", "-x", "c", "/dev/null"], capture_output=True, text=True,
                          check=True).stdout
    return {name: int(number) for name, number in re.findall(r"#define __NR_(\w+) (\d+)", text)}


IO_URING_SETUP = numbers()["io_uring_setup"]


def deny_io_uring():
    """For preexec_fn: from here on this process has no io_uring (by a filter of its own, which works for root, too)."""
    libc = ctypes.CDLL(None, use_errno=True)
    code = struct.pack("<" + "HBBI" * 4, 0x20, 0, 0, 0, 0x15, 0, 1, IO_URING_SETUP, 0x06, 0, 0, ERRNO | 1, 0x06, 0, 0, ALLOW)
    buffer = ctypes.create_string_buffer(code)
    program = struct.pack("<HxxxxxxQ", 4, ctypes.addressof(buffer))
    if libc.prctl(38, 1, 0, 0, 0) or libc.prctl(22, 2, program, 0, 0):  # no_new_privs, then the filter
        os._exit(99)


class Rule(NamedTuple):
    thread: str
    where: str  # file:line
    action: int
    call: int
    conditions: tuple  # of (argument, mask, value)

    @property
    def name(self):
        return next(name for name, number in numbers().items() if number == self.call)

    def matches(self, call, args, self_id=SELF):
        return call == self.call and all((args[n] & mask) == (self_id if value == SELF else value) for n, mask, value in self.conditions)


def compiler(*args):
    return subprocess.run([artifact("mayfly-seccompiler"), *map(str, args)], capture_output=True, text=True, timeout=60, check=False)


def arguments(policies):
    """What the compiler takes: {thread: path or list of paths} as thread=path,path."""
    return [f"{thread}={','.join(map(str, p if isinstance(p, list) else [p]))}" for thread, p in policies.items()]


def rules(policies=None):
    """What the compiler understood."""
    result = compiler("--list", *arguments(policies or POLICIES))
    assert result.returncode == 0, result.stderr
    found = []
    for line in result.stdout.splitlines():
        thread, where, action, call, *conditions = line.split()
        found.append(Rule(thread, where, int(action, 0), int(call), tuple(tuple(int(x, 0) for x in c.split(":")) for c in conditions)))
    return found


def compile_to(path, policies=None):
    result = compiler("--output", path, *arguments(policies or POLICIES))
    assert result.returncode == 0, result.stderr
    return path


def programs(path):
    """{thread: instructions} of a compiled file."""
    data = path.read_bytes()
    magic, version, arch, *counts = struct.unpack_from("<8sII8I", data)
    assert (magic, version, arch) == (b"MAYFLYBP", 3, ARCH_X86_64)
    at, found = 48, {}
    for thread, count in zip(THREADS, counts):
        found[thread] = [struct.unpack_from("<HBBI", data, at + 8 * i) for i in range(count)]
        at += 8 * count
    assert at == len(data)
    return found


def run_bpf(program, call, args, arch=ARCH_X86_64):
    """The value that the kernel would get from the program (classic BPF as seccomp has it)."""
    data = struct.pack("<iIQ6Q", call if call < 1 << 31 else call - (1 << 32), arch, 0, *args)
    at = acc = 0
    while True:
        code, jt, jf, k = program[at]
        at += 1
        if code == 0x20:  # load a word
            acc = struct.unpack_from("<I", data, k)[0]
        elif code == 0x54:
            acc &= k
        elif code == 0x05:
            at += k
        elif code == 0x06:
            return k
        elif code in (0x15, 0x25, 0x35, 0x45):
            true = {0x15: acc == k, 0x25: acc > k, 0x35: acc >= k, 0x45: bool(acc & k)}[code]
            at += jt if true else jf
        else:
            raise AssertionError(f"instruction {code:#x}")
