"""Snapshots natively: the test guest goes on where it was saved, disk, memory, console and vsock with it, and only where it may."""

import array
import fcntl
import json
import os
import shutil
import signal
import socket
import subprocess
import termios
import time

import pytest

from harness import artifact, BAD_ARGUMENTS, BAD_CONFIG, PATIENCE, drive, sparse
from mayfly import ApiError
from test_guest import configure, is_as_modelled, succeeded

MIB = 1 << 20


class Snapshot:
    """Two files of a test's own."""

    def __init__(self, folder, name="snap"):
        self.state, self.memory = folder / f"{name}.state", folder / f"{name}.memory"

    @property
    def body(self):
        return {"snapshot_path": str(self.state), "mem_file_path": str(self.memory)}

    @property
    def args(self):
        return ["--load-snapshot", str(self.state), "--memory", str(self.memory)]


@pytest.fixture
def snap(tmp_path):
    return Snapshot(tmp_path)


def begin(vmm, script, drives=(), allow=True, machine_config=None, **sections):
    """Start it by its API, with a console that can be written to."""
    config = configure(script, drives, **sections)
    vm, api = vmm.start_api(["--allow-path", str(vmm.directory)] if allow else [], stdin=subprocess.PIPE)
    api.put("/boot-source", config["boot-source"])
    api.put("/machine-config", {**config["machine-config"], **(machine_config or {})})
    for d in config["drives"]:
        api.put(f"/drives/{d['drive_id']}", d)
    for n in config.get("network-interfaces", []):
        api.put(f"/network-interfaces/{n['iface_id']}", n)
    if "vsock" in config:
        api.put("/vsock", config["vsock"])
    api.start()
    return vm, api


def create(api, snapshot, kind="Full"):
    api.pause()
    api.put("/snapshot/create", {**snapshot.body, "snapshot_type": kind})


def end(vm):
    vm.signal(signal.SIGKILL)
    vm.wait()


def load(vmm, snapshot, args=(), **body):
    """By the API; resumed unless the body says otherwise."""
    vm, api = vmm.start_api(["--allow-path", str(vmm.directory), *args], stdin=subprocess.PIPE)
    api.put("/snapshot/load", {**snapshot.body, "resume_vm": True, **body})
    return vm, api


def refused(vmm, snapshot, **body):
    """The sentence; and the process goes on without a microVM, or with the next one that is right."""
    _, api = vmm.start_api()
    answer = api.request("PUT", "/snapshot/load", {**snapshot.body, **body})
    assert answer.status == 400
    assert api.instance()["state"] == "Not started"
    assert api.get("/vm/config")["drives"] == []
    return answer.fault_message()


# ---- it goes on ----

@pytest.mark.parametrize("vcpus,mib", [(1, 32), (2, 128), (1, 5000)])
def test_goes_on(mayfly, snap, vcpus, mib):
    """The one that was saved, and any number of others after it."""
    vm, api = begin(mayfly, "cycle 4M; print bye", vcpus=vcpus, mem_mib=mib)
    vm.expect(rb"round 0")
    vm.send(b"a")
    vm.expect(rb"round 97\b")
    create(api, snap)
    api.resume()
    vm.send(b"bq")
    assert "round 3105" in succeeded(vm.wait())
    for letter in b"cd":
        vm = mayfly.start(args=["--no-api", *snap.args], stdin=subprocess.PIPE)
        vm.send(bytes([letter]) + b"q")
        text = succeeded(vm.wait())
        assert f"round {97 * 31 + letter}" in text and "bye" in text


