"""Forks: copies of a microVM made by the kernel's copy-on-write, each going its own way from there."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest

from harness import BAD_CONFIG, PATIENCE, copies_of, drive
from mayfly import Api, ApiError
from seccomp_model import deny_io_uring
from test_overlay import is_as_modelled as is_overlaid
from test_guest import configure, is_as_modelled, succeeded
from test_snapshot import Snapshot, create, end, load, talk
from test_snapshot_hostile import traced

MIB = 1 << 20


def begin(vmm, script, drives=(), allow=True, machine_config=None, **sections):
    config = configure(script, drives, **sections)
    options = ["--allow-fork", "--allow-path", str(vmm.directory)] if allow else []
    vm, api = vmm.start_api(options, stdin=subprocess.PIPE)
    api.put("/boot-source", config["boot-source"])
    api.put("/machine-config", {**config["machine-config"], **(machine_config or {})})
    for d in config["drives"]:
        api.put(f"/drives/{d['drive_id']}", d)
    if "vsock" in config:
        api.put("/vsock", config["vsock"])
    api.start()
    return vm, api


class Copy:
    """One copy, with its console and its API."""

    def __init__(self, answer, console):
        self.pid = answer["pid"]
        self.api = Api(answer["api_sock"], PATIENCE) if "api_sock" in answer else None
        self.console = socket.socket(socket.AF_UNIX)
        self.console.settimeout(PATIENCE)
        self.console.connect(str(console))
        self.text = b""

    def expect(self, pattern):
        while pattern not in self.text:
            part = self.console.recv(65536)
            assert part, self.text
            self.text += part
        return self.text

    def send(self, data):
        self.console.sendall(data)

    def gone(self):
        deadline = time.monotonic() + PATIENCE
        while os.path.exists(f"/proc/{self.pid}"):
            assert time.monotonic() < deadline
            time.sleep(0.01)


@pytest.fixture
def family():
    """Copies are no children of the test's: it ends those that are left."""
    copies = []
    yield copies
    for copy in copies:
        copy.console.close()
        if copy.api:
            copy.api.hang_up()
        with contextlib.suppress(OSError):  # gone; or the number is another's by now
            if Path(f"/proc/{copy.pid}/comm").read_text() in ("mayfly\n", "mayfly-debug\n"):
                os.kill(copy.pid, signal.SIGKILL)


def fork(vmm, api, family, names, **body):
    """Copies of these names."""
    def wish(name):
        one = body.pop(name, {})
        return {"id": name, "api_sock": str(vmm.directory / f"{name}.sock"), "serial_override": {"serial_socket_path": str(vmm.directory / f"{name}.tty")},
                **{key: value(name) if callable(value) else value for key, value in body.items()}, **one}
    answer = api.call("PUT", "/fork", {"copies": [wish(name) for name in names]})
    assert [one["id"] for one in answer["copies"]] == list(names)
    family.extend(Copy(one, vmm.directory / f"{one['id']}.tty") for one in answer["copies"])
    return family[-len(names):]


def test_each_goes_its_own_way(mayfly, family):
    """Neither the microVM nor any copy sees what another writes: each has its own history of the same memory."""
    vm, api = begin(mayfly, "cycle 4M; print bye")
    vm.expect(rb"round 0")
    vm.send(b"a")
    vm.expect(rb"round 97\b")
    copies = fork(mayfly, api, family, ["c1", "c2", "c3"])
    vm.send(b"b")
    vm.expect(rb"round 3105\b")
    for n, copy in enumerate(copies):
        copy.send(b"cde"[n:n + 1])
        copy.expect(b"round %d\n" % (97 * 31 + b"cde"[n]))
    # Made after the first have run, from one that has run on, too.
    later, = fork(mayfly, api, family, ["c4"])
    later.send(b"f")
    later.expect(b"round %d\n" % (3105 * 31 + ord("f")))
    for copy in (*copies, later):
        copy.send(b"q")
        copy.expect(b"0 failed")
        copy.gone()
    vm.send(b"q")
    succeeded(vm.wait())


