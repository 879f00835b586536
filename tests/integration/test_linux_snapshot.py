"""Snapshots of Linux guests taken in the middle of their work: whoever goes on from them finds disk, clock, network and vsock as they should be."""

import os
import re
import shutil
import subprocess
import threading
import time
from pathlib import Path
from typing import NamedTuple

import pytest

from harness import PATIENCE, Collector, Outcome, Running, artifact, drive, sparse
from jailer import UID
from linux_guest import TROUBLE, UP, Guest, build_tool, counter, file_disk
from mayfly import Api
from net_peer import Namespace
from overlay_file import merged
from page_handler import PageHandler
from test_fork import family, fork  # pylint: disable=unused-import
from test_linux_jailer import in_jail, jailer, probe  # pylint: disable=unused-import
from test_snapshot import Snapshot, create, end, talk
from test_snapshot_background import write_behind, written
from traffic import (ECHO_PORT, GUEST, HOST, IPERF_PORT, MIB, Fio, begin_echo, bytes_written, begin_iperf, begin_streams, end_iperf, end_streams, iperf_client, iperf_report,
                     iperf_server)
from verify_model import differences

pytestmark = pytest.mark.linux

JOBS, OPS, SEED = 4, 150, 7


@pytest.fixture(scope="module")
def verify(tmp_path_factory):
    return build_tool(tmp_path_factory.mktemp("verify"), "guest_verify")


@pytest.fixture
def snap(tmp_path):
    return Snapshot(tmp_path)


def load(vmm, guest, snapshot, wrapper=(), **body):
    """The guest in a new process, where it runs on."""
    vm, api = vmm.start_api(["--allow-path", str(vmm.directory)], stdin=subprocess.PIPE, wrapper=wrapper)
    api.put("/snapshot/load", {**snapshot.body, "resume_vm": True, **body})
    return guest.goes_on_in(vm, api)


def wait_for(what, name):
    deadline = time.monotonic() + PATIENCE
    while not what():
        assert time.monotonic() < deadline, name
        time.sleep(0.01)


def reach(guest, name, count):
    wait_for(lambda: counter(guest.api, name) >= count, name)


