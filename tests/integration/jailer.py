"""The jailer under test, and what a program in a jail says of itself."""

import os
import re
import signal
import stat
import subprocess
from pathlib import Path

from harness import PATIENCE, Running, artifact

UID, GID = 12345, 12346
NAMESPACES = ("mnt", "pid", "net", "user", "ipc", "uts", "cgroup")


def build_probe(directory):
    """Compile jail_probe.c as a static program that everyone may run; returns its path."""
    program = directory / "probe"
    here = Path(__file__).with_name("jail_probe.c")
    subprocess.run(["musl-gcc", "-D_GNU_SOURCE", "-std=gnu11", "-O1", "-static", "-s", "-Wall", "-Wextra", "-Werror",
                    "-idirafter", "/usr/include/x86_64-linux-gnu", "-idirafter", "/usr/include", "-o", program, here],
                   check=True, timeout=120)
    program.chmod(0o755)
    return program


class Report:
    """The lines of jail_probe.c."""

    def __init__(self, text):
        assert "\ndone\n" in text, f"not a whole report:\n{text}"
        self.lines = [line.split(" ", 1) for line in text.splitlines()]
        self.files = {}
        for line in self.all("file"):
            name, mode, uid, gid, device = line.rsplit(" ", 4)
            self.files[name] = (int(mode, 8), int(uid), int(gid), device)

    def all(self, key):
        return [rest[0] if rest else "" for name, *rest in self.lines if name == key]

    def one(self, key):
        values = self.all(key)
        assert len(values) == 1, f"{key}: {values}"
        return values[0]

    def table(self, key):
        return dict(line.rsplit(" ", 1) for line in self.all(key))


def tree(top):
    """Everything below a directory: names, types, owners, modes and what files hold."""
    found = {}
    for path in [Path(top), *Path(top).rglob("*")]:
        st = path.lstat()
        held = os.readlink(path) if stat.S_ISLNK(st.st_mode) else path.read_bytes() if stat.S_ISREG(st.st_mode) else st.st_rdev
        found[str(path.relative_to(top))] = (oct(st.st_mode), st.st_uid, st.st_gid, held)
    return found


class Jailer:
    """One of the two binaries, with a directory for jails."""

    def __init__(self, name, directory, probe):
        self.name = name
        self.path = artifact({"release": "mayfly-jailer", "debug": "mayfly-jailer-debug"}[name])
        self.directory = Path(directory)
        self.base = self.directory / "jails"
        self.base.mkdir()
        self.probe = probe
        self.running = []
        self.wrapper = ()

    def root(self, name="vm1", program=None):
        return self.base / Path(program or self.probe).name / name / "root"

    def argv(self, *words, name="vm1", program=None, user=(UID, GID), what=()):
        who = ["--uid", user[0], "--gid", user[1]] if user else []
        return [*self.wrapper, self.path, "--id", name, "--exec-file", program or self.probe, *who, "--chroot-base-dir", self.base, *words,
                "--", *([what] if isinstance(what, str) else what)]

    def start(self, *words, name="vm1", program=None, user=(UID, GID), what=(), **popen):
        running = Running(self.argv(*words, name=name, program=program, user=user, what=what), **popen)
        self.running.append(running)
        return running

    def run(self, *words, **options):
        """Run it to its end; returns the Outcome."""
        running = self.start(*words, **options)
        try:
            return running.wait(PATIENCE)
        finally:
            running.close()

    def report(self, *words, **options):
        """What the probe says."""
        outcome = self.run(*words, **options)
        assert "done" in outcome.out, outcome
        return Report(outcome.out)

    def refused(self, code, pattern, *words, **options):
        """It ends with that code and one line that matches, and leaves everything as it was."""
        before = tree(self.base)
        outcome = self.run(*words, **options)
        assert outcome.code == code, outcome
        assert len(outcome.lines()) == 1 and outcome.err.startswith("mayfly-jailer: "), outcome.err
        assert re.search(pattern, outcome.err), outcome.err
        assert not outcome.out
        after = tree(self.base)
        program = Path(options.get("program") or self.probe).name  # others may be using this one
        assert {k: v for k, v in after.items() if k != program} == {k: v for k, v in before.items() if k != program}
        return outcome

    def pid(self, name="vm1", program=None):
        path = self.root(name, program)
        return int((path / f"{path.parent.parent.name}.pid").read_text())

    def close(self):
        for running in self.running:
            running.close()
        for path in self.base.glob("*/*/root/*.pid"):  # daemons that a failed test left behind
            command = Path(f"/proc/{path.read_text() if path.is_file() else 'none'}/cmdline")
            if command.is_file() and command.read_bytes().startswith(f"/{path.stem}\0--id\0".encode()):
                os.kill(int(path.read_text()), signal.SIGKILL)


def namespaces(pid):
    return {name: os.readlink(f"/proc/{pid}/ns/{name}") for name in NAMESPACES}


def mount_points(pid):
    """Where the process has mounts, in order."""
    return [line.split()[4] for line in Path(f"/proc/{pid}/mountinfo").read_text().splitlines()]
