"""mayfly-oci's commands without a guest: a stand-in for jail, machine and agent runs the commands on this host."""

import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

import pytest

from harness import PATIENCE, artifact, has_variable, processes_where

FAKE = Path(__file__).with_name("fake_machine.py")
SPEC = {
    "ociVersion": "1.0.2", "root": {"path": "rootfs"}, "annotations": {"org.mayfly.scratch": "tmpfs"},
    "process": {"args": ["true"], "cwd": "/", "env": ["PATH=/bin:/usr/bin"]},
    "linux": {"namespaces": [{"type": "pid"}, {"type": "network"}, {"type": "mount"}]},
}


class Oci:
    """The program for a root whose /run, /var/lib and cgroups are empty: in a mount namespace of its own, which a process holds."""

    def __init__(self):
        self.folder = Path(tempfile.mkdtemp(prefix="oci-"))
        self.programs = self.folder / "programs"
        for name in ("mayfly", "kernel/vmlinux-up", "kernel/vmlinux-smp", "images/container-initrd.cpio"):
            (self.programs / name).parent.mkdir(exist_ok=True, parents=True)
            (self.programs / name).touch()
        shutil.copy(artifact("mayfly-oci-debug"), self.programs / "mayfly-oci")
        shutil.copy(FAKE, self.programs / "mayfly-jailer")
        user = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
        mounts = "; ".join(f"mount -t tmpfs tmpfs {path}" for path in ("/sys/fs/cgroup", "/run", "/var/lib"))
        self.holder = subprocess.Popen(["unshare", "--mount", *user, "sh", "-ec", f"{mounts}; echo ready; exec sleep 10000"], stdout=subprocess.PIPE)
        assert self.holder.stdout.readline() == b"ready\n"
        self.outside = Path(f"/proc/{self.holder.pid}/root")
        self.enter = ["nsenter", "--target", str(self.holder.pid), "--mount", *(["--user", "--preserve-credentials"] if user else [])]
        self.env = {"PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin", "FAKE_FOLDER": str(self.folder), "PYTHONDONTWRITEBYTECODE": "1",
                    "ASAN_OPTIONS": "detect_leaks=1:exitcode=99", "UBSAN_OPTIONS": "halt_on_error=1"}
        self.started = []

    def bundle(self, *args, **process):
        folder = Path(tempfile.mkdtemp(dir=self.folder))
        (folder / "rootfs/bin").mkdir(parents=True)
        for name in ("true", "sleep", "sh"):
            (folder / "rootfs/bin" / name).touch(0o755)
        spec = {**SPEC, "process": {**SPEC["process"], **process, **({"args": args} if args else {})}}
        return self.write(folder, spec)

    @staticmethod
    def write(folder, spec):
        (folder / "config.json").write_text(json.dumps(spec))
        return folder

    def start(self, *words, env=None, **popen):
        # To files: whatever outlives the command keeps a pipe open.
        log = tempfile.TemporaryFile()
        self.started.append(subprocess.Popen([*self.enter, self.programs / "mayfly-oci", *map(str, words)], env={**self.env, **(env or {})},
                                             stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, **popen))
        self.started[-1].log = log
        return self.started[-1]

    def wait(self, running, code=0):
        found = running.wait(2 * PATIENCE)
        running.log.seek(0)
        said = running.log.read().decode(errors="replace")
        assert code is None or found == code, f"status {found}, expected {code}: {said}"
        assert "Sanitizer" not in said and "runtime error:" not in said, said
        return said

    def run(self, *words, code=0, env=None):
        return self.wait(self.start(*words, env=env), code)

    def state(self, name):
        return json.loads(self.run("state", name))

    def until(self, name, status):
        deadline = time.monotonic() + PATIENCE
        while True:
            said = self.run("state", name, code=None)
            if said.startswith("{") and json.loads(said)["status"] == status:
                return json.loads(said)
            assert time.monotonic() < deadline, said
            time.sleep(0.02)

    def status(self, name):
        return json.loads((self.outside / "run/mayfly-oci" / name / "status.json").read_text())

    def processes(self):
        return processes_where(lambda entry: has_variable(entry, f"FAKE_FOLDER={self.folder}"))

    def check_nothing_left(self):
        deadline = time.monotonic() + PATIENCE
        while self.processes():
            assert time.monotonic() < deadline, self.processes()
            time.sleep(0.02)
        for place in ("run/mayfly-oci/*", "var/lib/mayfly/jails/mayfly/*", "var/lib/mayfly/tmp/*"):
            assert not list(self.outside.glob(place)), place

    def close(self):
        for each in self.started:
            each.kill()
            each.wait(PATIENCE)
            each.log.close()
        deadline = time.monotonic() + PATIENCE
        while self.processes() and time.monotonic() < deadline:
            for pid in self.processes():
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
            time.sleep(0.02)
        self.holder.kill()
        self.holder.wait(PATIENCE)
        self.holder.stdout.close()
        shutil.rmtree(self.folder, ignore_errors=True)


