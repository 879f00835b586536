"""Kernels and initrds that are missing, damaged, too large or lie about themselves: refused in one line, before the guest runs."""

import os
import re
import struct

import pytest

from harness import BAD_CONFIG, GUEST_CRASHED, machine, sparse
from images import MIB, RESET, TRIPLE_FAULT, bzimage, elf, load, reset_elf
from test_bad_input import NO_OVERRIDE, says

KERNEL, INITRD = r"boot-source\.kernel_image_path", r"boot-source\.initrd_path"
RAM = 128 * MIB


def write(tmp_path, image, name="kernel"):
    path = tmp_path / name
    path.write_bytes(image)
    return path


# ---- the images that the bad ones are made from are good ----

NOTE = struct.pack("<III4sI", 4, 4, 18, b"Xen\0", MIB)
GOOD = {
    "elf": reset_elf(),
    "elf with PVH": elf(load(RESET), load(NOTE, paddr=0, offset=0x2000, kind=4), entry=0),
    "elf with bss": elf(load(RESET, memsz=RAM // 2)),
    "elf with two segments": elf(load(RESET), load(b"data", paddr=2 * MIB, offset=0x2000)),
    "elf, unaligned": elf(load(RESET, paddr=MIB + 0x123, offset=0x1001), entry=MIB + 0x123),
    "elf at the end of RAM": elf(load(RESET, paddr=RAM - 0x1000, memsz=0x1000), entry=RAM - 0x1000),
    "bzImage": bzimage(),
    "bzImage, last paragraph incomplete": bzimage()[:-9],
    "bzImage with a signature behind it": bzimage(size=20000),
}


@pytest.mark.parametrize("name", GOOD)
def test_good_image(mayfly, tmp_path, name):
    outcome = mayfly.run(machine(write(tmp_path, GOOD[name])))
    assert (outcome.code, outcome.out, outcome.err) == (0, "", "")


def test_good_initrd(mayfly, tmp_path):
    outcome = mayfly.run(machine(write(tmp_path, bzimage()), initrd=sparse(tmp_path / "initrd", 64 * MIB)))
    assert (outcome.code, outcome.err) == (0, "")


@pytest.mark.parametrize("image", [elf(load(TRIPLE_FAULT)), bzimage(TRIPLE_FAULT)], ids=["elf", "bzImage"])
def test_triple_fault(mayfly, tmp_path, image):
    outcome = mayfly.run(machine(write(tmp_path, image)))
    assert outcome.code == GUEST_CRASHED and re.search("triple fault|cannot go on", outcome.err)


# ---- ELF ----

PHDR = 64  # offset of the first program header
BAD_ELF = {
    "not a kernel": (b"#!/bin/sh\n" * 100, "neither.*nor"),
    "gzip": (b"\x1f\x8b\x08" + bytes(600), "gzip"),
    "one byte": (b"\x7f", "neither.*nor"),
    "magic only": (b"\x7fELF", "cut short"),
    "half a header": (reset_elf()[:40], "cut short"),
    "no program headers in the file": (reset_elf()[:64], "cut short"),
    "half a program header": (reset_elf()[:64 + 30], "cut short"),
    "segment cut off": (reset_elf()[:0x1000 + 5], "cut short"),
    "all of a segment cut off": (reset_elf()[:0x800], "cut short"),
    "32-bit": (elf(load(RESET), ident=b"\x7fELF\1\1\1" + bytes(9)), "64-bit"),
    "big-endian": (elf(load(RESET), ident=b"\x7fELF\2\2\1" + bytes(9)), "little-endian"),
    "for arm64": (elf(load(RESET), e_machine=183), "x86-64"),
    "an object file": (elf(load(RESET), e_type=1), "executable"),
    "no program headers": (elf(), "program headers"),
    "65535 program headers": (elf(load(RESET), e_phnum=65535, size=1 << 16), "program headers"),
    "64 program headers past the end": (elf(load(RESET), e_phnum=64, size=2048), "cut short"),
    "program headers of 1 byte": (elf(load(RESET), e_phentsize=1), "program headers"),
    "program headers far away": (elf(load(RESET), e_phoff=2**63), "cut short"),
    "program headers that wrap": (elf(load(RESET), e_phoff=2**64 - 8), "cut short"),
    "nothing to load": (elf(load(RESET, kind=7)), "no segment"),
    "only empty segments": (elf(load(b"", memsz=0)), "no segment"),
    "segment below 1 MiB": (elf(load(RESET, paddr=0x7000), entry=0x7000), "first MiB"),
    "segment at 0": (elf(load(RESET, paddr=0), entry=0), "first MiB"),
    "segment reaching past RAM": (elf(load(RESET, memsz=RAM)), r"RAM.*mem_size_mib"),
    "segment past RAM": (elf(load(RESET), load(b"x", paddr=RAM, offset=0x2000)), r"RAM.*mem_size_mib"),
    "segment in the device hole": (elf(load(RESET), load(b"x", paddr=0xC0001000, offset=0x2000)), "RAM"),
    "segment at 4 GiB": (elf(load(RESET), load(b"x", paddr=1 << 32, offset=0x2000)), "RAM"),
    "segment at the end of the address space": (elf(load(RESET), load(b"x", paddr=2**64 - 16, memsz=16, offset=0x2000)), "RAM|wraps"),
    "segment that wraps": (elf(load(RESET, paddr=2 * MIB, memsz=2**64 - MIB), entry=2 * MIB), "wraps"),
    "segment of all memory": (elf(load(RESET, memsz=2**64 - 1)), "RAM|wraps"),
    "bss of 2^63 bytes": (elf(load(RESET, memsz=2**63)), "RAM"),
    "more in the file than in memory": (elf(load(bytes(64), memsz=16)), "only"),
    "segment past the file": (elf(load(RESET, offset=0x1000, filesz=0x5000)), "cut short"),
    "segment offset far away": (elf({**load(RESET, filesz=10), "header": struct.pack("<IIQQQQQQ", 1, 7, 2**63, MIB, MIB, 10, 16, 0)}), "cut short"),
    "segment offset that wraps": (elf({**load(RESET), "header": struct.pack("<IIQQQQQQ", 1, 7, 2**64 - 8, MIB, MIB, 16, 16, 0)}), "cut short"),
    "same segment twice": (elf(load(RESET), load(RESET)), "overlap"),
    "overlap by a byte": (elf(load(RESET, memsz=0x1001), load(b"x", paddr=MIB + 0x1000, offset=0x2000)), "overlap"),
    "one inside another": (elf(load(RESET, memsz=MIB), load(b"x", paddr=MIB + 0x8000, offset=0x2000)), "overlap"),
    "overlap, later one first": (elf(load(b"x", paddr=MIB + 0x8000, offset=0x2000), load(RESET, memsz=MIB)), "overlap"),
    "entry at 0": (elf(load(RESET), entry=0), "entry"),
    "entry past its segment": (elf(load(RESET), entry=MIB + 0x100000), "entry"),
    "entry at a virtual address": (elf(load(RESET), entry=0xFFFFFFFF81000000), "entry.*physical"),
    "PVH entry outside": (elf(load(RESET), load(struct.pack("<III4sI", 4, 4, 18, b"Xen\0", 0xFFFFFFF0), paddr=0, offset=0x2000, kind=4)), "PVH entry"),
    "PVH note of 1 byte": (elf(load(RESET), load(struct.pack("<III4sI", 4, 1, 18, b"Xen\0", 0), paddr=0, offset=0x2000, kind=4)), "PVH note"),
    "note name of 4 GiB": (elf(load(RESET), load(struct.pack("<III4sI", 2**32 - 1, 4, 18, b"Xen\0", 0), paddr=0, offset=0x2000, kind=4)), "note"),
    "note value of 4 GiB": (elf(load(RESET), load(struct.pack("<III4sI", 4, 2**32 - 1, 1, b"Xen\0", 0), paddr=0, offset=0x2000, kind=4)), "note"),
    "notes past the file": (elf(load(RESET), load(b"", paddr=0, offset=0x2000, filesz=0x5000, kind=4)), "cut short"),
    "notes of 1 GiB": (elf(load(RESET), load(b"", paddr=0, offset=2**63, filesz=MIB, kind=4)), "cut short"),
}


@pytest.mark.parametrize("name", BAD_ELF)
def test_bad_elf(mayfly, tmp_path, name):
    image, why = BAD_ELF[name]
    says(mayfly.run(machine(write(tmp_path, image))), BAD_CONFIG, KERNEL, "kernel: ", why)


# ---- bzImage ----

BAD_BZIMAGE = {
    "cut in the setup code": (bzimage()[:0x230], "cut short"),
    "cut behind the setup code": (bzimage()[:2048], "cut short"),
    "cut in the kernel": (bzimage()[:4000], "cut short"),
    "cut by a paragraph": (bzimage()[:-16], "cut short"),
    "setup code of 255 sectors": (bzimage(setup_sects=255), "cut short"),
    "setup code unknown": (bzimage(setup_sects=0), "cut short|short"),
    "kernel longer than the file": (bzimage(syssize=0x1000), "cut short"),
    "kernel of 64 GiB": (bzimage(syssize=2**32 - 1), "cut short"),
    "kernel of no bytes": (bzimage(syssize=0), "short"),
    "kernel without an entry point": (bzimage(syssize=0x10), "short"),
    "payload past its end": (bzimage(payload_length=2**31), "compressed kernel"),
    "payload that wraps": (bzimage(payload_offset=2**32 - 16, payload_length=32), "compressed kernel"),
    "no payload": (bzimage(payload_length=0), "compressed kernel"),
    "unpacks to more than RAM": (bzimage(init_size=RAM), "RAM.*mem_size_mib"),
    "unpacks to 4 GiB": (bzimage(init_size=2**32 - 1), "RAM.*mem_size_mib"),
    "unpacks to less than itself": (bzimage(init_size=100), "unpack"),
    "unpacks to nothing": (bzimage(init_size=0), "unpack"),
    "load address past RAM": (bzimage(pref_address=RAM), "RAM.*mem_size_mib"),
    "load address in the device hole": (bzimage(pref_address=0xC0000000), "RAM"),
    "load address that wraps": (bzimage(pref_address=2**64 - 0x200000), "load address"),
    "load address 0": (bzimage(pref_address=0), "load address"),
    "load address on no page": (bzimage(pref_address=MIB + 1), "load address"),
    "alignment 0": (bzimage(kernel_alignment=0), "alignment"),
    "alignment of no power of two": (bzimage(kernel_alignment=0x3000), "alignment"),
    "alignment of 2 GiB": (bzimage(kernel_alignment=2**31), "RAM"),
    "protocol 2.00": (bzimage(version=0x200), "2.12"),
    "no 64-bit entry": (bzimage(xloadflags=0), "64-bit"),
    "zImage": (bzimage(loadflags=0), "bzImage is needed"),
    "header of no length": (bzimage(jump=0x00EB), "too short"),
    "no magic": (bzimage(magic=b"HdrX"), "neither.*nor"),
}


@pytest.mark.parametrize("name", BAD_BZIMAGE)
def test_bad_bzimage(mayfly, tmp_path, name):
    image, why = BAD_BZIMAGE[name]
    says(mayfly.run(machine(write(tmp_path, image))), BAD_CONFIG, KERNEL, "kernel: ", why)


def test_command_line_longer_than_the_kernel_takes(mayfly, tmp_path):
    config = machine(write(tmp_path, bzimage(cmdline_size=100)), boot_args="x" * 101)
    says(mayfly.run(config), BAD_CONFIG, r"boot-source\.boot_args", "at most 100")


# ---- every way a file can fail, for both ----

def with_file(tmp_path, field, path):
    if field == "kernel":
        return machine(path)
    return machine(write(tmp_path, reset_elf(), "good-kernel"), initrd=path)


FIELDS = pytest.mark.parametrize("field,pattern", [("kernel", KERNEL), ("initrd", INITRD)], ids=["kernel", "initrd"])


@FIELDS
def test_missing(mayfly, tmp_path, field, pattern):
    says(mayfly.run(with_file(tmp_path, field, tmp_path / "none")), BAD_CONFIG, pattern, "none: No such file")


@FIELDS
def test_unreadable(mayfly, tmp_path, field, pattern):
    path = write(tmp_path, reset_elf(), "secret")
    path.chmod(0)
    says(mayfly.run(with_file(tmp_path, field, path), wrapper=NO_OVERRIDE), BAD_CONFIG, pattern, "secret: Permission denied")


@FIELDS
@pytest.mark.parametrize("kind", ["directory", "fifo", "device", "empty"])
def test_no_regular_file(mayfly, tmp_path, field, pattern, kind):
    path = {"directory": tmp_path, "device": "/dev/zero"}.get(kind, tmp_path / kind)
    if kind == "fifo":
        os.mkfifo(path)
    if kind == "empty":
        path.touch()
    says(mayfly.run(with_file(tmp_path, field, path)), BAD_CONFIG, pattern, "empty" if kind == "empty" else "must be a regular file")


def test_huge_elf(mayfly, tmp_path):
    """A sparse file of 1 TiB whose one segment is all of it."""
    size = 1 << 40
    path = write(tmp_path, elf(load(RESET, filesz=size - 0x1000)))
    os.truncate(path, size)
    says(mayfly.run(machine(path)), BAD_CONFIG, KERNEL, "RAM.*mem_size_mib")


def test_huge_bzimage(mayfly, tmp_path):
    path = write(tmp_path, bzimage(syssize=2**32 - 1, init_size=2**32 - 1))
    os.truncate(path, 1 << 40)
    says(mayfly.run(machine(path)), BAD_CONFIG, KERNEL)


def test_huge_file_of_nothing(mayfly, tmp_path):
    says(mayfly.run(machine(sparse(tmp_path / "kernel", 1 << 40))), BAD_CONFIG, KERNEL, "neither.*nor")


@pytest.mark.parametrize("size", [RAM, RAM - MIB, 1 << 32, 1 << 40], ids=["RAM", "RAM - 1 MiB", "4 GiB", "1 TiB"])
def test_initrd_larger_than_ram(mayfly, tmp_path, size):
    config = machine(write(tmp_path, reset_elf()), initrd=sparse(tmp_path / "initrd", size))
    says(mayfly.run(config), BAD_CONFIG, INITRD, "mem_size_mib")


def test_initrd_beyond_what_the_kernel_reaches(mayfly, tmp_path):
    config = machine(write(tmp_path, bzimage(initrd_addr_max=18 * MIB - 1)), initrd=sparse(tmp_path / "initrd", 2 * MIB))
    says(mayfly.run(config), BAD_CONFIG, INITRD, "free")


def test_kernel_beyond_the_boot_page_tables(mayfly, tmp_path):
    """The 64-bit boot protocol maps 1 GiB; RAM that is there does not help a kernel outside of it."""
    path = write(tmp_path, elf(load(RESET, paddr=1 << 30), entry=1 << 30))
    says(mayfly.run(machine(path, mem_mib=2048)), BAD_CONFIG, KERNEL, "page tables")
