#!/usr/bin/env python3
"""A model of what the test guest's block workloads leave on a disk.

The test guest (tests/guest) writes patterns that follow from a seed alone. This module computes the same patterns, so
that a test can run a script in a guest and then compare the disk image with what must be on it:

    disk = Disk(before)                     # bytes of the image before the guest ran
    disk.run("blk 0 fill 0 64 seed=7; blk 0 fuzz seed=1 n=500 span=2048 ops=rwfdz")
    problems = disk.compare(after)          # a list of sentences, empty when all is well

On the command line: blk_model.py BEFORE AFTER SCRIPT compares two image files, and ends with 1 when they differ. Only
the steps for block device 0 count; --device picks another. See tests/guest/pattern.h and workload.c for the other half.
"""

import argparse
import re
import struct
import sys

SECTOR = 512
WORDS = SECTOR // 8
MASK = (1 << 64) - 1
GAMMA = 0x9E3779B97F4A7C15
MAX_COMPLAINTS = 8

# Letter, weight: the order and the weights are those of workload.c.
OPS = (("r", 6), ("w", 8), ("f", 1), ("d", 1), ("z", 1))
SUFFIXES = {"k": 1 << 10, "m": 1 << 20, "g": 1 << 30}

# What the model knows about a sector.
ORIGINAL = "original"       # as it was before the guest ran
ZERO = "zero"
ANYTHING = "anything"       # discarded: the device may leave what it likes


def mix64(z):
    """The finaliser of splitmix64."""
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


class Rng:
    """The stream of random numbers that belongs to one operation of a workload."""

    def __init__(self, seed, op):
        self.state = mix64(seed ^ mix64(op))

    def next(self):
        self.state = (self.state + GAMMA) & MASK
        return mix64(self.state)


def pattern(seed, sector, tag):
    """The 512 bytes that a write with this tag leaves in this sector."""
    key = mix64(seed ^ mix64(sector ^ mix64(tag)))
    return struct.pack(f"<{WORDS}Q", *((key + i * GAMMA) & MASK for i in range(WORDS)))


def number(text):
    """A number as the guest reads it: decimal or 0x hexadecimal, with k, M or G for powers of 1024."""
    match = re.fullmatch(r"(0[xX][0-9a-fA-F]+|[0-9]+)([kKMG]?)", text)
    if not match:
        raise ValueError(f"not a number: {text!r}")
    return int(match[1], 0 if match[1][:2].lower() == "0x" else 10) * SUFFIXES.get(match[2].lower(), 1)


class Disk:
    """A disk image, and what a guest did to it since."""

    def __init__(self, image):
        self.image = bytes(image)
        self.sectors = len(self.image) // SECTOR
        self.content = {}           # sector → ZERO, ANYTHING or (seed, tag); all others are ORIGINAL

    def run(self, script, device=0):
        """Applies the steps "blk DEVICE …" of a script, in order. Steps that do not write are skipped."""
        for step in script.split(";"):
            words = step.split()
            if len(words) < 3 or words[0] != "blk" or number(words[1]) != device:
                continue
            options = dict(word.split("=", 1) for word in words[3:] if "=" in word)
            if options.get("expect", "ok") == "ok":
                self.step(words[2], words[3:], options)

    def step(self, verb, words, options):
        seed = number(options.get("seed", "0"))
        if verb in ("write", "fill"):
            self.put(number(words[0]), number(words[1]), (seed, 0))
        elif verb in ("zero", "write-zeroes"):
            self.put(number(words[0]), number(words[1]), ZERO)
        elif verb == "discard":
            self.put(number(words[0]), number(words[1]), self.discarded(options))
        elif verb == "fuzz":
            self.fuzz(seed, options)
        elif verb == "hostile":
            # Attacks write, discard and zero in this range only (SCRATCH_SECTOR in tests/guest/hostile.h).
            self.put(8, 1, ANYTHING)
        elif verb == "bench" and options.get("rw") == "write":
            raise ValueError("a write benchmark leaves no pattern behind")

    @staticmethod
    def discarded(options):
        return ZERO if options.get("discard", "any") == "zero" else ANYTHING

    def put(self, sector, count, what):
        for i in range(sector, sector + count):
            self.content[i] = what

    def fuzz(self, seed, options):
        """Replays the random mix of tests/guest/workload.c: same draws in the same order."""
        start = number(options.get("start", "0"))
        span = number(options.get("span", "2048"))
        longest = min(number(options.get("max", "64")), span)
        letters = options.get("ops", "rwf")
        weights = [(letter, weight) for letter, weight in OPS if letter in letters]
        total = sum(weight for _, weight in weights)

        for op in range(number(options.get("n", "1000"))):
            rng = Rng(seed, op)
            draw = rng.next() % total
            count = 1 + rng.next() % longest
            sector = start + rng.next() % (span - count + 1)
            kind = self.pick(weights, draw)
            if kind == "w":
                self.put(sector, count, (seed, op + 1))
            elif kind == "z":
                self.put(sector, count, ZERO)
            elif kind == "d":
                self.put(sector, count, self.discarded(options))

    @staticmethod
    def pick(weights, draw):
        for letter, weight in weights:
            if draw < weight:
                return letter
            draw -= weight
        raise AssertionError("a draw beyond the total weight")

    def expected(self, sector):
        """The 512 bytes that must be in a sector, or None when anything may be there."""
        what = self.content.get(sector, ORIGINAL)
        if what == ORIGINAL:
            return self.image[sector * SECTOR:(sector + 1) * SECTOR]
        if what == ZERO:
            return bytes(SECTOR)
        if what == ANYTHING:
            return None
        return pattern(what[0], sector, what[1])

    def compare(self, image):
        """What is wrong with an image, one sentence each, the first few; empty when it is as it must be."""
        problems = []
        if len(image) != len(self.image):
            problems.append(f"the image is {len(image)} bytes long instead of {len(self.image)}")
        for sector in range(min(len(image), len(self.image)) // SECTOR):
            want = self.expected(sector)
            got = image[sector * SECTOR:(sector + 1) * SECTOR]
            if want is None or got == want:
                continue
            what = self.content.get(sector, ORIGINAL)
            at = next(i for i in range(SECTOR) if got[i] != want[i])
            problems.append(f"sector {sector} ({what}) differs from byte {at}: {got[at:at + 8].hex()} "
                            f"instead of {want[at:at + 8].hex()}")
            if len(problems) >= MAX_COMPLAINTS:
                problems.append("and perhaps more")
                break
        return problems


def main():
    parser = argparse.ArgumentParser(description="Compare a disk image with what a guest's script must leave on it.")
    parser.add_argument("before", help="the image before the guest ran")
    parser.add_argument("after", help="the image afterwards")
    parser.add_argument("script", help='the steps, as in mayfly.test="…"')
    parser.add_argument("--device", type=int, default=0, help="which block device of the script (0)")
    args = parser.parse_args()

    with open(args.before, "rb") as file:
        disk = Disk(file.read())
    disk.run(args.script, args.device)
    with open(args.after, "rb") as file:
        problems = disk.compare(file.read())
    for problem in problems:
        print(problem)
    if problems:
        return 1
    touched = sum(1 for what in disk.content.values() if what != ORIGINAL)
    print(f"{disk.sectors} sectors as they must be, {touched} of them written by the script")
    return 0


if __name__ == "__main__":
    sys.exit(main())
