"""A microVM sent through a socket: it goes on at the other end, paused or sent while it ran; whoever breaks the stream breaks no microVM."""

import fcntl
import http.client
import os
import random
import re
import signal
import socket
import struct
import subprocess
import termios
import threading
import time
from pathlib import Path

import pytest

from harness import BAD_CONFIG, PATIENCE, descriptors, drive
from mayfly import Api, ApiError
from snapshot_files import config, join, records
from test_guest import configure, is_as_modelled, succeeded
from test_snapshot import MIB, Snapshot, begin, create, end, load, talk
from test_snapshot_background import after

HEADER, PART = struct.Struct("<8sHHHHQ16s"), struct.Struct("<IIQQ")
PAGES, ZEROS, STATE, END = 1, 2, 3, 4
PAGE = 4096


class Listener:
    """A Unix socket that waits for one microVM."""

    def __init__(self, path):
        self.name = f"unix:{path}"
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.bind(str(path))
        self.sock.listen()
        self.sock.settimeout(PATIENCE)

    def accept(self):
        """Once."""
        with self.sock:
            peer = self.sock.accept()[0]
        peer.settimeout(PATIENCE)
        return peer


class Relay(threading.Thread):
    """What comes in at one socket goes out at another, as by socat or ssh; keeps it, too."""

    def __init__(self, folder, name="relay", pause=0.0):
        super().__init__(daemon=True)
        self.source, self.target = Listener(folder / f"{name}.in"), Listener(folder / f"{name}.out")
        self.pause, self.seen = pause, bytearray()
        self.start()

    def run(self):
        with self.target.accept() as target, self.source.accept() as source:
            while data := source.recv(1 << 20):
                self.seen += data
                target.sendall(data)
                time.sleep(self.pause)


def send(api, name):
    """The report."""
    answer = api.request("PUT", "/snapshot/create", {"snapshot_path": name})
    assert answer.status == 200, answer.fault_message()
    return answer.json()


class Asking(threading.Thread):
    """A request that is answered at the end of a stream."""

    def __init__(self, api, path, **body):
        super().__init__(daemon=True)
        self.api, self.path, self.body = api, path, body
        self.answer = None
        self.start()

    def run(self):
        try:
            self.answer = self.api.request("PUT", self.path, self.body)
        except (OSError, http.client.HTTPException):
            pass  # the process has ended

    def refused(self):
        """The sentence."""
        self.join(PATIENCE)
        assert self.answer and self.answer.status == 400, self.answer
        return self.answer.fault_message()


class Load(Asking):
    """A process that waits for a microVM."""

    def __init__(self, vmm, name, args=(), **body):
        self.vm, api = vmm.start_api(["--allow-path", str(vmm.directory), *args], stdin=subprocess.PIPE)
        super().__init__(api, "/snapshot/load", **{"snapshot_path": name, "resume_vm": True, **body})

    def loaded(self):
        self.join(PATIENCE)
        assert self.answer and self.answer.status == 204, self.answer and self.answer.fault_message()
        return self.vm


def parts(stream):
    """(type, at, length) of each part."""
    at = HEADER.size
    while at < len(stream):
        kind, _, where, length = PART.unpack_from(stream, at)
        yield kind, where, length
        at += PART.size + (length if kind in (PAGES, STATE) else 0)


# ---- it goes on ----

@pytest.mark.parametrize("vcpus,mib", [(1, 32), (2, 128), (1, 5000)])
def test_paused(mayfly, tmp_path, vcpus, mib):
    """One round; the first stays paused, and could go on."""
    relay = Relay(tmp_path)
    target = Load(mayfly, relay.target.name)
    vm, api = begin(mayfly, "touch 4M; cycle 4M; print bye", vcpus=vcpus, mem_mib=mib)
    vm.expect(rb"round 0\b")
    vm.send(b"a")
    vm.expect(rb"round 97\b")
    api.pause()
    report = send(api, relay.source.name)
    assert report["rounds"] == 1 and report["downtime_us"] == 0
    clone = target.loaded()
    assert report["bytes"] == len(relay.seen) < 12 * MIB
    assert api.instance()["state"] == "Paused"
    for one, letter in ((clone, b"b"), (vm, b"c")):
        if one is vm:
            api.resume()
        one.send(letter)
        one.expect(rb"round %d\b" % after(97, letter))
        one.send(b"q")
        assert "bye" in succeeded(one.wait())


