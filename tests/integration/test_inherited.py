"""Files that Mayfly is given as descriptors ("fd:N") instead of paths: snapshots to load and to write, disks; and what they must not be."""

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile

import pytest

from harness import BAD_ARGUMENTS, BAD_CONFIG, PATIENCE, artifact, drive
from jailer import Jailer
from mayfly import ApiError
from overlay_file import merged
from test_fork import fork, family  # noqa: F401 (a fixture)
from test_guest import configure, is_as_modelled, succeeded
from test_snapshot import MIB, Snapshot, begin, create, end, load, resource_limit
from test_snapshot_background import same, told, write_behind, written
from test_snapshot_hostile import traced


@pytest.fixture
def opened():
    """Opens files, and closes them in the end; a number is a descriptor of pass_fds, a name "fd:NUMBER"."""
    with contextlib.ExitStack() as stack:
        def give(path, flags=os.O_RDWR | os.O_CREAT):
            fd = os.open(path, flags, 0o600)
            stack.callback(os.close, fd)
            return fd
        yield give


def body(state, memory, **more):
    return {"snapshot_path": f"fd:{state}", "mem_file_path": f"fd:{memory}", **more}


def start(vmm, script, allowed, drives=(), args=(), machine_config=None, pass_fds=(), **popen):
    """By its API, with descriptors to keep."""
    config = configure(script, drives)
    keep = [word for fd in allowed for word in ("--allow-fd", str(fd))]
    vm, api = vmm.start_api([*keep, *args], stdin=subprocess.PIPE, pass_fds=[*allowed, *pass_fds], **popen)
    api.put("/boot-source", config["boot-source"])
    api.put("/machine-config", {**config["machine-config"], **(machine_config or {})})
    for d in config["drives"]:
        api.put(f"/drives/{d['drive_id']}", d)
    api.start()
    return vm, api


# ---- snapshots ----

