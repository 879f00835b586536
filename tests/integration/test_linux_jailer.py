"""The jailer where cgroups are of version 2, and around a real Linux guest."""

import copy
import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from harness import HOST_CANNOT, IN_LAB, PATIENCE, ROOT, artifact
from jailer import GID, UID, Jailer, Report, build_probe, mount_points, namespaces, tree
from linux_guest import UP, configure, console, said

pytestmark = pytest.mark.linux

TOP = Path("/sys/fs/cgroup")
EVERY_NS = ("--new-pid-ns", "--new-user-ns", "--new-net-ns", "--new-ipc-ns", "--new-uts-ns")
V2 = pytest.mark.skipif(not IN_LAB and not (TOP / "cgroup.controllers").exists(), reason="no cgroups of version 2 alone")


@pytest.fixture(scope="module")
def probe(tmp_path_factory):
    return build_probe(tmp_path_factory.mktemp("probe"))


@pytest.fixture
def jailer(tmp_path, probe):
    instance = Jailer("release", tmp_path, probe)
    yield instance
    instance.close()


@pytest.fixture
def parent():
    """A parent cgroup of the test's own, removed with all that is in it."""
    name = f"mayfly-test-{os.getpid()}"
    yield name
    deadline = time.monotonic() + PATIENCE
    for path in sorted(TOP.glob(f"{name}/**/"), reverse=True):
        while path.joinpath("cgroup.procs").read_text():
            assert time.monotonic() < deadline
            path.joinpath("cgroup.kill").write_text("1")
        path.rmdir()


def ready(running):
    running.expect(rb"\ndone\n", timeout=2 * PATIENCE)
    return Report(bytes(running.out.data).decode())


# ---- cgroups of version 2 ----

@V2
@pytest.mark.parametrize("more", [[], ["--cleanup"], ["--new-pid-ns", "--cleanup"], [*EVERY_NS, "--cleanup"]], ids=lambda m: "+".join(m) or "plain")
def test_limits(jailer, parent, more):
    words = ["--parent-cgroup", f"{parent}/vms", "--memory-max", "64M", "--cpu-max", "150%", "--io-max", "/dev/loop0:rbps=10M,wiops=500",
             "--cgroup", "pids.max=7", "--cgroup", "io.weight=default 50" if (TOP / "io.weight").exists() else "memory.high=32M"]
    running = jailer.start(*words, *more, what="hold", stdin=subprocess.PIPE)
    ready(running)
    group = TOP / parent / "vms/vm1"
    assert group.joinpath("memory.max").read_text() == f"{64 << 20}\n" and group.joinpath("cpu.max").read_text() == "150000 100000\n"
    assert group.joinpath("pids.max").read_text() == "7\n"
    assert group.joinpath("io.max").read_text() == "7:0 rbps=10485760 wbps=max riops=max wiops=500\n"
    pid = jailer.pid()
    assert group.joinpath("cgroup.procs").read_text() == f"{pid}\n"
    if "--cleanup" in more:
        assert running.pid != pid and parent not in Path(f"/proc/{running.pid}/cgroup").read_text()
    jailer.refused(HOST_CANNOT, "cgroup: .*a process runs in it", *words, program=artifact("mayfly"))
    running.process.stdin.close()
    assert running.wait().code == 0
    assert group.exists() == ("--cleanup" not in more) and group.parent.exists()


@V2
def test_memory_limit_holds(jailer, parent):
    outcome = jailer.run("--parent-cgroup", parent, "--memory-max", "16M", "--cleanup", what="eat=64")
    assert outcome.code == 128 + signal.SIGKILL and not outcome.err and set(tree(jailer.base)) == {".", "probe"}


@V2
def test_what_a_program_leaves_behind_is_ended(jailer, parent):
    outcome = jailer.run("--parent-cgroup", parent, "--memory-max", "64M", "--cleanup", what="leave=3", stdout=subprocess.DEVNULL)
    assert outcome.code == 0 and not outcome.err
    assert (TOP / parent).is_dir() and not (TOP / parent / "vm1").exists()


@V2
def test_failures_are_undone(jailer, parent):
    jailer.refused(HOST_CANNOT, "cgroup: .*memory.max: Invalid argument", "--parent-cgroup", parent, "--cpu-max", "50%", "--cgroup", "memory.max=x")
    assert not (TOP / parent / "vm1").exists()
    jailer.refused(HOST_CANNOT, "cgroup: .*nosuch: this controller is not available", "--parent-cgroup", parent, "--cgroup", "nosuch.max=x")
    jailer.refused(HOST_CANNOT, "cgroup: memory: the host has no such hierarchy of version 1", "--parent-cgroup", parent, "--cgroup-version", "1",
                   "--memory-max", "1G")
    # A dead one of the same name is used again, and stays when that fails.
    (TOP / parent / "vm1").mkdir(parents=True, exist_ok=True)
    jailer.refused(HOST_CANNOT, "cgroup: ", "--parent-cgroup", parent, "--cgroup", "memory.max=x")
    assert (TOP / parent / "vm1").exists()