def test_diff_of_a_copy(release, family, tmp_path):
    """There is no file that it could be on top of: it is a full one."""
    snap = Snapshot(tmp_path)
    vm, api = begin(release, "cycle 1M; print bye", mem_mib=32)
    vm.expect(rb"round 0")
    copy, = fork(release, api, family, ["c1"], resume_vm=False, track_dirty_pages=True)
    copy.api.put("/snapshot/create", {**snap.body, "snapshot_type": "Diff"})
    end(vm)
    clone, _ = load(release, snap, serial_override={"serial_socket_path": str(tmp_path / "other.tty")})
    end(clone)


def test_paused_one_is_copied_again_and_again(mayfly, family):
    """A zygote: it stays where it is, and so does what it is copied from."""
    vm, api = begin(mayfly, "cycle 1M; print bye")
    vm.expect(rb"round 0")
    api.pause()
    for i in range(10):
        copy, = fork(mayfly, api, family, [f"c{i}"])
        copy.send(b"xq")
        copy.expect(b"round 120\n")
        copy.expect(b"0 failed")
        copy.gone()
    assert api.instance()["state"] == "Paused"
    api.resume()
    vm.send(b"q")
    succeeded(vm.wait())


def test_one_that_was_loaded(mayfly, family, tmp_path):
    """A zygote may come from a snapshot; its memory is copied once, then shared."""
    snap = Snapshot(tmp_path)
    vm, api = begin(mayfly, "cycle 4M; print bye")
    vm.expect(rb"round 0")
    create(api, snap)
    end(vm)
    vm, api = mayfly.start_api(["--allow-fork", "--allow-path", str(mayfly.directory)], stdin=subprocess.PIPE)
    api.put("/snapshot/load", snap.body)
    copies = fork(mayfly, api, family, ["c1", "c2"])
    for n, copy in enumerate(copies):
        copy.send(b"cd"[n:n + 1] + b"q")
        copy.expect(b"round %d\n" % b"cd"[n])
        copy.expect(b"0 failed")
    api.resume()
    vm.send(b"q")
    assert "bye" in succeeded(vm.wait())


def test_copies_have_an_api(mayfly, family):
    vm, api = begin(mayfly, "cycle 1M")
    vm.expect(rb"round 0")
    copy, = fork(mayfly, api, family, ["c1"], resume_vm=False)
    assert copy.api.instance()["id"] == "c1" and copy.api.instance()["state"] == "Paused"
    jail = copy.api.instance()["jail"]
    assert jail["seccomp"] == api.instance()["jail"]["seccomp"] and jail["landlock"] == api.instance()["jail"]["landlock"]
    assert jail["capabilities"] == "none"
    copy.api.resume()
    with pytest.raises(ApiError, match="start Mayfly with --allow-fork"):
        copy.api.call("PUT", "/fork", {"copies": [{"id": "x"}]})
    copy.send(b"q")
    copy.expect(b"0 failed")
    copy.gone()
    end(vm)


def test_it_may_end_before_its_copies(mayfly, family):
    vm, api = begin(mayfly, "cycle 1M")
    vm.expect(rb"round 0")
    copies = fork(mayfly, api, family, ["c1", "c2"])
    end(vm)
    for copy in copies:
        copy.send(b"xq")
        copy.expect(b"0 failed")
        copy.gone()


def test_disk(mayfly, family, scratch, tmp_path):
    """Its file copied while nobody writes; then both go on in the middle of their traffic, each on its own."""
    before, script = scratch.read_bytes(), "blk 0 fuzz seed=5 n=40000 span=8192 ops=rwfdz"
    vm, api = begin(mayfly, f"print ready; {script}; print bye", [drive("d0", scratch, cache_type="Writeback")])
    vm.expect(rb"ready")
    time.sleep(0.05)
    api.pause()
    other = tmp_path / "other.img"
    shutil.copy(scratch, other)
    copy, = fork(mayfly, api, family, ["c1"], drive_overrides=[{"drive_id": "d0", "path_on_host": str(other)}])
    api.resume()
    assert "bye" in succeeded(vm.wait(120))
    copy.expect(b"0 failed")
    copy.gone()
    is_as_modelled(scratch, before, script)
    is_as_modelled(other, before, script)