@pytest.fixture
def oci():
    tool = Oci()
    yield tool
    tool.close()


# ---- a whole life ----

def test_a_whole_life(oci):
    bundle = oci.bundle("sleep", "1000")
    pid_file = bundle / "pid"
    oci.run("create", "--bundle", bundle, "--pid-file", pid_file, "one")
    assert oci.state("one")["status"] == "created" and oci.state("one")["pid"] == int(pid_file.read_text())
    assert "exists already" in oci.run("create", "--bundle", bundle, "one", code=1)
    oci.run("start", "one")
    assert oci.state("one")["status"] == "running"
    assert "not stopped" in oci.run("delete", "one", code=1)
    oci.run("kill", "one", "TERM")
    oci.until("one", "stopped")
    assert oci.status("one")["exit_code"] == 128 + signal.SIGTERM
    oci.run("delete", "one")
    assert "does not exist" in oci.run("delete", "one", code=1)
    oci.run("delete", "--force", "one")
    oci.check_nothing_left()


def test_run_hands_on_status_and_signals(oci):
    assert oci.run("run", "--bundle", oci.bundle("sh", "-c", "echo said; exit 7"), "one", code=7) == "said\n"
    running = oci.start("run", "--bundle", oci.bundle("sh", "-c", "trap 'exit 9' TERM; while :; do sleep 0.05; done"), "two")
    oci.until("two", "running")
    time.sleep(0.2)  # the shell sets its trap
    running.terminate()
    oci.wait(running, 9)
    oci.check_nothing_left()


def test_exec(oci):
    """--user counts although the container's process names none; signals go to the command."""
    kinds = ("bounding", "ambient", "inheritable")
    oci.run("run", "--detach", "--bundle", oci.bundle("sleep", "1000", capabilities={kind: ["CAP_KILL", "CAP_CHOWN"] for kind in kinds}), "one")
    request = json.loads(oci.run("exec", "--user", "5:6", "one", "printenv", "REQUEST"))
    assert request["user"] == ["5:6"] and request["caps"] == request["ambient"] == request["inheritable"] == ["CAP_KILL,CAP_CHOWN"]
    running = oci.start("exec", "one", "sh", "-c", "trap 'exit 9' TERM; echo ready >&2; while :; do sleep 0.05; done")
    time.sleep(1)
    running.terminate()
    assert "ready" in oci.wait(running, 9)
    oci.run("delete", "--force", "one")
    oci.check_nothing_left()


# ---- hooks ----

def hooks(oci, bundle, timeout=1000, **kinds):
    """Add hooks to a bundle, as shell commands; returns the file whose name they have in $LOG."""
    spec = json.loads((bundle / "config.json").read_text())
    environment = [f"LOG={bundle}/log", "PATH=/usr/bin:/bin", f"FAKE_FOLDER={oci.folder}"]
    spec["hooks"] = {kind: [{"path": "/bin/sh", "args": ["sh", "-c", command], "env": environment, "timeout": timeout} for command in commands]
                     for kind, commands in kinds.items()}
    oci.write(bundle, spec)
    return bundle / "log"