class DiskTraffic:
    """guest_verify in the guest, in the background of the test; at its end the image must be the model's."""

    def __init__(self, vmm, program, mib=8, jobs=JOBS, ops=OPS, **fields):
        """fields: more of the drive."""
        self.jobs, self.ops = jobs, ops
        self.image = sparse(vmm.directory / "image", mib * MIB)
        self.tool, self.length = file_disk(vmm, program, "tool")
        self.drives = [drive("scratch", self.image, cache_type="Writeback", **fields), self.tool]

    def prepare(self, guest):
        guest.run(f"head -c {self.length} /dev/vdd >/tmp/verify && chmod +x /tmp/verify")

    def begin(self, guest):
        guest.begin(f"/tmp/verify /dev/vdc {self.jobs} {self.ops} {SEED}")

    @staticmethod
    def reach(guest, mib):
        """Until it has written so much in this process, which is not all of it."""
        reach(guest, "block_write_bytes", mib * MIB)

    def end(self, guest, overlay=None):
        text = guest.end()
        assert f"verify: {self.jobs} jobs done, worst status 0" in text
        image = self.image
        if overlay:
            image = overlay.with_suffix(".merged")
            image.write_bytes(merged(self.image, overlay)[0])
        wrong, written = differences(image, self.jobs, self.ops, SEED)
        assert wrong == [] and written > min(8 * self.jobs * self.ops, self.image.stat().st_size // 2048)


class Look(NamedTuple):
    """One look at a guest's clocks: ours before and after it, the guest's uptime, then its wall clock, then its uptime again; seconds."""
    before: float
    uptime: float
    wall: float
    later: float
    after: float


class Clocks:
    """What a guest's clocks say against ours, from one look to the next, however long a look takes."""

    def __init__(self, guest):
        self.begin = self.look(guest)

    @staticmethod
    def look(guest):
        before = time.time()
        text = guest.run("read first rest </proc/uptime; wall=$(date +%s); read later rest </proc/uptime; echo $first $wall $later")
        return Look(before, *(float(word) for word in text.split()), time.time())

    def are_right(self, guest, away=0, stood=0):
        """Both have gone as far as ours, but for up to `stood`; or not counted the time that it was away, which was longer than this."""
        then, now = self.begin, self.look(guest)
        host, up = (now.before - then.after, now.after - then.before), (now.uptime - then.later, now.later - then.uptime)
        assert up[0] - 1.5 < now.wall - then.wall < up[1] + 1.5, (then, now)
        if away:
            assert 0 < up[1] and up[0] < host[1] - away + 0.5, (then, now)
        else:
            assert up[1] > host[0] - stood - 1.5 and up[0] < host[1] + 1.5, (then, now)


AWAY = 4  # seconds that a guest is nowhere


@pytest.mark.parametrize("binary,realtime", [("release", False), ("debug", True)])
def test_full(request, verify, snap, binary, realtime):
    """Three snapshots in the middle of disk traffic, each loaded once; no write is lost or done twice, and the clocks are right."""
    vmm = request.getfixturevalue(binary)
    traffic = DiskTraffic(vmm, verify)
    guest = Guest(vmm, root="images/rootfs.ext4", drives=traffic.drives, allow_path=[vmm.directory])
    clocks = Clocks(guest)
    traffic.prepare(guest)
    traffic.begin(guest)
    for away in (AWAY, 0, 0):
        traffic.reach(guest, 2)
        create(guest.api, snap)
        end(guest.running)
        time.sleep(away)
        guest = load(vmm, guest, snap, clock_realtime=realtime)
    traffic.end(guest)
    clocks.are_right(guest, away=0 if realtime else AWAY)
    assert guest.run("nproc; sleep 0.5; sync && echo well") == "2\nwell"
    guest.finish()


def test_in_the_background(release, verify, snap, tmp_path):
    """
    It writes to its disk while its memory is written, and goes on. Two others go on from there, with the disk as it was then: one whose
    working set is recorded, and one that gets it ahead.
    """
    traffic = DiskTraffic(release, verify)
    guest = Guest(release, root="images/rootfs.ext4", drives=traffic.drives, allow_path=[tmp_path])
    traffic.prepare(guest)
    traffic.begin(guest)
    traffic.reach(guest, 2)
    events = guest.api.events()
    guest.api.pause()
    shutil.copy(traffic.image, tmp_path / "then")
    write_behind(guest.api, snap)
    guest.api.resume()
    written(events, snap)
    own = traffic.image
    for record in (True, False):
        traffic.image = shutil.copy(tmp_path / "then", tmp_path / "copy")
        clone = load(release, guest, snap, record_working_set=record, drive_overrides=[{"drive_id": "scratch", "path_on_host": str(traffic.image)}])
        traffic.end(clone)
        clone.finish()
        assert Path(f"{snap.memory}.ws").stat().st_size > 4000
    traffic.image = own
    traffic.end(guest)
    guest.finish()


class Jailed:
    """What Guest wants of a VMM, by way of the jailer."""

    def __init__(self, jailer, directory):
        self.jailer, self.directory, self.binds = jailer, directory, []

    def config_file(self, config):
        self.binds = in_jail(config, self.directory)
        return "/config.json"

    def start_api(self, args, stdin, name="vm1", more_binds=()):
        running = self.jailer.start(*self.binds, *more_binds, name=name, program=artifact("mayfly"), what=["--api-sock", "/run/api.socket", *args],
                                    stdin=stdin)
        running.wait_file(self.root(name) / "run/api.socket", 4 * PATIENCE)
        return running, Api(self.root(name) / "run/api.socket", PATIENCE)

    def root(self, name):
        return self.jailer.root(name, artifact("mayfly"))


def test_in_jails(jailer, tmp_path, verify):
    """As a user who is nobody: saved below the root of one jail, loaded in another, in the middle of disk traffic."""
    vmm, snapshot = Jailed(jailer, tmp_path), Snapshot(Path("/"))
    traffic = DiskTraffic(vmm, verify)
    traffic.image.chmod(0o666)
    guest = Guest(vmm, root="images/rootfs.ext4", drives=traffic.drives, allow_path=["/"])
    assert f"\nUid:\t{UID}\t{UID}\t{UID}\t{UID}\n" in Path(f"/proc/{guest.running.pid}/status").read_text()
    traffic.prepare(guest)
    traffic.begin(guest)
    traffic.reach(guest, 2)
    create(guest.api, snapshot)
    end(guest.running)
    guest.api.hang_up()
    binds = [word for path in snapshot.body.values() for word in ("--bind", f"{vmm.root('vm1')}{path}:{path}:ro")]
    guest = guest.goes_on_in(*vmm.start_api([], subprocess.PIPE, "vm2", binds))
    guest.api.put("/snapshot/load", {**snapshot.body, "resume_vm": True})
    traffic.end(guest)
    guest.api.hang_up()
    guest.finish()


# ---- everything at once ----

STREAMS = 8
# After a burst it goes on slowly, so that none of it comes to its end before it is to, however slow or quick this machine is.
NO_LIMIT = {"size": 0, "refill_time": 0}
DISK_LIMIT = {"ops": {"size": 1, "one_time_burst": 40, "refill_time": 500}}
NET_LIMIT = {"bandwidth": {"size": MIB // 40, "one_time_burst": 2 * MIB, "refill_time": 100}}
NETWORK = {"iface_id": "eth0", "host_dev_name": "tap0", "rx_rate_limiter": NET_LIMIT, "tx_rate_limiter": NET_LIMIT}
LIMITED_DISKS = "scratch", "fio"


def lift_limits(api):
    for disk in LIMITED_DISKS:
        api.patch_drive(disk, {"rate_limiter": {"ops": NO_LIMIT}})
    api.patch_network_interface("eth0", {name: {"bandwidth": NO_LIMIT} for name in ("rx_rate_limiter", "tx_rate_limiter")})


class Busy:
    """A guest with all its devices busy: guest_verify and fio on a disk each, iperf3 both ways, streams through vsock."""

    IPERF_MIB, FIO_MIB, VERIFY = 32, 8, {}

    def __init__(self, vmm, verify, namespace, processes, drives=(), allow_path=(), overlays=False, **options):
        namespace.tap()
        processes.append(iperf_server(namespace))
        self.vmm, self.namespace, self.processes = vmm, namespace, processes
        self.vsock = self.path_of("first", "v")

        def limited(disk):
            return {"rate_limiter": DISK_LIMIT, **({"overlay_path": str(self.path_of("first", disk))} if overlays else {})}
        self.disk, self.fio = DiskTraffic(vmm, verify, **self.VERIFY, **limited("scratch")), Fio(vmm.directory, self.FIO_MIB, **limited("fio"))
        self.written_to = [self.path_of("first", disk) for disk in LIMITED_DISKS] if overlays else [self.disk.image, self.fio.image]
        self.guest = Guest(vmm, drives=[*self.disk.drives, self.fio.drive, *drives], allow_path=[vmm.directory, *allow_path], wrapper=namespace.enter, mem_mib=192,
                           vsock={"guest_cid": 3, "uds_path": str(self.vsock)}, **{"network-interfaces": [NETWORK]}, **options)
        self.guest.run(f"ip link set eth0 up && ip address add {GUEST}/24 dev eth0 && ping -c 1 -W 30 {HOST}")
        begin_echo(self.guest, self.vsock)
        self.disk.prepare(self.guest)
        self.clocks = Clocks(self.guest)

    def path_of(self, name, what):
        return self.vmm.directory / f"{name}.{what}"

    def begin(self):
        """All of it, guest_verify last: while that runs, nothing else can be asked of the guest."""
        self.begin_streams()
        self.fio.begin(self.guest, "/dev/vde")
        begin_iperf(self.guest, "--bidir", "-w 128K", f"-n {self.IPERF_MIB}M")
        self.disk.begin(self.guest)
        for path in self.written_to:
            wait_for(lambda: bytes_written(path) > MIB // 4, path)  # pylint: disable=cell-var-from-loop
        for way in ("rx", "tx"):
            reach(self.guest, f"net_{way}_bytes_count", MIB // 2)

    def begin_streams(self):
        self.processes.append(begin_streams(self.vsock, STREAMS, MIB // 4))
        for way in ("rx", "tx"):
            reach(self.guest, f"vsock_{way}_bytes_count", MIB // 4)

    def is_in_the_middle(self):
        """Not at the end of guest_verify, nor of what fio writes."""
        assert not re.search(rb"---- %d ended" % self.guest.begun, bytes(self.guest.running.out.data))
        assert bytes_written(self.written_to[1]) < self.fio.bytes

    def ends(self):
        """As if the host had failed, in the middle of everything; the streams are cut."""
        self.is_in_the_middle()
        end(self.guest.running)
        answer = end_streams(self.processes[-1])
        assert len(answer["errors"]) == STREAMS and all(re.search(r"Connection\w+Error|BrokenPipe", error) for error in answer["errors"]), answer

    def load(self, snapshot, name="again", **body):
        """Goes on from a snapshot, and its vsock server is there at once."""
        self.vsock = self.path_of(name, "v")
        self.guest = load(self.vmm, self.guest, snapshot, self.namespace.enter, vsock_override={"uds_path": str(self.vsock)}, clock_realtime=True, **body)
        talk(self.vsock, ECHO_PORT, b"new" * 1000).close()

    def works_on(self, guest, tcp, overlay=None, stood=0):
        """All that had begun comes to its end; of iperf3 that is "intact", or "reset". stood: seconds that it was paused, at most."""
        self.disk.end(guest, overlay)
        self.fio.end(guest)
        error, received = end_iperf(guest)
        if tcp == "intact":
            assert not error and min(received["TX-C"], received["RX-C"]) > MIB // 4, (error, received)
        else:
            assert error and "reset by peer" in error, (error, received)
        self.clocks.are_right(guest, stood=stood)

    def finish(self, tcp):
        lift_limits(self.guest.api)
        self.works_on(self.guest, tcp)
        assert (sum(counter(self.guest.api, f"net_{way}_bytes_count") for way in ("rx", "tx")) > MIB) == (tcp == "intact")
        serves_anew(self.guest)
        self.guest.finish()


def serves_anew(guest):
    """The streams through vsock that there were have been reset; TCP connections are made as always."""
    assert 0 < int(guest.run("until [ $(ls /proc/$server/fd | wc -l) = $idle ]; do sleep 0.1; done; grep -c lost /tmp/echo"))
    error, received = iperf_report(guest.run(iperf_client(IPERF_PORT, "--bidir", "-n 1M")))
    assert not error and sum(received.values()) > MIB // 2, (error, received)


def test_everything_at_once(release, verify, snap, namespace, processes, tmp_path):
    """
    Loaded where the host still has its end of the connections, TCP goes on as if nothing had been; loaded once more, when these are
    long over and by a page-fault handler, they are reset.
    """
    busy = Busy(release, verify, namespace, processes)
    busy.begin()
    create(busy.guest.api, snap)
    busy.ends()
    saved = busy.guest
    kept = {"scratch": shutil.copy(busy.disk.image, tmp_path / "kept"), "fio": shutil.copy(busy.fio.image, tmp_path / "kept.fio")}
    busy.load(snap)
    busy.finish("intact")
    busy.guest, busy.disk.image = saved, kept["scratch"]
    handler = PageHandler(tmp_path / "handler.socket", snap.memory, 64 * 1024)
    busy.load(snap, "uffd", mem_file_path=None, mem_backend={"backend_type": "Uffd", "backend_path": str(handler.path)},
              drive_overrides=[{"drive_id": name, "path_on_host": str(path)} for name, path in kept.items()])
    busy.finish("reset")


def test_diffs(release, verify, namespace, processes, tmp_path):
    """A diff, one on top of it, and one of a guest that was loaded: laid over the first snapshot one after the other, each is the whole."""
    tool, (base, *diffs) = artifact("mayfly-snapshot"), (Snapshot(tmp_path, name) for name in ("base", "first", "second", "third"))
    busy = Busy(release, verify, namespace, processes, **{"machine-config": {"vcpu_count": 2, "mem_size_mib": 192, "track_dirty_pages": True}})

    def save(snapshot, kind="Diff"):
        create(busy.guest.api, snapshot, kind)
        if kind == "Diff":
            assert os.stat(snapshot.memory).st_blocks < os.stat(base.memory).st_blocks / 2

    def go_on(*snapshots):
        """The one that runs from the base ends first: nobody may write to its memory."""
        busy.ends()
        for snapshot in snapshots:
            subprocess.run([tool, "rebase", base.memory, snapshot.memory], check=True, timeout=PATIENCE, stdout=subprocess.DEVNULL)
            base.state = snapshot.state
        busy.load(base, snapshots[-1].state.stem, track_dirty_pages=True)

    busy.begin()
    for snapshot, kind in ((base, "Full"), (diffs[0], "Diff"), (diffs[1], "Diff")):
        reach(busy.guest, "block_write_bytes", counter(busy.guest.api, "block_write_bytes") + MIB // 4)
        save(snapshot, kind)
        if snapshot is not diffs[1]:
            busy.guest.api.resume()
    go_on(diffs[0], diffs[1])
    busy.begin_streams()
    save(diffs[2])
    go_on(diffs[2])
    busy.finish("intact")


# ---- many from one ----

COPIES = int(os.environ.get("MAYFLY_COPIES", "6" if "MAYFLY_LAB" in os.environ else "20"))  # each costs the emulated lab six seconds
RESEEDED = "crng reseeded due to virtual machine fork"
NETWORK_OF_A_COPY = {**NETWORK, "rx_rate_limiter": {"bandwidth": NO_LIMIT}, "tx_rate_limiter": {"bandwidth": NO_LIMIT}}


@pytest.fixture
def namespaces():
    """So many more network namespaces."""
    made = []

    def make(count):
        made.extend(Namespace() for _ in range(count))
        return made
    yield make
    for one in made:
        one.close()


class Zygote(Busy):
    """In the middle of everything, with disks on overlays: about to be copied."""

    IPERF_MIB, FIO_MIB, VERIFY = 16, 2, {"mib": 2, "jobs": 1, "ops": 120}

    def __init__(self, vmm, *args, **options):
        self.image = sparse(vmm.directory / "image.data", MIB)
        super().__init__(vmm, *args, overlays=True, drives=[drive("data", self.image, cache_type="Writeback")], allow_path=[artifact("images/debian.ext4")], **options)
        self.guest.run("echo zygote | dd of=/dev/vdf conv=fsync status=none")
        self.log_lines = int(self.guest.run("dmesg | wc -l"))
        self.begin()

    def vsock_of(self, name):
        return {"uds_path": str(self.path_of(name, "v"))}

    def drives_of(self, name):
        """A disk that starts as this one's is now, and overlays."""
        shutil.copy(self.image, self.path_of(name, "data"))
        return [{"drive_id": "data", "path_on_host": str(self.path_of(name, "data"))},
                *({"drive_id": disk, "overlay_path": str(self.path_of(name, disk)), "rate_limiter": {"ops": NO_LIMIT}} for disk in LIMITED_DISKS)]

    def is_well(self, guest, name, stood=0):
        """This copy's server answers, its work goes on, its disk is its own, its kernel knows that it is a copy and is content. Returns random bytes."""
        talk(self.path_of(name, "v"), ECHO_PORT, name.encode() * 1000).close()
        self.works_on(guest, "reset", overlay=self.path_of(name, "scratch"), stood=stood)
        serves_anew(guest)
        text = guest.run(f"od -An -N16 -tx1 /dev/urandom; read -r was </dev/vdf; echo was $was; echo {name} | dd of=/dev/vdf conv=fsync status=none; "
                         f"dmesg | tail -n +{self.log_lines + 1}")
        random, was, log = text.split("\n", 2)
        assert was == "was zygote" and len(random.split()) == 16
        assert log.count(RESEEDED) == 1 and not TROUBLE.search(log), log
        return random

    def disks_are_own(self, names):
        assert self.image.read_bytes().startswith(b"zygote\n")
        for name in names:
            assert self.path_of(name, "data").read_bytes().startswith(name.encode() + b"\n")


def test_clones(release, verify, snap, namespace, namespaces, processes):
    """All from one snapshot, and all at the same time, each with a network of its own."""
    zygote = Zygote(release, verify, namespace, processes, kernel=UP)
    create(zygote.guest.api, snap)
    zygote.ends()
    names = [f"clone{i}" for i in range(COPIES)]
    clones = []
    for name, own in zip(names, namespaces(COPIES)):
        own.tap()
        processes.append(iperf_server(own))
        for disk in LIMITED_DISKS:
            shutil.copy(zygote.path_of("first", disk), zygote.path_of(name, disk))
        clones.append(load(release, zygote.guest, snap, own.enter, vsock_override=zygote.vsock_of(name), drive_overrides=zygote.drives_of(name),
                           network_overrides=[NETWORK_OF_A_COPY], clock_realtime=True))
    random = {zygote.is_well(clone, name) for name, clone in zip(names, clones)}
    assert len(random) == COPIES
    zygote.disks_are_own(names)
    clones[-1].running.send(b"exit 5\n")
    assert clones[-1].running.wait().code == 5


class Forked(Running):
    """A fork as a process whose console is a socket. It is no child of ours: nobody tells its exit status."""

    def __init__(self, copy):
        # pylint: disable=super-init-not-called
        self.copy, self.pid = copy, copy.pid
        self.news = threading.Condition()
        self.started = time.monotonic()
        copy.console.settimeout(None)
        self.out, self.err = Collector(copy.console.fileno(), self.news), None

    def send(self, data):
        self.copy.send(data)

    def wait(self, timeout=PATIENCE):
        self.copy.gone()
        self.out.join(5)
        return Outcome(None, bytes(self.out.data).decode(errors="replace"), "", time.monotonic() - self.started)


def test_forks(release, verify, family, namespace, namespaces, processes):
    """All at once from a guest that goes on as if nothing had been; then each gets a network of its own."""
    zygote = Zygote(release, verify, namespace, processes, kernel=UP, allow_fork=True)
    names = [f"fork{i}" for i in range(COPIES)]
    own_namespaces = namespaces(COPIES)
    namespace.ip_batch(*(f"tuntap add {name} mode tap" for name in names))
    began = time.monotonic()
    copies = fork(release, zygote.guest.api, family, names, resume_vm=False, vsock_override=zygote.vsock_of, drive_overrides=zygote.drives_of,
                  network_overrides=lambda name: [{**NETWORK_OF_A_COPY, "host_dev_name": name}])
    zygote.is_in_the_middle()
    lift_limits(zygote.guest.api)
    answer = end_streams(processes[-1])
    assert not answer["errors"] and answer["connections"] >= STREAMS, answer
    guests = []
    for name, copy, own in zip(names, copies, own_namespaces):
        namespace.ip(f"link set {name} netns {own.holder.pid}")
        own.tap(name, new=False)
        processes.append(iperf_server(own))
        copy.api.resume()
        guests.append(zygote.guest.goes_on_in(Forked(copy), copy.api))
    stood = time.monotonic() - began
    random = {zygote.is_well(guest, name, stood) for name, guest in zip(names, guests)}
    assert len(random) == COPIES
    zygote.disks_are_own(names)
    guests[-1].running.send(b"exit 0\n")
    guests[-1].running.wait()
    zygote.works_on(zygote.guest, "intact", overlay=zygote.path_of("first", "scratch"))
    log = zygote.guest.run(f"dmesg | tail -n +{zygote.log_lines + 1}")
    assert RESEEDED not in log and not TROUBLE.search(log)