@pytest.mark.parametrize("vcpus", [1, 2])
def test_while_it_runs(mayfly, tmp_path, vcpus):
    """It writes all the while; what is checked at the other end is what it had when it was paused for the last round."""
    relay = Relay(tmp_path, pause=0.002)
    target = Load(mayfly, relay.target.name, track_dirty_pages=True)
    vm, api = begin(mayfly, "touch 60M; cycle 2M; print bye", mem_mib=96, vcpus=vcpus, machine_config={"track_dirty_pages": True})
    vm.expect(rb"round 0\b")
    stop = threading.Event()

    def feed():
        while not stop.is_set():
            vm.send(random.choice([b"a", b"b", b"c"]))
            time.sleep(0.005)

    feeder = threading.Thread(target=feed, daemon=True)
    feeder.start()
    report = send(api, relay.source.name)
    stop.set()
    feeder.join()
    assert report["rounds"] > 1 and 0 < report["downtime_us"]
    assert api.instance()["state"] == "Paused"
    clone = target.loaded()
    clone.send(b"q")
    assert "bye" in succeeded(clone.wait())
    end(vm)


def test_disk_meanwhile(mayfly, scratch, tmp_path):
    """Requests are in flight in every round; not one is lost or done twice."""
    relay = Relay(tmp_path)
    before = scratch.read_bytes()
    script = "blk 0 fuzz seed=5 n=40000 span=8192 ops=rwfdz"
    target = Load(mayfly, relay.target.name)
    vm, api = begin(mayfly, f"touch 20M; print busy; {script}; wait q; print bye", [drive("d0", scratch)], mem_mib=64, machine_config={"track_dirty_pages": True})
    vm.expect(rb"busy")
    report = send(api, relay.source.name)
    assert report["rounds"] > 1
    end(vm)
    clone = target.loaded()
    clone.send(b"q")
    assert "bye" in succeeded(clone.wait())
    is_as_modelled(scratch, before, script)


def test_on_the_command_line(mayfly, tmp_path):
    """A process that has nothing else to do; its standard output is the console."""
    relay = Relay(tmp_path)
    vm, api = begin(mayfly, "cycle 1M; print bye", mem_mib=32)
    vm.expect(rb"round 0\b")
    target = mayfly.start(args=["--no-api", "--load-snapshot", relay.target.name], stdin=subprocess.PIPE)
    api.pause()
    send(api, relay.source.name)
    target.send(b"xq")
    text = succeeded(target.wait())
    assert f"round {ord('x')}" in text and "bye" in text
    end(vm)


@pytest.mark.parametrize("make", [os.pipe, lambda: [sock.detach() for sock in socket.socketpair()]], ids=["pipe", "socket"])
def test_inherited_to_load_from(mayfly, tmp_path, make):
    """As standard input of an ssh session would be, under a number of its own."""
    listener = Listener(tmp_path / "in")
    vm, api = begin(mayfly, "cycle 1M; print bye", mem_mib=32)
    vm.expect(rb"round 0\b")
    api.pause()
    reader, writer = make()
    target = mayfly.start(args=["--no-api", "--load-snapshot", f"fd:{reader}"], stdin=subprocess.PIPE, pass_fds=[reader])
    os.close(reader)
    sending = Asking(api, "/snapshot/create", snapshot_path=listener.name)
    with listener.accept() as peer, open(writer, "wb") as out:
        while data := peer.recv(MIB):
            out.write(data)
    sending.join(PATIENCE)
    assert sending.answer.status == 200
    target.send(b"xq")
    assert f"round {ord('x')}" in succeeded(target.wait())
    end(vm)


