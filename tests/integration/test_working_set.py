"""The pages that a loaded guest touches first: recorded into a list, and prefetched by the loads that find one."""

import os
import re
import shutil
import signal
import stat
import struct
import subprocess
import time
from pathlib import Path

import pytest

from harness import PATIENCE, BAD_CONFIG
from mayfly import ApiError
from snapshot_files import crc64
from test_guest import succeeded
from test_seccomp_rules import lose_the_rights_of_root
from test_snapshot import MIB, Snapshot, begin, create, end, load, refused, snap  # noqa: F401 (snap is a fixture)

PAGE = 4096
HEAD = struct.Struct("<8sHHI16sQ")
PRESENT = 1 << 63
WARNING = "no page is prefetched"


def list_of(snapshot):
    return snapshot.memory.with_name(snapshot.memory.name + ".ws")


def make_list(pages, memory_id, nr=None, magic=b"MAYFLYWS", version=1, crc=None):
    """A list as vmm/snapshot/working_set.h has it, or nearly."""
    body = struct.pack(f"<{len(pages)}I", *pages)
    head = struct.pack("<8sHHI16s", magic, version, 0, len(pages) if nr is None else nr, memory_id)
    return head + struct.pack("<Q", crc64(body, crc64(head)) if crc is None else crc) + body


def read_list(snapshot):
    """The pages of a whole list."""
    data = list_of(snapshot).read_bytes()
    magic, version, zero, nr, memory_id, crc = HEAD.unpack_from(data)
    assert (magic, version, zero) == (b"MAYFLYWS", 1, 0) and len(data) == HEAD.size + 4 * nr
    assert memory_id == id_of(snapshot)
    pages = list(struct.unpack_from(f"<{nr}I", data, HEAD.size))
    assert crc == crc64(data[HEAD.size:], crc64(data[:HEAD.size - 8]))
    assert len(set(pages)) == nr
    return pages


def id_of(snapshot):
    with open(snapshot.memory, "rb") as file:
        file.seek(-4096, os.SEEK_END)
        return file.read(4096)[24:40]


def cycled(snapshot):
    """The first page of what `cycle` walks: its first word is known."""
    x = 0x9E3779B97F4A7C15
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 % 2**64
    word = struct.pack("<Q", x ^ x >> 27)
    data = snapshot.memory.read_bytes()
    return next(at for at in range(0, len(data), PAGE) if data[at:at + 8] == word) // PAGE


def has_walked(pages, snapshot, nr):
    """All nr pages are in the list, in the order in which the guest walks them."""
    first = cycled(snapshot)
    assert [page for page in pages if first <= page < first + nr] == list(range(first, first + nr))


def wait_list(vm, snapshot):
    vm.expect(rb"the working set, \d+ pages, is in ", "err")
    return read_list(snapshot)


def save_cycle(vmm, snapshot, size="4M", mib=64, **options):
    vm, api = begin(vmm, f"cycle {size}; print bye", mem_mib=mib, **options)
    vm.expect(rb"round 0")
    create(api, snapshot)
    end(vm)


