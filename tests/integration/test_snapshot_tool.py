"""mayfly-snapshot, with files that no Mayfly wrote: what it shows, what it refuses, and that a rebase is done, undone or never loadable."""

import fcntl
import hashlib
import json
import lzma
import os
import pty
import random
import re
import signal
import struct
import subprocess
import tempfile
from pathlib import Path

import pytest

from harness import PATIENCE, ROOT, SANITIZER_ENV, SANITIZER_REPORT, artifact
from snapshot_files import (CPUID, CPUID_ENTRY, DIFF, FULL, HEADER, MSR_ENTRY, MSRS, OPTIONAL, PAGE, RECORD, TRAILER, Record, Trailer, bitmap_of, change, change_config,
                            config, config_of, crc64, diff_pages, held_pages, join, read_trailer, records, reseal, seal, split, write_memory)

MIB = 1 << 20
BASE_ID, DIFF_ID, OTHER_ID = b"B" * 16, b"D" * 16, b"O" * 16


class Tool:
    def __init__(self, program):
        self.program = program

    def __call__(self, *args, code=0, wrapper=(), **popen):
        """Run it and look at its end: no crash, no sanitizer's report, and where it refuses, one sentence. Returns (standard output, sentence)."""
        done = subprocess.run([*wrapper, self.program, *map(str, args)], stdin=subprocess.DEVNULL, stdout=popen.pop("stdout", subprocess.PIPE),
                              stderr=subprocess.PIPE, timeout=PATIENCE, env={**os.environ, **SANITIZER_ENV}, check=False, **popen)
        out, err = (done.stdout or b"").decode(), done.stderr.decode()
        assert not SANITIZER_REPORT.search(err), err
        codes = code if isinstance(code, tuple) else (code,)
        assert done.returncode in codes, f"{args}: {done.returncode}\n{out}\n{err}"
        if err:
            assert re.fullmatch(r"mayfly-snapshot: [^\x00-\x1f\x7f-\x9f]+\n", err), repr(err)
        elif done.returncode == 1:
            assert args[0] == "diff", f"{args}: refused without a word"
        return out, err


@pytest.fixture(params=["mayfly-snapshot", "mayfly-snapshot-debug"])
def tool(request):
    return Tool(artifact(request.param))


@pytest.fixture
def release():
    """For what is slow, or goes by system calls: the sanitizers make their own."""
    return Tool(artifact("mayfly-snapshot"))


@pytest.fixture
def memory_dir():
    """A directory on tmpfs, for tests that wait for hundreds of fsyncs otherwise. What a kill leaves is the same there."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as path:
        yield Path(path)


@pytest.fixture
def good(tmp_path):
    """A state file and the memory that belongs to it."""
    state = tmp_path / "vm.state"
    state.write_bytes(join(records(memory_id=BASE_ID)))
    memory = write_memory(tmp_path / "vm.mem", {3: b"x" * PAGE}, Trailer(FULL, MIB, BASE_ID))
    return state, memory


def refused(tool, *args, says=""):
    _, err = tool("verify", *args, code=1)
    assert re.search(says, err), err


# ---- the format ----

def test_checksum_is_that_of_xz():
    data = random.Random(1).randbytes(5000)
    packed = lzma.compress(data, check=lzma.CHECK_CRC64)
    assert struct.pack("<Q", crc64(data)) in packed
    assert crc64(data[100:], crc64(data[:100])) == crc64(data)


def test_knows_every_record():
    """A tag that state.h has and records.c has not would make the tool refuse good files."""
    tags = re.findall(r"^\t(STATE_\w+) = STATE_TAG", (ROOT / "vmm/snapshot/state.h").read_text(encoding="utf-8"), re.M)
    known = re.findall(r"{ (STATE_\w+),", (ROOT / "snapshot-tool/records.c").read_text(encoding="utf-8"))
    assert len(tags) > 10 and set(tags) == set(known)


# ---- info ----

def test_info(tool, good):
    out, _ = tool("info", good[0])
    rows = [re.split(r"  +", line.strip()) for line in out.splitlines()]
    assert ["Format", "1.0"] in rows and ["CPU", "Some Processor @ 2.00GHz"] in rows and ["vCPUs", "2"] in rows and ["RAM", "1 MiB"] in rows
    assert ["Created", "2025-11-21T18:33:20.123456789Z"] in rows and ["Memory id", BASE_ID.hex()] in rows and ["Written by", "0.1.0"] in rows
    assert ["drive", "rootfs", "read-only, root", "/images/root.ext4"] in rows and ["network", "eth0", "06:00:ac:10:00:02", "tap0"] in rows
    assert ["vsock", "CID 3", "/run/v.sock"] in rows
    table = out.split("Devices\n")[1].splitlines()
    assert len({line.rindex(host) for line, host in zip(table, ("/images/root", "/images/data", "tap0", "tap1", "/run/v"))}) == 1, "columns are aligned"
    assert "Records" not in out
    assert re.search(r"\n  MSRS 1 +64  vCPU, MSRs\n", tool("info", good[0], "--verbose")[0])


def test_info_as_json(tool, good):
    told = json.loads(tool("info", "--json", good[0])[0])
    assert (told["kind"], told["vcpus"], told["memory_size"], told["memory_id"]) == ("state", 2, MIB, BASE_ID.hex())
    assert [d["host"] for d in told["devices"]] == ["/images/root.ext4", "/images/data.ext4", "tap0", "tap1", "/run/v.sock"]
    assert [r["record"] for r in told["records"]] == [r.name for r in records()]


def test_info_of_memory(tool, good, tmp_path):
    assert json.loads(tool("info", "--json", good[1])[0]) == {"kind": "memory", "memory_id": BASE_ID.hex(), "memory_size": MIB, "data": PAGE}
    diff = write_memory(tmp_path / "diff", {1: b"a" * PAGE, 2: bytes(PAGE), 9: b"b" * PAGE}, Trailer(DIFF, MIB, DIFF_ID, BASE_ID))
    told = json.loads(tool("info", "--json", diff)[0])
    assert told == {"kind": "memory diff", "memory_id": DIFF_ID.hex(), "base": BASE_ID.hex(), "memory_size": MIB, "data": 3 * PAGE}
    assert re.search(rf"Base +{BASE_ID.hex()}\n", tool("info", diff)[0])


def test_memory_that_begins_like_a_state_file(tool, tmp_path):
    """What stands at the start of a memory file is the guest's to choose."""
    state = join(records(memory_id=OTHER_ID))
    memory = write_memory(tmp_path / "mem", {}, Trailer(FULL, MIB, BASE_ID))
    with open(memory, "r+b") as file:
        file.write(state)
    assert json.loads(tool("info", "--json", memory)[0])["kind"] == "memory"