def test_written_and_loaded(mayfly, opened, tmp_path):
    """Without a path anywhere: what the files held is gone, where they are read or written before does not matter, and they may be given again."""
    snap = Snapshot(tmp_path)
    for path in (snap.state, snap.memory):
        path.write_bytes(b"old" * (100 * MIB // 3))
    state, memory = opened(snap.state), opened(snap.memory)
    for fd in (state, memory):
        os.lseek(fd, 12345, os.SEEK_SET)
    vm, api = start(mayfly, "cycle 4M; print bye", [state, memory])
    vm.expect(rb"round 0")
    api.pause()
    for _ in range(2):
        api.put("/snapshot/create", body(state, memory))
    api.resume()
    vm.send(b"aq")
    assert "round 97" in succeeded(vm.wait())
    assert os.stat(snap.state).st_size < MIB and os.stat(snap.memory).st_blocks * 512 < 20 * MIB
    assert sorted(p.name for p in tmp_path.glob("snap*")) == ["snap.memory", "snap.state"]
    for fd in (state, memory):
        os.lseek(fd, 54321, os.SEEK_SET)
    # Open for reading alone is enough; a load that fails leaves them as they were.
    state, memory = opened(snap.state, os.O_RDONLY), opened(snap.memory, os.O_RDONLY)
    vm, api = mayfly.start_api(stdin=subprocess.PIPE, pass_fds=[state, memory])
    for wrong in (body(state, state), body(memory, state), body(state, memory, vsock_override={"guest_cid": 3})):
        with pytest.raises(ApiError):
            api.put("/snapshot/load", wrong)
    api.put("/snapshot/load", body(state, memory, resume_vm=True))
    vm.send(b"bq")
    assert "round 98" in succeeded(vm.wait())
    # And on the command line.
    vm = mayfly.start(args=["--no-api", "--load-snapshot", f"fd:{state}", "--memory", f"fd:{memory}"], stdin=subprocess.PIPE, pass_fds=[state, memory])
    vm.send(b"cq")
    assert "round 99" in succeeded(vm.wait())


def test_same_as_by_path(release, opened, tmp_path):
    """Full, diff, in the background: the files are those of a snapshot with paths; one of each kind is as good."""
    names = ["path", "full", "diff", "back"]
    snaps = {name: Snapshot(tmp_path, name) for name in names}
    fds = {name: (opened(snaps[name].state), opened(snaps[name].memory, os.O_WRONLY | os.O_CREAT)) for name in names[1:]}
    vm, api = start(release, "touch 16M; cycle 1M", [fd for pair in fds.values() for fd in pair], args=["--allow-path", str(tmp_path)],
                    machine_config={"track_dirty_pages": True})
    events = api.events(timeout=PATIENCE)
    vm.expect(rb"round 0\b")
    create(api, snaps["path"])
    api.put("/snapshot/create", body(*fds["full"]))
    same(snaps["path"], snaps["full"])
    api.put("/snapshot/create", body(*fds["diff"], snapshot_type="Diff"))
    assert os.stat(snaps["diff"].memory).st_blocks * 512 < MIB
    api.put("/snapshot/create", body(*fds["back"], background=True))
    vm.send(b"x")
    api.resume()
    event = told(events, "snapshot_written", "snapshot_failed")
    assert event["event"] == "snapshot_written" and event["snapshot_path"] == f"fd:{fds['back'][0]}"
    same(snaps["path"], snaps["back"])
    api.pause()
    mixed = {"snapshot_path": str(tmp_path / "mixed"), "mem_file_path": f"fd:{fds['full'][1]}"}
    api.put("/snapshot/create", mixed)
    end(vm)
    _, api = release.start_api(pass_fds=[fds["full"][1]])
    with pytest.raises(ApiError, match="not open for that"):  # for writing only
        api.put("/snapshot/load", mixed)
    api.put("/snapshot/load", {**mixed, "mem_file_path": str(snaps["full"].memory)})


def test_files_in_memory(release):
    """A memfd is a file like others, with no name at all; the loaded one goes on when whoever gave it has closed it."""
    state, memory = os.memfd_create("state"), os.memfd_create("memory")
    vm, api = start(release, "cycle 1M", [state, memory])
    vm.expect(rb"round 0\b")
    api.pause()
    api.put("/snapshot/create", body(state, memory))
    end(vm)
    vm, api = release.start_api(stdin=subprocess.PIPE, pass_fds=[state, memory])
    os.close(state)
    os.close(memory)
    api.put("/snapshot/load", body(state, memory, resume_vm=True))
    vm.send(b"x")
    vm.expect(rb"round 120\b")
    assert not any(os.readlink(f"/proc/{vm.pid}/fd/{fd}").startswith("/memfd:state") for fd in os.listdir(f"/proc/{vm.pid}/fd"))
    end(vm)


def test_half_a_snapshot_is_none(release, opened, tmp_path):
    """Files that could not be written to their end are empty; so are those of an orderly end in the middle."""
    snap = Snapshot(tmp_path)
    state, memory = opened(snap.state), opened(snap.memory)
    vm, api = start(release, "touch 32M; cycle 1M", [state, memory])
    vm.expect(rb"round 0\b")
    api.pause()
    api.put("/snapshot/create", body(state, memory))
    resource_limit(vm.pid, 4 * MIB)
    with pytest.raises(ApiError, match=f"mem_file_path: fd:{memory}: File too large"):
        api.put("/snapshot/create", body(state, memory))
    assert os.stat(snap.state).st_size == os.stat(snap.memory).st_size == 0
    resource_limit(vm.pid, -1)
    api.put("/snapshot/create", body(state, memory))
    with traced(vm.pid, "-o", "/dev/null", "-e", "trace=pwrite64", "--inject=pwrite64:delay_enter=100000"):
        text = json.dumps(body(state, memory)).encode()
        with socket.socket(socket.AF_UNIX) as asked:
            asked.connect(api.api_sock)
            asked.sendall(b"PUT /snapshot/create HTTP/1.1\r\nContent-Length: %d\r\n\r\n%s" % (len(text), text))
            while os.stat(snap.state).st_size:
                pass
            vm.signal(signal.SIGTERM)
            vm.wait()
    assert os.stat(snap.state).st_size == os.stat(snap.memory).st_size == 0


def test_refused_for_writing(release, opened, tmp_path):
    """Each in a sentence, with nothing changed."""
    snap = Snapshot(tmp_path)
    snap.state.write_bytes(b"state")
    snap.memory.write_bytes(b"memory")
    state, memory, again = opened(snap.state), opened(snap.memory), opened(snap.state)
    reader, writer = os.pipe()
    wrong = {"reading": opened(snap.memory, os.O_RDONLY), "appending": opened(snap.memory, os.O_WRONLY | os.O_APPEND),
             "direct": opened("/var/tmp", os.O_TMPFILE | os.O_RDWR | os.O_DIRECT),
             "pipe": writer, "folder": opened(tmp_path, os.O_RDONLY | os.O_DIRECTORY)}
    not_allowed = opened(snap.memory)
    vm, api = start(release, "print ready; wait g", [state, memory, again, *wrong.values()], pass_fds=[not_allowed])
    vm.expect(rb"ready")
    api.pause()
    for name, fd in wrong.items():
        why = {"pipe": "is no regular file"}.get(name, r"is not open for that \(needs to be open for writing, without O_APPEND and O_DIRECT\)")
        with pytest.raises(ApiError, match=f"snapshot.mem_file_path: fd:{fd}: {why}"):
            api.put("/snapshot/create", body(state, fd))
    running = r"Bad file descriptor \(a running microVM has those of --allow-fd alone\)"
    for name, why in [(f"fd:{not_allowed}", running), ("fd:0", running), ("fd:250", running), ("fd:99999999", running),
                      ("fd:9999999999", "no number of a descriptor"), ("fd:", "no number"), ("fd:-3", "no number"), ("fd:x", "no number"),
                      (f"fd:{again}", r"is snapshot_path, too"), (f"fd:{state}", r"is snapshot_path, too"), (f"fd: {state}", "no number"),
                      (str(tmp_path / "file"), "--allow-path")]:
        with pytest.raises(ApiError, match=f"snapshot.mem_file_path: {re.escape(name)}:? ?{why}" if "tmp" not in name else why):
            api.put("/snapshot/create", {"snapshot_path": f"fd:{state}", "mem_file_path": name})
    assert snap.state.read_bytes() == b"state" and snap.memory.read_bytes() == b"memory"
    assert sorted(p.name for p in tmp_path.glob("*")) == ["api-0.socket", "snap.memory", "snap.state"]
    api.put("/snapshot/create", body(state, memory))
    os.close(reader)
    os.close(writer)
    end(vm)


def test_not_into_the_memory_it_runs_from(release, opened, tmp_path):
    """Emptied, it would take the guest with it."""
    snap = Snapshot(tmp_path)
    vm, api = begin(release, "cycle 4M; print bye")
    vm.expect(rb"round 0\b")
    create(api, snap)
    end(vm)
    state, memory = opened(snap.state), opened(snap.memory)
    vm, api = release.start_api(["--allow-fd", state, "--allow-fd", memory], stdin=subprocess.PIPE, pass_fds=[state, memory])
    api.put("/snapshot/load", snap.body)
    for files in (body(state, memory), body(memory, state)):
        with pytest.raises(ApiError, match=f"fd:{memory}: is the file that this microVM's memory is loaded from"):
            api.put("/snapshot/create", files)
    api.resume()
    vm.send(b"q")
    assert "bye" in succeeded(vm.wait())


@pytest.mark.parametrize("given", ["/dev/null", "pipe", "O_WRONLY", "closed", "not there"])
def test_refused_for_loading(release, opened, tmp_path, given):
    snap = Snapshot(tmp_path)
    vm, api = begin(release, "print ready; wait g")
    vm.expect(rb"ready")
    create(api, snap)
    end(vm)
    reader, writer = os.pipe()
    state, memory = opened(snap.state), opened(snap.memory)
    other = {"/dev/null": lambda: opened("/dev/null"), "pipe": lambda: reader, "O_WRONLY": lambda: opened(snap.memory, os.O_WRONLY)}.get(given, lambda: memory)()
    why = {"/dev/null": " is no regular file", "pipe": " is no regular file", "O_WRONLY": r": is not open for that .needs to be open for reading, without O_D"}.get(
               given, r": Bad file descriptor .needs a descriptor from 3 to 255 that is open when Mayfly starts")
    if given == "not there":
        other = 200
    fds = [state] if given == "closed" else [state, other] if given != "not there" else [state]
    vm = release.run(args=["--no-api", "--load-snapshot", f"fd:{state}", "--memory", f"fd:{other}"], pass_fds=fds)
    assert vm.code == BAD_CONFIG and re.search(f"mem_backend.backend_path: fd:{other}{why}", vm.err), vm.err
    os.close(reader)
    os.close(writer)


def test_mayflys_own_are_none(release, opened, tmp_path):
    """Numbers of what Mayfly opens itself cannot be reached, whatever they are; nor those that it has been given for something else."""
    snap = Snapshot(tmp_path)
    fd = opened(snap.state)
    vm, api = start(release, "print ready; wait g", [fd], drives=[drive("d0", sparse_disk(tmp_path))])
    vm.expect(rb"ready")
    api.pause()
    own = [int(n) for n in os.listdir(f"/proc/{vm.pid}/fd") if int(n) not in (0, 1, 2, fd)]
    assert any(os.readlink(f"/proc/{vm.pid}/fd/{n}").endswith("disk.img") for n in own)
    for n in own:
        with pytest.raises(ApiError, match="a running microVM has those of --allow-fd alone"):
            api.put("/snapshot/create", body(fd, n))
        with pytest.raises(ApiError, match="a running microVM has those of --allow-fd alone"):
            api.patch("/drives/d0", {"drive_id": "d0", "path_on_host": f"fd:{n}"})
    end(vm)


def sparse_disk(folder, name="disk.img", size=4 * MIB):
    path = folder / name
    with open(path, "wb") as file:
        file.truncate(size)
    return path


def test_no_list_beside_it(release, opened, tmp_path):
    """Where the memory file has no name, there is no list of a working set: neither made nor looked for."""
    snap = Snapshot(tmp_path)
    vm, api = begin(release, "touch 4M; print ready; wait g")
    vm.expect(rb"ready")
    create(api, snap)
    end(vm)
    state, memory = opened(snap.state), opened(snap.memory)
    (tmp_path / f"fd:{memory}.ws").write_bytes(b"nothing")
    vm, api = release.start_api(stdin=subprocess.PIPE, pass_fds=[state, memory])
    with pytest.raises(ApiError, match="record_working_set: the list is beside the memory file"):
        api.put("/snapshot/load", body(state, memory, record_working_set=True))
    api.put("/snapshot/load", body(state, memory, resume_vm=True))
    vm.send(b"g")
    assert ".ws" not in succeeded_log(vm)


def succeeded_log(vm):
    outcome = vm.wait()
    assert outcome.code == 0, outcome.err
    return outcome.err


# ---- disks ----

def test_disk(mayfly, opened, scratch, tmp_path):
    """Read and written as by its path, from a configuration file and by the API; and given anew at a load."""
    before, script = scratch.read_bytes(), "blk 0 fuzz seed=5 n=300 span=2048 ops=rwfdz"
    other = tmp_path / "other.img"
    shutil.copy(scratch, other)
    fd, its = opened(scratch), opened(other)
    assert "bye" in succeeded(mayfly.run(configure(f"{script}; print bye", [drive("d0", f"fd:{fd}")]), pass_fds=[fd]))
    is_as_modelled(scratch, before, script)
    snap = Snapshot(tmp_path)
    vm, api = start(mayfly, f"print ready; wait g; {script}; print bye", [], [drive("d0", f"fd:{its}")], ["--allow-path", str(tmp_path)], pass_fds=[its])
    vm.expect(rb"ready")
    assert api.config()["drives"][0]["path_on_host"] == f"fd:{its}"
    create(api, snap)
    end(vm)
    _, api = mayfly.start_api()
    with pytest.raises(ApiError, match=rf"drives\[d0\].path_on_host: fd:{its}: Bad file descriptor \(needs a descriptor from 3 to 255 that is open when"):
        api.put("/snapshot/load", snap.body)
    third = tmp_path / "third.img"
    third.write_bytes(before)
    new = opened(third)
    vm, api = mayfly.start_api(stdin=subprocess.PIPE, pass_fds=[new])
    api.put("/snapshot/load", {**snap.body, "resume_vm": True, "drive_overrides": [{"drive_id": "d0", "path_on_host": f"fd:{new}"}]})
    vm.send(b"g")
    assert "bye" in succeeded(vm.wait())
    is_as_modelled(third, before, script)
    assert other.read_bytes() == before


def test_disk_that_is_only_read(mayfly, opened, scratch):
    fd = opened(scratch, os.O_RDONLY)
    assert mayfly.run(configure("blk 0 read 0 8", [drive("d0", f"fd:{fd}", is_read_only=True)]), pass_fds=[fd]).code == 0
    outcome = mayfly.run(configure("print never", [drive("d0", f"fd:{fd}")]), pass_fds=[fd])
    assert outcome.code == BAD_CONFIG
    assert f"drives[d0].path_on_host: fd:{fd}: is not open for that (needs to be open for reading and writing, without O_APPEND and O_DIRECT)" in outcome.err
    _, api = mayfly.start_api(pass_fds=[fd])
    with pytest.raises(ApiError, match=f"drive.path_on_host: fd:{fd}: is not open for that"):
        api.put("/drives/d0", drive("d0", f"fd:{fd}"))
    with pytest.raises(ApiError, match="drive.path_on_host: fd:200: Bad file descriptor"):
        api.put("/drives/d0", drive("d0", "fd:200"))
    api.put("/drives/d0", drive("d0", f"fd:{fd}", is_read_only=True))


def test_disk_that_would_never_be_ready(mayfly, opened, scratch):
    """O_NONBLOCK means nothing for a file, but io_uring would fail where it has to wait."""
    before, script = scratch.read_bytes(), "blk 0 fuzz seed=7 n=200 span=2048 ops=rwf"
    fd = opened(scratch, os.O_RDWR | os.O_NONBLOCK)
    assert mayfly.run(configure(script, [drive("d0", f"fd:{fd}")]), pass_fds=[fd]).code == 0
    is_as_modelled(scratch, before, script)


def test_file_of_that_name(mayfly, scratch, tmp_path):
    """Is another matter: with a slash it is a path."""
    shutil.copy(scratch, tmp_path / "fd:7")
    assert mayfly.run(configure("blk 0 read 0 8", [drive("d0", "./fd:7")]), cwd=tmp_path).code == 0


def test_overlay(mayfly, opened, scratch, tmp_path):
    """The delta and its base; an empty file becomes one; two drives cannot have one delta, whoever opened it."""
    before, script = scratch.read_bytes(), "blk 0 fuzz seed=5 n=300 span=2048 ops=rwfdz discard=zero"
    delta = tmp_path / "delta"
    base, over = opened(scratch, os.O_RDONLY), opened(delta)
    overlaid = drive("d0", f"fd:{base}", overlay_path=f"fd:{over}")
    for _ in range(2):
        assert "bye" in succeeded(mayfly.run(configure(f"{script}; print bye", [overlaid]), pass_fds=[base, over]))
    model = tmp_path / "model"
    model.write_bytes(merged(scratch, delta)[0])
    is_as_modelled(model, before, f"{script}; {script}")
    assert scratch.read_bytes() == before
    again = opened(delta)
    for name in (f"fd:{over}", f"fd:0{over}", f"fd:{again}", str(delta)):
        outcome = mayfly.run(configure("print never", [overlaid, {**overlaid, "drive_id": "d1", "overlay_path": name}]), pass_fds=[base, over, again])
        assert outcome.code == BAD_CONFIG and re.search(r"drives\[d1\].overlay_path: \S+: is another drive's", outcome.err), outcome.err


def test_another_disk_while_it_runs(release, opened, scratch, tmp_path):
    """PATCH takes those of --allow-fd."""
    other = tmp_path / "other.img"
    shutil.copy(scratch, other)
    kept, lost, read_only = opened(other), opened(other), opened(other, os.O_RDONLY)
    vm, api = start(release, "print ready; wait g; blk 0 write 0 8; print bye", [kept, read_only], [drive("d0", scratch)], pass_fds=[lost])
    vm.expect(rb"ready")
    for fd, why in [(lost, "a running microVM has those of --allow-fd alone"), (read_only, "open for reading and writing")]:
        with pytest.raises(ApiError, match=rf"drives\[d0\].path_on_host: fd:{fd}: .*{why}"):
            api.patch("/drives/d0", {"drive_id": "d0", "path_on_host": f"fd:{fd}"})
    before = scratch.read_bytes()
    api.patch("/drives/d0", {"drive_id": "d0", "path_on_host": f"fd:{kept}"})
    vm.send(b"g")
    assert "bye" in succeeded(vm.wait())
    assert scratch.read_bytes() == before and other.read_bytes() != before


# ---- copies ----

def test_copies_have_none(release, opened, scratch, tmp_path, family):  # noqa: F811
    """Neither by the numbers of the first one's nor by their own; with paths instead they are there."""
    base, over, free = opened(scratch, os.O_RDONLY), opened(tmp_path / "delta"), opened(tmp_path / "free")
    vm, api = start(release, "cycle 1M; print bye", [base, over, free],
                    [drive("d0", f"fd:{base}", overlay_path=f"fd:{over}"), drive("d1", f"fd:{base}", is_read_only=True)],
                    ["--allow-fork", "--allow-path", str(tmp_path), "--allow-path", str(scratch)])
    vm.expect(rb"round 0")

    def wish(**paths):
        named = {"d0": {"path_on_host": str(scratch), "overlay_path": str(tmp_path / "its.delta")}, "d1": {"path_on_host": str(scratch)}}
        for drive_id, more in paths.items():
            named[drive_id].update(more)
        return [{"drive_id": drive_id, **more} for drive_id, more in named.items()]
    for paths in ({"d0": {"overlay_path": f"fd:{free}"}}, {"d0": {"path_on_host": f"fd:{base}"}}, {"d1": {"path_on_host": "fd:5"}}):
        with pytest.raises(ApiError, match="a copy has no descriptors of the first one's .needs a path"):
            api.call("PUT", "/fork", {"copies": [{"id": "a", "drive_overrides": wish(**paths)}]})
    assert sorted(p.name for p in tmp_path.iterdir() if ":" in p.name) == [] and (tmp_path / "free").stat().st_size == 0
    copy, = fork(release, api, family, ["c1"], drive_overrides=wish())
    for path in ("create", "load"):
        with pytest.raises(ApiError, match="a copy has no descriptors of the first one's|not supported after starting"):
            copy.api.pause()
            copy.api.put(f"/snapshot/{path}", body(free, over))
    copy.api.resume()
    copy.send(b"q")
    copy.expect(b"0 failed")
    vm.send(b"q")
    assert "bye" in succeeded(vm.wait())


# ---- the command line ----

@pytest.mark.parametrize("word,code,why", [
    ("2", BAD_ARGUMENTS, '--allow-fd: "2" .needs the number of an open descriptor, 3 to 255'), ("256", BAD_ARGUMENTS, '"256"'),
    ("200", BAD_CONFIG, "--allow-fd: 200: Bad file descriptor .needs a descriptor that is open when Mayfly starts"),
])
def test_allow_fd(release, word, code, why):
    outcome = release.run(configure("print never"), ["--allow-fd", word])
    assert outcome.code == code and re.search(why, outcome.err), outcome.err


def test_not_the_apis(release):
    """What is named for something else is not a microVM's."""
    with socket.socket(socket.AF_UNIX) as listener:
        outcome = release.run(args=["--api-fd", listener.fileno(), "--allow-fd", listener.fileno()], pass_fds=[listener.fileno()])
    assert outcome.code == BAD_CONFIG and "--allow-fd" in outcome.err


def test_in_a_jail(release, opened, tmp_path):
    """The jailer passes them on; a user without any rights there writes and loads a snapshot in files of root's, which no path leads to."""
    snap = Snapshot(tmp_path)
    vm, api = begin(release, "cycle 1M; print bye", mem_mib=32)
    vm.expect(rb"round 0\b")
    create(api, snap)
    end(vm)
    state, memory = opened(snap.state, os.O_RDONLY), opened(snap.memory, os.O_RDONLY)
    later = Snapshot(tmp_path, "later")
    new = opened(later.state), opened(later.memory)
    fds = [state, memory, *new]
    with tempfile.TemporaryDirectory(prefix="mayfly-jail.", dir="/tmp") as folder:
        os.chmod(folder, 0o755)
        jailer = Jailer("release", folder, artifact("mayfly"))
        passed = [word for fd in fds for word in ("--pass-fd", str(fd))]
        running = jailer.start(*passed, program=artifact("mayfly"), pass_fds=fds, stdin=subprocess.PIPE, what=[
            "--api-sock", "api", "--load-snapshot", f"fd:{state}", "--memory", f"fd:{memory}", "--allow-fd", str(new[0]), "--allow-fd", str(new[1])])
        try:
            socket_path = jailer.root(program=artifact("mayfly")) / "api"
            running.wait_file(socket_path)
            running.send(b"a")
            running.expect(rb"round 97\b")
            jailed = type(api)(socket_path, PATIENCE)
            jailed.pause()
            jailed.put("/snapshot/create", body(*new))
            jailed.hang_up()
        finally:
            running.close()
    vm, _ = load(release, later)
    vm.send(b"bq")
    assert f"round {97 * 31 + ord('b')}" in succeeded(vm.wait())