def test_inherited_to_send_to(mayfly, tmp_path):
    """It stays open in a running microVM for which it was allowed, and no other does; the end of the stream is its end."""
    relay = Relay(tmp_path)
    target = Load(mayfly, relay.target.name)
    with socket.socket(socket.AF_UNIX) as sock, open(tmp_path / "file", "wb") as file:
        sock.connect(relay.source.name[len("unix:"):])
        config = mayfly.config_file(configure("cycle 1M; print bye", mem_mib=32))
        vm, api = mayfly.start_api(["--config-file", config, "--allow-fd", str(sock.fileno()), "--allow-fd", str(file.fileno())], stdin=subprocess.PIPE,
                                   pass_fds=[sock.fileno(), file.fileno()])
        vm.expect(rb"round 0\b")
        api.pause()
        for name, why in ((f"fd:{file.fileno()}", "needs a connected stream socket"), ("fd:200", "--allow-fd")):
            answer = api.request("PUT", "/snapshot/create", {"snapshot_path": name})
            assert answer.status == 400 and why in answer.fault_message(), answer.fault_message()
        assert send(api, f"fd:{sock.fileno()}")["rounds"] == 1
    clone = target.loaded()
    clone.send(b"xq")
    assert f"round {ord('x')}" in succeeded(clone.wait())
    end(vm)


def test_sent_again(release, tmp_path):
    """From process to process, and a fork and a snapshot of what has come: its memory is its own."""
    vm, api = begin(release, "cycle 1M; print bye", mem_mib=32, machine_config={"track_dirty_pages": True})
    vm.expect(rb"round 0\b")
    generation = 0
    for i in range(5):
        relay = Relay(tmp_path, f"relay{i}")
        target = Load(release, relay.target.name, track_dirty_pages=True, args=["--allow-fork"])
        if i % 2:
            api.pause()
        send(api, relay.source.name)
        end(vm)
        vm, api = target.loaded(), target.api
        vm.send(b"x")
        generation = after(generation, b"x")
        vm.expect(rb"round %d\b" % generation)
    snap = Snapshot(tmp_path)
    create(api, snap)
    api.put("/fork", {"copies": [{"id": "copy", "api_sock": str(tmp_path / "copy.sock"), "resume_vm": False}]})
    api.resume()
    vm.send(b"y")
    vm.expect(rb"round %d\b" % after(generation, b"y"))
    end(vm)
    clone, _ = load(release, snap)
    clone.send(b"z")
    clone.expect(rb"round %d\b" % after(generation, b"z"))
    end(clone)


def test_overrides(release, scratch, tmp_path):
    """As with files: another vsock path, another disk; the guest's server takes connections at once."""
    relay = Relay(tmp_path)
    other = tmp_path / "other.img"
    other.write_bytes(scratch.read_bytes())
    target = Load(release, relay.target.name, vsock_override={"uds_path": str(tmp_path / "b.vsock")},
                  drive_overrides=[{"drive_id": "d0", "path_on_host": str(other)}])
    vm, api = begin(release, "print ready; vsock echo 1000 n=9", [drive("d0", scratch)], vsock={"guest_cid": 3, "uds_path": str(tmp_path / "a.vsock")})
    vm.expect(rb"ready")
    api.pause()
    send(api, relay.source.name)
    target.loaded()
    talk(tmp_path / "b.vsock", 1000, b"hello").close()
    assert target.api.config()["drives"][0]["path_on_host"] == str(other)
    end(vm)