def test_disk_cannot_be_shared(release, scratch, tmp_path):
    vm, api = begin(release, "cycle 1M", [drive("d0", scratch)])
    vm.expect(rb"round 0")
    other = {"drive_overrides": [{"drive_id": "d0", "path_on_host": str(tmp_path / "other.img")}]}
    for copies, why in [([{"id": "a"}], 'copies\\[0\\]: drive "d0" can be written to'),
                        ([{"id": "a", **other}, {"id": "b", **other}], 'copies\\[1\\]: drive "d0" has the file of copies\\[0\\]'),
                        ([{"id": "a", **other}], "No such file")]:
        with pytest.raises(ApiError, match=why):
            api.call("PUT", "/fork", {"copies": copies})
    end(vm)


def test_overlay(mayfly, family, scratch, tmp_path):
    """A disk above a base comes along as it is at that moment: the copy's overlay is a file that did not exist."""
    before, script = scratch.read_bytes(), "blk 0 fuzz seed=5 n=20000 span=8192 ops=rwfdz discard=zero"
    own, its = tmp_path / "own.delta", tmp_path / "its.delta"
    vm, api = begin(mayfly, f"print ready; {script}; print bye", [drive("d0", scratch, cache_type="Writeback", overlay_path=str(own))])
    vm.expect(rb"ready")
    time.sleep(0.05)
    wish = {"drive_overrides": [{"drive_id": "d0", "overlay_path": str(its)}]}
    copy, = fork(mayfly, api, family, ["c1"], **wish)
    assert "bye" in succeeded(vm.wait(120))
    copy.expect(b"0 failed")
    copy.gone()
    assert scratch.read_bytes() == before
    is_overlaid(scratch, own, script)
    is_overlaid(scratch, its, script)


def test_overlays_are_taken_back(release, scratch, tmp_path):
    """When there is no copy, there is none of its files either, and what was there stays."""
    vm, api = begin(release, "cycle 1M; print bye", [drive("d0", scratch, overlay_path=str(tmp_path / "own.delta"))])
    vm.expect(rb"round 0")
    there = tmp_path / "there.delta"
    there.write_bytes(b"mine")
    def wish(name, **more):
        return {"id": name, "drive_overrides": [{"drive_id": "d0", "overlay_path": str(tmp_path / f"{name}.delta")}], **more}
    for copies, why in [([{"id": "a"}], "overlay_path of its own"), ([wish("a"), wish("there")], "there.delta: File exists"),
                        ([wish("a"), wish("b", surprise=1)], "surprise")]:
        with pytest.raises(ApiError, match=why):
            api.call("PUT", "/fork", {"copies": copies})
        assert sorted(p.name for p in tmp_path.glob("*.delta")) == ["own.delta", "there.delta"]
    assert there.read_bytes() == b"mine"
    vm.send(b"q")
    succeeded(vm.wait())


def test_shared_disk_that_is_only_read(release, family, scratch):
    vm, api = begin(release, "cycle 1M; blk 0 read 0 8 zero=1", [drive("d0", scratch, is_read_only=True)])
    vm.expect(rb"round 0")
    copy, = fork(release, api, family, ["c1"])
    copy.send(b"q")
    copy.expect(b"0 failed")
    end(vm)


def test_vsock_server_accepts(mayfly, family, tmp_path):
    """In the microVM and in each copy, and at once, though there was a conversation."""
    path = tmp_path / "v.sock"
    vm, api = begin(mayfly, "print ready; vsock echo 1234 n=100", vsock={"guest_cid": 3, "uds_path": str(path)})
    vm.expect(rb"ready")
    peer = talk(path, 1234, b"before")
    fork(mayfly, api, family, ["c1", "c2"], vsock_override=lambda name: {"uds_path": str(tmp_path / f"{name}.v")})
    for n in ("c1", "c2"):
        talk(tmp_path / f"{n}.v", 1234, b"x" * 10000).close()
    peer.sendall(b"again")
    assert peer.recv(5) == b"again"
    peer.close()
    end(vm)


