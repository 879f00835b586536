"""State and memory files of snapshots, made and taken apart by hand (vmm/snapshot/state.h, memory_file.h): for tests with files that nobody wrote."""

import copy
import json
import os
import struct
from pathlib import Path
from typing import NamedTuple

PAGE = 4096
HEADER = struct.Struct("<8sHHIQ")
RECORD = struct.Struct("<4sIII")
INFO = struct.Struct("<16sQQ32s48sII")
TRAILER = struct.Struct("<8sHHIQ16s16sQQ")
CPUID_ENTRY = struct.Struct("<7I12x")  # struct kvm_cpuid_entry2: function, index, flags, eax, ebx, ecx, edx
MSR_ENTRY = struct.Struct("<IIQ")  # struct kvm_msr_entry
STATE_MAGIC, MEMORY_MAGIC, REBASE_MAGIC = b"MAYFLYVM", b"MAYFLYMM", b"MAYFLYRB"
MAJOR, MINOR = 1, 0
OPTIONAL = 1
FULL, DIFF = 1, 2


def crc_table():
    table = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (0xC96C5795D7870F42 if value & 1 else 0)
        table.append(value)
    return table


CRC_TABLE = crc_table()


def crc64(data, crc=0):
    """ECMA-182, reflected: as in .xz files."""
    crc ^= 2**64 - 1
    for byte in data:
        crc = crc >> 8 ^ CRC_TABLE[(crc ^ byte) & 255]
    return crc ^ 2**64 - 1


# ---- state files ----

class Record(NamedTuple):
    tag: bytes
    index: int
    payload: bytes
    flags: int = 0

    @property
    def name(self):
        return f"{self.tag.decode()} {self.index}"


def pad(data):
    return data + bytes(-len(data) % 8)


def seal(body, major=MAJOR, minor=MINOR, magic=STATE_MAGIC, size=None):
    """The file: header, bytes of records, checksum. Say a size to lie about it."""
    size = HEADER.size + len(body) + 8 if size is None else size
    data = HEADER.pack(magic, major, minor, 0, size) + body
    return data + struct.pack("<Q", crc64(data))


def join(records, **header):
    """A state file of these records; header as for seal."""
    return seal(b"".join(RECORD.pack(r.tag, r.index, len(r.payload), r.flags) + pad(r.payload) for r in records), **header)


def split(data):
    """The records of a whole state file."""
    records, at = [], HEADER.size
    while at < len(data) - 8:
        tag, index, size, flags = RECORD.unpack_from(data, at)
        at += RECORD.size
        records.append(Record(tag, index, data[at:at + size], flags))
        at += len(pad(bytes(size)))
    return records


def reseal(data):
    """The same bytes with the size and the checksum that they should have."""
    data = data[:16] + struct.pack("<Q", len(data)) + data[24:-8]
    return data + struct.pack("<Q", crc64(data))


def change(data, tag, payload, index=0):
    """The state file with another payload in that record; a function makes it from the old one."""
    records = split(data)
    place = next(i for i, r in enumerate(records) if (r.tag, r.index) == (tag, index))
    old = records[place].payload
    records[place] = records[place]._replace(payload=payload(old) if callable(payload) else payload)
    major, minor = HEADER.unpack_from(data)[1:3]
    return join(records, major=major, minor=minor)


def config_of(data):
    return json.loads(next(r.payload for r in split(data) if r.tag == b"CONF"))


def change_config(data, edit):
    """The state file after edit(configuration), which changes it in place."""
    config = config_of(data)
    edit(config)
    return change(data, b"CONF", json.dumps(config, separators=(",", ":")).encode())


CONFIG = {
    "balloon": None,
    "drives": [
        {"drive_id": "rootfs", "partuuid": None, "is_root_device": True, "cache_type": "Unsafe", "is_read_only": True, "path_on_host": "/images/root.ext4",
         "rate_limiter": None, "io_engine": "Sync", "socket": None},
        {"drive_id": "data", "partuuid": None, "is_root_device": False, "cache_type": "Writeback", "is_read_only": False, "path_on_host": "/images/data.ext4",
         "rate_limiter": None, "io_engine": "Async", "socket": None},
    ],
    "boot-source": {"kernel_image_path": "/images/vmlinux", "initrd_path": None, "boot_args": "quiet"},
    "cpu-config": None,
    "entropy": None,
    "machine-config": {"vcpu_count": 2, "mem_size_mib": 1, "smt": False, "track_dirty_pages": False, "huge_pages": "None"},
    "memory-hotplug": None,
    "mmds-config": None,
    "network-interfaces": [
        {"iface_id": "eth0", "host_dev_name": "tap0", "guest_mac": "06:00:ac:10:00:02", "mtu": None, "rx_rate_limiter": None, "tx_rate_limiter": None},
        {"iface_id": "eth1", "host_dev_name": "tap1", "guest_mac": None, "mtu": None, "rx_rate_limiter": None, "tx_rate_limiter": None},
    ],
    "pmem": [],
    "serial": {"serial_out_path": None, "serial_socket_path": None, "rate_limiter": None},
    "vsock": {"guest_cid": 3, "uds_path": "/run/v.sock"},
}
CPUID = ((0x0, 0, 0, 0xD, 1, 2, 3), (0x1, 0, 0, 1, 2, 1 << 30 | 1 << 25, 4), (0x7, 0, 1, 0, 1 << 5, 0, 0), (0x40000001, 0, 0, 1, 0, 0, 0))
MSRS = ((0x10, 123456789), (0xC0000080, 0xD01), (0x1A0, 1), (0x777, 5))