def present(vm, snapshot):
    """Numbers of the pages of RAM that are in the process's page tables."""
    ram = next(line for line in Path(f"/proc/{vm.pid}/maps").read_text().splitlines() if line.endswith(str(snapshot.memory)))
    start, stop = (int(x, 16) for x in ram.split()[0].split("-"))
    assert ram.split()[2] == "00000000"
    with open(f"/proc/{vm.pid}/pagemap", "rb") as file:
        file.seek(start // PAGE * 8)
        entries = struct.unpack(f"<{(stop - start) // PAGE}Q", file.read((stop - start) // PAGE * 8))
    return {page for page, entry in enumerate(entries) if entry & PRESENT}


def load_prefetched(vmm, snapshot, pages):
    """
    A load, paused, when its prefetcher is done. All pages are there; but the host's kernel may take clean pages of a file
    back at once when it is short of memory, and nobody fetches them again: then it is another load's turn.
    """
    for attempt in range(3):
        vm, api = load(vmm, snapshot, resume_vm=False)
        wait_prefetched(vm)
        missing = pages - present(vm, snapshot)
        if not missing:
            return vm, api
        print(f"load {attempt}: {len(missing)} of {len(pages)} pages are not there, from {min(missing)} to {max(missing)}")
        end(vm)
    raise AssertionError(vm.said())


def threads(vm):
    return [path.read_text().strip() for path in Path(f"/proc/{vm.pid}/task").glob("*/comm")]


def wait_prefetched(vm):
    deadline = time.monotonic() + PATIENCE
    while "working_set" in threads(vm):
        assert time.monotonic() < deadline and vm.process.poll() is None, vm.said()
        time.sleep(0.01)


def quit_well(vm):
    vm.send(b"q")
    return succeeded(vm.wait())


# ---- recording ----

@pytest.mark.parametrize("vcpus,mib", [(1, 64), (2, 64), (1, 5000)])
def test_recorded_until_the_end(mayfly, snap, vcpus, mib):
    save_cycle(mayfly, snap, mib=mib, vcpus=vcpus)
    vm, _ = load(mayfly, snap, record_working_set=True)
    vm.send(b"a")
    vm.expect(rb"round 97\b")
    assert "bye" in quit_well(vm)
    if mib < 1000:
        has_walked(read_list(snap), snap, 4 * MIB // PAGE)
    assert stat.S_IMODE(list_of(snap).stat().st_mode) == 0o600
    vm, _ = load(mayfly, snap)
    vm.send(b"a")
    vm.expect(rb"round 97\b")
    assert "bye" in quit_well(vm) and WARNING not in vm.said()


def test_in_the_order_of_the_guest(mayfly, snap):
    """Which is not that of the file."""
    vm, api = begin(mayfly, "scatter 8M; print bye", mem_mib=64)
    vm.expect(rb"scattered")
    create(api, snap)
    end(vm)
    vm, _ = load(mayfly, snap, record_working_set=True)
    vm.send(b"g")
    assert "bye" in succeeded(vm.wait())
    data, nr = snap.memory.read_bytes(), 8 * MIB // PAGE
    first = next(at for at in range(0, len(data), PAGE) if all(data[at + i * PAGE] == i + 1 for i in range(9))) // PAGE
    assert [page for page in read_list(snap) if first <= page < first + nr] == [first + i * 10007 % nr for i in range(nr)]
    vm, _ = load(mayfly, snap)
    vm.send(b"g")
    assert "bye" in succeeded(vm.wait()) and WARNING not in vm.said()


def test_recorded_until_the_first_pause(mayfly, snap):
    """What comes after it is brought and not noted: neither what a snapshot reads nor what the guest touches."""
    save_cycle(mayfly, snap, "4M")
    vm, api = load(mayfly, snap, record_working_set=True)
    api.pause()
    before = wait_list(vm, snap)
    assert len(before) < 512  # the guest waits for a letter
    second = Snapshot(snap.state.parent, "second")
    api.put("/snapshot/create", second.body)
    api.resume()
    vm.send(b"a")
    vm.expect(rb"round 97\b")
    api.pause()
    assert "bye" in resumed_and_quit(vm, api)
    assert read_list(snap) == before
    # As if it had been read from the file.
    assert os.stat(second.memory).st_blocks <= os.stat(snap.memory).st_blocks + 512
    vm, _ = load(mayfly, second)
    vm.send(b"b")
    vm.expect(rb"round 98\b")
    assert "bye" in quit_well(vm)


def resumed_and_quit(vm, api):
    api.resume()
    return quit_well(vm)


def test_recorded_without_an_api(release, snap):
    save_cycle(release, snap)
    vm = release.start(args=["--no-api", *snap.args, "--override", '{"record_working_set": true}'], stdin=subprocess.PIPE)
    vm.send(b"a")
    vm.expect(rb"round 97\b")
    vm.signal(signal.SIGTERM)
    assert vm.wait().code == 128 + signal.SIGTERM
    has_walked(read_list(snap), snap, 4 * MIB // PAGE)


def test_zeros_are_not_in_the_list(mayfly, snap):
    """The guest writes to memory that it never used: holes, of which nothing is to be read."""
    vm, api = begin(mayfly, "print ready; wait g; touch 16M; print bye", mem_mib=64)
    vm.expect(rb"ready")
    create(api, snap)
    end(vm)
    vm, _ = load(mayfly, snap, record_working_set=True)
    vm.send(b"g")
    assert "bye" in succeeded(vm.wait())
    assert len(read_list(snap)) * PAGE < 4 * MIB


def test_diff_of_a_recorded_one(release, snap, tmp_path):
    """Pages that were not brought yet are not in it."""
    save_cycle(release, snap, "8M")
    diff = Snapshot(tmp_path, "diff")
    vm, api = load(release, snap, record_working_set=True, track_dirty_pages=True)
    create(api, diff, "Diff")
    api.resume()
    assert "bye" in quit_well(vm)
    assert os.stat(diff.memory).st_blocks * 512 < 2 * MIB


def test_copies_of_a_recorded_one(release, snap, tmp_path):
    save_cycle(release, snap)
    vm, api = load(release, snap, ["--allow-fork"], record_working_set=True)
    with pytest.raises(ApiError, match="record_working_set"):
        api.call("PUT", "/fork", {"copies": [{"id": "a", "record_working_set": True}]})
    console = tmp_path / "console"
    pids = [copy["pid"] for copy in api.call("PUT", "/fork", {"copies": [{"id": "a", "serial_override": {"serial_out_path": str(console)}}]})["copies"]]
    for pid in pids:
        os.kill(pid, signal.SIGTERM)
    api.resume()
    vm.send(b"a")
    vm.expect(rb"round 97\b")
    assert "bye" in quit_well(vm)


def test_old_list_stays_until_there_is_a_new_one(release, snap):
    save_cycle(release, snap)
    old = make_list([1, 2, 3], id_of(snap))
    list_of(snap).write_bytes(old)
    for body in ({"clock_realtime": True, "snapshot_path": "/nonexistent"}, {"serial_override": {"serial_out_path": "/nonexistent/x"}}):
        refused(release, snap, record_working_set=True, **body)
        assert list_of(snap).read_bytes() == old
    vm, _ = load(release, snap, record_working_set=True)
    other, api = release.start_api()
    answer = api.request("PUT", "/snapshot/load", {**snap.body, "record_working_set": True})
    assert answer.status == 400 and "another microVM records it" in answer.fault_message()
    end(other)
    assert list_of(snap).read_bytes() == old
    end(vm)
    assert list_of(snap).read_bytes() == old


def test_where_no_list_can_be(release, snap, tmp_path):
    save_cycle(release, snap)
    assert "a page-fault handler knows itself" in refused(
        release, snap, mem_file_path=None, mem_backend={"backend_type": "Uffd", "backend_path": "x"}, record_working_set=True)
    sentence = refused(release, snap, record_working_set=True, huge_pages="2M")
    assert "2M" in sentence
    list_of(snap).symlink_to(tmp_path / "target")
    assert "snapshot.record_working_set: " in refused(release, snap, record_working_set=True)
    assert not (tmp_path / "target").exists()
    list_of(snap).unlink()
    list_of(snap).mkdir()
    assert "snapshot.record_working_set: " in refused(release, snap, record_working_set=True)
    list_of(snap).rmdir()
    os.mkfifo(list_of(snap))
    assert "is no regular file" in refused(release, snap, record_working_set=True)
    list_of(snap).unlink()
    folder = tmp_path / "closed"
    folder.mkdir()
    there = Snapshot(folder)
    shutil.copy(snap.state, there.state)
    shutil.copy(snap.memory, there.memory)
    os.chmod(folder, 0o555)
    outcome = release.start(args=["--no-api", *there.args, "--override", '{"record_working_set": true}'], preexec_fn=lose_the_rights_of_root).wait()
    assert outcome.code in (BAD_CONFIG, 154) and re.search(r"record_working_set: \S+\.ws: Permission denied .*uid \d+", outcome.err), outcome.err


def test_list_that_has_no_room(release, snap):
    """The microVM ends as it would have; of the list nothing is believed."""
    save_cycle(release, snap)
    vm, api = load(release, snap, record_working_set=True)
    vm.send(b"a")
    vm.expect(rb"round 97\b")
    subprocess.run(["prlimit", f"--pid={vm.pid}", "--fsize=1000:unlimited"], check=True)
    api.pause()
    vm.expect(rb"the working set is not in .*: File too large", "err")
    assert "bye" in resumed_and_quit(vm, api)
    vm, _ = load(release, snap)
    vm.expect(WARNING.encode(), "err")
    assert "bye" in quit_well(vm)


def test_memory_file_cut_short_while_recorded(release, snap):
    """The guest never sees a page that is not its own."""
    save_cycle(release, snap, "8M")
    vm, _ = load(release, snap, record_working_set=True)
    os.truncate(snap.memory, PAGE)
    vm.send(b"a")
    outcome = vm.wait()
    assert outcome.code != 0 and "the memory file cannot be read at" in outcome.err
    assert "is wrong" not in outcome.out


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_ends_at_any_moment(mayfly, snap, number):
    save_cycle(mayfly, snap, "16M")
    for i in range(10):
        vm, _ = load(mayfly, snap, record_working_set=i % 2 == 0)
        vm.send(b"a")
        time.sleep(0.003 * i)
        vm.signal(number)
        since = time.monotonic()
        assert vm.wait().code == 128 + number
        assert time.monotonic() - since < 5
        read_list(snap)


# ---- prefetching ----

def test_pages_are_there_before_the_guest(mayfly, snap):
    save_cycle(mayfly, snap, "16M")
    vm, _ = load(mayfly, snap, record_working_set=True)
    vm.send(b"a")
    vm.expect(rb"round 97\b")
    quit_well(vm)
    pages = set(read_list(snap))
    assert len(pages) >= 4096
    kept = list_of(snap).rename(snap.memory.with_name("kept"))
    vm, api = load(mayfly, snap, resume_vm=False)
    assert len(present(vm, snap) & pages) < 2048
    end(vm)
    kept.rename(list_of(snap))
    vm, api = load_prefetched(mayfly, snap, pages)
    api.resume()
    vm.send(b"a")
    vm.expect(rb"round 97\b")
    assert "bye" in quit_well(vm)


def test_list_made_by_hand(mayfly, snap):
    """In any order, twice, one page, all pages."""
    save_cycle(mayfly, snap, "1M", mib=32)
    nr = 32 * MIB // PAGE
    for pages in ([], [nr - 1], [0, nr - 1, 7, 7, 64, 63, 128], list(range(nr))[::-1]):
        list_of(snap).write_bytes(make_list(pages, id_of(snap)))
        vm, api = load_prefetched(mayfly, snap, set(pages))
        assert "bye" in resumed_and_quit(vm, api)
        assert WARNING not in vm.said()


def hostile(memory_id, nr_pages):
    """What it is, and what the log says of it."""
    good = make_list([5, 6, 7], memory_id)
    whole = "is no whole list"
    yield b"", whole
    yield good[:-1], whole
    yield good + b"x", whole
    yield good[:39], whole
    yield good[:40], whole
    yield bytes(40) + good[40:], whole
    yield good[:40] + b"\x09" + good[41:], whole
    yield make_list([5, 6, 7], memory_id, crc=0), whole
    yield make_list([5, 6, 7], memory_id, nr=2), whole
    yield make_list([5, 6, 7], memory_id, nr=2**32 - 1), whole
    yield make_list([5] * (nr_pages + 1), memory_id), whole
    yield make_list([5, 6, 7], memory_id, version=2), whole
    yield make_list([5, 6, 7], memory_id, magic=b"MAYFLYMM"), whole
    yield make_list([5, 6, 7], bytes(16)), "is of another memory file"
    yield make_list([5, nr_pages, 7], memory_id), "names a page that RAM does not have"
    yield make_list([5, 2**32 - 1], memory_id), "names a page that RAM does not have"


def test_lists_that_are_not_believed(mayfly, snap):
    save_cycle(mayfly, snap, "1M", mib=32)
    for data, why in hostile(id_of(snap), 32 * MIB // PAGE):
        list_of(snap).write_bytes(data)
        vm, api = load(mayfly, snap, resume_vm=False)
        vm.expect(rb"\.ws %s.*: %s" % (why.encode(), WARNING.encode()), "err")
        assert "bye" in resumed_and_quit(vm, api)


def test_lists_that_are_no_files(release, snap, tmp_path):
    save_cycle(release, snap, "1M", mib=32)
    path = list_of(snap)
    for make in (path.mkdir, lambda: os.mkfifo(path), lambda: path.symlink_to("/dev/zero")):
        make()
        vm, _ = load(release, snap)
        vm.expect(WARNING.encode(), "err")
        assert "bye" in quit_well(vm)
        path.rmdir() if path.is_dir() else path.unlink()
    # A symbolic link to nowhere is no list.
    path.symlink_to(tmp_path / "nowhere")
    vm, _ = load(release, snap)
    assert "bye" in quit_well(vm) and WARNING not in vm.said()