@V2
def test_parent_with_processes(jailer, parent):
    group = TOP / parent / "full"
    group.mkdir(parents=True)
    with subprocess.Popen(["sleep", "60"]) as sleeper:
        try:
            group.joinpath("cgroup.procs").write_text(str(sleeper.pid))
            jailer.refused(HOST_CANNOT, "cgroup: .*processes run in this cgroup", "--parent-cgroup", f"{parent}/full", "--memory-max", "1G")
        finally:
            sleeper.kill()


@V2
@pytest.mark.parametrize("more", [[], ["--new-pid-ns"]], ids=lambda m: "+".join(m) or "plain")
def test_joining_a_parent_as_it_is(jailer, parent, more):
    """Firecracker's meaning of --cgroup-version 2 without --cgroup."""
    (TOP / parent).mkdir()
    running = jailer.start("--parent-cgroup", parent, "--cgroup-version", "2", *more, what="hold", stdin=subprocess.PIPE)
    ready(running)
    assert (TOP / parent / "cgroup.procs").read_text() == f"{jailer.pid()}\n" and not (TOP / parent / "vm1").exists()
    running.process.stdin.close()


# ---- a Linux guest ----

class Place:
    """What linux_guest.configure wants of a VMM: a directory."""

    def __init__(self, directory):
        self.directory = directory


def in_jail(config, directory):
    """The configuration with the jail's paths, and the binds that put the host's there."""
    config, binds = copy.deepcopy(config), []
    for number, (holder, key) in enumerate([(config["boot-source"], "kernel_image_path"), *((d, "path_on_host") for d in config["drives"])]):
        source, target = holder[key], f"/images/{number}"
        binds += ["--bind", f"{source}:{target}{':ro' if number == 0 or holder.get('is_read_only') else ''}"]
        holder[key] = target
    path = directory / "in-jail.json"
    path.write_text(json.dumps(config))
    path.chmod(0o644)
    return [*binds, "--bind", f"{path}:/config.json:ro"]


def test_linux_guest_in_every_kind_of_jail(jailer, parent, tmp_path):
    """The microVM of the demo, as a user who is nobody, in namespaces and a cgroup of its own; nothing is left of it."""
    script = "echo kernel=$(uname -r); echo cpus=$(nproc); head -c 1M /dev/vda | md5sum >/dev/null; exit 5"
    binds = in_jail(configure(Place(tmp_path), script, kernel=UP, args="quiet"), tmp_path)
    vmm = artifact("mayfly")
    words = [*EVERY_NS, "--cleanup", "--parent-cgroup", parent, "--memory-max", "300M", "--cpu-max", "100%"]
    running = jailer.start(*words, *binds, program=vmm, what=["--no-api", "--config-file", "/config.json"])
    running.expect(rb"kernel=", timeout=4 * PATIENCE)
    pid = jailer.pid(program=vmm)
    ours, theirs = namespaces("self"), namespaces(pid)
    assert {name for name in ours if ours[name] != theirs[name]} == {"mnt", "pid", "user", "net", "ipc", "uts"}
    status = Path(f"/proc/{pid}/status").read_text()
    assert f"Uid:\t{UID}\t{UID}\t{UID}\t{UID}\nGid:\t{GID}\t{GID}\t{GID}\t{GID}" in status and "Groups:\t \n" in status
    assert "CapPrm:\t0000000000000000\nCapEff:\t0000000000000000\nCapBnd:\t0000000000000000" in status
    assert set(mount_points(pid)) == {"/", "/config.json", "/images/0", "/images/1", "/images/2"}
    assert Path(f"/proc/{pid}/comm").read_text() == "mayfly\n"
    if IN_LAB:
        assert f"/{parent}/vm1" in Path(f"/proc/{pid}/cgroup").read_text()
    outcome = running.wait(4 * PATIENCE)
    assert outcome.code == 5 and said(console(outcome), "cpus") == "1", f"{outcome.out[-2000:]}\n{outcome.err}"
    assert set(tree(jailer.base)) == {".", "mayfly"} and not (TOP / parent / "vm1").exists()


@V2
def test_recipe_of_the_readme(tmp_path):
    """README.md, "In a jail", word by word; the base directory is the only thing that stays."""
    assert not os.path.lexists("/srv/jailer")
    words = (ROOT / "README.md").read_text().split("\nIn a jail: ")[1].split("```\n")[1].replace("/tmp/vm.json", f"{tmp_path}/vm.json")
    try:
        done = subprocess.run(["sh", "-ec", words], cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=PATIENCE, check=False)
        left = [path for path in Path("/srv/jailer").rglob("*") if path.name != "mayfly"]
    finally:
        subprocess.run(["rm", "-rf", "/srv/jailer"], check=True, timeout=PATIENCE)
    assert done.returncode == 0 and "hello from a jail" in done.stdout, done.stdout + done.stderr
    assert not left, left
