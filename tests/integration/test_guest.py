"""The test guest on the host's KVM: block devices against a model, hostile drivers, odd accesses, host errors while in use."""

import json
import os
import re
import signal
import subprocess

import pytest

from blk_model import SECTOR, Disk, pattern
from harness import GUEST_CRASHED, artifact, drive, machine, sparse
from images import MIB

SOON = 5


def configure(script, drives=(), kernel="guest.elf", **options):
    return machine(artifact(f"tests/guest/{kernel}"), f"console=ttyS0 mayfly.test='{script}'", drives, **options)


def succeeded(outcome):
    """Every step of the script went as it says; returns the console's text."""
    text = outcome.out.replace("\r", "")
    assert re.search(r"^guest: \d+ steps, 0 failed$", text, re.M), f"{text[-5000:]}\n{outcome.err[-3000:]}"
    assert outcome.code == 0
    return text


def run(vmm, script, drives=(), **options):
    return succeeded(vmm.run(configure(script, drives, **options)))


def patterned(path, sectors, seed):
    """A disk that holds the guest's pattern of this seed."""
    path.write_bytes(b"".join(pattern(seed, sector, 0) for sector in range(sectors)))
    return path


def is_as_modelled(path, before, script, device=0):
    disk = Disk(before)
    disk.run(script, device)
    assert disk.compare(path.read_bytes()) == []
    return disk


# ---- the machine ----

@pytest.mark.parametrize("kernel", ["guest.elf", "guest-64.elf"])
@pytest.mark.parametrize("vcpus,mib", [(1, 32), (4, 128), (32, 5000)])
def test_boots(mayfly, scratch, kernel, vcpus, mib):
    text = run(mayfly, "print hello; info; blk 0 id d0; blk 0 read 0 8 zero=1", [drive("d0", scratch)], kernel=kernel, vcpus=vcpus, mem_mib=mib)
    assert "hello" in text


def test_memory_is_there_and_zero(mayfly):
    run(mayfly, "touch 100M")


@pytest.mark.parametrize("script,code", [
    ("status 7; reset", 7), ("fault", 127), ("triplefault", GUEST_CRASHED), ("status 0; triplefault", 0),
    ("in8 0x61 0x12", 1),  # a step that fails
])
def test_ends(mayfly, script, code):
    outcome = mayfly.run(configure(script))
    assert outcome.code == code, f"{outcome.out}\n{outcome.err}"


