"""Snapshots that a crash cut short, and state files that nobody honest wrote: refused in a sentence, or a microVM that goes on; never anything else."""

import contextlib
import hashlib
import http.client
import itertools
import json
import os
import random
import re
import signal
import socket
import struct
import subprocess
import tempfile
import threading
import time
from pathlib import Path

import pytest

from harness import BAD_CONFIG, GUEST_CRASHED, INTERNAL_ERROR, PATIENCE, Vmm, descriptors, drive, sparse
from mayfly import ApiError
from snapshot_files import OPTIONAL, RECORD, Record, change, join, pad, reseal, seal, split
from test_guest import configure, succeeded
from test_snapshot import MIB, Snapshot, begin, create, end, load

KILLS = int(os.environ.get("MAYFLY_KILLS", "200"))
GUEST_MAX = 127  # exit codes up to this are the guest's
HOSTILE = int(os.environ.get("MAYFLY_HOSTILE", "60"))


# ---- killed while it writes ----

@pytest.fixture
def in_memory(tmp_path):
    """The release, with a directory in a file system without a disk: how long others keep that busy does not count."""
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else tmp_path) as folder:
        vmm = Vmm("release", folder)
        yield vmm
        vmm.close()


class Generations:
    """A guest that runs `cycle`: which of its states it is in, followed from outside."""

    def __init__(self, vmm, script, snap):
        self.vmm, self.snap, self.now = vmm, snap, 0
        self.vm, self.api = begin(vmm, script, mem_mib=64)
        self.vm.expect(rb"round 0\b")

    def after(self, letter, generation):
        return (generation * 31 + letter) % 2**64

    def step(self, letter):
        """The guest has checked its memory, and written it anew."""
        self.vm.send(bytes([letter]))
        self.now = self.after(letter, self.now)
        self.vm.expect(rb"round %d\b" % self.now)

    def load(self, snap, expected):
        """Go on from this snapshot; which of the expected generations it is of is found out."""
        self.vm, self.api = load(self.vmm, snap)
        self.vm.send(b"+")
        self.now = int(self.vm.expect(rb"round (\d+)\r?\n")[1])
        old = [g for g in expected if self.after(ord("+"), g) == self.now]
        assert len(old) == 1, f"{self.now} comes after none of {expected}"
        return old[0]

    def ask(self):
        """The request for a snapshot, sent; the answer is on the socket that is returned."""
        asked = socket.socket(socket.AF_UNIX)
        asked.connect(self.api.api_sock)
        body = json.dumps(self.snap.body).encode()
        asked.sendall(b"PUT /snapshot/create HTTP/1.1\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
        return asked


def answered(asked):
    """Whether the snapshot was said to be there before the process ended."""
    asked.settimeout(PATIENCE)
    try:
        return asked.recv(100).startswith(b"HTTP/1.1 204")
    except ConnectionResetError:
        return False
    finally:
        asked.close()


def test_killed_at_any_time(in_memory):
    """The snapshot before, the new one, or files that are found not to belong together."""
    folder = in_memory.directory
    snap, safe = Snapshot(folder), Snapshot(folder, "safe")
    guest = Generations(in_memory, "touch 28M; cycle 1M", snap)
    for kept in (safe, snap):
        create(guest.api, kept)
        guest.api.resume()
    saved, found, moments = 0, {"old": 0, "new": 0, "none": 0}, [1.2 * i / KILLS for i in range(KILLS)]
    random.Random(1).shuffle(moments)
    for i, moment in enumerate(moments):
        guest.step(97 + i % 16)
        guest.api.pause()
        if i % 10 == 0:  # others keep the host busy, now more and now less
            before = time.monotonic()
            guest.api.put("/snapshot/create", snap.body)
            took, saved = time.monotonic() - before, guest.now
            guest.api.resume()
            guest.step(ord("b"))
            guest.api.pause()
        new = guest.now
        asked = guest.ask()
        time.sleep(moment * took)  # any moment: that is what is tested
        end(guest.vm)
        done = answered(asked)
        try:
            saved = guest.load(snap, [saved, new])
            assert saved == new or not done
            found["new" if saved == new else "old"] += 1
        except ApiError as refusal:
            assert not done and "the memory file is of another snapshot than the state file" in str(refusal)
            found["none"] += 1
            end(in_memory.running[-1])
            guest.load(safe, [0])
            guest.api.pause()
            guest.api.put("/snapshot/create", snap.body)
            guest.api.resume()
            saved = guest.now
        assert {p.suffix for p in folder.glob("snap*")} <= {".state", ".memory", ".new"}
    print(found)
    assert found["old"] and found["new"]
    guest.vm.send(b"q")
    succeeded(guest.vm.wait())


@contextlib.contextmanager
def traced(pid, *options):
    """By strace, from the first line of the block on."""
    tracer = subprocess.Popen(["strace", "-qq", *map(str, options), "-p", str(pid)])
    try:
        wait_traced(pid)
        yield
    finally:
        tracer.kill()  # SIGTERM makes it let go of each process in turn, and it waits for ever for one whose first thread has ended
        tracer.wait()


# System calls of a create, in their order; before each it is killed. The first rename is the memory's.
MOMENTS = [("ftruncate", 1, "old"), ("pwrite64", 1, "old"), ("pwrite64", 3, "old"), ("fsync", 1, "old"), ("fsync", 2, "old"), ("rename", 1, "old"),
           ("rename", 2, "none"), ("fsync", 3, "new"), ("fsync", 4, "new"), ("sendmsg", 1, "new")]


@pytest.mark.parametrize("call,nth,left", MOMENTS, ids=str)
def test_killed_before_a_system_call(release, tmp_path, call, nth, left):
    snap = Snapshot(tmp_path)
    guest = Generations(release, "cycle 1M", snap)
    create(guest.api, snap)
    guest.api.resume()
    guest.step(ord("a"))
    guest.api.pause()
    log = tmp_path / "strace"
    with traced(guest.vm.pid, "-o", log, "-e", f"trace={call}", f"--inject={call}:signal=KILL:when={nth}"):
        asked = guest.ask()
        assert not answered(asked)
        guest.vm.wait()
    if left == "none":
        with pytest.raises(ApiError, match="the memory file is of another snapshot"):
            load(release, snap)
    else:
        assert guest.load(snap, [0, ord("a")]) == {"old": 0, "new": ord("a")}[left]


# Only one that is written in the background lets the guest run, which may end then.
@pytest.mark.parametrize("how,background", [(signal.SIGTERM, False), (signal.SIGTERM, True), (signal.SIGHUP, False), (signal.SIGHUP, True), ("reset", True)])
def test_orderly_end_leaves_nothing(mayfly, tmp_path, how, background):
    """In the middle of the memory: the snapshot before, and no file that only root might ever remove."""
    snap = Snapshot(tmp_path)
    vm, api = begin(mayfly, "touch 64M; cycle 1M", mem_mib=128)
    vm.expect(rb"round 0\b")
    create(api, snap)
    before = {path.name: hashlib.sha256(path.read_bytes()).digest() for path in (snap.state, snap.memory)}
    # A snapshot of 64 MiB takes 1.6 s then, or 25 in the background.
    with traced(vm.pid, "-o", "/dev/null", "-e", "trace=pwrite64", "--inject=pwrite64:delay_enter=100000"):
        body = json.dumps({**snap.body, "background": background}).encode()
        with socket.socket(socket.AF_UNIX) as asked:
            asked.settimeout(PATIENCE)
            asked.connect(api.api_sock)
            asked.sendall(b"PUT /snapshot/create HTTP/1.1\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
            vm.wait_file(f"{snap.memory}.new")
            if background:
                assert asked.recv(100).startswith(b"HTTP/1.1 204")
                api.resume()
            if how == "reset":
                vm.send(b"q")
            else:
                vm.signal(how)
            vm.wait()
    assert {path.name: hashlib.sha256(path.read_bytes()).digest() for path in tmp_path.glob("snap*")} == before


def fsyncs(log):
    """What a create has brought to the disk, and put in place, in order."""
    return re.findall(r"(fsync|rename)\([^)]*?([\w.]+)[\">]+\)", log.read_text())


def test_names_are_on_the_disk(release, tmp_path):
    """A power failure after the answer takes nothing back: the folders are written, too, each file's own, and all of that before the answer."""
    folders = tmp_path / "one", tmp_path / "two"
    for folder in folders:
        folder.mkdir()
    files = {"snapshot_path": str(folders[0] / "state"), "mem_file_path": str(folders[1] / "memory")}
    vm, api = begin(release, "print ready; wait g")
    vm.expect(rb"ready")
    api.pause()
    with traced(vm.pid, "-y", "-o", tmp_path / "strace", "-e", "trace=fsync,rename,sendmsg"):
        api.put("/snapshot/create", files)
    log = tmp_path / "strace"
    assert "sendmsg" in log.read_text().splitlines()[-1]
    assert fsyncs(log) == [("fsync", "memory.new"), ("fsync", "state.new"), ("rename", "memory"), ("rename", "state"), ("fsync", "two"), ("fsync", "one")]
    # As the name of a file alone, it lies where Mayfly does.
    with traced(vm.pid, "-y", "-o", log, "-e", "trace=fsync"):
        api.put("/snapshot/create", {"snapshot_path": "state", "mem_file_path": "one/memory"})
    assert fsyncs(log)[2:] == [("fsync", "one"), ("fsync", tmp_path.name)]


def test_folder_that_cannot_be_settled(release, tmp_path):
    """Is told before anything is written, or if it is only found out then, at the end; where folders need no such thing, all is well."""
    snap, shut = Snapshot(tmp_path), tmp_path / "shut"
    shut.mkdir(mode=0o300)
    vm, api = release.start_api(["--allow-path", str(release.directory), "--no-seccomp"])  # a filter would see what strace makes of a call
    api.put("/boot-source", configure("print ready; wait g")["boot-source"])
    api.start()
    vm.expect(rb"ready")
    api.pause()
    with pytest.raises(ApiError, match=r"mem_file_path: .*memory: its folder: Permission denied \(needs to be readable by uid 0,"):
        api.put("/snapshot/create", {**snap.body, "mem_file_path": str(shut / "memory")})
    shut.chmod(0o700)
    assert list(shut.iterdir()) == [] and list(tmp_path.glob("snap*")) == []
    with traced(vm.pid, "-o", "/dev/null", "-e", "trace=fsync", "--inject=fsync:error=EIO:when=3"), pytest.raises(ApiError, match="snap.memory: its folder: I/O error"):
        api.put("/snapshot/create", snap.body)
    with traced(vm.pid, "-o", "/dev/null", "-e", "trace=fsync", "--inject=fsync:error=EINVAL:when=3+"):
        api.put("/snapshot/create", snap.body)
    end(vm)
    load(release, snap)


def wait_traced(pid):
    deadline = time.monotonic() + PATIENCE
    while not re.search(r"^TracerPid:\t[1-9]", Path(f"/proc/{pid}/status").read_text(), re.M):
        assert time.monotonic() < deadline
        time.sleep(0.01)


# ---- state files by somebody else ----

def accept(listener):
    """The other side of an interface, for one microVM after the other; a thread of its own, until the listener is shut down."""
    link = None
    with contextlib.suppress(OSError):
        while True:
            last, link = link, listener.accept()[0]
            if last:
                last.close()
    if link:
        link.close()


@pytest.fixture(scope="module")
def victim(tmp_path_factory):
    """A snapshot of a microVM with one of everything, in use."""
    folder = tmp_path_factory.mktemp("victim")
    vmm, snap, listener = Vmm("release", folder), Snapshot(folder), socket.socket(socket.AF_UNIX)
    listener.bind(str(folder / "passt.socket"))
    listener.listen()
    thread = threading.Thread(target=accept, args=[listener])
    thread.start()
    try:
        disks = [drive(name, sparse(folder / f"{name}.img", MIB), rate_limiter={"ops": {"size": 100, "refill_time": 100}}) for name in ("d0", "d1")]
        vm, api = begin(vmm, "blk 0 open; blk 1 open; net 0 open; vsock open; print ready; wait a; blk 0 fuzz n=50; blk 1 fuzz n=50; net 0 send 20; wait b", disks, vcpus=2, mem_mib=32,
                        vsock={"guest_cid": 3, "uds_path": str(folder / "v.sock")},
                        **{"network-interfaces": [{"iface_id": "n0", "host_dev_name": f"unix:{folder / 'passt.socket'}", "guest_mac": "06:00:ac:10:00:02"}]})
        vm.expect(rb"ready")
        api.pause()
        api.put("/snapshot/create", snap.body)
        vm.signal(signal.SIGTERM)
        vm.wait()
        yield snap
    finally:
        vmm.close()
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()
        listener.close()


class Loader:
    """A process that is given one state file after the other, until it takes one."""

    def __init__(self, vmm, victim):
        self.vmm, self.files, self.again = vmm, Snapshot(vmm.directory, "hostile"), Snapshot(vmm.directory, "again")
        self.overrides = {"mem_file_path": str(victim.memory), "vsock_override": {"uds_path": str(vmm.directory / "v.sock")}}
        self.vm = None
        self.refused = self.taken = 0

    def give(self, data):
        """What the refusal says, None: it was taken, and the microVM did whatever it did without harm to the process."""
        if not self.vm:
            self.vm, self.api = self.vmm.start_api(["--allow-path", str(self.vmm.directory)], stdin=subprocess.PIPE)
            self.api.instance()
            self.open = descriptors(self.vm.pid)
        self.files.state.write_bytes(data)
        answer = self.api.request("PUT", "/snapshot/load", {**self.files.body, **self.overrides})
        if answer.status == 400:
            self.refused += 1
            assert self.api.instance()["state"] == "Not started"
            assert self.api.get("/vm/config")["drives"] == []
            assert descriptors(self.vm.pid) == self.open  # a refusal leaves none behind
            message = answer.fault_message()
            assert len(message) > 10 and message.isprintable(), message
            return message
        assert answer.status == 204
        self.taken += 1
        self.use()
        self.finish()
        return None

    def use(self):
        """Everything moves that was restored."""
        try:
            self.api.resume()
            self.vm.send(b"a")
            with socket.socket(socket.AF_UNIX) as peer:
                peer.connect(self.overrides["vsock_override"]["uds_path"])
                peer.sendall(b"CONNECT 1234\n")
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self.vm.process.wait(0.02)  # some time to do it
            for path in ("/", "/metrics", "/vm/config"):
                assert self.api.request("GET", path).status == 200
            self.api.pause()
            self.api.request("PUT", "/snapshot/create", self.again.body)
        except (ApiError, OSError, http.client.HTTPException):
            self.vm.process.wait(PATIENCE)  # nothing but its end is an excuse

    def finish(self):
        """It ends as told, or as its guest did; no sanitizer has anything to say."""
        if not self.vm:
            return
        vm, self.vm = self.vm, None
        if vm.process.poll() is None:
            vm.signal(signal.SIGTERM)
        outcome = vm.wait()
        (self.vmm.directory / "v.sock").unlink(missing_ok=True)
        assert outcome.code in (*range(GUEST_MAX + 1), GUEST_CRASHED, INTERNAL_ERROR, 128 + signal.SIGTERM), (outcome.code, outcome.err[-2000:])


@pytest.fixture(params=["release", "debug"])
def loader(request, victim, tmp_path):
    vmm = Vmm(request.param, tmp_path)
    loader = Loader(vmm, victim)
    yield loader
    loader.finish()
    vmm.close()
    print(f"{loader.refused} refused, {loader.taken} taken")


def test_the_victim_itself(loader, victim):
    """What the tests below change is right before."""
    data = victim.state.read_bytes()
    assert join(split(data)) == data
    assert {r.tag for r in split(data)} >= {b"INFO", b"CONF", b"IOAP", b"I804", b"SERL", b"VMIO", b"VBLK", b"VNET", b"VSCK", b"VCPU", b"CPID", b"MSRS", b"XSAV", b"CLCK"}
    assert loader.give(data) is None


def test_records_in_other_places(loader, victim):
    """One is missing, twice there, of another kind, number or size, or where another should be: only a file that reads the same is taken."""
    good = split(victim.state.read_bytes())
    for i, record in enumerate(good):
        def put(*instead, i=i):
            return join(good[:i] + list(instead) + good[i + 1:])
        optional = record.flags & OPTIONAL
        refusals = [put(record._replace(index=record.index + 1)), put(record._replace(index=2**32 - 1)), put(record._replace(tag=b"\0\xff\x1b\n")), put()]
        for changed in refusals:
            assert loader.give(changed) is not None or optional, record.name
        assert loader.give(put(record, record)) is not None or optional, record.name
        if i + 1 < len(good) and not optional and not good[i + 1].flags & OPTIONAL:
            assert loader.give(join(good[:i] + [good[i + 1], record] + good[i + 2:])) is not None, record.name
        for payload in (b"", record.payload[:-1], record.payload[:len(record.payload) // 2], record.payload + bytes(8), record.payload + bytes(8192)):
            if payload != record.payload:
                loader.give(put(record._replace(payload=payload)))
    assert loader.give(join(good[::-1])) is not None
    assert loader.give(join([])) is not None
    assert loader.give(join([Record(b"JUNK", i, b"", OPTIONAL) for i in range(20000)] + good)) is None
    assert loader.give(join([r._replace(flags=OPTIONAL) for r in good])) is None  # a flag is for those who do not know the record
    assert loader.give(join(good + [Record(b"JUNK", 0, b"x")])) is not None


def test_sizes_that_lie(loader, victim):
    """Of records and of the file, with a checksum that is right."""
    data = victim.state.read_bytes()
    at = 24
    for record in split(data):
        for size in (len(record.payload) + 16, len(data), 2**31, 2**32 - 1, 2**32 - 8, 2**32 - 15):
            assert loader.give(reseal(data[:at + 8] + struct.pack("<I", size) + data[at + 12:])) is not None, (record.name, size)
        at += RECORD.size + len(pad(record.payload))
    for size in (0, 1, 24, len(data) - 8, len(data) + 8, 2**63, 2**64 - 1):
        assert loader.give(seal(data[24:-8], size=size)) is not None
    for cut in range(0, 200, 8):
        assert loader.give(reseal(data[:cut + 24] + bytes(8))) is not None
    for major, minor in ((0, 0), (1, 1), (1, 65535), (2, 0), (65535, 65535)):
        assert "needs a" in loader.give(seal(data[24:-8], major=major, minor=minor))


@pytest.mark.parametrize("binary", ["release", "debug"])
def test_describe(binary, victim, tmp_path):
    """On the command line; what the file says cannot do anything to a terminal."""
    vmm, data = Vmm(binary, tmp_path), victim.state.read_bytes()
    path = tmp_path / "file"
    outcome = vmm.run(args=["--snapshot-version"])
    assert (outcome.code, outcome.out) == (0, "v1.0.0\n")
    outcome = vmm.run(args=["--describe-snapshot", victim.state])
    assert outcome.code == 0 and re.fullmatch(r"v1\.0\.0\n2 vCPUs, 32 MiB\nmade \d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ by Mayfly \d[\w.]* on [ -~]+\n", outcome.out)
    path.write_bytes(change(data, b"INFO", b"\x1b[2J\n\xff" * 20))
    outcome = vmm.run(args=["--describe-snapshot", path])
    assert outcome.code == 0 and outcome.out.count("\n") == 3 and outcome.out.replace("\n", "").isprintable()
    for bad, why in ((b"", "none of Mayfly's"), (data[:100], "cut short"), (change(data, b"INFO", b""), "INFO 0: this record has a size"), (seal(data[24:-8], major=2), "format 2.0")):
        path.write_bytes(bad)
        outcome = vmm.run(args=["--describe-snapshot", path])
        assert (outcome.code, outcome.out) == (BAD_CONFIG, "") and why in outcome.err


NUMBERS = [0, 1, 2, 3, 255, 256, 4095, 4097, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**63, 2**64 - 1, 2**64 - 4096, 0x0000800000000000]


def changed_values(good, seed):
    """(what, file) without end: a number of a record is another one, or a few bits are."""
    chance = random.Random(seed)
    while True:
        # A record as often as any other, however large: what decides is in the small ones.
        place = chance.randrange(len(good))
        record = good[place]
        if not record.payload:
            continue
        payload, size = bytearray(record.payload), chance.choice([1, 2, 4, 8])
        for _ in range(chance.choice([1, 1, 1, 2, 5])):
            at = chance.randrange(max(1, len(payload) - size + 1)) // size * size
            if chance.random() < 0.3:
                payload[at] ^= 1 << chance.randrange(8)
            else:
                value = chance.choice(NUMBERS) if chance.random() < 0.7 else chance.getrandbits(64)
                payload[at:at + size] = (value % 256**size).to_bytes(size, "little")[:len(payload) - at]
        yield f"{record.name} {size}@{at}", join(good[:place] + [record._replace(payload=bytes(payload))] + good[place + 1:])


@pytest.mark.parametrize("seed", range(2))
def test_values_that_nobody_wrote(loader, victim, seed):
    """Refused, or a microVM that does what its state says (which may be to crash)."""
    good = split(victim.state.read_bytes())
    for what, data in itertools.islice(changed_values(good, seed), HOSTILE):
        try:
            loader.give(data)
        except Exception as error:
            kept = Path(tempfile.mkstemp(prefix="hostile-", suffix=".state")[1])
            kept.write_bytes(data)
            raise AssertionError(f"{what} (kept as {kept}): {error}") from error
    assert loader.refused and loader.taken