def test_hooks(oci):
    """Each at its step and in order, with the state as input, a clean environment, and the host's network; that of the pid is the container's."""
    look = """say() { echo "$*" >>$LOG; }; state=$(cat); pid=$(echo "$state" | sed 's/.*"pid":\\([0-9]*\\).*/\\1/')
        say %s; say "$state"; say $(readlink /proc/self/ns/net) $(readlink /proc/$pid/ns/net) $(env | sort | tr '\\n' ' ')"""
    bundle = oci.bundle("sleep", "1000")
    log = hooks(oci, bundle, **{kind: [look % f"{kind} 1", look % f"{kind} 2"] for kind in ("poststop", "poststart", "createRuntime", "prestart")})
    oci.run("create", "--bundle", bundle, "one")
    pid = oci.state("one")["pid"]
    oci.run("start", "one")
    oci.run("kill", "one", "KILL")
    oci.until("one", "stopped")
    oci.run("delete", "one")
    lines = log.read_text().splitlines()
    assert lines[::3] == [f"{kind} {n}" for kind in ("prestart", "createRuntime", "poststart", "poststop") for n in (1, 2)]
    states = [json.loads(line) for line in lines[1::3]]
    assert [(each["status"], each["pid"]) for each in states] == [("creating", pid)] * 4 + [("running", pid)] * 2 + [("stopped", 0)] * 2
    assert all(each["id"] == "one" and each["bundle"] == str(bundle) and each["annotations"] == SPEC["annotations"] for each in states)
    ours = os.readlink(f"/proc/{oci.holder.pid}/ns/net")
    for line in lines[2::3]:
        own, of_pid, environment = re.fullmatch(r"(net:\S+) (net:\S+)? ?(.*)", line).groups()
        assert own == ours != of_pid
        assert {"LOG", "PATH"} <= {word.split("=")[0] for word in environment.split()} <= {"LOG", "PATH", "FAKE_FOLDER", "PWD", "OLDPWD", "SHLVL", "_"}
    oci.check_nothing_left()


@pytest.mark.parametrize("kind", ["prestart", "createRuntime"])
@pytest.mark.parametrize("command,sentence", [
    ("echo no way >&2; exit 3", "/bin/sh: failed with status 3: no way"), ("kill -SEGV $$", "ended by signal 11"), ("exec sleep 1000", "not done within 2 s"),
])
def test_a_hook_that_fails(oci, kind, command, sentence):
    """There is no container then, and what the others have made they can take away."""
    bundle = oci.bundle("true")
    log = hooks(oci, bundle, timeout=2 if "sleep" in command else 1000, **{kind: [command, "echo never >>$LOG"], "poststop": ["echo stop >>$LOG"]})
    said = oci.run("create", "--bundle", bundle, "one", code=1)
    assert f"hooks.{kind}: " in said and sentence in said
    assert log.read_text() == "stop\n"
    oci.check_nothing_left()


def test_a_late_hook_that_fails(oci):
    """Is told of, and changes nothing."""
    bundle = oci.bundle("true")
    log = hooks(oci, bundle, poststart=["exit 3", "echo start >>$LOG"], poststop=["exit 4", "echo stop >>$LOG"])
    oci.run("create", "--bundle", bundle, "one")
    assert "hooks.poststart: /bin/sh: failed with status 3" in oci.run("start", "one")
    oci.until("one", "stopped")
    assert "hooks.poststop: /bin/sh: failed with status 4" in oci.run("delete", "one")
    assert log.read_text() == "start\nstop\n"
    oci.check_nothing_left()


