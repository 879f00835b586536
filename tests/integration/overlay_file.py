"""Reads the delta files of overlays: what docs/overlay.md says of them, told a second time."""

import struct

SECTOR, BITMAP, ALIGNMENT = 512, 4096, 1 << 20


def data_offset(disk_size):
    chunks = -(-disk_size // SECTOR // (4096 * 8))
    return -(-(BITMAP + chunks * 4096) // ALIGNMENT) * ALIGNMENT


def merged(base, delta):
    """The disk (bytes) that a base and a delta (paths) are together, and how many of its sectors are the delta's."""
    disk, delta = bytearray(base.read_bytes()), delta.read_bytes()
    del disk[len(disk) // SECTOR * SECTOR:]
    magic, version, sector, size, start = struct.unpack_from("<8sIIQQ", delta)
    assert (magic, version, sector, size, start) == (b"mayflyOV", 1, SECTOR, len(disk), data_offset(len(disk)))
    assert len(delta) == start + size
    own = [n for n in range(size // SECTOR) if delta[BITMAP + n // 8] >> n % 8 & 1]
    for n in own:
        disk[n * SECTOR:(n + 1) * SECTOR] = delta[start + n * SECTOR:start + (n + 1) * SECTOR]
    return bytes(disk), len(own)
