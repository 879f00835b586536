"""What guest_verify.c must leave on the disk: the same random sequence, carried out on a list of stamps."""

import struct

SECTOR, MAX_SECTORS, WORD = 512, 256, (1 << 64) - 1


def sequence(seed):
    """xorshift64, as in guest_verify.c."""
    value = seed & WORD
    while True:
        value ^= value << 13 & WORD
        value ^= value >> 7
        value ^= value << 17 & WORD
        yield value


def stamps(job, sectors, ops, seed):
    """For each sector of a job's part, the number of the operation that wrote it last; 0: it is zero."""
    stamp = [0] * sectors
    random = sequence((seed + job + 1) * 0x9E3779B97F4A7C15)
    for number in range(1, ops + 1):
        kind = next(random) % 100
        n = 1 + next(random) % MAX_SECTORS
        sector = next(random) % (sectors - n)
        if kind < 45:
            stamp[sector:sector + n] = [number] * n
        elif kind >= 90:
            stamp[sector:sector + n] = [0] * n
    return stamp


def differences(path, jobs, ops, seed):
    """Sectors of the image that are not what the model says, and how many are not zero."""
    wrong, written = [], 0
    with open(path, "rb") as image:
        image.seek(0, 2)
        part = image.tell() // SECTOR // jobs
        image.seek(0)
        for job in range(jobs):
            for sector, stamp in enumerate(stamps(job, part, ops, seed), job * part):
                expected = struct.pack("<QQ", sector, job << 32 | stamp) * 32 if stamp else bytes(SECTOR)
                written += bool(stamp)
                if image.read(SECTOR) != expected:
                    wrong.append(sector)
    return wrong, written
