"""Drives with an overlay: the base stays as it is, the delta has all that was written, nobody shares a delta, and bad files are refused."""

import os
import re
import signal
import subprocess

import pytest

from blk_model import Disk, pattern
from harness import BAD_CONFIG, drive, sparse
from images import MIB
from mayfly import ApiError
from overlay_file import data_offset, merged
from seccomp_model import deny_io_uring
from test_guest import SHAPES, configure, run, succeeded

SIZE = 8 * MIB
SEED = 31  # of the base
FUZZ = SHAPES["mixed"]


@pytest.fixture
def base(tmp_path):
    path = tmp_path / "base.img"
    path.write_bytes(b"".join(pattern(SEED, sector, 0) for sector in range(SIZE // 512)))
    path.chmod(0o444)
    before = path.read_bytes()
    yield path
    assert path.read_bytes() == before


def overlay(base, delta, drive_id="data", **fields):
    return drive(drive_id, base, overlay_path=str(delta), **fields)


def is_as_modelled(base, delta, *scripts, device=0):
    """Base and delta together are what the scripts, one after the other, make of the base."""
    disk = Disk(base.read_bytes())
    for script in scripts:
        disk.run(script, device)
    image, own = merged(base, delta)
    assert disk.compare(image) == []
    return own


# ---- what it is for ----

@pytest.mark.parametrize("cache", ["Unsafe", "Writeback"])
@pytest.mark.parametrize("engine", ["ring", "thread"])
def test_contents_over_restarts(mayfly, tmp_path, base, cache, engine):
    delta = tmp_path / "delta"
    popen = {"preexec_fn": deny_io_uring} if engine == "thread" else {}
    scripts = [f"blk 0 verify 0 4000 seed={SEED}; {FUZZ}", SHAPES["many pieces"], "blk 0 fuzz seed=9 n=900 span=16384 ops=rwfdz depth=64 discard=zero"]
    for n, script in enumerate(scripts):
        succeeded(mayfly.run(configure(f"blk 0 capacity {SIZE // 512}; {script}", [overlay(base, delta, cache_type=cache)]), **popen))
        assert is_as_modelled(base, delta, *scripts[:n + 1])
    assert delta.stat().st_mode & 0o7777 == 0o600


@pytest.mark.parametrize("cache", ["Unsafe", "Writeback"])
def test_survives_kill(mayfly, tmp_path, base, cache):
    """What the guest flushed, or wrote where it cannot flush, is found by the next process."""
    delta, flush = tmp_path / "delta", "blk 0 flush; " if cache == "Writeback" else ""
    vm = mayfly.start(configure(f"blk 0 fill 5 300 seed=1; blk 0 discard 100 50; {flush}print READY; spin", [overlay(base, delta, cache_type=cache)]))
    vm.expect(b"READY")
    vm.signal(signal.SIGKILL)
    vm.wait()
    check = f"blk 0 read 0 5 seed={SEED}; blk 0 read 5 95 seed=1; blk 0 read 100 50 zero=1; blk 0 read 150 155 seed=1; blk 0 read 305 100 seed={SEED}"
    run(mayfly, check, [overlay(base, delta, cache_type=cache)])


def test_survives_signal_without_a_flush(mayfly, tmp_path, base):
    """An orderly end writes what the file lacks."""
    vm = mayfly.start(configure("blk 0 fill 5 300 seed=1; print READY; spin", [overlay(base, tmp_path / "delta", cache_type="Writeback")]))
    vm.expect(b"READY")
    vm.signal(signal.SIGTERM)
    assert vm.wait().code == 128 + signal.SIGTERM
    run(mayfly, "blk 0 read 5 300 seed=1", [overlay(base, tmp_path / "delta")])


def test_two_on_one_base(mayfly, tmp_path, base):
    """Also the same microVM twice over; neither sees what the other writes."""
    scripts = ["blk 0 fuzz seed=1 n=900 span=16384 ops=rwfdz discard=zero; blk 1 verify 0 4000 seed=31", "blk 0 fuzz seed=2 n=900 span=16384 ops=rwfdz discard=zero"]
    vms = []
    for n, script in enumerate(scripts):
        drives = [overlay(base, tmp_path / f"delta{n}"), overlay(base, tmp_path / f"other{n}", "other")]
        config = configure(f"print READY; wait g; {script}; blk 1 write 0 8 seed={n}", drives)
        vms.append(mayfly.start(args=["--no-api", "--config-file", mayfly.config_file(config, f"{n}.json")], stdin=subprocess.PIPE))
    for vm in vms:
        vm.expect(b"READY")
    for vm in vms:
        vm.send(b"g")
    for n, vm in enumerate(vms):
        succeeded(vm.wait())
        is_as_modelled(base, tmp_path / f"delta{n}", scripts[n])
        is_as_modelled(base, tmp_path / f"other{n}", f"blk 1 write 0 8 seed={n}", device=1)


def test_read_only(mayfly, tmp_path, base):
    delta = tmp_path / "delta"
    run(mayfly, "blk 0 write 10 10 seed=1", [overlay(base, delta)])
    delta.chmod(0o400)
    before = delta.read_bytes()
    run(mayfly, f"blk 0 read 0 10 seed={SEED}; blk 0 read 10 10 seed=1; blk 0 read 20 10 seed={SEED}; blk 0 write 0 8 expect=ioerr",
        [overlay(base, delta, "a", is_read_only=True), overlay(base, delta, "b", is_read_only=True)])
    assert delta.read_bytes() == before


def test_takes_only_the_room_it_needs(release, tmp_path):
    base = sparse(tmp_path / "base", 4 << 30)
    run(release, "blk 0 write 7000000 8 seed=1; blk 0 write 1 8 seed=1", [overlay(base, tmp_path / "delta")])
    status = (tmp_path / "delta").stat()
    assert status.st_size == data_offset(4 << 30) + (4 << 30) and status.st_blocks * 512 < 64 << 10
    run(release, "blk 0 discard 6999000 4000; blk 0 discard 0 100", [overlay(base, tmp_path / "delta")])
    assert (tmp_path / "delta").stat().st_blocks * 512 < 32 << 10
    assert base.stat().st_blocks == 0


def test_hostile(mayfly, tmp_path, base):
    script = "blk 0 hostile all; blk 0 fuzz seed=1 n=500 start=64 span=4096 ops=rwf"
    outcome = mayfly.run(configure(script, [overlay(base, tmp_path / "delta", cache_type="Writeback")]), timeout=180)
    assert "BUT" not in succeeded(outcome)
    is_as_modelled(base, tmp_path / "delta", script)


# ---- the API ----

def test_api(mayfly, tmp_path, base):
    """What was asked for is told; a running microVM's base stays; its limits can change."""
    _, api = mayfly.start_api(["--allow-path", tmp_path])
    config = configure("print READY; wait g")
    api.put("/boot-source", config["boot-source"])
    wanted = overlay(base, tmp_path / "delta")
    api.put("/drives/data", wanted)
    assert api.get("/drives/data")["overlay_path"] == str(tmp_path / "delta")
    assert not (tmp_path / "delta").exists()  # before the start
    api.start()
    assert (tmp_path / "delta").exists()
    other = sparse(tmp_path / "other", SIZE)
    with pytest.raises(ApiError, match=r"drives\[data\]\.path_on_host: the drive's overlay is for the base it has") as refused:
        api.patch("/drives/data", {"drive_id": "data", "path_on_host": str(other)})
    assert refused.value.status == 400
    api.patch("/drives/data", {"drive_id": "data", "rate_limiter": {"ops": {"size": 100, "refill_time": 100}}})
    assert api.get("/vm/config")["drives"][0]["path_on_host"] == str(base)


# ---- what is refused ----

def refused(mayfly, drives, *sentences, **popen):
    outcome = mayfly.run(configure("print never", drives), **popen)
    assert outcome.code == BAD_CONFIG, f"{outcome.out}\n{outcome.err}"
    for sentence in (r"drives\[data\]\.", *sentences):
        assert re.search(sentence, outcome.err), outcome.err
    assert "never" not in outcome.out


def test_two_processes_on_one_delta(mayfly, tmp_path, base):
    delta = tmp_path / "delta"
    vm = mayfly.start(configure("print READY; wait g; blk 0 write 0 8 seed=1", [overlay(base, delta)]), stdin=subprocess.PIPE)
    vm.expect(b"READY")
    refused(mayfly, [overlay(base, delta)], "is another drive's, here or in another process")
    refused(mayfly, [overlay(base, delta, is_read_only=True)], "is another drive's, here or in another process")
    os.link(delta, tmp_path / "link")
    refused(mayfly, [overlay(base, tmp_path / "link")], "is another drive's, here or in another process")
    vm.send(b"g")
    succeeded(vm.wait())
    run(mayfly, "blk 0 read 0 8 seed=1", [overlay(base, delta)])


def test_two_drives_on_one_delta(mayfly, tmp_path, base):
    refused(mayfly, [overlay(base, tmp_path / "delta", "first"), overlay(base, tmp_path / "delta")], "is another drive's")


DAMAGE = {
    "cut short": (lambda path: os.truncate(path, 2 * MIB), "is not as long as it was made"),
    "to the header": (lambda path: os.truncate(path, 10), "is no overlay"),
    "grown": (lambda path: os.truncate(path, 100 * MIB), "is not as long as it was made"),
    "magic": (lambda path: overwrite(path, 0, b"MAYFLY"), "is no overlay"),
    "version": (lambda path: overwrite(path, 8, b"\x02"), "is an overlay of another version"),
    "sector size": (lambda path: overwrite(path, 13, b"\x10"), "is for a disk of|is no overlay"),
    "disk size": (lambda path: overwrite(path, 16, b"\0\2"), "is for a disk of 8389120 bytes, and that of path_on_host has 8388608"),
    "disk image": (lambda path: path.write_bytes(bytes(MIB)), "is no overlay"),
}


def overwrite(path, offset, data):
    with open(path, "r+b") as f:
        f.seek(offset)
        f.write(data)


@pytest.mark.parametrize("how", DAMAGE)
def test_damaged(mayfly, tmp_path, base, how):
    delta = tmp_path / "delta"
    run(mayfly, "blk 0 write 0 8 seed=1", [overlay(base, delta)])
    damage, sentence = DAMAGE[how]
    damage(delta)
    before = delta.read_bytes()
    refused(mayfly, [overlay(base, delta)], r"overlay_path: \S+delta: ", sentence)
    refused(mayfly, [overlay(base, delta, is_read_only=True)], sentence)
    assert delta.read_bytes() == before


@pytest.mark.parametrize("read_only", [False, True])
def test_no_file(mayfly, tmp_path, base, read_only):
    os.mkfifo(tmp_path / "fifo")
    for path, sentence in ((tmp_path, r"Is a directory \(needs a regular file\)"), (tmp_path / "fifo", r"Is a FIFO \(needs a regular file\)"),
                           ("/dev/null", "Is a character device"), ("/nonexistent/delta", "needs an existing"), (base / "x", "Not a directory")):
        refused(mayfly, [overlay(base, path, is_read_only=read_only)], "overlay_path", sentence)


def test_nothing_to_read(mayfly, tmp_path, base):
    refused(mayfly, [overlay(base, tmp_path / "delta", is_read_only=True)], "needs an existing file")
    assert not (tmp_path / "delta").exists()


def test_empty_base(mayfly, tmp_path):
    refused(mayfly, [overlay(sparse(tmp_path / "base", 0), tmp_path / "delta")], "path_on_host: .* is empty")


def test_another_base(mayfly, tmp_path, base):
    run(mayfly, "blk 0 write 0 8 seed=1", [overlay(base, tmp_path / "delta")])
    refused(mayfly, [overlay(sparse(tmp_path / "larger", 2 * SIZE), tmp_path / "delta")], "is for a disk of 8388608 bytes")


def test_random_bytes(mayfly, tmp_path, base):
    """A header that is right and a bitmap of anything: a disk of anything, but no more than that."""
    delta = tmp_path / "delta"
    run(mayfly, "blk 0 write 0 8 seed=1", [overlay(base, delta)])
    overwrite(delta, 4096, os.urandom(4096))
    run(mayfly, "blk 0 fuzz seed=1 n=300 span=16384 ops=f; blk 0 write 16376 8 seed=2; blk 0 read 16376 8 seed=2; blk 0 read 16384 1 expect=ioerr", [overlay(base, delta)])


# ---- the host lets the guest down ----

@pytest.mark.parametrize("cache", ["Unsafe", "Writeback"])
def test_host_takes_no_more(mayfly, tmp_path, base, cache):
    """Writes that need room fail, the guest is told, and all that was answered is found, now and later."""
    delta = tmp_path / "delta"
    run(mayfly, "print made", [overlay(base, delta)])
    script = f"blk 0 write 4096 8 expect=ioerr; blk 0 write 0 8 seed=1; blk 0 read 0 8 seed=1; blk 0 read 4096 8 seed={SEED}; blk 0 discard 8 8"
    config = configure(script, [overlay(base, delta, cache_type=cache)])
    succeeded(mayfly.run(config, wrapper=("prlimit", f"--fsize={2 * MIB}", "--")))
    run(mayfly, f"blk 0 read 0 8 seed=1; blk 0 read 8 8 zero=1; blk 0 read 4096 8 seed={SEED}; blk 0 read 16 4080 seed={SEED}", [overlay(base, delta)])


def test_delta_cut_short_while_in_use(mayfly, tmp_path, base):
    delta = tmp_path / "delta"
    script = f"blk 0 write 4096 8 seed=1; print READY; wait g; blk 0 read 4096 8 expect=ioerr; blk 0 read 0 8 seed={SEED}; blk 0 write 0 8 seed=2; blk 0 read 0 8 seed=2"
    vm = mayfly.start(configure(script, [overlay(base, delta)]), stdin=subprocess.PIPE)
    vm.expect(b"READY")
    os.truncate(delta, 2 * MIB)
    vm.send(b"g")
    succeeded(vm.wait())
    refused(mayfly, [overlay(base, delta)], "is not as long as it was made")


def test_no_room_for_a_new_one(mayfly, tmp_path, base):
    """Told before the guest runs; and what is left behind does not stop the next start."""
    delta = tmp_path / "delta"
    refused(mayfly, [overlay(base, delta)], "overlay_path: .* File too large", wrapper=("prlimit", f"--fsize={MIB}", "--"))
    run(mayfly, "blk 0 write 0 8 seed=1", [overlay(base, delta)])
    is_as_modelled(base, delta, "blk 0 write 0 8 seed=1")