def test_deleted_while_a_hook_runs(oci):
    """It ends with the keeper, and delete does not end before the last hook has, whoever called it."""
    bundle = oci.bundle("true")
    log = hooks(oci, bundle, prestart=["echo on >>$LOG; exec sleep 1000"], poststop=["sleep 1; echo stop >>$LOG"])
    for name in ("one", "two", "three"):
        creating = oci.start("create", "--bundle", bundle, name)
        deadline = time.monotonic() + PATIENCE
        while not log.exists():
            assert creating.poll() is None and time.monotonic() < deadline
            time.sleep(0.02)
        oci.run("delete", "--force", name)
        assert log.read_text() == "on\nstop\n"
        assert "was killed" in oci.wait(creating, 1)
        oci.check_nothing_left()
        assert log.read_text() == "on\nstop\n"
        log.unlink()


def test_a_state_that_is_too_long(oci):
    """Numbers grow when they are written; what could not be read again is not begun."""
    bundle = oci.bundle("true")
    spec = json.loads((bundle / "config.json").read_text())
    (bundle / "config.json").write_text(json.dumps({**spec, "hooks": "HERE"}).replace('"HERE"', '{"x": [' + "1e15," * 800_000 + "1]}"))
    assert "longer than 8 MiB" in oci.run("create", "--bundle", bundle, "one", code=1)
    oci.check_nothing_left()


# ---- what never started ----

def test_killed_before_it_started(oci):
    """No error is told that is none; what processes do not notice, one that has yet to be does not notice either."""
    bundle = oci.bundle("sleep", "1000")
    oci.run("--log", bundle / "log", "create", "--bundle", bundle, "one")
    oci.run("kill", "one", "WINCH")
    assert oci.state("one")["status"] == "created"
    oci.run("kill", "one", "TERM")
    oci.until("one", "stopped")
    assert not (bundle / "log").exists() and oci.status("one")["state"] == "exited"
    oci.run("delete", "one")
    oci.check_nothing_left()


@pytest.mark.parametrize("words", [("delete", "--force", "one"), ("kill", "one", "KILL")])
def test_ended_while_it_is_created(oci, words):
    slow = oci.folder / "slow"
    slow.mkdir()
    (slow / "mkfs.erofs").write_text("#!/bin/sh\nexec sleep 1000\n")
    (slow / "mkfs.erofs").chmod(0o755)
    creating = oci.start("create", "--bundle", oci.bundle(), "one", env={"PATH": f"{slow}:{oci.env['PATH']}"})
    oci.until("one", "creating")
    assert "creating" in oci.run("start", "one", code=1)
    oci.run(*words)
    assert "was killed" in oci.wait(creating, 1)
    oci.check_nothing_left()
    oci.run("run", "--bundle", oci.bundle(), "one")
    oci.check_nothing_left()


def test_a_root_that_is_the_bundle(oci):
    """Its image has not the disk of the writable layer in it, which lies there too."""
    bundle = oci.bundle("true")
    spec = json.loads((bundle / "config.json").read_text())
    oci.write(bundle, {**spec, "root": {"path": "."}, "annotations": {"org.mayfly.scratch": "4M"}})
    copying = oci.folder / "copying"
    copying.mkdir()
    (copying / "mkfs.erofs").write_text(f"""#!/bin/sh -e
        {shutil.which("mkfs.erofs", path=oci.env["PATH"])} "$@"
        for word; do case $word in /proc/self/fd/*) cat "$word" >{oci.folder}/image; esac; done""")
    (copying / "mkfs.erofs").chmod(0o755)
    (bundle / "bin").symlink_to("rootfs/bin")
    (bundle / "rootfs/mayfly-scratch.ext4").touch()
    for name in ("one", "two"):
        oci.run("run", "--bundle", bundle, name, env={"PATH": f"{copying}:{oci.env['PATH']}"})
        listed = [subprocess.check_output(["dump.erofs", "--ls", f"--path={path}", oci.folder / "image"], text=True) for path in ("/", "/rootfs")]
        assert "config.json" in listed[0] and "mayfly-scratch.ext4" not in listed[0] and "mayfly-scratch.ext4" in listed[1]
        assert (bundle / "mayfly-scratch.ext4").exists()
    oci.check_nothing_left()


