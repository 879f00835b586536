"""Snapshots whose memory is written while the guest runs: what is in the file is what was there at the pause, whoever writes meanwhile."""

import os
import random
import resource
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

import pytest

from harness import PATIENCE, ROOT, Vmm, drive
from mayfly import ApiError
from net_peer import Echo, Stream
from test_guest import configure, is_as_modelled, succeeded
from test_snapshot import MIB, Snapshot, begin, create, end, load, talk
from test_snapshot_hostile import traced

KILLS = int(os.environ.get("MAYFLY_BACKGROUND_KILLS", "50"))
TRAILER = 4096


@pytest.fixture
def in_memory(release):
    """A folder in a file system without a disk."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        vmm = Vmm("release", folder)
        yield vmm
        vmm.close()


def write_behind(api, snapshot, kind="Full"):
    """Begin; the microVM is paused, and stays so."""
    api.put("/snapshot/create", {**snapshot.body, "snapshot_type": kind, "background": True})


def told(events, *names):
    """The next event of one of these names."""
    for event in events:
        if event["event"] in names:
            return event
    raise AssertionError("the stream has ended")


def written(events, snapshot):
    event = told(events, "snapshot_written", "snapshot_failed")
    assert event["event"] == "snapshot_written", event
    assert event["snapshot_path"] == str(snapshot.state)


def extents(file, size):
    """Where there is something else than holes."""
    at = 0
    while at < size:
        try:
            at = os.lseek(file, at, os.SEEK_DATA)
        except OSError:
            return
        end = os.lseek(file, at, os.SEEK_HOLE)
        yield from range(at // MIB, (end + MIB - 1) // MIB)
        at = end


def same(one, other):
    """Byte by byte, but for the trailer, which has each its own id."""
    with open(one.memory, "rb") as first, open(other.memory, "rb") as second:
        size = os.fstat(first.fileno()).st_size - TRAILER
        assert size == os.fstat(second.fileno()).st_size - TRAILER
        differ = []
        for mib in sorted({*extents(first.fileno(), size), *extents(second.fileno(), size)}):
            x, y = (os.pread(file.fileno(), min(MIB, size - mib * MIB), mib * MIB) for file in (first, second))
            if x != y:
                differ += [mib * MIB + i for i in range(0, MIB, 4096) if x[i:i + 4096] != y[i:i + 4096]]
    assert not differ, f"{len(differ)} pages differ, the first at {differ[0]:#x}"


def after(generation, letters):
    for letter in letters:
        generation = (generation * 31 + letter) % 2**64
    return generation


# ---- the guest writes ----

@pytest.mark.parametrize("vcpus,mib,huge", [(1, 64, "None"), (2, 128, "None"), (1, 256, "Transparent"), (1, 5000, "None")])
def test_as_it_was_at_the_pause(mayfly, tmp_path, vcpus, mib, huge):
    """The guest writes all of its memory anew again and again meanwhile; the file is the one that the pause would have made."""
    front, back = Snapshot(tmp_path, "front"), Snapshot(tmp_path, "back")
    size = 24 if mib == 64 else 48
    vm, api = begin(mayfly, f"touch 8M; cycle {size}M; print bye", vcpus=vcpus, mem_mib=mib, machine_config={"huge_pages": huge})
    events = api.events(timeout=PATIENCE)
    vm.expect(rb"round 0\b")
    vm.send(b"a")
    vm.expect(rb"round 97\b")
    generation = 97
    for _ in range(3):
        create(api, front)
        write_behind(api, back)
        api.resume()
        vm.send(b"bcde")
        written(events, back)
        same(front, back)
        kept, generation = generation, after(generation, b"bcde")
        vm.expect(rb"round %d\b" % generation)
    vm.send(b"q")
    assert "bye" in succeeded(vm.wait())
    clone, _ = load(mayfly, back)
    clone.send(b"x")
    clone.expect(rb"round %d\b" % after(kept, b"x"))
    clone.send(b"q")
    assert "bye" in succeeded(clone.wait())


def test_holes_stay_holes(release, tmp_path):
    """Pages that nobody has touched at the pause are not in the file, whatever is touched afterwards."""
    back = Snapshot(tmp_path)
    vm, api = begin(release, "touch 8M; print ready; wait g; touch 64M; print bye", mem_mib=2048)
    events = api.events(timeout=PATIENCE)
    vm.expect(rb"ready")
    api.pause()
    write_behind(api, back)
    api.resume()
    vm.send(b"g")
    written(events, back)
    size = os.stat(back.memory)
    assert size.st_size == 2048 * MIB + TRAILER
    assert 8 * MIB < size.st_blocks * 512 < 12 * MIB
    assert "bye" in succeeded(vm.wait())


def test_diff(release, tmp_path):
    """In the background, and one after it: each holds what was written up to its pause, and not what was written later."""
    base, one, two = (Snapshot(tmp_path, name) for name in ("base", "one", "two"))
    vm, api = begin(release, "touch 64M; cycle 8M; print bye", mem_mib=128, machine_config={"track_dirty_pages": True})
    events = api.events(timeout=PATIENCE)
    vm.expect(rb"round 0\b")
    api.pause()
    write_behind(api, base, "Diff")  # there is none before it
    api.resume()
    vm.send(b"a")
    written(events, base)
    vm.expect(rb"round 97\b")
    front = Snapshot(tmp_path, "front")
    expected = 97
    for diff, letters in ((one, b"bc"), (two, b"de")):
        api.pause()
        write_behind(api, diff, "Diff")
        api.resume()
        vm.send(letters)
        written(events, diff)
        assert os.stat(diff.memory).st_blocks * 512 < 12 * MIB
        vm.expect(rb"round %d\b" % after(expected, letters))
        if diff is one:
            expected = after(expected, letters)
    end(vm)
    for diff, generation in ((one, 97), (two, expected)):
        subprocess.run([ROOT / "build/mayfly-snapshot", "rebase", base.memory, diff.memory], check=True, timeout=PATIENCE)
        shutil.copy(diff.state, front.state)
        shutil.copy(base.memory, front.memory)
        clone, _ = load(release, front)
        clone.send(b"x")
        clone.expect(rb"round %d\b" % after(generation, b"x"))
        end(clone)


def test_failed_diff_loses_nothing(release, tmp_path):
    """What a snapshot that failed was to hold is in the next."""
    base, diff = Snapshot(tmp_path, "base"), Snapshot(tmp_path, "diff")
    vm, api = begin(release, "touch 32M; cycle 8M; print bye", mem_mib=64, machine_config={"track_dirty_pages": True})
    events = api.events(timeout=PATIENCE)
    vm.expect(rb"round 0\b")
    create(api, base)
    api.resume()
    vm.send(b"a")
    vm.expect(rb"round 97\b")
    api.pause()
    write_behind(api, diff, "Diff")
    resource.prlimit(vm.pid, resource.RLIMIT_FSIZE, (MIB, resource.RLIM_INFINITY))  # where most of it lies beyond
    assert "File too large" in told(events, "snapshot_failed", "snapshot_written")["error"]
    resource.prlimit(vm.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    api.put("/snapshot/create", {**diff.body, "snapshot_type": "Diff"})
    end(vm)
    subprocess.run([ROOT / "build/mayfly-snapshot", "rebase", base.memory, diff.memory], check=True, timeout=PATIENCE)
    shutil.copy(base.memory, diff.memory)
    clone, _ = load(release, diff)
    clone.send(b"x")
    clone.expect(rb"round %d\b" % after(97, b"x"))


# ---- devices write ----

def test_disk_meanwhile(mayfly, scratch, tmp_path):
    """Data of the disk, statuses and rings go to pages that are not saved yet; a queue begins to be busy, and is reset."""
    front, back = Snapshot(tmp_path, "front"), Snapshot(tmp_path, "back")
    before, script = scratch.read_bytes(), "blk 0 fuzz seed=5 n=3000 span=8192 ops=rwfdz"
    again = "; ".join(["wait g", "blk 0 open", script])
    vm, api = begin(mayfly, f"{script}; touch 48M; print ready; {again}; {again}; {again}; print bye", [drive("d0", scratch, cache_type="Writeback")], mem_mib=128)
    events = api.events(timeout=PATIENCE)
    vm.expect(rb"ready")
    for _ in range(3):
        create(api, front)
        write_behind(api, back)
        vm.send(b"g")
        api.resume()
        written(events, back)
        same(front, back)
    assert "bye" in succeeded(vm.wait())
    is_as_modelled(scratch, before, "; ".join([script] * 4))


def test_disk_in_the_middle_of_traffic(mayfly, scratch, tmp_path):
    """Paused anywhere in it; the last of the snapshots goes on, and no write is lost or done twice."""
    front, back = Snapshot(tmp_path, "front"), Snapshot(tmp_path, "back")
    before, script = scratch.read_bytes(), "blk 0 fuzz seed=5 n=60000 span=8192 ops=rwfdz"
    vm, api = begin(mayfly, f"print ready; {script}; print bye", [drive("d0", scratch, cache_type="Writeback")])
    events = api.events(timeout=PATIENCE)
    vm.expect(rb"ready")
    for _ in range(10):
        time.sleep(0.02)  # anywhere in it
        create(api, front)
        write_behind(api, back)
        api.resume()
        written(events, back)
        same(front, back)
    assert "bye" in succeeded(vm.wait())
    is_as_modelled(scratch, before, script)


def test_vsock_and_console_meanwhile(mayfly, tmp_path):
    front, back, path = Snapshot(tmp_path, "front"), Snapshot(tmp_path, "back"), tmp_path / "v.sock"
    vm, api = begin(mayfly, "touch 48M; print ready; vsock echo 1234 n=100", mem_mib=96, vsock={"guest_cid": 3, "uds_path": str(path)})
    events = api.events(timeout=PATIENCE)
    vm.expect(rb"ready")
    talk(path, 1234, b"before").close()
    for _ in range(5):
        create(api, front)
        write_behind(api, back)
        api.resume()
        talk(path, 1234, os.urandom(300000)).close()
        vm.send(b"typed")
        written(events, back)
        same(front, back)
    end(vm)


def test_network_meanwhile(mayfly, tmp_path):
    """Frames arrive in buffers that the driver posted before the pause."""
    front, back = Snapshot(tmp_path, "front"), Snapshot(tmp_path, "back")
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "passt.socket"))
    listener.listen()
    rounds = "; ".join(f"net 0 send 100 len=60 max=1500 seed={i}; net 0 recv 100 len=60 max=1500 seed={i}; print round{i}; wait g" for i in range(6))
    with listener:
        vm, api = begin(mayfly, f"touch 48M; net 0 open; {rounds}; print bye", mem_mib=96,
                        **{"network-interfaces": [{"iface_id": "n0", "host_dev_name": f"unix:{tmp_path / 'passt.socket'}", "guest_mac": "06:00:ac:10:00:02"}]})
        events = api.events(timeout=PATIENCE)
        peer = listener.accept()[0]
        Echo(Stream(peer))
        for i in range(5):
            vm.expect(b"round%d" % i)
            create(api, front)
            write_behind(api, back)
            vm.send(b"g")
            api.resume()
            written(events, back)
            same(front, back)
        vm.send(b"g")
        assert "bye" in succeeded(vm.wait())
        peer.close()


@pytest.mark.parametrize("device", ["dev0", "dev1"])
def test_drivers_that_break_rules_meanwhile(release, scratch, tmp_path, device):
    """
    Two vCPUs: one resets the device again and again, the other writes all over its rings and waits for pages while that goes on, the longer
    since the file is slow. Whatever waits for vCPUs in KVM would wait for ever.
    """
    front, back = Snapshot(tmp_path, "front"), Snapshot(tmp_path, "back")
    vm, api = begin(release, f"touch 16M; print ready; wait g; race {device} ms=100000; print bye", [drive("d0", scratch)], vcpus=2, mem_mib=64,
                    vsock={"guest_cid": 3, "uds_path": str(tmp_path / "v.sock")})
    events = api.events(timeout=PATIENCE)
    vm.expect(rb"ready")
    vm.send(b"g")
    with traced(vm.pid, "-o", "/dev/null", "-e", "trace=pwrite64", "--inject=pwrite64:delay_enter=5000"):
        for _ in range(5):
            create(api, front)
            write_behind(api, back)
            api.resume()
            written(events, back)
            same(front, back)
        assert "bye" not in vm.said()
    end(vm)


# ---- what can go wrong ----

@pytest.fixture
def small_disk(tmp_path):
    """A file system of 48 MiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=48m", "small", folder], check=True)
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def test_full_disk(mayfly, small_disk):
    """The snapshot before is still there, nothing else is left, and the guest goes on."""
    snap = Snapshot(small_disk)
    vm, api = begin(mayfly, "touch 8M; cycle 16M; print bye", mem_mib=64)
    events = api.events(timeout=PATIENCE)
    vm.expect(rb"round 0\b")
    create(api, snap)
    api.resume()
    old = snap.state.read_bytes(), snap.memory.read_bytes()
    generation = 0
    for filled in (0, 8, 15):
        (small_disk / "other").write_bytes(bytes(filled * MIB))
        api.pause()
        write_behind(api, snap)
        vm.send(b"bc")
        api.resume()
        failed = told(events, "snapshot_failed", "snapshot_written")
        assert failed["event"] == "snapshot_failed" and failed["snapshot_path"] == str(snap.state) and "No space left" in failed["error"]
        vm.expect(b"memory file: No space left", "err")
        generation = after(generation, b"bc")
        vm.expect(rb"round %d\b" % generation)
        assert (snap.state.read_bytes(), snap.memory.read_bytes()) == old
        assert sorted(p.name for p in small_disk.iterdir()) == ["other", "snap.memory", "snap.state"]
    for path in (small_disk / "other", snap.memory):
        path.unlink()
    api.pause()
    write_behind(api, snap)
    api.resume()
    written(events, snap)
    vm.send(b"q")
    assert "bye" in succeeded(vm.wait())
    clone, _ = load(mayfly, snap)
    clone.send(b"x")
    clone.expect(rb"round %d\b" % after(generation, b"x"))
    end(clone)