def config(mem_size_mib=1, vcpus=2):
    made = copy.deepcopy(CONFIG)
    made["machine-config"].update(vcpu_count=vcpus, mem_size_mib=mem_size_mib)
    return made


def info(cfg, memory_id, created_ns=1_763_750_000_123_456_789, version=b"0.1.0", cpu=b"Some Processor @ 2.00GHz"):
    transports = len(cfg["drives"]) + len(cfg["network-interfaces"]) + (cfg["vsock"] is not None)
    machine = cfg["machine-config"]
    return INFO.pack(memory_id, machine["mem_size_mib"] << 20, created_ns, version, cpu, machine["vcpu_count"], transports)


def records(cfg=None, memory_id=b"M" * 16, metadata=None, **about):
    """Those of a microVM with this configuration. What devices and vCPUs have in theirs is made up: only a loader would know."""
    cfg = cfg or config()
    made = [Record(b"INFO", 0, info(cfg, memory_id, **about)), Record(b"HOST", 0, b"host" * 6, OPTIONAL),
            Record(b"CONF", 0, json.dumps(cfg, separators=(",", ":")).encode())]
    if metadata is not None:
        made.append(Record(b"MMDS", 0, json.dumps(metadata).encode()))
    made += [Record(b"IOAP", 0, b"pins" * 5), Record(b"I804", 0, b"keys" * 2), Record(b"SERL", 0, b"uart" * 5), Record(b"SERL", 1, b"waits"),
             Record(b"SERL", 2, b""), Record(b"SERL", 3, b"typed"), Record(b"VGID", 0, bytes(8))]
    devices = [b"VBLK"] * len(cfg["drives"]) + [b"VNET"] * len(cfg["network-interfaces"]) + [b"VSCK"] * (cfg["vsock"] is not None)
    for slot, tag in enumerate(devices):
        made += [Record(b"VMIO", slot, b"transport" * 4), Record(tag, slot, tag * 7)]
    for vcpu in range(cfg["machine-config"]["vcpu_count"]):
        made += [Record(b"CPID", vcpu, b"".join(CPUID_ENTRY.pack(*leaf) for leaf in CPUID)), Record(b"VCPU", vcpu, b"registers" * 30),
                 Record(b"XSAV", vcpu, bytes(4096)), Record(b"MSRS", vcpu, b"".join(MSR_ENTRY.pack(index, 0, value) for index, value in MSRS))]
    return made + [Record(b"CLCK", 0, bytes(32))]


# ---- memory files ----

class Trailer(NamedTuple):
    kind: int
    size: int
    id: bytes
    base: bytes = bytes(16)

    def pack(self, magic=MEMORY_MAGIC, version=1, bitmap=b""):
        data = TRAILER.pack(magic, version, self.kind, 0, self.size, self.id, self.base, crc64(bitmap), 0)[:-8]
        return (data + struct.pack("<Q", crc64(data))).ljust(PAGE, b"\0")


def bitmap_size(size):
    return ((size // PAGE + 7) // 8 + PAGE - 1) // PAGE * PAGE


def bitmap_of(pages, size):
    bits = bytearray(bitmap_size(size))
    for number in pages:
        bits[number // 8] |= 1 << number % 8
    return bytes(bits)


def write_memory(path, pages, trailer, bitmap=None):
    """pages: number → 4096 bytes, also of zeros; the others are holes. bitmap: instead of a diff's own. Returns the path."""
    if bitmap is None:
        bitmap = bitmap_of(pages, trailer.size) if trailer.kind == DIFF else b""
    with open(path, "wb") as out:
        out.truncate(trailer.size + len(bitmap) + PAGE)  # first: XFS shows as data what it keeps ready behind the end of a growing file
        for number, page in pages.items():
            assert len(page) == PAGE
            out.seek(number * PAGE)
            out.write(page)
        out.seek(trailer.size)
        out.write(bitmap + trailer.pack(bitmap=bitmap))
    return Path(path)


def read_trailer(path):
    """What the trailer says; None if there is none that is whole."""
    size = os.path.getsize(path)
    if size < PAGE:
        return None
    with open(path, "rb") as file:
        file.seek(size - PAGE)
        data = file.read(TRAILER.size)
    magic, version, kind, _, size, ident, base, _, crc = TRAILER.unpack(data)
    if magic != MEMORY_MAGIC or version != 1 or crc != crc64(data[:-8]):
        return None
    return Trailer(kind, size, ident, base)


def held_pages(path):
    """Number → contents of the pages that are in the file, not in a hole; without what stands behind RAM."""
    pages, at, end = {}, 0, read_trailer(path).size
    with open(path, "rb") as file:
        while at < end:
            try:
                at = os.lseek(file.fileno(), at, os.SEEK_DATA) // PAGE * PAGE
            except OSError:
                break
            hole = os.lseek(file.fileno(), at, os.SEEK_HOLE)
            while at < min(hole, end):
                pages[at // PAGE] = os.pread(file.fileno(), PAGE, at)
                at += PAGE
    return pages


def diff_pages(path):
    """Number → contents of the pages that a diff has."""
    size = read_trailer(path).size
    with open(path, "rb") as file:
        file.seek(size)
        bits = file.read(bitmap_size(size))
        assert file.read(TRAILER.size)[-16:-8] == struct.pack("<Q", crc64(bits))
        return {n: os.pread(file.fileno(), PAGE, n * PAGE) for n in range(size // PAGE) if bits[n // 8] >> n % 8 & 1}
