"""mayfly-run as a normal user runs it: a home of its own, the program beside what it needs, and what it may have left behind."""

import json
import os
import pty
import select
import shutil
import signal
import struct
import subprocess
import tempfile
import time
from fcntl import ioctl
from pathlib import Path
from termios import TIOCSWINSZ, tcgetattr

from harness import BUILD, PATIENCE, Running, artifact, has_variable, processes_where

# Of each run its own: what is left behind is looked for, and ended, by user, and another run on the same host may be going on.
UID = 50000 + os.getpid() % 10000
PROGRAMS = {"release": "mayfly-run", "debug": "mayfly-run-debug"}


def own(path):
    """Give all of it to the user that the tool runs as."""
    if os.geteuid() == 0:
        for each in [path, *path.rglob("*")]:
            os.chown(each, UID, UID, follow_symlinks=False)


class Tool:
    """One of the two binaries, for a user who has never run it before."""

    def __init__(self, name, fake=None):
        self.folder = Path(tempfile.mkdtemp(prefix="mayfly-run-"))
        self.folder.chmod(0o755)
        self.home, self.runtime = self.folder / "home", self.folder / "run"
        self.programs = self.folder / "programs"
        self.state, self.data = self.runtime / "mayfly", self.home / ".local/share/mayfly"
        for path in (self.home, self.runtime, self.programs, self.home / "files"):
            path.mkdir(mode=0o700)
        self.programs.chmod(0o755)
        self.path = self.programs / "mayfly-run"
        shutil.copy(artifact(PROGRAMS[name]), self.path)
        self.env = {"HOME": str(self.home), "XDG_RUNTIME_DIR": str(self.runtime), "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin", "TERM": "xterm",
                    "ASAN_OPTIONS": "detect_leaks=1:exitcode=99", "UBSAN_OPTIONS": "halt_on_error=1", "PYTHONDONTWRITEBYTECODE": "1"}
        if fake:
            self.env["FAKE_FOLDER"] = str(self.home)
            shutil.copy(fake, self.programs / "mayfly-jailer")
            for name in ("mayfly", "kernel/vmlinux-up", "kernel/vmlinux-smp", "images/container-initrd.cpio"):
                (self.programs / name).parent.mkdir(exist_ok=True)
                (self.programs / name).touch()
        else:
            for name in ("mayfly", "mayfly-jailer", "kernel", "images"):
                (self.programs / name).symlink_to(BUILD / name)
        own(self.folder)
        self.running, self.wrapper = [], []

    def enter(self, namespace):
        """From now on it is started in this network namespace."""
        self.wrapper = [*namespace.enter, *(["setpriv", "--reuid", str(UID), "--regid", str(UID), "--clear-groups"] if os.geteuid() == 0 else [])]

    def argv(self, *words):
        return [*self.wrapper, self.path, *(str(word) for word in words)]

    def popen(self, env=None, **popen):
        if os.geteuid() == 0 and not self.wrapper:
            popen.update(user=UID, group=UID, extra_groups=[])
        return {"env": {**self.env, **(env or {})}, "cwd": self.home, **popen}

    def start(self, *words, env=None, **popen):
        running = Running(self.argv(*words), **self.popen(env, **popen))
        self.running.append(running)
        return running

    def run(self, *words, code=0, stdin=b"", env=None, timeout=4 * PATIENCE):
        """To its end; returns (stdout, stderr) as text. code None: any."""
        done = subprocess.run(self.argv(*words), input=stdin, capture_output=True, timeout=timeout, check=False, **self.popen(env))
        out, err = done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace")
        assert code is None or done.returncode == code, f"status {done.returncode}, expected {code}\n--- stdout\n{out}\n--- stderr\n{err}"
        assert "Sanitizer" not in err and "runtime error:" not in err, err
        return out, err

    def ps(self, *words):
        return json.loads(self.run("ps", "-a", "--json", *words)[0])

    def wait_state(self, name, *states):
        deadline = time.monotonic() + PATIENCE
        while True:
            found = {entry["name"] or entry["id"]: entry for entry in self.ps()}
            if name in found and found[name]["state"] in states:
                return found[name]
            assert time.monotonic() < deadline, found
            time.sleep(0.05)

    def processes(self):
        """Everything that runs for this user's tool, the tool included. The monitor has no environment: it is known by its user."""
        return processes_where(lambda entry: os.geteuid() == 0 and entry.stat().st_uid == UID or has_variable(entry, f"HOME={self.home}"))

    def wait_no_processes(self):
        deadline = time.monotonic() + PATIENCE
        while self.processes():
            assert time.monotonic() < deadline, self.processes()
            time.sleep(0.05)

    def check_nothing_left(self, instances=0):
        """No process, no folder of an instance, no socket, no mount, no file that was made for one."""
        self.wait_no_processes()
        left = [path for path in self.state.iterdir() if path.name not in (".lock", "names")] if self.state.exists() else []
        assert len(left) == instances, left
        names = list((self.state / "names").iterdir()) if (self.state / "names").exists() else []
        assert instances or not names, names
        assert not [p for p in self.runtime.rglob("*") if p.is_socket()]
        assert str(self.folder) not in Path("/proc/self/mountinfo").read_text()
        scratch = self.data / "tmp"
        assert not scratch.exists() or not list(scratch.iterdir())

    def close(self):
        for running in self.running:
            running.close()
        deadline = time.monotonic() + PATIENCE
        while self.processes() and time.monotonic() < deadline:
            for pid in self.processes():
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
            time.sleep(0.02)
        shutil.rmtree(self.folder, ignore_errors=True)


class Terminal:
    """The tool on a terminal of its own, as in a user's window."""

    def __init__(self, tool, *words, env=None, rows=24, cols=80):
        self.master, self.slave = pty.openpty()
        self.size(rows, cols)
        self.before = tcgetattr(self.slave)
        self.seen = b""
        self.process = subprocess.Popen(["setsid", "--ctty", *map(str, tool.argv(*words))], stdin=self.slave, stdout=self.slave, stderr=self.slave,
                                        **tool.popen(env))

    def size(self, rows, cols):
        ioctl(self.master, TIOCSWINSZ, struct.pack("HHHH", rows, cols, 0, 0))

    def send(self, data):
        os.write(self.master, data)

    def expect(self, text, timeout=2 * PATIENCE):
        """Wait until text was printed, and forget everything up to there."""
        deadline = time.monotonic() + timeout
        while text not in self.seen:
            left = deadline - time.monotonic()
            assert left > 0 and select.select([self.master], [], [], left)[0], f"no {text!r} in {self.seen!r}"
            self.seen += os.read(self.master, 65536)
        before, _, self.seen = self.seen.partition(text)
        return before

    def is_raw(self):
        return tcgetattr(self.slave) != self.before

    def wait(self, code):
        found = self.process.wait(2 * PATIENCE)
        if select.select([self.master], [], [], 0)[0]:
            self.seen += os.read(self.master, 65536)
        assert found == code, f"status {found}, expected {code}: {self.seen!r}"
        assert not self.is_raw(), "the terminal is not as it was before"

    def close(self):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(10)
        os.close(self.master)
        os.close(self.slave)