def test_many_rounds(release, tmp_path):
    """Saved and loaded 50 times in a row (MAYFLY_CYCLES says how often), the guest's memory checked each time."""
    rounds = int(os.environ.get("MAYFLY_CYCLES", "50"))
    vm, api = begin(release, "cycle 1M; print bye", mem_mib=32)
    vm.expect(rb"round 0\b")
    generation = 0
    for i in range(rounds):
        snap = Snapshot(tmp_path, f"snap{i % 2}")
        create(api, snap)
        end(vm)
        vm.close()
        api.hang_up()
        vm, api = load(release, snap)
        vm.send(b"x")
        generation = (generation * 31 + ord("x")) % 2**64
        vm.expect(rb"round %d\b" % generation)
    vm.send(b"q")
    assert "bye" in succeeded(vm.wait())


def test_disk_in_the_middle_of_traffic(mayfly, scratch, snap, tmp_path):
    """No write is lost and none done twice: the image in the end is the model's."""
    before, script = scratch.read_bytes(), "blk 0 fuzz seed=5 n=60000 span=8192 ops=rwfdz"
    vm, api = begin(mayfly, f"print ready; {script}; print bye", [drive("d0", scratch, cache_type="Writeback")])
    vm.expect(rb"ready")
    for i in range(3):
        time.sleep(0.05)  # anywhere in it
        create(api, snap)
        end(vm)
        shutil.copy(snap.memory, tmp_path / f"kept{i}")
        vm, api = load(mayfly, snap)
    assert "bye" in succeeded(vm.wait())
    is_as_modelled(scratch, before, script)


def test_memory_file_is_sparse(release, snap):
    """Pages that nobody has touched, and those that hold zeros, take no room; large RAM costs nothing by itself."""
    vm, api = begin(release, "touch 8M; print ready; wait g", mem_mib=2048)
    vm.expect(rb"ready")
    create(api, snap)
    size = os.stat(snap.memory)
    assert size.st_size == 2048 * MIB + 4096
    assert 8 * MIB < size.st_blocks * 512 < 12 * MIB
    assert os.stat(snap.memory).st_mode & 0o777 == 0o600


def test_saved_again_from_a_loaded_one(release, tmp_path):
    """What only the file holds, and what was written since, are both in the next snapshot, without the first one's file."""
    first, second = Snapshot(tmp_path, "first"), Snapshot(tmp_path, "second")
    vm, api = begin(release, "cycle 8M; print bye", mem_mib=64)
    vm.expect(rb"round 0")
    create(api, first)
    end(vm)
    vm, api = load(release, first, resume_vm=False)
    create(api, second)
    end(vm)
    os.unlink(first.memory)
    assert os.stat(second.memory).st_blocks * 512 < 16 * MIB
    vm, api = load(release, second)
    vm.send(b"q")
    assert "bye" in succeeded(vm.wait())


def test_console_in_between(mayfly, snap):
    """What the monitor has taken and the guest has not is there afterwards: more than the serial port's FIFO holds."""
    vm, api = begin(mayfly, "print ready; wait g; wait h; print bye")
    vm.expect(rb"ready")
    vm.send(b"x")
    drained(vm.process.stdin)  # so it listens
    api.pause()
    vm.send(b"x" * 500 + b"gh")
    drained(vm.process.stdin)
    create(api, snap)
    end(vm)
    vm, api = load(mayfly, snap)
    assert "bye" in succeeded(vm.wait())


def drained(pipe):
    """Wait until nothing is left in it."""
    left, deadline = array.array("i", [1]), time.monotonic() + PATIENCE
    while left[0]:
        assert time.monotonic() < deadline
        fcntl.ioctl(pipe, termios.FIONREAD, left)


def talk(path, port, data):
    """A connection to the guest's echo server, answered."""
    peer = socket.socket(socket.AF_UNIX)
    peer.settimeout(PATIENCE)
    peer.connect(str(path))
    peer.sendall(b"CONNECT %d\n" % port)
    assert peer.recv(64).startswith(b"OK ")
    peer.sendall(data)
    got = b""
    while len(got) < len(data):
        part = peer.recv(len(data) - len(got))
        assert part
        got += part
    assert got == data
    return peer