def test_nothing_shown_steers_a_terminal(tool, tmp_path):
    evil = "\x1b]0;owned\x07\x9b31m\x7f\r\n"
    cfg = config()
    cfg["drives"][0]["path_on_host"] = f"/images/{evil}"
    cfg["vsock"]["uds_path"] = evil
    state = tmp_path / "state"
    made = records(cfg, metadata={evil: evil}, version=b"\x1b[2J\xff", cpu=evil.encode() + b"\xc3")
    state.write_bytes(join([*made, Record(b"\x1b[2J", 0, b"", OPTIONAL)]))
    other = tmp_path / f"other{evil}"
    other.write_bytes(join(records(metadata={"a": [evil]})))
    for args in (("info", "-v", state), ("info", "--json", state), ("diff", state, other), ("diff", "--json", state, other), ("verify", other)):
        out, _ = tool(*args, code=(0, 1))
        assert out and not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]", out.replace("\x7f", "") if "--json" in args else out), args
    tool("verify", tmp_path / f"missing{evil}", code=1)
    tool("verify", state, "--" + evil, code=2)


# ---- verify: state files ----

def test_good_files_are_good(tool, good, tmp_path):
    out, _ = tool("verify", *good)
    assert out.count(": good") == 2
    cfg = config(vcpus=32, mem_size_mib=64)
    cfg.update(drives=[], vsock=None)
    cfg["network-interfaces"] = []
    other = tmp_path / "other"
    other.write_bytes(join(records(cfg, metadata={"a": 1})))
    tool("verify", other)


def test_optional_records_are_passed_over(tool, good):
    made = records(memory_id=BASE_ID)
    strange = Record(b"NEW!", 77, b"later", OPTIONAL)
    for place in range(len(made) + 1):
        good[0].write_bytes(join(made[:place] + [strange] + made[place:]))
        tool("verify", *good)
    good[0].write_bytes(join(made + [strange._replace(flags=0)]))
    refused(tool, good[0], says="NEW! 77: .*one too many")