def wait_for_fault(pid):
    """Until a thread waits for a page."""
    deadline = time.monotonic() + PATIENCE
    while not any(path.read_text() == "handle_userfault" for path in Path(f"/proc/{pid}/task").glob("*/wchan")):
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_error_while_the_guest_waits(release, tmp_path):
    """A vCPU that waits for a page when the file takes no more goes on at once."""
    snap = Snapshot(tmp_path)
    vm, api = begin(release, "touch 16M; cycle 16M; print bye", mem_mib=64)
    events = api.events(timeout=PATIENCE)
    vm.expect(rb"round 0\b")
    api.pause()
    with traced(vm.pid, "-o", "/dev/null", "-e", "trace=pwrite64", "--inject=pwrite64:delay_enter=200000"):
        write_behind(api, snap)
        vm.send(b"ab")
        api.resume()
        wait_for_fault(vm.pid)
        resource.prlimit(vm.pid, resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
        assert "File too large" in told(events, "snapshot_failed", "snapshot_written")["error"]
        vm.expect(rb"round %d\b" % after(0, b"ab"), timeout=5)
    vm.send(b"q")
    assert "bye" in succeeded(vm.wait())


def test_paused_and_resumed_meanwhile(mayfly, tmp_path):
    """As often as one likes; another snapshot has to wait, and one with nobody to resume it is finished, too."""
    front, back, other = (Snapshot(tmp_path, name) for name in ("front", "back", "other"))
    vm, api = begin(mayfly, "touch 64M; cycle 32M; print bye", mem_mib=160)
    events = api.events(timeout=PATIENCE)
    vm.expect(rb"round 0\b")
    create(api, front)
    write_behind(api, back)
    vm.send(b"ab")
    with pytest.raises(ApiError, match="a snapshot is being written .wait for the event"):
        api.put("/snapshot/create", other.body)
    with pytest.raises(ApiError, match="a snapshot is being written"):
        write_behind(api, other)
    for _ in range(10):
        api.resume()
        api.pause()
    written(events, back)
    same(front, back)
    write_behind(api, other)
    written(events, other)
    api.resume()
    vm.send(b"q")
    assert "bye" in succeeded(vm.wait())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_ended_meanwhile(mayfly, tmp_path, number):
    """At once, with vCPUs that wait for their pages; the snapshot before stays."""
    snap = Snapshot(tmp_path)
    vm, api = begin(mayfly, "touch 64M; cycle 32M; print bye", mem_mib=160, vcpus=2)
    vm.expect(rb"round 0\b")
    create(api, snap)
    old = snap.state.read_bytes()
    api.resume()
    vm.send(b"a")
    vm.expect(rb"round 97\b")
    api.pause()
    write_behind(api, snap)
    vm.send(b"b")
    api.resume()
    vm.signal(number)
    vm.wait(20)
    if snap.state.read_bytes() == old:
        clone, _ = load(mayfly, snap)
        clone.send(b"x")
        clone.expect(rb"round %d\b" % after(0, b"x"))


def test_guest_ends_meanwhile(mayfly, tmp_path):
    snap = Snapshot(tmp_path)
    vm, api = begin(mayfly, "touch 64M; cycle 32M; print bye", mem_mib=160)
    vm.expect(rb"round 0\b")
    api.pause()
    write_behind(api, snap)
    vm.send(b"q")
    api.resume()
    assert "bye" in succeeded(vm.wait())


def test_killed_at_any_time(in_memory):
    """The snapshot before, the new one, or files that are found not to belong together; never one of another moment."""
    folder = in_memory.directory
    snap, safe = Snapshot(folder), Snapshot(folder, "safe")
    vm, api = begin(in_memory, "touch 28M; cycle 8M", mem_mib=64)
    vm.expect(rb"round 0\b")
    for kept in (safe, snap):
        create(api, kept)
        api.resume()
    now = saved = 0
    found = {"old": 0, "new": 0, "none": 0}
    moments = [0.12 * i / KILLS for i in range(KILLS)]
    random.Random(1).shuffle(moments)
    for i, moment in enumerate(moments):
        letter = bytes([97 + i % 16])
        vm.send(letter)
        now = after(now, letter)
        vm.expect(rb"round %d\b" % now)
        api.pause()
        write_behind(api, snap)
        api.resume()
        vm.send(b"xyz")
        time.sleep(moment)  # any moment: that is what is tested
        end(vm)
        try:
            vm, api = load(in_memory, snap)
        except ApiError as refusal:
            assert "the memory file is of another snapshot than the state file" in str(refusal)
            found["none"] += 1
            end(in_memory.running[-1])
            for kept in ("state", "memory"):
                shutil.copy(folder / f"safe.{kept}", folder / f"snap.{kept}")
            saved = now = 0
            vm, api = load(in_memory, snap)
            continue
        vm.send(b"+")
        got = int(vm.expect(rb"round (\d+)\r?\n")[1])
        assert got in (after(saved, b"+"), after(now, b"+"))
        found["new" if got == after(now, b"+") else "old"] += 1
        saved = now if got == after(now, b"+") else saved
        now = got
    print(found)
    assert found["old"] and found["new"]
    vm.send(b"q")
    succeeded(vm.wait())


# ---- where RAM is not plain memory ----

def test_of_a_loaded_one(mayfly, tmp_path):
    """RAM shows a file, which cannot be protected: it is written before the answer."""
    first, front, back = (Snapshot(tmp_path, name) for name in ("first", "front", "back"))
    vm, api = begin(mayfly, "cycle 8M; print bye", mem_mib=64)
    vm.expect(rb"round 0\b")
    create(api, first)
    end(vm)
    vm, api = load(mayfly, first)
    events = api.events(timeout=PATIENCE)
    vm.send(b"a")
    vm.expect(rb"round 97\b")
    create(api, front)
    write_behind(api, back)
    api.resume()
    vm.send(b"bcd")
    written(events, back)
    same(front, back)
    vm.send(b"q")
    assert "bye" in succeeded(vm.wait())


def test_of_one_that_may_be_forked(mayfly, tmp_path):
    """Before its first copy is made, RAM is shared memory, which can be protected; a fork has to wait."""
    front, back, later = (Snapshot(tmp_path, name) for name in ("front", "back", "later"))
    vm, api = mayfly.start_api(["--allow-fork", "--allow-path", str(mayfly.directory)], stdin=subprocess.PIPE)
    config = configure("touch 64M; cycle 16M; print bye", mem_mib=128)
    for name in ("boot-source", "machine-config"):
        api.put(f"/{name}", config[name])
    api.start()
    events = api.events(timeout=PATIENCE)
    vm.expect(rb"round 0\b")
    create(api, front)
    write_behind(api, back)
    with pytest.raises(ApiError, match="a snapshot is being written"):
        api.call("PUT", "/fork", {"copies": [{"id": "c"}]})
    api.resume()
    vm.send(b"abcd")
    written(events, back)
    same(front, back)
    vm.expect(rb"round %d\b" % after(0, b"abcd"))
    pid = api.call("PUT", "/fork", {"copies": [{"id": "c", "serial_override": {"serial_socket_path": str(tmp_path / "c")}}]})["copies"][0]["pid"]
    os.kill(pid, signal.SIGTERM)
    create(api, front)
    write_behind(api, later)
    api.resume()
    vm.send(b"ef")
    written(events, later)
    same(front, later)
    vm.send(b"q")
    assert "bye" in succeeded(vm.wait())


# ---- refusals ----

def test_needs_a_userfaultfd(release, tmp_path):
    """Where the host has none for us, there is a sentence, and other snapshots go as before."""
    snap = Snapshot(tmp_path)
    hidden = ["unshare", "--mount", "sh", "-ec", '[ ! -e /dev/userfaultfd ] || mount --bind /dev/null /dev/userfaultfd; exec setpriv --bounding-set=-sys_ptrace -- "$@"', "sh"]
    vm, api = release.start_api(["--allow-path", str(release.directory)], stdin=subprocess.PIPE, wrapper=hidden)
    config = configure("print ready; wait g; print bye")
    api.put("/boot-source", config["boot-source"])
    api.start()
    vm.expect(rb"ready")
    api.pause()
    with pytest.raises(ApiError, match="snapshot.background: userfaultfd: .* .needs Linux 5.7, and read and write access to /dev/userfaultfd"):
        write_behind(api, snap)
    assert list(tmp_path.glob("snap*")) == []
    create(api, snap)
    api.resume()
    vm.send(b"g")
    assert "bye" in succeeded(vm.wait())


def test_refusals(release, tmp_path):
    snap = Snapshot(tmp_path)
    vm, api = begin(release, "print ready; wait g", mem_mib=32)
    vm.expect(rb"ready")
    with pytest.raises(ApiError, match="pause it first"):
        write_behind(api, snap)
    api.pause()
    with pytest.raises(ApiError, match="snapshot.background"):
        api.put("/snapshot/create", {**snap.body, "background": "yes"})
    with pytest.raises(ApiError, match="No such file"):
        write_behind(api, Snapshot(tmp_path / "nowhere"))
    events = api.events(timeout=PATIENCE)
    write_behind(api, snap)
    written(events, snap)