def test_vsock_server_accepts_again(mayfly, snap, tmp_path):
    """Right after the load, on a socket of the clone's own, though the snapshot was taken in the middle of a conversation."""
    path, other = tmp_path / "v.sock", tmp_path / "other.sock"
    vm, api = begin(mayfly, "print ready; vsock echo 1234 n=100", vsock={"guest_cid": 3, "uds_path": str(path)})
    vm.expect(rb"ready")
    peer = talk(path, 1234, b"before")
    create(api, snap)
    api.resume()
    peer.sendall(b"again")
    assert peer.recv(5) == b"again"  # the old one's go on
    clone, _ = load(mayfly, snap, vsock_override={"uds_path": str(other)})
    talk(other, 1234, b"x" * 100000).close()
    talk(path, 1234, b"y" * 100000).close()
    peer.close()
    end(clone)
    end(vm)


def test_metadata_comes_along(mayfly, snap):
    config = configure("print ready; wait g")
    vm, api = mayfly.start_api(["--allow-path", str(mayfly.directory)], stdin=subprocess.PIPE)
    left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    left.close()
    right.close()
    api.put("/boot-source", config["boot-source"])
    api.put("/mmds", {"a": {"b": "c"}})
    api.start()
    vm.expect(rb"ready")
    create(api, snap)
    end(vm)
    _, api = load(mayfly, snap, mmds={"id": "clone"})
    assert api.get("/mmds") == {"id": "clone"}


def test_configuration_comes_along(mayfly, scratch, snap, tmp_path):
    """GET answers as before, but for what was given anew; log and metrics are the new process's."""
    vm, api = begin(mayfly, "print ready; wait g", [drive("d0", scratch, rate_limiter={"ops": {"size": 5, "refill_time": 100}})], mem_mib=64)
    vm.expect(rb"ready")
    before = api.config()
    create(api, snap)
    end(vm)
    other = tmp_path / "other.img"
    shutil.copy(scratch, other)
    _, api = load(mayfly, snap, drive_overrides=[{"drive_id": "d0", "path_on_host": str(other)}])
    after = api.config()
    assert after["drives"][0].pop("path_on_host") == str(other)
    before["drives"][0].pop("path_on_host")
    assert after == before
    assert api.instance()["state"] == "Running"


# ---- diffs ----

def test_diff(release, tmp_path):
    """Holds what was written since, by guest and devices; over its base it is the whole."""
    base, diff = Snapshot(tmp_path, "base"), Snapshot(tmp_path, "diff")
    vm, api = begin(release, "touch 64M; cycle 1M; print bye", mem_mib=128, machine_config={"track_dirty_pages": True})
    vm.expect(rb"round 0")
    create(api, base)
    api.resume()
    vm.send(b"a")
    vm.expect(rb"round 97")
    create(api, diff, "Diff")
    end(vm)
    assert os.stat(base.memory).st_blocks * 512 > 64 * MIB
    assert os.stat(diff.memory).st_blocks * 512 < 3 * MIB
    assert "is a diff" in refused(release, diff)


# ---- it does not go on ----

def test_needs_a_pause_and_a_place(release, snap):
    vm, api = begin(release, "print ready; wait g")
    vm.expect(rb"ready")
    with pytest.raises(ApiError, match="pause it first"):
        api.put("/snapshot/create", snap.body)
    api.pause()
    with pytest.raises(ApiError, match="snapshot_path, too"):
        api.put("/snapshot/create", {**snap.body, "mem_file_path": str(snap.state)})
    with pytest.raises(ApiError, match="No such file"):
        api.put("/snapshot/create", {**snap.body, "mem_file_path": str(snap.memory / "below")})
    with pytest.raises(ApiError, match="--allow-path"):
        api.put("/snapshot/create", {**snap.body, "mem_file_path": "/var/tmp/mayfly-snapshot-outside"})
    assert sorted(p.suffix for p in snap.state.parent.iterdir() if p.name.startswith("snap")) == []
    api.put("/snapshot/create", snap.body)
    api.resume()
    vm.send(b"g")
    succeeded(vm.wait())


