"""Kernel images made by hand: tiny guests that are valid, and the ways in which an image can lie."""

import struct

# One guest for every entry mode, since the encodings agree: ask the i8042 for a reset, then halt for good.
RESET = bytes.fromhex("b0fe 66ba6400 ee f4 ebfd")
# No descriptor tables and an undefined instruction: the CPU gives up (lidt of a zero limit would need memory; ud2 alone does).
TRIPLE_FAULT = bytes.fromhex("0f0b ebfc")
MIB = 1 << 20
PT_LOAD = 1


def load(data=b"", paddr=MIB, offset=0x1000, filesz=None, memsz=None, kind=PT_LOAD):
    """One program header with the bytes it refers to."""
    filesz = len(data) if filesz is None else filesz
    memsz = max(filesz, 16) if memsz is None else memsz
    return {"header": struct.pack("<IIQQQQQQ", kind, 7, offset, paddr, paddr, filesz, memsz, 0x1000), "data": data, "offset": offset}


def elf(*segments, entry=MIB, size=None, **fields):
    """An x86-64 ELF executable; fields overrides what its header says (e_phnum=…)."""
    header = {
        "ident": b"\x7fELF\2\1\1" + bytes(9), "e_type": 2, "e_machine": 62, "e_version": 1, "e_entry": entry, "e_phoff": 64,
        "e_shoff": 0, "e_flags": 0, "e_ehsize": 64, "e_phentsize": 56, "e_phnum": len(segments), "e_shentsize": 0, "e_shnum": 0,
        "e_shstrndx": 0,
    }
    assert not fields.keys() - header.keys()
    header.update(fields)
    image = bytearray(struct.pack("<16sHHIQQQIHHHHHH", *header.values()) + b"".join(s["header"] for s in segments))
    for segment in segments:
        end = segment["offset"] + len(segment["data"])
        if segment["data"]:
            image.extend(bytes(max(0, end - len(image))))
            image[segment["offset"]:end] = segment["data"]
    if size is not None:
        image = image[:size].ljust(size, b"\0")
    return bytes(image)


def reset_elf():
    return elf(load(RESET))


# Offsets in the real-mode header (Documentation/arch/x86/boot.rst).
SETUP_FIELDS = {
    "setup_sects": (0x1F1, "<B"), "syssize": (0x1F4, "<I"), "boot_flag": (0x1FE, "<H"), "jump": (0x200, "<H"), "magic": (0x202, "4s"),
    "version": (0x206, "<H"), "loadflags": (0x211, "<B"), "code32_start": (0x214, "<I"), "initrd_addr_max": (0x22C, "<I"),
    "kernel_alignment": (0x230, "<I"), "relocatable_kernel": (0x234, "<B"), "min_alignment": (0x235, "<B"), "xloadflags": (0x236, "<H"),
    "cmdline_size": (0x238, "<I"), "payload_offset": (0x248, "<I"), "payload_length": (0x24C, "<I"), "pref_address": (0x258, "<Q"),
    "init_size": (0x260, "<I"),
}


def bzimage(code=RESET, size=None, **fields):
    """A bzImage whose 64-bit entry (0x200 into the protected-mode part) runs code; fields overrides its header."""
    protected = (bytes(0x200) + code).ljust(4096, b"\0")
    values = {
        "setup_sects": 3, "syssize": len(protected) // 16, "boot_flag": 0xAA55, "jump": 0x6AEB, "magic": b"HdrS", "version": 0x20F,
        "loadflags": 1, "code32_start": MIB, "initrd_addr_max": 0x7FFFFFFF, "kernel_alignment": 0x200000, "relocatable_kernel": 1,
        "min_alignment": 21, "xloadflags": 3, "cmdline_size": 2047, "payload_offset": 0x200, "payload_length": len(code),
        "pref_address": 16 * MIB, "init_size": MIB,
    }
    assert not fields.keys() - values.keys()
    values.update(fields)
    setup = bytearray(4 * 512)
    for name, value in values.items():
        offset, layout = SETUP_FIELDS[name]
        struct.pack_into(layout, setup, offset, value)
    image = bytes(setup) + protected
    return image if size is None else image[:size].ljust(size, b"\0")


# ---- small guests, the same bytes for 32-bit and long mode ----

IDLE = bytes.fromhex("f4 ebfd")
# Say "F" on the serial port, then halt for good: "F" tells that the machine runs.
READY_IDLE = bytes.fromhex("66baf803 b046 ee f4 ebfd")
# Write as fast as it can, whatever the port says.
FLOOD = bytes.fromhex("66baf803 b046 ee ebfd")
# Say "F", then send back what comes in.
ECHO = bytes.fromhex("66baf803 b046 ee" "66bafd03 ec a801 74f7 66baf803 ec ee ebef")


def counting(n):
    """Write the bytes 0, 1, 2 … 255, 0 … as a driver does, waiting for room; n in all, then reset."""
    wait_for_room = "66bafd03 ec a820 74f7"
    write_next = "66baf803 88c8 ee ffc1"
    compare = "81f9" + struct.pack("<I", n).hex()
    loop = bytes.fromhex(wait_for_room + write_next + compare)
    return bytes.fromhex("31c9") + loop + bytes([0x75, 0x100 - len(loop) - 2]) + RESET


def report_status(status, then=RESET):
    """Tell the boot timer's status register; needs a PVH entry, since 64-bit boot maps no device addresses."""
    return bytes.fromhex("bf040000c0 c707") + struct.pack("<I", status) + then


def pvh_elf(code):
    note = struct.pack("<III4sI", 4, 4, 18, b"Xen\0", MIB)
    return elf(load(code), load(note, paddr=0, offset=0x2000, kind=4), entry=0)