def test_zeros_again(release, scratch, tmp_path):
    """Pages that have become zeros since the first round are sent as such, and take the place of what was there before."""
    scratch.write_bytes(bytes(scratch.stat().st_size))
    listener, out = Listener(tmp_path / "in"), Listener(tmp_path / "out")
    target = Load(release, out.name, resume_vm=False)
    script = "blk 0 fill 0 256 seed=1; blk 0 verify 0 256 seed=1; touch 30M; print ready; wait g; blk 0 read 512 256; print done; wait q"
    vm, api = begin(release, script, [drive("d0", scratch)], mem_mib=64, machine_config={"track_dirty_pages": True})
    vm.expect(rb"ready")
    sending = Asking(api, "/snapshot/create", snapshot_path=listener.name)
    with listener.accept() as peer:
        seen = bytearray(peer.recv(MIB))  # it is in the first round, and waits for us
        vm.send(b"g")
        vm.expect(rb"done")
        while data := peer.recv(MIB):
            seen += data
    sending.join(PATIENCE)
    assert sending.answer.status == 200, sending.answer.fault_message()
    zeros = {where for kind, where, _ in parts(seen) if kind == ZEROS}
    assert zeros, "no page of zeros was sent"
    # Something in front of it, in the place of a page of zeros and beside it.
    junk = part(PAGES, min(zeros), data=b"junk" * 1024) + part(PAGES, 63 * MIB, data=b"kept" * 1024)
    with out.accept() as peer:
        peer.sendall(bytes(seen[:HEADER.size]) + junk + bytes(seen[HEADER.size:]))
    end(vm)
    target.loaded()
    snap = Snapshot(tmp_path)
    target.api.put("/snapshot/create", snap.body)
    memory = snap.memory.read_bytes()
    assert memory[min(zeros):min(zeros) + PAGE] == bytes(PAGE)
    assert memory[63 * MIB:63 * MIB + PAGE] == b"kept" * 1024


# ---- it breaks ----

def goes_on(vm, api, generation, letter=b"k"):
    assert api.instance()["state"] == "Running"
    vm.send(letter)
    vm.expect(rb"round %d\b" % after(generation, letter))
    return after(generation, letter)


def test_receiver_leaves(release, tmp_path):
    """At any moment: the sentence says so, and the guest goes on; a second try succeeds."""
    vm, api = begin(release, "touch 30M; cycle 2M; print bye", mem_mib=64, machine_config={"track_dirty_pages": True})
    vm.expect(rb"round 0\b")
    generation = 0
    for i, taken in enumerate((0, 10, 100, 5000, 4 * MIB, 31 * MIB)):
        listener = Listener(tmp_path / f"deaf{i}")

        def take(listener=listener, taken=taken):
            peer, left = listener.accept(), taken
            while left and (data := peer.recv(min(left, MIB))):
                left -= len(data)
            peer.close()

        thread = threading.Thread(target=take, daemon=True)
        thread.start()
        answer = api.request("PUT", "/snapshot/create", {"snapshot_path": listener.name})
        thread.join(PATIENCE)
        assert answer.status == 400 and "the stream: " in answer.fault_message()
        generation = goes_on(vm, api, generation)
    relay = Relay(tmp_path)
    target = Load(release, relay.target.name)
    send(api, relay.source.name)
    clone = target.loaded()
    clone.send(b"xq")
    clone.expect(rb"round %d\b" % after(generation, b"x"))
    assert "bye" in succeeded(clone.wait())
    end(vm)


def test_who_may_be_sent(release, tmp_path):
    vm, api = begin(release, "cycle 1M; print bye", mem_mib=32)
    vm.expect(rb"round 0\b")
    listener = Listener(tmp_path / "in")
    answer = api.request("PUT", "/snapshot/create", {"snapshot_path": listener.name})
    assert answer.status == 400 and "track_dirty_pages" in answer.fault_message()
    listener.accept().close()
    goes_on(vm, api, 0)
    for body, why in (({"snapshot_path": "unix:/nowhere"}, "somebody listens at"), ({"snapshot_path": "unix:" + "x" * 200}, "somebody listens at"),
                      ({"snapshot_path": "fd:250"}, "--allow-fd"), ({"snapshot_path": "fd:x"}, "fd:x: no number"), ({"snapshot_path": "plain"}, "mem_file_path"),
                      ({"snapshot_path": "unix:/nowhere", "snapshot_type": "Diff"}, "snapshot_type"),
                      ({"snapshot_path": "unix:/nowhere", "background": True}, "background"),
                      ({"snapshot_path": "fd:0"}, "--allow-fd"), ({"snapshot_path": "fd:"}, "fd:: no number"),
                      ({"snapshot_path": "unix:/nowhere", "mem_file_path": "x"}, "leave the memory's path out")):
        answer = api.request("PUT", "/snapshot/create", body)
        assert answer.status == 400 and why in answer.fault_message(), answer.fault_message()
    end(vm)
    vm, api = begin(release, "cycle 1M", allow=False, mem_mib=32)
    vm.expect(rb"round 0\b")
    api.pause()
    other = Listener(tmp_path / "other")
    with pytest.raises(ApiError, match="--allow-path"):
        api.put("/snapshot/create", {"snapshot_path": other.name})
    other.accept().close()