def test_remains_without_a_state(oci):
    """Of a create that was killed before its first word."""
    (oci.outside / "run/mayfly-oci/one").mkdir(parents=True, mode=0o700)
    (oci.outside / "run/mayfly-oci").chmod(0o700)
    assert "does not exist" in oci.run("delete", "one", code=1)
    oci.check_nothing_left()


def test_a_pid_file_that_cannot_be_written(oci):
    """No engine would know of the container, so there is none."""
    assert "--pid-file" in oci.run("create", "--bundle", oci.bundle("sleep", "1000"), "--pid-file", oci.folder / "nosuch/pid", "one", code=1)
    oci.check_nothing_left()


def test_a_pid_file_is_written_through_no_link(oci):
    (oci.folder / "precious").write_text("x")
    (oci.folder / "pid.mayfly").symlink_to(oci.folder / "precious")
    oci.run("create", "--bundle", oci.bundle(), "--pid-file", oci.folder / "pid", "one")
    assert (oci.folder / "precious").read_text() == "x" and int((oci.folder / "pid").read_text()) == oci.state("one")["pid"]
    oci.run("delete", "--force", "one")
    oci.check_nothing_left()


def test_a_cgroup_of_somebody_else(oci):
    """Neither joined nor ended."""
    other = subprocess.Popen(["sleep", "1000"])
    try:
        shared = oci.outside / "sys/fs/cgroup/memory/shared"
        shared.mkdir(parents=True)
        (shared / "cgroup.procs").write_text(f"{other.pid}\n")
        bundle = oci.bundle()
        oci.write(bundle, {**SPEC, "linux": {**SPEC["linux"], "cgroupsPath": "/shared"}})
        assert "in use" in oci.run("create", "--bundle", bundle, "one", code=1)
        assert other.poll() is None and (shared / "cgroup.procs").read_text() == f"{other.pid}\n"
        oci.check_nothing_left()
    finally:
        other.kill()
        other.wait(PATIENCE)


# ---- what does not let go ----

def test_a_guest_that_says_nothing_without_end(oci):
    oci.run("run", "--detach", "--bundle", oci.bundle(), "one", env={"FAKE_MACHINE": "empty-flood"})
    oci.run("kill", "one", "KILL")
    oci.until("one", "stopped")
    oci.run("delete", "one")
    oci.check_nothing_left()


@pytest.mark.parametrize("words", [("kill", "one", "KILL"), ("delete", "--force", "one")])
def test_a_keeper_that_hangs(oci, words):
    oci.run("run", "--detach", "--bundle", oci.bundle("sleep", "1000"), "one")
    os.kill(oci.state("one")["pid"], signal.SIGSTOP)
    oci.run(*words)
    if words[0] == "kill":
        oci.until("one", "stopped")
        oci.run("delete", "one")
    oci.check_nothing_left()


def test_killed_keeper_and_jailer(oci):
    """Nobody is left to remove the jail but delete."""
    oci.run("run", "--detach", "--bundle", oci.bundle("sleep", "1000"), "one")
    status = oci.status("one")
    os.kill(status["keeper"]["pid"], signal.SIGSTOP)
    for name in ("jailer", "keeper"):
        os.kill(status[name]["pid"], signal.SIGKILL)
    oci.until("one", "stopped")
    assert list(oci.outside.glob("var/lib/mayfly/jails/mayfly/*"))
    oci.run("delete", "one")
    oci.check_nothing_left()


def test_many_look_at_once(oci):
    """Whoever looks whether a keeper lives does not make another believe that it does."""
    oci.run("run", "--detach", "--bundle", oci.bundle("sleep", "1000"), "one")
    keeper = oci.state("one")["pid"]
    os.kill(keeper, signal.SIGKILL)
    oci.until("one", "stopped")
    looking = [oci.start("state", "one") for _ in range(24)]
    assert all(json.loads(oci.wait(each))["status"] == "stopped" for each in looking)
    oci.run("delete", "one")
    oci.check_nothing_left()