def test_needs_allow_path(release, snap):
    vm, api = begin(release, "print ready; wait g", allow=False)
    vm.expect(rb"ready")
    api.pause()
    with pytest.raises(ApiError, match="start Mayfly with --allow-path"):
        api.put("/snapshot/create", snap.body)


def test_full_disk_keeps_the_old_one(release, snap, tmp_path):
    """With no room for the memory, the snapshot before stays as it was, and the microVM goes on."""
    vm, api = begin(release, "touch 8M; print ready; cycle 1M")
    vm.expect(rb"ready")
    create(api, snap)
    old = snap.state.read_bytes()
    resource_limit(vm.pid, 4 * MIB)
    with pytest.raises(ApiError, match="mem_file_path: .*: File too large"):
        api.put("/snapshot/create", snap.body)
    resource_limit(vm.pid, -1)
    assert snap.state.read_bytes() == old
    assert [p for p in tmp_path.iterdir() if p.name.endswith(".new")] == []
    api.put("/snapshot/create", snap.body)
    api.resume()
    vm.send(b"q")
    succeeded(vm.wait())


def resource_limit(pid, size):
    """The largest file that it may write."""
    subprocess.run(["prlimit", f"--pid={pid}", f"--fsize={size if size >= 0 else 'unlimited'}:unlimited"], check=True)


@pytest.fixture
def saved(release, scratch, snap):
    """Files of a microVM that has ended."""
    vm, api = begin(release, "print ready; wait g", [drive("d0", scratch)], mem_mib=32)
    vm.expect(rb"ready")
    create(api, snap)
    end(vm)
    return snap


def test_damaged_state(release, saved):
    data = saved.state.read_bytes()
    for at in (0, 9, 100, len(data) // 2, len(data) - 1):
        saved.state.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1:])
        assert "state file" in refused(release, saved)
    for size in (0, 7, 23, 24, 1000, len(data) - 8, len(data) - 1):
        saved.state.write_bytes(data[:size])
        assert "state file" in refused(release, saved)
    saved.state.write_bytes(data + bytes(8))
    assert "goes on after its end" in refused(release, saved)


def test_wrong_memory(release, saved, tmp_path):
    data = saved.memory.read_bytes()
    saved.memory.write_bytes(data[:-4096])
    assert "memory file" in refused(release, saved)
    saved.memory.write_bytes(data[:-1])
    assert "memory file" in refused(release, saved)
    saved.memory.write_bytes(data[:-4096] + bytes(4096))
    assert "memory file" in refused(release, saved)
    saved.memory.write_bytes(data[4096:])
    assert "is for 33554432 bytes of RAM and has 33550336" in refused(release, saved)
    saved.memory.write_bytes(data)
    vm, api = load(release, saved)
    create(api, Snapshot(tmp_path, "other"))
    end(vm)
    assert "of another snapshot" in refused(release, saved, mem_file_path=str(tmp_path / "other.memory"))


@pytest.mark.parametrize("body,why", [
    ({"snapshot_path": "/nonexistent"}, "snapshot.snapshot_path: /nonexistent: No such file"),
    ({"snapshot_path": "/"}, "snapshot.snapshot_path: / is no regular file"),
    ({"snapshot_path": "/dev/zero"}, "is no regular file"),
    ({"mem_file_path": "/nonexistent"}, "mem_backend.backend_path: /nonexistent: No such file"),
    ({"mem_file_path": None}, "there is no mem_backend"),
    ({"mem_backend": {"backend_type": "File", "backend_path": "x"}}, "needs one of them"),
    ({"mem_backend": {"backend_type": "Tape", "backend_path": "x"}}, "backend_type"),
    ({"drive_overrides": [{"drive_id": "d1", "path_on_host": "x"}]}, 'the snapshot has no drive_id "d1"'),
    ({"drive_overrides": [{"drive_id": "d0", "is_read_only": True}]}, "snapshot.drive_overrides[0].is_read_only: this cannot be given anew"),
    ({"drive_overrides": [{"drive_id": "d0", "path_on_host": "/nonexistent"}]}, "drives[d0].path_on_host: /nonexistent: No such file"),
    ({"drive_overrides": {}}, "needs a list"),
    ({"network_overrides": [{"iface_id": "n0", "host_dev_name": "tap0"}]}, 'the snapshot has no iface_id "n0"'),
    ({"network_overrides": [1]}, "needs an object"),
    ({"vsock_override": {"uds_path": "x"}}, "the snapshot has no vsock"),
    ({"clock_realtime": "yes"}, "clock_realtime"),
    ({"huge_pages": "1G"}, "huge_pages"),
    ({"surprise": 1}, "surprise"),
])
def test_bad_load(release, saved, body, why):
    assert why in refused(release, saved, **body)