def test_nobody_else_may_pause(release, tmp_path):
    """While it is sent: others are told to wait, before a second receiver hears anything, and the API goes on being answered."""
    listener, second = Listener(tmp_path / "slow"), Listener(tmp_path / "second")
    vm, api = begin(release, "touch 30M; cycle 2M", mem_mib=64, machine_config={"track_dirty_pages": True})
    vm.expect(rb"round 0\b")
    sending = Asking(api, "/snapshot/create", snapshot_path=listener.name)
    other = Api(api.api_sock)
    with listener.accept() as peer:
        assert peer.recv(1000)
        with pytest.raises(ApiError, match="is being sent"):
            other.put("/snapshot/create", {"snapshot_path": second.name})
        with pytest.raises(ApiError, match="is being sent"):
            other.pause()
        with pytest.raises(ApiError, match="runs"):
            other.put("/snapshot/create", Snapshot(tmp_path).body)
        assert other.instance()["state"] == "Running"
    assert "the stream: " in sending.refused()
    other.hang_up()
    second.sock.close()
    end(vm)


@pytest.mark.parametrize("live", [True, False])
def test_given_up(release, tmp_path, live):
    """Who resumes the microVM takes it back from a receiver that is too slow."""
    listener = Listener(tmp_path / "slow")
    vm, api = begin(release, "touch 30M; cycle 2M", mem_mib=64, machine_config={"track_dirty_pages": True})
    vm.expect(rb"round 0\b")
    if not live:
        api.pause()
    sending = Asking(api, "/snapshot/create", snapshot_path=listener.name)
    other = Api(api.api_sock)
    with listener.accept() as peer:
        assert peer.recv(1000)
        other.resume()
        assert "given up" in sending.refused()
    goes_on(vm, other, 0)
    other.hang_up()
    end(vm)


# ---- what comes is not believed ----

def header(size=MIB * 32, magic=b"MAYFLYST", version=1, memory_id=b"M" * 16):
    return HEADER.pack(magic, version, 0, 0, 0, size, memory_id)


def part(kind, at=0, length=0, data=b""):
    return PART.pack(kind, 0, at, length or len(data)) + data


def a_state(mib=32):
    cfg = config(mem_size_mib=mib)
    return join(records(cfg, b"M" * 16))