@pytest.mark.parametrize("body,why", [
    ({}, "fork.copies: is missing"), ({"copies": []}, "copies: not a list"), ({"copies": {}}, "copies: not a list"),
    ({"copies": [{"id": "a"}], "more": 1}, 'unknown key "more"'), ({"copies": [{"id": "a"}] * 1025}, "copies: not a list"),
    ({"copies": [1]}, "copy: .*needs an object"), ({"copies": [{}]}, "copy.id: is missing"), ({"copies": [{"id": "a b"}]}, "copy.id"),
    ({"copies": [{"id": "a", "snapshot_path": "x"}]}, "leave paths out"), ({"copies": [{"id": "a", "surprise": 1}]}, "surprise"),
    ({"copies": [{"id": "a", "api_sock": "/nonexistent/x"}]}, "/nonexistent/x"),
    ({"copies": [{"id": "a", "network_overrides": [{"iface_id": "n0", "host_dev_name": "x"}]}]}, 'no iface_id "n0"'),
])
def test_bad_request(release, body, why):
    """Nothing has happened then."""
    vm, api = begin(release, "cycle 1M; print bye")
    vm.expect(rb"round 0")
    with pytest.raises(ApiError, match=why):
        api.call("PUT", "/fork", body)
    assert api.instance()["state"] == "Running"
    vm.send(b"q")
    assert "bye" in succeeded(vm.wait())


def test_all_or_none(release, tmp_path):
    """One that cannot be made ends the others."""
    vm, api = begin(release, "cycle 1M; print bye")
    vm.expect(rb"round 0")
    socks = [tmp_path / f"{n}.sock" for n in range(5)]
    socks[3].write_bytes(b"")  # is in the way
    with pytest.raises(ApiError, match="3.sock"):
        api.call("PUT", "/fork", {"copies": [{"id": f"c{n}", "api_sock": str(path)} for n, path in enumerate(socks)]})
    deadline = time.monotonic() + PATIENCE
    while len(copies_of(vm.pid)) > 1:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    vm.send(b"q")
    succeeded(vm.wait())


def test_one_that_hangs(release, scratch, tmp_path, family):
    """Ends all of its call after 10 s, with a sentence; the process that makes copies can be asked again."""
    slow, other = tmp_path / "slow.img", tmp_path / "other.img"
    for path in (slow, other):
        shutil.copy(scratch, path)
    vm, api = begin(release, "cycle 1M; print bye", [drive("d0", scratch)])
    vm.expect(rb"round 0")
    server, = copies_of(vm.pid)
    wishes = [{"id": name, "drive_overrides": [{"drive_id": "d0", "path_on_host": str(path)}]} for name, path in [("quick", other), ("stuck", slow)]]
    with traced(server, "-f", "-o", "/dev/null", "-P", slow, "-e", "trace=open", "--inject=open:delay_enter=60000000"):
        since = time.monotonic()
        with pytest.raises(ApiError, match=r'copies\[1\]: "stuck" does not run after 10 s'):
            api.call("PUT", "/fork", {"copies": wishes})
        assert 9 < time.monotonic() - since < 20
    deadline = time.monotonic() + PATIENCE
    while copies_of(vm.pid) != [server]:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    copy, = fork(release, api, family, ["later"], drive_overrides=wishes[0]["drive_overrides"])
    copy.send(b"q")
    copy.expect(b"0 failed")
    vm.send(b"q")
    assert "bye" in succeeded(vm.wait())