@pytest.mark.parametrize("script", ["idle", "spin"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=lambda n: n.name)
@pytest.mark.parametrize("vcpus", [1, 8])
def test_signals(mayfly, script, number, vcpus):
    vm = mayfly.start(configure(f"print READY; {script}", vcpus=vcpus))
    vm.expect(b"READY")
    vm.signal(number)
    assert vm.wait(SOON).code == (-number if number == signal.SIGKILL else 128 + number)
    vm.wait_session_gone()


def test_boot_timer(mayfly):
    outcome = mayfly.run(configure("timer"), args=["--boot-timer"])
    succeeded(outcome)
    assert "user space" in outcome.err


PORTS = "; ".join([
    *(f"in{bits} {port} {(1 << bits) - 1:#x}" for bits in (8, 16, 32) for port in ("0x0", "0x80", "0x1234", "0xcf8", "0x402", "0xfff0")),
    *(f"out{bits} {port} 0x5a" for bits in (8, 16, 32) for port in ("0x0", "0x80", "0x1234", "0xcf8", "0xfff0")),
    # The serial port and the keyboard controller at sizes and offsets that they do not have.
    "out16 0x3f8 0x4141", "out32 0x3f8 0x41414141", "out32 0x3fe 0", "in16 0x3f8", "in32 0x3fd", "in32 0x3f6",
    "out16 0x64 0xfefe", "out32 0x64 0xfe", "out32 0x62 0xfefefefe", "out16 0x63 0xfefe", "in32 0x60", "in32 0x64",
    "outs 0x3f8 alive", "out8 0x64 0xd1", "out8 0x60 0xfe",
])


def test_ports(mayfly):
    assert "alive" in run(mayfly, PORTS)


MMIO = "; ".join([
    *(f"mmio r {size} {addr}" for size in (1, 2, 4, 8) for addr in (
        "dev0", "dev0+0x1", "dev0+0x3", "dev0+0x70", "dev0+0x6e", "dev0+0x100", "dev0+0x101", "dev0+0x13f", "dev0+0xffc", "dev0+0xfff",
        "dev1+0xffd", "0xc0000000", "0xc0000ffe", "0xfec00000", "0xfec00001", "0xfec00010", "0xfec00ffe", "0xd0000000", "0xffffffff0")
      if "ffffffff0" not in addr),
    *(f"mmio w {size} {addr} 0xffffffffffffffff" for size in (1, 2, 8) for addr in (
        "dev0", "dev0+0x30", "dev0+0x70", "dev0+0x71", "dev0+0x50", "dev0+0x64", "dev0+0x100", "dev0+0x120", "dev0+0xffc", "dev0+0xfff")),
    *(f"mmio w 4 {addr} 0xffffffff" for addr in (
        "dev0+0x31", "dev0+0x52", "dev0+0x0", "dev0+0x4", "dev0+0x8", "dev0+0x10", "dev0+0x34", "dev0+0xfc", "dev0+0x100", "dev0+0x104",
        "dev0+0x50", "dev0+0x64", "dev0+0xffe", "0xd0000000", "0xc0000000", "0xc0000001", "0xc0000008")),
    *(f"mmio w {size} {addr} 0xffffffffffffffff" for size in (1, 2, 4, 8) for addr in ("0xfec00001", "0xfec00020", "0xfec00fff")),
    # What nobody answers reads as ones; the device is what it was.
    "mmio r 4 0xd0000000 0xffffffff", "mmio r 8 0xc8000000 0xffffffffffffffff", "mmio r 4 dev0 0x74726976", "mmio r 4 dev0+0x4 2",
    "mmio r 4 dev0+0x8 2", "mmio r 4 dev1 0x74726976",
])


def test_mmio(mayfly, tmp_path):
    drives = [drive(f"d{n}", sparse(tmp_path / f"d{n}", MIB)) for n in range(2)]
    # A command line holds 2 KiB: the accesses go in parts, each followed by proof that both disks work.
    steps, part = MMIO.split("; "), 40
    for at in range(0, len(steps), part):
        run(mayfly, "; ".join([*steps[at:at + part], "blk 0 fill 0 64 seed=3", "blk 0 verify 0 64 seed=3", "blk 1 read 0 8"]), drives)


# ---- block: contents against the model ----

FILL = "blk 0 fill 0 4000 seed=7 max=128 segs=5 odd=1; blk 0 verify 0 4000 seed=7 depth=64"
SHAPES = {
    "one at a time": "blk 0 open q=4; blk 0 fuzz seed=1 n=1500 span=8192 ops=rwfdz depth=1 discard=zero",
    "deep": "blk 0 fuzz seed=2 n=6000 span=16384 ops=rwfdz depth=64 max=128 discard=zero",
    "many pieces": "blk 0 fuzz seed=3 n=3000 span=16384 ops=rwf depth=16 segs=12 odd=1 indirect=0",
    "indirect": "blk 0 fuzz seed=4 n=3000 span=16384 ops=rwfdz depth=64 segs=30 odd=1 indirect=1 discard=zero",
    "mixed": "blk 0 fuzz seed=5 n=4000 span=16384 ops=rwfdz depth=64 segs=9 odd=1 indirect=2 discard=zero",
    "no event index": "blk 0 open event=0; blk 0 fuzz seed=6 n=3000 span=16384 ops=rwfdz depth=32 discard=zero",
    "plain queue": "blk 0 open q=8 event=0 indirect=0; blk 0 fuzz seed=7 n=1500 span=16384 ops=rwfdz depth=4 discard=zero",
    "large requests": "blk 0 fuzz seed=8 n=500 span=16384 ops=rw depth=32 max=1024 segs=16",
    "every request type": "blk 0 write 0 100 seed=1; blk 0 read 0 100 seed=1; blk 0 zero 10 5; blk 0 read 10 5 zero=1; blk 0 discard 32 32 "
                          "discard=zero; blk 0 read 32 32 zero=1; blk 0 write-zeroes 64 8; blk 0 write-zeroes 72 8 unmap=1; "
                          "blk 0 read 64 16 zero=1; blk 0 flush; blk 0 id data; blk 0 capacity 16384; blk 0 interrupt; blk 0 read 0 10 seed=1",
}


@pytest.mark.parametrize("shape", SHAPES)
def test_contents(mayfly, scratch, shape):
    script = f"{FILL}; {SHAPES[shape]}"
    before = scratch.read_bytes()
    run(mayfly, script, [drive("data", scratch, cache_type="Writeback")])
    assert is_as_modelled(scratch, before, script).content


@pytest.mark.parametrize("cache", ["Unsafe", "Writeback"])
@pytest.mark.parametrize("engine", ["Sync", "Async"])
def test_cache_and_engine(mayfly, scratch, cache, engine):
    """Without io_uring, too: where it is denied a thread does its work."""
    script = "blk 0 fuzz seed=9 n=3000 span=16384 ops=rwfdz depth=32 segs=3 indirect=2 discard=zero; blk 0 flush"
    before = scratch.read_bytes()
    text = run(mayfly, f"blk 0 info; {script}", [drive("data", scratch, cache_type=cache, io_engine=engine)])
    assert "blk 0" in text
    is_as_modelled(scratch, before, script)


def test_two_disks_do_not_mix(mayfly, tmp_path):
    paths = [patterned(tmp_path / "a", 4096, 11), patterned(tmp_path / "b", 4096, 12)]
    before = [p.read_bytes() for p in paths]
    script = "blk 0 verify 0 4096 seed=11; blk 1 verify 0 4096 seed=12; blk 0 fuzz seed=1 n=800 span=4096 ops=rwfz; blk 1 fuzz seed=2 n=800 span=4096 ops=rwfz"
    run(mayfly, script, [drive("a", paths[0]), drive("b", paths[1])])
    for n, path in enumerate(paths):
        is_as_modelled(path, before[n], script, n)


def test_root_drive_comes_first(mayfly, tmp_path):
    drives = [drive("data", sparse(tmp_path / "a", MIB)), drive("sys", sparse(tmp_path / "b", 2 * MIB), is_root_device=True)]
    run(mayfly, "blk 0 id sys; blk 0 capacity 4096; blk 1 id data; blk 1 capacity 2048", drives)


def test_read_only(mayfly, tmp_path):
    disk = patterned(tmp_path / "disk", 2048, 21)
    disk.chmod(0o444)
    before = disk.read_bytes()
    refused = "; ".join(f"blk 0 {verb} 0 8 expect=ioerr" for verb in ("write", "zero"))
    run(mayfly, f"blk 0 verify 0 2048 seed=21 depth=64; {refused}; blk 0 read 0 8 seed=21; blk 0 verify 0 2048 seed=21", [drive("locked", disk, is_read_only=True)])
    assert disk.read_bytes() == before


@pytest.mark.parametrize("size,sectors", [(0, 0), (511, 0), (512, 1), (513, 1), (1000, 1), (3 * 512 + 100, 3), (1 << 40, 1 << 31)])
def test_capacity(mayfly, tmp_path, size, sectors):
    disk = sparse(tmp_path / "disk", size)
    last = f"; blk 0 write {sectors - 1} 1 seed=1; blk 0 read {sectors - 1} 1 seed=1" if sectors else ""
    run(mayfly, f"blk 0 capacity {sectors}{last}; blk 0 read {sectors} 1 expect=ioerr; blk 0 write {sectors} 1 expect=ioerr", [drive("d", disk)])
    assert disk.stat().st_size == size


def test_request_types_across_the_end(mayfly, scratch):
    last = 16384
    run(mayfly, "; ".join(f"blk 0 {verb} {last - 4} 8 expect=ioerr" for verb in ("read", "write", "discard", "write-zeroes")), [drive("d", scratch)])
    assert scratch.stat().st_size == last * SECTOR


def test_metrics_count_what_was_done(mayfly, scratch, tmp_path):
    script = "blk 0 write 0 10 seed=1; blk 0 read 0 4 seed=1; blk 0 flush; blk 0 discard 0 8; blk 0 write-zeroes 8 8"
    run(mayfly, script, [drive("d", scratch, cache_type="Writeback")], metrics={"metrics_path": str(tmp_path / "metrics")})
    block = json.loads((tmp_path / "metrics").read_text())["block"]
    # Single-request verbs move one sector or many at a time; the bytes are what counts.
    assert (block["write_bytes"], block["flush_count"], block["discard_count"], block["write_zeroes_count"]) == (10 * SECTOR, 1, 1, 1), block
    assert block["read_bytes"] >= 4 * SECTOR and block["io_errors"] == 0


# ---- rate limiters: ratios to the same run without ----

LIMITS = {
    "bandwidth": ({"bandwidth": {"size": 128 << 10, "refill_time": 50}}, "blk 0 fill 0 4000 max=64"),
    "ops": ({"ops": {"size": 10, "refill_time": 50}}, "blk 0 fill 0 4000 max=32"),
}


@pytest.mark.parametrize("limit", LIMITS)
def test_rate_limiter(release, scratch, limit):
    """About half a second for what takes milliseconds; a burst given once takes most of the waiting away."""
    limiter, script = LIMITS[limit]
    generous = {kind: {**bucket, "one_time_burst": 4 << 20} for kind, bucket in limiter.items()}

    def seconds(**limits):
        outcome = release.run(configure(script, [drive("d", scratch, **limits)]))
        succeeded(outcome)
        return outcome.seconds

    limited = seconds(rate_limiter=limiter)
    assert limited > 0.3
    # The limiter never lets through more, whatever the machine is doing; that it lets through as much takes a moment in which that is nothing else.
    for limits in ({}, {"rate_limiter": generous}):
        assert any(seconds(**limits) < limited / 3 for _ in range(10))


def test_rate_limiter_of_one_disk_leaves_the_other_alone(release, tmp_path):
    slow = {"rate_limiter": {"ops": {"size": 1, "refill_time": 60000}}}
    drives = [drive("slow", sparse(tmp_path / "a", MIB), **slow), drive("fast", sparse(tmp_path / "b", MIB))]
    outcome = release.run(configure("blk 0 write 0 1; blk 1 fill 0 2000; blk 1 verify 0 2000", drives))
    succeeded(outcome)
    assert outcome.seconds < SOON


# ---- hostile drivers ----

def test_hostile(mayfly, tmp_path):
    """Every attack; each is followed by proof that this device recovers and that the other one never noticed."""
    attacked, other = sparse(tmp_path / "a", 8 * MIB), patterned(tmp_path / "b", 1024, 5)
    before = attacked.read_bytes(), other.read_bytes()
    script = "blk 1 verify 0 1024 seed=5; blk 0 hostile all; blk 1 verify 0 1024 seed=5; blk 0 fuzz seed=1 n=500 start=64 span=4096 ops=rwf"
    outcome = mayfly.run(configure(script, [drive("attacked", attacked, cache_type="Writeback"), drive("other", other)]), timeout=180)
    text = succeeded(outcome)
    assert "BUT" not in text
    results = re.findall(r"^hostile (\S+): (\S+)", text, re.M)
    assert len(results) > 100 and {"needs_reset", "ioerr", "ok", "ignored"} <= {result for _, result in results}
    assert [name for name, result in results if result == "absent"] == ["out-read-only"]  # the next test's
    # Only sector 8 is theirs to write; the log is limited whatever they do.
    is_as_modelled(attacked, before[0], script)
    assert other.read_bytes() == before[1]
    assert len(outcome.lines()) < 600


def test_hostile_read_only(mayfly, tmp_path):
    disk = patterned(tmp_path / "disk", 2048, 6)
    before = disk.read_bytes()
    outcome = mayfly.run(configure("blk 0 hostile all", [drive("locked", disk, is_read_only=True)]), timeout=180)
    assert re.findall(r"^hostile (\S+): .* BUT", outcome.out, re.M) == [], outcome.out[-4000:]
    assert re.search(r"^hostile out-read-only: ioerr", outcome.out, re.M)
    assert disk.read_bytes() == before


def test_signal_in_the_middle_of_attacks(mayfly, scratch):
    for number in (signal.SIGTERM, signal.SIGKILL):
        vm = mayfly.start(configure("blk 0 hostile all", [drive("d", scratch)]))
        vm.expect(rb"hostile \S+: (?:.*\n){9}")
        vm.signal(number)
        assert vm.wait(SOON).code in (128 + number, -number)


@pytest.mark.parametrize("workload", ["blk 0 bench rw=write n=10000000", "blk 0 fuzz n=10000000 span=16384 ops=rwfdz depth=64 segs=4"])
def test_signal_with_requests_in_flight(mayfly, scratch, workload):
    for number in (signal.SIGTERM, signal.SIGKILL):
        vm = mayfly.start(configure(f"print READY; {workload}", [drive("d", scratch, cache_type="Writeback")]))
        vm.expect(b"READY")
        with pytest.raises(subprocess.TimeoutExpired):
            vm.process.wait(0.05)
        vm.signal(number)
        assert vm.wait(SOON).code in (128 + number, -number)
        vm.wait_session_gone()


# ---- the host lets the guest down ----

@pytest.mark.parametrize("engine", ["Sync", "Async"])
def test_disk_cut_short_while_in_use(mayfly, tmp_path, engine):
    cut, whole = sparse(tmp_path / "cut", 8 * MIB), sparse(tmp_path / "whole", 8 * MIB)
    script = ("blk 0 fill 0 64 seed=1; blk 1 fill 0 64 seed=2; print READY; wait g; blk 0 read 8192 8 expect=ioerr; "
              "blk 0 read 2040 16 expect=ioerr; blk 0 read 0 64 seed=1; blk 0 write 0 64 seed=3; blk 0 verify 0 64 seed=3; "
              "blk 1 verify 0 64 seed=2; blk 1 fuzz seed=4 n=500 span=8192 ops=rwf")
    vm = mayfly.start(configure(script, [drive("cut", cut, io_engine=engine), drive("whole", whole)]), stdin=subprocess.PIPE)
    vm.expect(b"READY")
    os.truncate(cut, MIB)
    vm.send(b"g")
    succeeded(vm.wait())


def test_disk_removed_while_in_use(mayfly, tmp_path):
    disk = sparse(tmp_path / "disk", 8 * MIB)
    vm = mayfly.start(configure("print READY; wait g; blk 0 fuzz seed=4 n=500 span=8192 ops=rwfdz", [drive("d", disk)]), stdin=subprocess.PIPE)
    vm.expect(b"READY")
    disk.unlink()
    vm.send(b"g")
    succeeded(vm.wait())


def test_host_takes_no_more(mayfly, tmp_path):
    """A limit on the size of files stands for a full file system: writes fail, reads do not, the other disk does not care."""
    limited, other = sparse(tmp_path / "limited", 8 * MIB), sparse(tmp_path / "other", MIB)
    script = ("blk 0 write 8192 8 expect=ioerr; blk 0 write 0 8 seed=1; blk 0 read 0 8 seed=1; blk 0 read 8192 8 zero=1; "
              "blk 0 write 12000 64 expect=ioerr; blk 1 fuzz seed=4 n=500 span=2048 ops=rwf")
    config = configure(script, [drive("limited", limited, cache_type="Writeback"), drive("other", other)])
    succeeded(mayfly.run(config, wrapper=("prlimit", f"--fsize={2 * MIB}", "--")))
    assert limited.stat().st_size == 8 * MIB