HOSTILE = [
    ("one byte", b"M", "cut short"),
    ("half a header", header()[:20], "cut short"),
    ("other magic", header(magic=b"MAYFLYMM"), "no microVM"),
    ("HTTP", b"GET / HTTP/1.1\r\nHost: localhost\r\nAccept: */*\r\n\r\n", "no microVM"),
    ("future version", header(version=2), "version 2"),
    ("no memory", header(size=0), "RAM of a size"),
    ("odd memory", header(size=MIB + 4096), "RAM of a size"),
    ("huge memory", header(size=1 << 63), "RAM of a size"),
    ("no parts", header(), "cut short"),
    ("unknown part", header() + part(9), "unknown type"),
    ("type 0", header() + part(0), "unknown type"),
    ("beyond RAM", header() + part(PAGES, 32 * MIB, PAGE), "not in RAM"),
    ("across the end", header() + part(PAGES, 32 * MIB - PAGE, 2 * PAGE), "not in RAM"),
    ("wraps", header() + part(PAGES, 2**64 - PAGE, 2 * PAGE), "not in RAM"),
    ("wraps to 0", header() + part(ZEROS, 2**64 - PAGE, PAGE), "not in RAM"),
    ("trailer", header() + part(ZEROS, 32 * MIB, PAGE), "not in RAM"),
    ("odd place", header() + part(PAGES, 1, PAGE), "not in RAM"),
    ("odd length", header() + part(PAGES, 0, 100), "not in RAM"),
    ("empty pages", header() + part(PAGES), "not in RAM"),
    ("too long", header() + part(ZEROS, 0, 2 * MIB), "not in RAM"),
    ("half a page", header() + part(PAGES, 0, PAGE, b"x" * 100), "cut short"),
    ("empty state", header() + part(STATE), "size that none has"),
    ("large state", header() + part(STATE, 0, 1 << 30), "size that none has"),
    ("half a state", header() + part(STATE, 0, 1000, b"x" * 10), "cut short"),
    ("no state", header() + part(PAGES, 0, PAGE, b"x" * PAGE) + part(END), "without a state"),
    ("no end", header() + part(STATE, data=b"x" * 64), "cut short"),
    ("pages after the state", header() + part(STATE, data=b"x" * 64) + part(ZEROS, 0, PAGE), "follows the state"),
    ("two states", header() + part(STATE, data=b"x" * 64) + part(STATE, data=b"x" * 64), "follows the state"),
    ("no such state", header() + part(STATE, data=b"x" * 64) + part(END), "the state file"),
    ("state of other memory", header(memory_id=b"N" * 16) + part(STATE, data=a_state()) + part(END), "another snapshot"),
    ("state of other size", header(size=64 * MIB) + part(STATE, data=a_state()) + part(END), "another snapshot"),
    ("state without vCPUs", header() + part(STATE, data=a_state()) + part(END), ""),
]


@pytest.mark.parametrize("stream,why", [case[1:] for case in HOSTILE], ids=[case[0] for case in HOSTILE])
def test_hostile_stream(mayfly, tmp_path, stream, why):
    """A sentence, and a process that loads the next one; in one piece, and byte by byte."""
    vm, api = mayfly.start_api()
    for step in (len(stream) + 1, 1 if len(stream) < 2000 else 1000):
        listener = Listener(tmp_path / f"by{step}")
        loading = Asking(api, "/snapshot/load", snapshot_path=listener.name)
        with listener.accept() as peer:
            try:
                for at in range(0, len(stream), step):
                    peer.sendall(stream[at:at + step])
                peer.shutdown(socket.SHUT_WR)
            except OSError:
                pass  # it has heard enough
            assert why in loading.refused(), loading.refused()
        assert api.instance()["state"] == "Not started"
    vm.signal(signal.SIGTERM)
    assert vm.wait().code == 128 + signal.SIGTERM


def test_nothing_partly(release, tmp_path):
    """A stream that is cut at any byte loads nothing, and a process on the command line ends with the sentence."""
    relay = Relay(tmp_path)
    target = Load(release, relay.target.name)
    vm, api = begin(release, "cycle 1M", mem_mib=32)
    vm.expect(rb"round 0\b")
    api.pause()
    send(api, relay.source.name)
    target.loaded()
    whole = bytes(relay.seen)
    for i in range(20):
        listener = Listener(tmp_path / f"cut{i}")
        process = release.start(args=["--no-api", "--load-snapshot", listener.name])
        with listener.accept() as peer:
            peer.sendall(whole[:random.randrange(len(whole))])
        outcome = process.wait()
        assert outcome.code == BAD_CONFIG and "the stream: it is cut short" in outcome.err, outcome
    end(vm)