def test_nothing_is_left(release, family):
    """The process that makes copies ends with the microVM."""
    vm, api = begin(release, "cycle 1M")
    vm.expect(rb"round 0")
    server, = copies_of(vm.pid)
    end(vm)
    deadline = time.monotonic() + PATIENCE
    while os.path.exists(f"/proc/{server}"):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_the_process_that_makes_copies_is_gone(release):
    vm, api = begin(release, "cycle 1M; print bye")
    vm.expect(rb"round 0")
    server, = copies_of(vm.pid)
    os.kill(server, signal.SIGKILL)
    for _ in range(2):
        with pytest.raises(ApiError, match="process that makes copies|--allow-fork"):
            api.call("PUT", "/fork", {"copies": [{"id": "a"}]})
    vm.send(b"q")
    assert "bye" in succeeded(vm.wait())


def test_needs_no_files(release):
    """A copy that opens nothing needs no --allow-path."""
    vm, api = release.start_api(["--allow-fork"], stdin=subprocess.PIPE)
    api.put("/boot-source", configure("cycle 1M")["boot-source"])
    api.start()
    vm.expect(rb"round 0")
    pid = api.call("PUT", "/fork", {"copies": [{"id": "c1"}]})["copies"][0]["pid"]
    os.kill(pid, signal.SIGKILL)
    vm.send(b"q")
    succeeded(vm.wait())


def test_not_without_the_option(release):
    vm, api = begin(release, "cycle 1M", allow=False)
    vm.expect(rb"round 0")
    with pytest.raises(ApiError, match="start Mayfly with --allow-fork"):
        api.call("PUT", "/fork", {"copies": [{"id": "a"}]})
    assert copies_of(vm.pid) == []


def test_not_with_huge_pages(release):
    outcome = release.run(configure("print x") | {"machine-config": {"vcpu_count": 1, "mem_size_mib": 32, "huge_pages": "2M"}}, ["--allow-fork"])
    assert outcome.code in (BAD_CONFIG, 154) and "huge_pages" in outcome.err


def test_disk_thread(release, family, scratch):
    """Where the host denies io_uring, the copy's drive has a thread of its own, too."""
    config = configure("cycle 1M; blk 0 read 0 8 zero=1", [drive("d0", scratch, is_read_only=True)])
    vm, api = release.start_api(["--allow-fork", "--allow-path", str(release.directory)], stdin=subprocess.PIPE, preexec_fn=deny_io_uring)
    api.put("/boot-source", config["boot-source"])
    api.put("/drives/d0", config["drives"][0])
    api.start()
    vm.expect(rb"round 0")
    copy, = fork(release, api, family, ["c1"])
    copy.send(b"q")
    copy.expect(b"0 failed")
    end(vm)


def test_memory_of_copies(release, family):
    """What a copy has for itself, besides what the guest has written since: the pages of its RAM are shared."""
    vm, api = begin(release, "touch 32M; cycle 1M", mem_mib=128)
    vm.expect(rb"round 0")
    api.pause()
    copies = fork(release, api, family, [f"c{i}" for i in range(8)])
    for copy in copies:
        lines = Path(f"/proc/{copy.pid}/smaps_rollup").read_text(encoding="ascii").splitlines()[1:]
        fields = dict(line.split(":") for line in lines)
        dirty = int(fields["Private_Dirty"].split()[0])
        assert dirty < 4096, f"{dirty} KiB are private"
    end(vm)


def test_many_at_once(release, family):
    vm, api = begin(release, "cycle 64k", mem_mib=32)
    vm.expect(rb"round 0")
    api.pause()
    copies = fork(release, api, family, [f"c{i}" for i in range(50)])
    deadline = time.monotonic() + PATIENCE
    while True:  # until both have taken the connection to their consoles
        first, last = (len(os.listdir(f"/proc/{copy.pid}/fd")) for copy in (copies[0], copies[-1]))
        if last == first:
            break
        assert time.monotonic() < deadline, f"a copy holds what belongs to those before it: {first}, {last}"
        time.sleep(0.01)
    for copy in copies:
        copy.send(b"q")
        copy.expect(b"0 failed")
        copy.gone()
    end(vm)