def test_cut_short(tool, good):
    data = good[0].read_bytes()
    for length in sorted({0, 1, 7, 8, 12, 16, 23, 24, 31, 32, 40, 41, 48, 200, len(data) // 2, *range(len(data) - 9, len(data))}):
        good[0].write_bytes(data[:length])
        refused(tool, good[0], says="none of Mayfly's|cut short")
        if length >= 32:
            good[0].write_bytes(reseal(data[:length]))
            refused(tool, good[0])
    good[0].write_bytes(data + bytes(8))
    refused(tool, good[0], says="goes on after its end")


def test_flipped_bits_are_found(release, good):
    data, rng = good[0].read_bytes(), random.Random(2)
    for place in [*range(64), *(rng.randrange(len(data)) for _ in range(400))]:
        flipped = bytearray(data)
        flipped[place] ^= 1 << rng.randrange(8)
        good[0].write_bytes(flipped)
        refused(release, good[0])


def test_flipped_bits_with_a_good_checksum(tool, good, tmp_path):
    """Whoever makes such files knows how to make checksums: any answer will do, but no crash. Half of them hit the head of a record."""
    data, rng = good[0].read_bytes(), random.Random(3)
    heads, at = [], HEADER.size
    for record in split(data):
        heads += range(at, at + RECORD.size)
        at += RECORD.size + (len(record.payload) + 7) // 8 * 8
    answers = set()
    for turn in range(24 if "debug" in tool.program.name else 80):
        flipped = bytearray(data)
        for _ in range(rng.choice((1, 1, 4))):
            flipped[rng.choice(heads) if turn % 2 else rng.randrange(8, len(data) - 8)] ^= 1 << rng.randrange(8)
        bad = tmp_path / "flipped"
        bad.write_bytes(reseal(bytes(flipped)))
        _, err = tool("verify", bad, code=(0, 1))
        tool("info", "-v", bad, code=(0, 1))
        tool("diff", good[0], bad, code=(0, 1))
        answers.add(bool(err))
    assert answers == {True, False}


def test_order_and_number_of_records(release, good):
    made = [r for r in records(memory_id=BASE_ID) if not r.flags]
    good[0].write_bytes(join(made))
    release("verify", *good)
    for i in range(len(made)):
        good[0].write_bytes(join(made[:i] + made[i + 1:]))
        refused(release, good[0])
        good[0].write_bytes(join(made[:i] + [made[i]] + made[i:]))
        refused(release, good[0])
        if i:
            good[0].write_bytes(join(made[:i - 1] + [made[i], made[i - 1]] + made[i + 1:]))
            refused(release, good[0], says="missing, or out of order|no device comes after")
        if made[i].tag != b"INFO":
            good[0].write_bytes(join(made[:i] + [made[i]._replace(index=made[i].index + 1)] + made[i + 1:]))
            refused(release, good[0])


def with_record_size(size):
    def lie(data):
        return reseal(data[:HEADER.size + 8] + struct.pack("<I", size) + data[HEADER.size + 12:])
    return lie


def with_info(offset, value):
    return lambda data: change(data, b"INFO", lambda old: old[:offset] + value + old[offset + len(value):])


def with_config(edit):
    return lambda data: change_config(data, edit)


HOSTILE = {
    "another magic": (lambda d: b"MAYFLYVN" + d[8:], "none of Mayfly's"),
    "a later minor version": (lambda d: join(split(d), minor=1), r"format 1\.1.*newer"),
    "a later major version": (lambda d: join(split(d), major=2), r"format 2\.0.*newer"),
    "an earlier major version": (lambda d: join(split(d), major=0), r"format 0\.0.*older"),
    "a huge file size": (lambda d: d[:16] + struct.pack("<Q", 2**64 - 1) + d[24:], "cut short"),
    "a small file size": (lambda d: d[:16] + struct.pack("<Q", 32) + d[24:], "goes on after its end"),
    "no records": (lambda d: seal(b""), "INFO 0: .*missing"),
    "half a record": (lambda d: seal(b"INFO\0\0\0\0"), "goes on after its end"),
    "a record of 4 GiB": (with_record_size(2**32 - 1), "goes on after its end"),
    "a record of 4 GiB less a bit": (with_record_size(2**32 - 8), "goes on after its end"),
    "a record that ends behind the end": (lambda d: with_record_size(len(d) - HEADER.size - RECORD.size - 7)(d), "goes on after its end"),
    "100 000 records": (lambda d: join(split(d) + [Record(b"junk", i, b"", OPTIONAL) for i in range(100_000)]), "more than 4096 records"),
    "a short INFO": (lambda d: change(d, b"INFO", b"short"), "INFO 0: .*size"),
    "a long INFO": (lambda d: change(d, b"INFO", lambda old: old + b"more"), "INFO 0: .*size"),
    "a version without an end": (with_info(32, b"v" * 32), "no end"),
    "a CPU without an end": (with_info(64, b"v" * 48), "no end"),
    "no vCPUs": (with_info(112, struct.pack("<I", 0)), "CLCK 0|vCPU"),
    "4 billion vCPUs": (with_info(112, struct.pack("<I", 2**32 - 1)), "CPID 2: .*missing"),
    "4 billion devices": (with_info(116, struct.pack("<I", 2**32 - 1)), "VMIO 5: .*missing"),
    "more vCPUs than configured": (lambda d: change_config(d, lambda c: c["machine-config"].update(vcpu_count=3)), "another number of vCPUs"),
    "more devices than configured": (with_config(lambda c: c.update(vsock=None)), "another number of devices"),
    "more RAM than configured": (with_info(16, struct.pack("<Q", 2 * MIB)), "another size of memory"),
    "RAM beyond all bounds": (with_info(16, struct.pack("<Q", 2**64 - 1)), "another size of memory"),
    "a configuration that is no JSON": (lambda d: change(d, b"CONF", b"{]"), "configuration:1:2"),
    "an empty configuration": (lambda d: change(d, b"CONF", b" "), "empty"),
    "a configuration with a NUL": (lambda d: change(d, b"CONF", lambda old: old + b"\0"), "configuration:"),
    "a configuration that is a list": (lambda d: change(d, b"CONF", b"[]"), "not an object"),
    "a key given twice": (lambda d: change(d, b"CONF", b'{"vsock":null,"vsock":null}'), "twice"),
    "nested without end": (lambda d: change(d, b"CONF", b"[" * 1_000_000), "nested deeper"),
    "an unknown key": (with_config(lambda c: c.update(colour="blue")), "colour"),
    "a drive without a path": (with_config(lambda c: c["drives"][0].pop("path_on_host")), r"drives\[0\]"),
    "a drive that is a number": (with_config(lambda c: c["drives"].insert(0, 5)), r"drives\[0\]"),
    "the name of a file to be read": (with_config(lambda c: c.update({"cpu-config": "/etc/passwd"})), "cpu-config: a string"),
    "half a CPUID leaf": (lambda d: change(d, b"CPID", lambda old: old[:-1], 1), "CPID 1: .*size"),
    "half an MSR": (lambda d: change(d, b"MSRS", lambda old: old + bytes(8)), "MSRS 0: .*size"),
    "too short an XSAVE area": (lambda d: change(d, b"XSAV", bytes(4095)), "XSAV 0: .*short"),
    "broken metadata": (lambda d: join(records(metadata={})[:3] + [Record(b"MMDS", 0, b"{")] + split(d)[3:]), "metadata:1:1"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_state_files(tool, good, name):
    spoil, says = HOSTILE[name]
    good[0].write_bytes(spoil(good[0].read_bytes()))
    refused(tool, good[0], says=says)
    tool("info", good[0], code=1)
    tool("edit", good[0], "-o", good[0].with_name("out"), "--vsock-path", "/x", code=1)
    assert sorted(p.name for p in good[0].parent.iterdir()) == ["vm.mem", "vm.state"]


def test_files_that_are_none(tool, good, tmp_path):
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    large = tmp_path / "large"
    with open(large, "wb") as file:
        file.truncate(65 * MIB)
    for path, says in ((fifo, "not a regular file"), (tmp_path, "not a regular file"), ("/dev/zero", "not a regular file"), (large, "too many"),
                       (tmp_path / "none", "No such file"), ("", "No such file")):
        refused(tool, path, says=says)
        tool("info", path, code=1)
        refused(tool, good[0], path)
        tool("rebase", path, good[1], code=1)
        tool("rebase", good[1], path, code=1)


def test_the_two_files_swapped(tool, good):
    refused(tool, good[1], good[0], says="none of Mayfly's|too many")


# ---- verify: memory files ----

def test_memory_that_does_not_belong(tool, good):
    state, memory = good
    for pages, trailer, says in (({}, Trailer(FULL, MIB, OTHER_ID), "belongs to another"), ({}, Trailer(FULL, 2 * MIB, BASE_ID), "2097152 bytes of RAM"),
                                 ({}, Trailer(DIFF, MIB, BASE_ID, OTHER_ID), "is a diff"), ({}, Trailer(3, MIB, BASE_ID), "unknown kind")):
        write_memory(memory, pages, trailer)
        refused(tool, state, memory, says=says)


def test_memory_cut_short_or_damaged(release, good):
    state, memory = good
    data = memory.read_bytes()
    for length in (0, 1, PAGE - 1, PAGE, MIB - PAGE, MIB, MIB + 1, MIB + PAGE - 1):
        memory.write_bytes(data[:length])
        refused(release, state, memory, says="cut short|no whole one")
    memory.write_bytes(data + bytes(PAGE))
    refused(release, state, memory, says="no whole one")
    for place in range(TRAILER.size):
        for bit in (1, 128):
            memory.write_bytes(data[:MIB + place] + bytes([data[MIB + place] ^ bit]) + data[MIB + place + 1:])
            refused(release, state, memory)
    # Sealed, but the size is not the file's.
    memory.write_bytes(data[:MIB] + Trailer(FULL, 2**63, BASE_ID).pack())
    refused(release, state, memory, says="RAM")
    memory.write_bytes(data[:MIB] + Trailer(FULL, MIB, BASE_ID).pack(version=2))
    refused(release, state, memory)


# ---- rebase ----

def page(seed):
    """A page of random bytes; of zeros for 0."""
    return random.Random(seed).randbytes(PAGE) if seed else bytes(PAGE)


def ram(path):
    with open(path, "rb") as file:
        return file.read(read_trailer(path).size)


def apply(memory, pages):
    made = bytearray(memory)
    for number, contents in pages.items():
        made[number * PAGE:(number + 1) * PAGE] = contents
    return bytes(made)


def digest(path):
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def random_pages(rng, total, share):
    """Runs of pages here and there, a quarter of them of zeros."""
    pages = {}
    while len(pages) < total * share:
        start = rng.randrange(total)
        for number in range(start, min(total, start + rng.choice((1, 1, 3, 20)))):
            pages[number] = page(rng.choice((0, rng.randrange(1, 50), rng.randrange(1, 50), 7)))
    return pages


@pytest.fixture
def pair(tmp_path):
    """A base, a diff, and what is to come out."""
    base = write_memory(tmp_path / "base", {0: page(1), 1: page(2), 2: page(3), 255: page(4)}, Trailer(FULL, MIB, BASE_ID))
    diff = write_memory(tmp_path / "diff", {1: page(5), 2: bytes(PAGE), 100: page(6), 101: bytes(PAGE)}, Trailer(DIFF, MIB, DIFF_ID, BASE_ID))
    wanted = apply(bytes(MIB), {0: page(1), 1: page(5), 100: page(6), 255: page(4)})
    return base, diff, wanted


@pytest.fixture
def states(tmp_path):
    """The state files that belong to the base, and to the diff."""
    made = []
    for name, ident in (("base", BASE_ID), ("diff", DIFF_ID)):
        made.append(tmp_path / f"{name}.state")
        made[-1].write_bytes(join(records(memory_id=ident)))
    return made


@pytest.mark.parametrize("where", ["in place", "into another file", "over another file"])
def test_rebase(tool, pair, states, tmp_path, where):
    base, diff, wanted = pair
    result = base if where == "in place" else tmp_path / "result"
    if where == "over another file":
        result.write_text("what was there")
    before, before_diff = digest(base), digest(diff)
    base.chmod(0o640)
    tool("rebase", base, diff, *(() if where == "in place" else ("-o", result)))
    assert ram(result) == wanted
    assert read_trailer(result) == Trailer(FULL, MIB, DIFF_ID)
    assert result.stat().st_mode & 0o777 == 0o640
    tool("verify", states[1], result)
    refused(tool, states[0], result, says="another")
    held = held_pages(result)
    assert sorted(number for number, contents in held.items() if any(contents)) == [0, 1, 100, 255]
    assert where != "in place" or len(held) == 4, "pages of zeros are holes (XFS shows some of a clone's as data for a while)"
    assert digest(diff) == before_diff and (result == base or digest(base) == before)
    assert {p.name for p in tmp_path.iterdir()} == {"base", "diff", "base.state", "diff.state", result.name}


@pytest.mark.parametrize("seed", range(4))
def test_rebase_equals_the_model(release, memory_dir, seed):
    """A base and three diffs, each of the one before, put together in every order that makes sense."""
    rng = random.Random(seed)
    size = rng.choice((1, 3, 7)) * MIB
    ids = [bytes([65 + i]) * 16 for i in range(4)]
    layers = [random_pages(rng, size // PAGE, 0.3) for _ in range(4)]
    wanted = bytes(size)
    for layer in layers:
        wanted = apply(wanted, layer)

    def fresh():
        base = write_memory(memory_dir / "base", layers[0], Trailer(FULL, size, ids[0]))
        return base, [write_memory(memory_dir / f"diff{i}", layers[i], Trailer(DIFF, size, ids[i], ids[i - 1])) for i in (1, 2, 3)]

    base, diffs = fresh()
    for diff in diffs:
        release("rebase", base, diff)
    assert ram(base) == wanted and read_trailer(base) == Trailer(FULL, size, ids[3])

    base, (one, two, three) = fresh()
    release("rebase", one, two, "-o", memory_dir / "merged")
    assert read_trailer(memory_dir / "merged") == Trailer(DIFF, size, ids[2], ids[0])
    assert diff_pages(memory_dir / "merged") == {**layers[1], **layers[2]}, "also those of zeros"
    release("rebase", memory_dir / "merged", three)
    assert read_trailer(memory_dir / "merged") == Trailer(DIFF, size, ids[3], ids[0])
    assert diff_pages(memory_dir / "merged") == {**layers[1], **layers[2], **layers[3]}
    release("rebase", base, memory_dir / "merged", "-o", memory_dir / "result")
    assert ram(memory_dir / "result") == wanted and read_trailer(memory_dir / "result") == Trailer(FULL, size, ids[3])

    (memory_dir / "link").symlink_to(two)
    release("rebase", memory_dir / "link", three)
    assert diff_pages(two) == {**layers[2], **layers[3]} and read_trailer(two) == Trailer(DIFF, size, ids[3], ids[1])
    release("rebase", one, two)
    release("rebase", base, one)
    assert ram(base) == wanted


def test_sparse_stays_sparse(tool, tmp_path):
    size, far = 64 << 30, (64 << 30) // PAGE - 1
    base = write_memory(tmp_path / "base", {0: page(1), far: page(2), 5000: page(4)}, Trailer(FULL, size, BASE_ID))
    diff = write_memory(tmp_path / "diff", {far - 1: page(3), 5000: bytes(PAGE)}, Trailer(DIFF, size, DIFF_ID, BASE_ID))
    tool("rebase", base, diff, "-o", tmp_path / "result")
    tool("rebase", base, diff)
    for path in (base, tmp_path / "result"):
        assert held_pages(path) == {0: page(1), far - 1: page(3), far: page(2)}
        assert path.stat().st_blocks * 512 < MIB
        assert path.stat().st_size == size + PAGE


def test_rebase_refuses(tool, pair, tmp_path):
    base, diff, wanted = pair
    before = digest(base)

    def is_refused(*args, says):
        _, err = tool("rebase", *args, code=1)
        assert re.search(says, err), err
        assert digest(base) == before

    is_refused(diff, base, says="is no diff")
    is_refused(base, base, says="is no diff")
    is_refused(diff, diff, says="has this diff in it already")
    is_refused(base, tmp_path / "none", says="No such file")
    is_refused(base, diff, "-o", tmp_path / "no" / "directory", says="No such file")
    is_refused(base, diff, "-o", tmp_path, says="not a regular file")
    is_refused(base, diff, "-o", base, says="one of the two")
    (tmp_path / "link").symlink_to(diff)
    is_refused(base, diff, "-o", tmp_path / "link", says="one of the two")
    is_refused(base, write_memory(tmp_path / "large", {}, Trailer(DIFF, 2 * MIB, DIFF_ID, BASE_ID)), says="the diff is for 2097152 bytes")
    is_refused(base, write_memory(tmp_path / "large", {}, Trailer(DIFF, 2 * MIB, DIFF_ID, BASE_ID)), "--force", says="the diff is for 2097152 bytes")
    other = write_memory(tmp_path / "other", diff_pages(diff), Trailer(DIFF, MIB, DIFF_ID, OTHER_ID))
    is_refused(base, other, says=f"another base, of id {OTHER_ID.hex()}, this one has {BASE_ID.hex()}")
    tool("rebase", base, other, "--force")
    assert ram(base) == wanted
    before = digest(base)
    is_refused(base, diff, says="has this diff in it already")


@pytest.mark.parametrize("which, how, in_place", [("base", fcntl.LOCK_SH, True), ("base", fcntl.LOCK_EX, False), ("diff", fcntl.LOCK_EX, True)])
def test_rebase_of_a_file_in_use(tool, pair, tmp_path, which, how, in_place):
    base, diff, _ = pair
    before = digest(base)
    with open({"base": base, "diff": diff}[which], "rb") as file:
        fcntl.flock(file, how)
        _, err = tool("rebase", base, diff, *(() if in_place else ("-o", tmp_path / "out")), code=1)
        assert "in use" in err and digest(base) == before


@pytest.mark.parametrize("how", ["cat diff >there/diff", "cp --sparse=always diff there", "tar -cSf - diff | tar -xf - -C there"])
def test_diff_that_was_copied(tool, pair, tmp_path, how):
    """Programs make holes of zeros, and zeros of holes; what a diff has and has not is in its bitmap."""
    base, _, wanted = pair
    copy = tmp_path / "there/diff"
    copy.parent.mkdir()
    subprocess.run(how, shell=True, cwd=tmp_path, check=True, timeout=PATIENCE)
    assert how.startswith("tar") or len(held_pages(copy)) == (256 if how.startswith("cat") else 2)
    tool("rebase", base, copy)
    assert ram(base) == wanted


def test_bitmaps(tool, pair):
    """A page that the bitmap does not have is not taken; a bitmap that was changed, or cut short, is refused."""
    base, diff, _ = pair
    before = ram(base)
    one = bitmap_of([100], MIB)
    write_memory(diff, {i: page(i + 1) for i in range(256)}, Trailer(DIFF, MIB, DIFF_ID, BASE_ID), one)
    tool("rebase", base, diff)
    assert ram(base) == apply(before, {100: page(101)})
    data = diff.read_bytes()
    for bad in (data[:MIB + 5] + b"\1" + data[MIB + 6:], data[:MIB] + data[MIB + PAGE:], data[:MIB] + data[MIB:MIB + PAGE] + data[MIB:]):
        diff.write_bytes(bad)
        _, err = tool("rebase", base, diff, "--force", code=1)
        assert "list of pages" in err or "bytes of RAM" in err
    # Bits behind the last page say nothing.
    write_memory(base, {}, Trailer(FULL, MIB, BASE_ID))
    write_memory(diff, {3: page(3)}, Trailer(DIFF, MIB, DIFF_ID, BASE_ID), bitmap_of([3, 256, 257, 8 * PAGE - 1], MIB))
    tool("rebase", base, diff)
    assert ram(base) == apply(bytes(MIB), {3: page(3)}) and read_trailer(base) == Trailer(FULL, MIB, DIFF_ID)
    with open(diff, "wb") as file:
        file.truncate(2**43 + PAGE)
        file.seek(2**43)
        file.write(Trailer(FULL, 2**43, BASE_ID).pack())
    assert "more RAM than any" in tool("info", diff, code=1)[1]


def killed_at(tool, call, number, *args):
    """Run it with SIGKILL at that system call; False if it got to its end before."""
    done = subprocess.run(["strace", "-qq", "-o", "/dev/null", "-e", f"inject={call}:signal=KILL:when={number}", tool.program, *map(str, args)],
                          stdin=subprocess.DEVNULL, capture_output=True, timeout=PATIENCE, check=False)
    assert done.returncode in (0, -signal.SIGKILL, 128 + signal.SIGKILL), done
    return done.returncode != 0


def write_pair(tmp_path, kind=FULL):
    base = write_memory(tmp_path / "base", {i: page(i + 1) for i in range(0, 60, 3)}, Trailer(kind, MIB, BASE_ID))
    layer = {i: page(0 if i % 10 == 0 else i + 100) for i in range(0, 80, 5)}
    diff = write_memory(tmp_path / "diff", layer, Trailer(DIFF, MIB, DIFF_ID, BASE_ID))
    return base, diff, apply(ram(base), layer)


@pytest.mark.parametrize("call, step", [("pwrite64", 1), ("fsync", 1), ("fallocate", 1), ("pread64", 4)])
def test_killed_in_the_middle(release, states, memory_dir, call, step):
    """Either nothing has happened, or all has, or nobody would load it and the same command finishes it."""
    kills, half = 0, 0
    for number in range(1, 1000, step):
        base, diff, wanted = write_pair(memory_dir)
        before = digest(base)
        if not killed_at(release, call, number, "rebase", base, diff):
            break
        kills += 1
        if digest(base) == before:
            release("verify", states[0], base)
        elif read_trailer(base) is None:
            half += 1
            refused(release, states[0], base, says="half way through a rebase")
            refused(release, states[1], base, says="half way through a rebase")
            assert json.loads(release("info", "--json", base)[0])["half_way_to"] == DIFF_ID.hex()
        else:
            assert ram(base) == wanted
            release("verify", states[1], base)
            continue
        release("rebase", base, diff)
        assert ram(base) == wanted
        release("verify", states[1], base)
    assert kills >= 2 and half, f"{kills} kills, {half} half way"
    assert ram(base) == wanted


def test_order_of_writes(release, tmp_path):
    """A kill leaves what the kernel has been told, a power cut what is on disk: between mark, pages and trailer there is an fsync."""
    base, diff, _ = write_pair(tmp_path)
    trace = tmp_path / "trace"
    release("rebase", base, diff, wrapper=("strace", "-qq", "-o", trace, "-e", "trace=pwrite64,fallocate,fsync"))
    calls = [re.match(r"(\w+)\(.*?(?:, (\d+))?\) += (?:0|4096|\d+)$", line).groups() for line in trace.read_text().splitlines()]
    assert calls[:2] == calls[-2:] == [("pwrite64", str(MIB)), ("fsync", None)]
    assert calls[-3] == ("fsync", None) and len(calls) > 10
    assert all(name in ("pwrite64", "fallocate") and int(last) < MIB for name, last in calls[2:-3])


@pytest.mark.parametrize("call", ["pwrite64", "fsync", "fallocate", "rename"])
def test_killed_while_writing_another_file(release, states, memory_dir, call):
    kills = 0
    for number in range(1, 1000):
        base, diff, wanted = write_pair(memory_dir)
        before, result = digest(base), memory_dir / "result"
        result.write_text("what was there")
        if not killed_at(release, call, number, "rebase", base, diff, "-o", result):
            break
        kills += 1
        assert digest(base) == before
        for left in memory_dir.glob("result.*"):
            if read_trailer(left) is None:
                refused(release, states[0], left)
                refused(release, states[1], left)
            else:  # whole, and only its name is missing; or a clone of the base in which nothing has been written yet
                assert ram(left) == wanted or digest(left) == before
            left.unlink()
        if result.read_bytes() != b"what was there":
            release("verify", states[1], result)
    assert kills and ram(result) == wanted


@pytest.mark.parametrize("call", ["pwrite64", "fsync", "fallocate"])
def test_killed_while_a_diff_is_the_base(release, memory_dir, call):
    for number in range(1, 1000):
        base, diff, wanted = write_pair(memory_dir, DIFF)
        pages = {**diff_pages(base), **diff_pages(diff)}
        if not killed_at(release, call, number, "rebase", base, diff):
            break
        if read_trailer(base) != Trailer(DIFF, MIB, DIFF_ID):
            release("rebase", base, diff)
        assert diff_pages(base) == pages and ram(base) == wanted
    assert number > 3 and diff_pages(base) == pages and ram(base) == wanted


@pytest.mark.parametrize("call, error, step", [("pwrite64", "ENOSPC", 1), ("fsync", "EIO", 1), ("pread64", "EIO", 4)])
def test_rebase_that_fails(release, states, memory_dir, call, error, step):
    """The disk is full, or broken: said, never loadable, and finished by the same command later."""
    trace, failures = memory_dir / "trace", 0
    for number in range(1, 1000, step):
        base, diff, wanted = write_pair(memory_dir)
        strace = ("strace", "-qq", "-o", trace, "-e", f"inject={call}:error={error}:when={number}")
        _, err = release("rebase", base, diff, wrapper=strace, code=(0, 1))
        if "INJECTED" not in trace.read_text():
            break
        failures += 1
        if read_trailer(base) is None:
            assert "same command again" in err, err
            refused(release, states[0], base, says="half way")
        else:
            assert err
            release("verify", states[0], base)
        release("rebase", base, diff)
        assert ram(base) == wanted
        release("verify", states[1], base)
        base, diff, wanted = write_pair(memory_dir)
        before = digest(base)
        release("rebase", base, diff, "-o", memory_dir / "result", wrapper=strace, code=1)
        assert digest(base) == before and not list(memory_dir.glob("result*"))
    assert failures and ram(base) == wanted


def test_interrupted_by_a_signal(release, states, tmp_path):
    base, diff, wanted = write_pair(tmp_path)
    before = digest(base)
    strace = ("strace", "-qq", "-o", "/dev/null", "-e", "inject=pread64:signal=TERM:when=10")
    _, err = release("rebase", base, diff, "-o", tmp_path / "result", wrapper=strace, code=1)
    assert "Interrupted" in err and digest(base) == before and not list(tmp_path.glob("result*"))
    _, err = release("rebase", base, diff, wrapper=strace, code=1)
    assert "Interrupted" in err and "same command again" in err
    refused(release, states[1], base, says="half way")
    write_memory(tmp_path / "third", {1: page(1)}, Trailer(DIFF, MIB, OTHER_ID, BASE_ID))
    _, err = release("rebase", base, tmp_path / "third", "--force", code=1)
    assert "half way through a rebase of another diff" in err
    release("rebase", base, diff)
    assert ram(base) == wanted


def test_progress_on_a_terminal(release, tmp_path):
    size = 72 * MIB
    base = write_memory(tmp_path / "base", {}, Trailer(FULL, size, BASE_ID))
    diff = write_memory(tmp_path / "diff", {i: page(i % 9 + 1) for i in range(size // PAGE)}, Trailer(DIFF, size, DIFF_ID, BASE_ID))
    ours, theirs = pty.openpty()
    with subprocess.Popen([release.program, "rebase", base, diff], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=theirs) as process:
        os.close(theirs)
        shown = b""
        try:
            while chunk := os.read(ours, 4096):
                shown += chunk
        except OSError:  # the other side is closed
            pass
        assert process.wait(PATIENCE) == 0
    os.close(ours)
    assert re.search(rb"\r 50 % of 72 MiB", shown) and shown.endswith(b"\r\x1b[K")
    assert ram(base) == ram(diff)


# ---- edit ----

EDITS = ("--vsock-path", "/run/other.sock", "--net", "eth1=tap9", "--drive", "data=/images/copy=2.ext4", "--mac", "eth0=06:00:ac:10:00:99",
         "--mac", "eth1=06:00:ac:10:00:98")


def test_edit(tool, good, tmp_path):
    state, memory = good
    strange = Record(b"NEW!", 1, b"odd", OPTIONAL)
    state.write_bytes(join(records(memory_id=BASE_ID, metadata={"b": 1}) + [strange]))
    state.chmod(0o600)
    old, before = state.read_bytes(), digest(state)
    out = tmp_path / "clone.state"
    tool("edit", state, "-o", out, *EDITS)
    assert digest(state) == before and out.stat().st_mode & 0o777 == 0o600
    new = out.read_bytes()
    tool("verify", out, memory)
    assert [r for r in split(new) if r.tag != b"CONF"] == [r for r in split(old) if r.tag != b"CONF"]
    wanted = config_of(old)
    wanted["vsock"]["uds_path"] = "/run/other.sock"
    wanted["network-interfaces"][0]["guest_mac"] = "06:00:ac:10:00:99"
    wanted["network-interfaces"][1].update(host_dev_name="tap9", guest_mac="06:00:ac:10:00:98")
    wanted["drives"][1]["path_on_host"] = "/images/copy=2.ext4"
    assert config_of(new) == wanted
    assert new == change(old, b"CONF", json.dumps(wanted, separators=(",", ":")).encode()), "bit for bit"
    tool("edit", out, "-o", out, "--vsock-path", "/run/v.sock")
    assert config_of(out.read_bytes())["vsock"]["uds_path"] == "/run/v.sock"
    assert {p.name for p in tmp_path.iterdir()} == {"vm.state", "vm.mem", "clone.state"}


@pytest.mark.parametrize("edit, says", [
    (("--net", "eth7=tap9"), 'has no "eth7"'), (("--drive", "eth0=/x"), 'has no "eth0"'), (("--net", "eth1=tap0"), "host_dev_name"),
    (("--net", "eth1=" + "x" * 20), "host_dev_name"), (("--mac", "eth0=07:00:00:00:00:01"), "multicast"), (("--mac", "eth0=06:00"), "not a MAC"),
    (("--mac", "eth1=06:00:ac:10:00:02"), "has it already"), (("--vsock-path", "/" * 200), "uds_path"), (("--vsock-path", ""), "uds_path"),
    (("--drive", "data="), "path_on_host"), (("--drive", b"data=/\xff"), "not UTF-8"), (("--drive", "data=/" + "x" * 5000), "path_on_host"),
])
def test_edit_refuses(release, good, edit, says):
    out = good[0].with_name("out")
    done = subprocess.run([release.program, "edit", good[0], "-o", out, *edit], capture_output=True, timeout=PATIENCE, check=False)
    assert done.returncode == 1 and says in done.stderr.decode(), done.stderr
    assert not out.exists()


def test_edit_without_a_vsock(tool, good):
    cfg = config()
    cfg["vsock"] = None
    good[0].write_bytes(join(records(cfg)))
    _, err = tool("edit", good[0], "-o", good[0], "--vsock-path", "/x", code=1)
    assert "has no vsock" in err


def test_edit_onto_what_is_no_file(tool, good, tmp_path):
    os.mkfifo(tmp_path / "fifo")
    for out in (tmp_path, tmp_path / "fifo", "/dev/null", tmp_path / "none" / "x"):
        tool("edit", good[0], "-o", out, *EDITS, code=1)


@pytest.mark.parametrize("call", ["pwrite64", "fsync", "rename", "fchmod"])
def test_edit_killed_or_failing(release, good, tmp_path, call):
    before = digest(good[0])
    for number in range(1, 10):
        if not killed_at(release, call, number, "edit", good[0], "-o", good[0], *EDITS):
            break
        if digest(good[0]) != before:
            release("verify", *good)
    assert number > 1
    good[0].write_bytes(join(records(memory_id=BASE_ID)))
    for left in tmp_path.glob("vm.state.*"):
        left.unlink()
    strace = ("strace", "-qq", "-o", "/dev/null", "-e", f"inject={call}:error=ENOSPC:when=1")
    _, err = release("edit", good[0], "-o", good[0], *EDITS, wrapper=strace, code=1)
    assert "No space left" in err and digest(good[0]) == before and not list(tmp_path.glob("vm.state.*"))


# ---- diff ----

def differences(tool, good, spoil):
    """What the tool says of the good file and a changed one: lines, and the same as JSON."""
    other = good[0].with_name("other")
    other.write_bytes(spoil(good[0].read_bytes()))
    lines = tool("diff", good[0], other, code=1)[0].splitlines()
    told = json.loads(tool("diff", "--json", good[0], other, code=1)[0])
    assert told["same"] is False and len(told["differences"]) == len(lines)
    return lines, told["differences"]


def test_no_difference(tool, good):
    assert tool("diff", good[0], good[0]) == ("", "")
    assert json.loads(tool("diff", "--json", good[0], good[0])[0]) == {"same": True, "differences": []}


def test_differences_of_the_configuration(tool, good):
    def edit(cfg):
        cfg["drives"][1]["path_on_host"] = "/other"
        cfg["machine-config"]["smt"] = True
        del cfg["balloon"]
        cfg["drives"][0]["rate_limiter"] = {"ops": None}
    _, found = differences(tool, good, with_config(edit))
    assert [(d["record"], d["where"], d.get("a", "-"), d.get("b", "-")) for d in found] == [
        ("CONF 0", "balloon", None, "-"), ("CONF 0", "drives[0].rate_limiter", None, {"ops": None}),
        ("CONF 0", "drives[1].path_on_host", "/images/data.ext4", "/other"), ("CONF 0", "machine-config.smt", False, True)]
    lines, found = differences(tool, good, lambda d: change(d, b"CONF", lambda old: old + b" "))
    assert len(found) == 1 and found[0]["bytes"] == 1 and "differs in 1 bytes" in lines[0], "the same in other words is a difference, too"


def test_differences_of_cpuid(tool, good):
    def other(_):
        leaves = [CPUID[0], (0x1, 0, 0, 1, 2, 1 << 25, 5), (0x7, 1, 1, 0, 0, 0, 0), CPUID[3]]
        return b"".join(CPUID_ENTRY.pack(*leaf) for leaf in reversed(leaves))
    lines, found = differences(tool, good, lambda d: change(d, b"CPID", other, 1))
    assert {d["record"] for d in found} == {"CPID 1"}
    by_place = {d["where"]: d for d in found}
    assert by_place["leaf 0x1.0 ecx"]["bits"] == [30] and by_place["leaf 0x1.0 ecx"]["names"] == ["rdrand"]
    assert (by_place["leaf 0x1.0 edx"]["a"], by_place["leaf 0x1.0 edx"]["b"]) == ("0x00000004", "0x00000005")
    assert "b" not in by_place["leaf 0x7.0"] and "a" not in by_place["leaf 0x7.1"] and len(found) == 4
    assert any("ecx: 0x42000000 -> 0x02000000 (bit 30 rdrand)" in line for line in lines)


def test_differences_of_msrs(tool, good):
    def other(_):
        return b"".join(MSR_ENTRY.pack(index, 0, value) for index, value in ((0x10, 5), (0xC0000080, 0xD01), (0x48, 1), (0x777, 5)))
    lines, found = differences(tool, good, lambda d: change(d, b"MSRS", other))
    assert [(d["where"], d.get("a"), d.get("b")) for d in found] == [("0x10 (TSC)", hex(MSRS[0][1]), "0x5"), ("0x48 (SPEC_CTRL)", None, "0x1"),
                                                                    ("0x1a0 (MISC_ENABLE)", "0x1", None)]
    assert lines[2].endswith("0x1a0 (MISC_ENABLE): 0x1 -> (nothing)")


def test_other_differences(tool, good):
    lines, found = differences(tool, good, lambda d: change(d, b"XSAV", lambda old: old[:100] + b"abc" + old[103:] + b"d", 1))
    assert found == [{"record": "XSAV 1", "where": "", "bytes": 4, "offset": 100}] and "differs in 4 bytes from offset 100" in lines[0]
    _, found = differences(tool, good, lambda d: join(records(memory_id=OTHER_ID, metadata={}, version=b"0.2.0")))
    assert [(d["record"], d["where"]) for d in found] == [("INFO 0", "memory_id"), ("INFO 0", "version"), ("MMDS 0", "")]
    _, found = differences(tool, good, with_config(lambda c: c.update(serial=None)))
    assert found[0]["where"] == "serial"


def test_large_records_do_not_take_long(release, good, tmp_path):
    """As many leaves and MSRs as fit, in the worst order."""
    rng = random.Random(5)
    for tag, entry in ((b"CPID", lambda i: CPUID_ENTRY.pack(i, 0, 0, 1, 2, 3, 4)), (b"MSRS", lambda i: MSR_ENTRY.pack(i, 0, 1))):
        numbers = list(range(50_000))
        rng.shuffle(numbers)
        one, other = tmp_path / "one", tmp_path / "two"
        one.write_bytes(change(good[0].read_bytes(), tag, b"".join(map(entry, numbers))))
        other.write_bytes(change(good[0].read_bytes(), tag, b"".join(map(entry, numbers[::-1]))))
        out, _ = release("diff", one, other, code=1)
        assert len(out.splitlines()) == 1, "only their order differs"


# ---- the command line ----

@pytest.mark.parametrize("args, says", [
    ((), "needs info"), (("frobnicate",), "unknown command"), (("info",), "needs STATE"), (("info", "a", "b"), "needs STATE"), (("verify",), "needs STATE"),
    (("verify", "a", "b", "c"), "needs STATE"), (("rebase", "a"), "needs BASE DIFF"), (("diff", "a"), "needs STATE STATE"), (("edit", "a"), "needs --output"),
    (("edit", "a", "-o", "b"), "something to change"), (("edit", "a", "--net", "x"), "IFACE=HOSTDEV"), (("edit", "a", "--net", "=x"), "IFACE=HOSTDEV"),
    (("info", "a", "--force"), "not an option of info"), (("info", "a", "--colour"), "unknown option"), (("rebase", "a", "b", "-o"), "needs a value"),
    (("rebase", "a", "b", "-o", ""), "empty"), (("edit", "a", "-o", "b", *("--vsock-path", "x") * 65), "more than 64"), (("verify", "a", "-x"), "-x: unknown option"),
    (("info", "a", "-v\x1b"), "unknown option"), (("info", "a", "--json=5"), "takes no value"),
])
def test_command_lines_that_make_no_sense(tool, args, says):
    _, err = tool(*args, code=2)
    assert says in err, err


def test_help_and_version(tool):
    out, _ = tool("--help")
    assert all(f"mayfly-snapshot {command}" in out for command in ("info", "verify", "rebase", "edit", "diff"))
    assert max(map(len, out.splitlines())) <= 120
    assert tool("rebase", "--help")[0] == out
    assert re.fullmatch(r"Mayfly snapshot tool v\S+\n", tool("--version")[0])


def test_nobody_takes_the_answer(tool, good):
    with open("/dev/full", "wb") as full:
        for args in (("info", good[0]), ("info", "--json", good[0]), ("verify", good[0])):
            _, err = tool(*args, code=1, stdout=full)
            assert err


def test_files_named_like_options(tool, good, tmp_path):
    (tmp_path / "--json").write_bytes(good[0].read_bytes())
    tool("verify", "--", "--json", cwd=tmp_path)