def test_api_while_it_comes(release, tmp_path):
    """A sender that takes its time: the API is answered, and SIGTERM ends the process."""
    listener = Listener(tmp_path / "slow")
    target = Load(release, listener.name)
    with listener.accept() as peer:
        peer.sendall(header() + part(ZEROS, 0, PAGE))
        other = Api(target.api.api_sock)
        assert other.instance()["state"] == "Not started"
        target.vm.signal(signal.SIGTERM)
        assert target.vm.wait().code == 128 + signal.SIGTERM
        other.hang_up()
    target.join(PATIENCE)


@pytest.mark.parametrize("by_argument", [False, True])
def test_start_meanwhile(release, tmp_path, by_argument):
    """Nothing else starts or is loaded while a stream comes, whose filters would not let it be taken in; afterwards it may."""
    listener, second = Listener(tmp_path / "slow"), Listener(tmp_path / "second")
    vm, api = release.start_api(["--load-snapshot", listener.name] if by_argument else [], stdin=subprocess.PIPE)
    loading = None if by_argument else Asking(api, "/snapshot/load", snapshot_path=listener.name)
    other = Api(api.api_sock)
    wanted = configure("cycle 1M; print bye", mem_mib=32)
    with listener.accept() as peer:
        with pytest.raises(ApiError, match="comes through a stream"):
            other.put("/snapshot/load", {"snapshot_path": second.name})
        other.put_boot_source(wanted["boot-source"])
        other.put_machine_config(wanted["machine-config"])
        with pytest.raises(ApiError, match="comes through a stream"):
            other.start()
        peer.sendall(header())
    if loading:
        assert "cut short" in loading.refused()
        other.start()
        vm.expect(rb"round 0\b")
        end(vm)
    else:
        assert vm.wait().code == BAD_CONFIG
    other.hang_up()
    second.sock.close()


def test_refused_ones_leave_nothing(release, tmp_path):
    """No descriptor, and no memory: neither what was sent nor what a few bytes made of it."""
    vm, api = release.start_api()
    api.instance()  # its connection stays
    before = descriptors(vm.pid)
    pages = b"".join(part(PAGES, n * MIB, data=b"y" * MIB) for n in range(8))
    for i, rest in enumerate((part(STATE, data=b"x" * 64) + part(END), part(STATE, data=a_state()) + part(END), part(9))):
        listener = Listener(tmp_path / f"bad{i}")
        loading = Asking(api, "/snapshot/load", snapshot_path=listener.name)
        with listener.accept() as peer:
            peer.sendall(header() + pages + rest)
            loading.refused()
        api.instance()  # has it make the next VM
        assert descriptors(vm.pid) == before
    listener = Listener(tmp_path / "zeros")
    loading = Asking(api, "/snapshot/load", snapshot_path=listener.name)
    other = Api(api.api_sock)
    with listener.accept() as peer:
        peer.sendall(header(1024 * MIB) + b"".join(part(ZEROS, n * MIB, MIB) for n in range(1024)) + part(PAGES, 0, PAGE, b"last")[:PART.size + 4])
        while fcntl.ioctl(peer, termios.TIOCOUTQ, b"\0" * 4) != b"\0" * 4:
            other.instance()  # until all of it was taken
        shared = re.search(r"RssShmem:\s+(\d+)", Path(f"/proc/{vm.pid}/status").read_text(encoding="ascii"))
        assert int(shared.group(1)) < 1024
    loading.refused()
    other.hang_up()


def test_diff_of_what_came(release, tmp_path):
    """There is no file that it could be on top of: it is a full one."""
    relay = Relay(tmp_path)
    target = Load(release, relay.target.name, track_dirty_pages=True)
    vm, api = begin(release, "cycle 1M; print bye", mem_mib=32)
    vm.expect(rb"round 0\b")
    api.pause()
    send(api, relay.source.name)
    target.loaded()
    snap = Snapshot(tmp_path)
    create(target.api, snap, "Diff")
    end(vm)
    clone, _ = load(release, snap)
    clone.send(b"z")
    clone.expect(rb"round %d\b" % ord("z"))
    end(clone)
