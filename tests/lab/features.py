#!/usr/bin/python3
"""Runs inside the lab: says which kernel features that tests rely on are really there; fails when one is not."""

import ctypes
import fcntl
import os
import socket
import struct
import subprocess
import sys
import tempfile

LIBC = ctypes.CDLL(None, use_errno=True)
SYS_IO_URING_SETUP, SYS_LANDLOCK_CREATE_RULESET, SYS_USERFAULTFD = 425, 444, 323
TUNSETIFF, IFF_TAP, IFF_NO_PI, IFF_VNET_HDR = 0x400454CA, 0x0002, 0x1000, 0x4000


def read(path):
    with open(path, encoding="utf-8") as f:
        return f.read().strip()


def syscall(*args):
    result = LIBC.syscall(*args)
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def nested_paging():
    assert read("/sys/module/kvm_amd/parameters/npt") == "Y"
    return "npt=Y"


def io_uring():
    fd = syscall(SYS_IO_URING_SETUP, 8, ctypes.byref(ctypes.create_string_buffer(120)))
    os.close(fd)
    return "io_uring_setup works"


def landlock():
    return f"ABI {syscall(SYS_LANDLOCK_CREATE_RULESET, None, 0, 1)}"


def userfaultfd():
    os.close(syscall(SYS_USERFAULTFD, os.O_CLOEXEC | 1))
    return "userfaultfd works"


def tap():
    fd = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(fd, TUNSETIFF, struct.pack("16sH22x", b"labtap0", IFF_TAP | IFF_NO_PI | IFF_VNET_HDR))
    os.close(fd)
    return "tap with vnet header"


def vsock():
    s = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
    s.close()
    os.close(os.open("/dev/vhost-vsock", os.O_RDWR))
    return "AF_VSOCK, /dev/vhost-vsock"


def loop():
    with tempfile.NamedTemporaryFile() as disk:
        disk.truncate(1 << 20)
        name = subprocess.run(["losetup", "-f", "--show", disk.name], check=True, capture_output=True, text=True).stdout.strip()
        with open(name, "rb") as device:
            assert device.seek(0, os.SEEK_END) == 1 << 20
        subprocess.run(["losetup", "-d", name], check=True)
    return f"{name} attached and detached"


def cgroup2():
    path = "/sys/fs/cgroup/lab-check"
    controllers = read("/sys/fs/cgroup/cgroup.controllers")
    os.mkdir(path)
    os.rmdir(path)
    assert {"cpu", "memory", "pids"} <= set(controllers.split()), controllers
    return controllers


def namespaces():
    out = subprocess.run(["unshare", "-Urnmp", "--fork", "id", "-u"], check=True, capture_output=True, text=True).stdout.strip()
    assert out == "0"
    return "user, net, mount, pid"


def modprobe():
    subprocess.run(["modprobe", "dm_flakey"], check=True)
    return "dm_flakey"


def owners():
    stat = os.stat("/bin/sh")
    assert (stat.st_uid, stat.st_gid) == (0, 0)
    return "of the host's files are shown as they are"


def main():
    failed = 0
    for check in (nested_paging, io_uring, landlock, userfaultfd, tap, vsock, loop, cgroup2, namespaces, modprobe, owners):
        try:
            print(f"  {check.__name__:<14} {check()}", flush=True)
        except (OSError, AssertionError, subprocess.CalledProcessError) as problem:
            print(f"  {check.__name__:<14} MISSING: {problem!r}", flush=True)
            failed += 1
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