def test_disk_that_shrank(release, saved, scratch):
    os.truncate(scratch, 4 << 20)
    assert "drive" in refused(release, saved)


def test_load_only_into_nothing(release, saved):
    _, api = release.start_api()
    api.put("/boot-source", configure("print x")["boot-source"])
    with pytest.raises(ApiError, match="not allowed after configuring"):
        api.put("/snapshot/load", saved.body)


@pytest.mark.parametrize("args,code,why", [
    (["--load-snapshot", "x"], BAD_ARGUMENTS, "a snapshot has two files"),
    (["--memory", "x"], BAD_ARGUMENTS, "a snapshot has two files"),
    (["--override", "{}"], BAD_ARGUMENTS, "there is no snapshot"),
    (["--load-snapshot", "/nonexistent", "--memory", "x"], BAD_CONFIG, "snapshot.snapshot_path: /nonexistent: No such file"),
    (["--load-snapshot", "STATE", "--memory", "MEMORY", "--override", '{"a":1}'], BAD_CONFIG, 'snapshot: unknown key "a"'),
    (["--load-snapshot", "STATE", "--memory", "MEMORY", "--override", "{"], BAD_CONFIG, "--override:1:1"),
])
def test_bad_command_line(release, saved, args, code, why):
    words = [str({"STATE": saved.state, "MEMORY": saved.memory}.get(word, word)) for word in args]
    outcome = release.run(args=["--no-api", *words])
    assert outcome.code == code and why in outcome.err, outcome.err


def test_override_on_the_command_line(release, saved, scratch, tmp_path):
    other = tmp_path / "other.img"
    shutil.copy(scratch, other)
    os.unlink(scratch)
    override = json.dumps({"drive_overrides": [{"drive_id": "d0", "path_on_host": str(other)}]})
    vm = release.start(args=["--no-api", *saved.args, "--override", override], stdin=subprocess.PIPE)
    vm.send(b"g")
    succeeded(vm.wait())


def test_diff_over_its_base_loads(release, tmp_path):
    """mayfly-snapshot puts the two together; the guest goes on from there, and checks all of its memory."""
    base, diff = Snapshot(tmp_path, "base"), Snapshot(tmp_path, "diff")
    vm, api = begin(release, "touch 64M; cycle 1M; print bye", mem_mib=128, machine_config={"track_dirty_pages": True})
    vm.expect(rb"round 0")
    create(api, base)
    api.resume()
    vm.send(b"a")
    vm.expect(rb"round 97")
    create(api, diff, "Diff")
    end(vm)
    subprocess.run([artifact("mayfly-snapshot"), "rebase", base.memory, diff.memory], check=True, timeout=PATIENCE)
    whole = Snapshot(tmp_path, "diff")
    base.memory.rename(whole.memory)
    subprocess.run([artifact("mayfly-snapshot"), "verify", whole.state, whole.memory], check=True, timeout=PATIENCE)
    vm, _ = load(release, whole)
    vm.send(b"bq")
    text = succeeded(vm.wait())
    assert "round 3105" in text and "bye" in text
