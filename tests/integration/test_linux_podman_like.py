"""The same commands through mayfly-run, as a normal user, and through podman with crun: what a user sees of them has to be the same."""

import hashlib
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from container_tool import Terminal, Tool, own
from engines import IMAGE, Podman, oci_layout
from harness import IN_LAB, PATIENCE, ROOT, Running

pytestmark = [pytest.mark.linux, pytest.mark.host_has(IN_LAB)]

LONG = 2 * PATIENCE


class ByPodman:
    """podman run, with Debian's own runtime."""

    def __init__(self, layout):
        self.engine = Podman("/dev/shm/podman-like", shutil.which("crun"))
        self.engine.load(layout)

    def argv(self, *words):
        return self.engine.command(*words)

    def popen(self, env=None):
        return {"env": {**os.environ, **self.engine.environment(), **(env or {})}, "cwd": self.engine.directory}

    def words(self, options, command):
        return ["run", "--rm", "--network=none", *options, IMAGE, *command]

    def close(self):
        self.engine.close()


class ByMayfly:
    """mayfly-run run, for a user who is not root."""

    def __init__(self, layout):
        self.tool = Tool("release")
        self.image = self.tool.home / "image.erofs"
        subprocess.run([ROOT / "rootfs/mayfly-image", "build", layout, "-o", self.image], check=True, timeout=LONG, capture_output=True)
        own(self.tool.home)
        os.chmod("/dev/kvm", 0o666)
        self.argv, self.popen = self.tool.argv, self.tool.popen

    def words(self, options, command):
        return ["run", "--rm", "--net", "none", *options, self.image, *command]

    def close(self):
        self.tool.check_nothing_left()
        self.tool.close()


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    layout = oci_layout(tmp_path_factory.mktemp("layout"))
    ways = [ByPodman(layout), ByMayfly(layout)]
    yield ways
    for way in ways:
        way.close()


def same(both, found):
    """What found(way) returns for podman, after mayfly-run has been seen to give the same."""
    by_podman, by_mayfly = (found(way) for way in both)
    assert by_mayfly == by_podman
    return by_podman


def to_its_end(way, options, command, stdin=b"", env=None):
    argv = [str(word) for word in way.argv(*way.words(options, command))]
    done = subprocess.run(argv, input=stdin, capture_output=True, timeout=LONG, check=False, **way.popen(env))
    return done.returncode, done.stdout.decode(), done.stderr.decode()


# ---- exit codes, streams, surroundings ----

SURROUNDINGS = """
    echo to stderr >&2; cat; tty; pwd; id -u; id -g; umask; echo "$A|$B|$FROM_MINE|$FROM_IMAGE|$HOME|$PATH"; hostname; echo "$HOSTNAME"
    ulimit -n; grep -E '^(Cap...|NoNewPrivs)' /proc/self/status; printf 'no newline at the end'; exit 7
"""


@pytest.mark.parametrize("options", [
    ["--env", "A=b c", "-e", "B=", "-e", "FROM_MINE", "--hostname", "box", "--cap-drop", "ALL", "--cap-add", "KILL", "--ulimit", "nofile=100:200"],
    ["--env", "FROM_IMAGE=no", "--workdir", "/tmp", "--user", "worker", "--hostname", "box", "--cap-drop", "all", "--ulimit", "nofile=300"],
], ids=["root", "user"])
def test_surroundings(both, options):
    """Without -i, standard input is empty, whatever the tool's own is."""
    code, out, err = same(both, lambda way: to_its_end(way, options, ["sh", "-c", SURROUNDINGS], b"never read\n", {"FROM_MINE": "mine"}))
    assert (code, err) == (7, "to stderr\n") and out.startswith("not a tty\n") and out.endswith("no newline at the end"), out


def test_standard_input(both):
    """All of it, its end, and a command that ends with its input still open."""
    data = os.urandom(300000)
    found = same(both, lambda way: to_its_end(way, ["-i"], ["sh", "-c", "md5sum; exit 3"], data))
    assert found == (3, f"{hashlib.md5(data).hexdigest()}  -\n", "")

    def still_open(way):
        running = Running(way.argv(*way.words(["-i"], ["sh", "-c", "read line; echo got $line; exit 4"])), stdin=subprocess.PIPE, **way.popen())
        try:
            running.send(b"one\ntwo\n")
            outcome = running.wait(LONG)
            return outcome.code, outcome.out, outcome.err
        finally:
            running.close()

    assert same(both, still_open) == (4, "got one\n", "")


@pytest.mark.parametrize("code,options,command", [
    (127, [], ["nosuch"]),
    (126, [], ["/etc/passwd"]),
    (126, [], ["/etc"]),
    (126, ["--user", "nosuch"], ["true"]),
    (126, ["--workdir", "/etc/passwd"], ["pwd"]),
    (125, ["--nosuch"], ["true"]),
    (125, ["--memory", "much"], ["true"]),
    (125, ["--env-file", "/no/such"], ["true"]),
], ids=["missing", "no-program", "folder", "user", "workdir", "option", "memory", "file"])
def test_commands_that_cannot_run(both, code, options, command):
    """The status is the same; why, each says on standard error in its own words."""
    def status(way):
        found, out, err = to_its_end(way, options, command)
        return found, out, bool(err)

    assert same(both, status) == (code, "", True)


# ---- signals ----

TRAPS = "for s in INT HUP USR1; do trap \"echo got $s\" $s; done; trap 'echo got TERM; exit 143' TERM; echo ready; while :; do sleep 0.1; done"


def test_signals_of_the_tool(both):
    """What the tool is sent is the command's."""
    def signals(way):
        running = Running(way.argv(*way.words([], ["sh", "-c", TRAPS])), **way.popen())
        try:
            running.expect(b"ready\n", timeout=LONG)
            for name in ("INT", "HUP", "USR1", "TERM"):
                running.signal(getattr(signal, f"SIG{name}"))
                running.expect(b"got %s\n" % name.encode(), timeout=LONG)
            outcome = running.wait(LONG)
            return outcome.code, outcome.out, outcome.err
        finally:
            running.close()

    assert same(both, signals) == (143, "ready\ngot INT\ngot HUP\ngot USR1\ngot TERM\n", "")


def test_a_signal_that_is_not_handled(both):
    """Different on purpose: to podman's command, process 1, nothing happens."""
    way = both[1]
    running = Running(way.argv(*way.words([], ["sh", "-c", "echo ready; exec sleep 1000"])), **way.popen())
    try:
        running.expect(b"ready\n", timeout=LONG)
        running.signal(signal.SIGTERM)
        assert running.wait(LONG).code == 143
    finally:
        running.close()


def test_killed(both):
    def killed(way):
        running = Running(way.argv(*way.words(["--name", "victim"], ["sh", "-c", TRAPS])), **way.popen())
        try:
            running.expect(b"ready\n", timeout=LONG)
            subprocess.run([str(word) for word in way.argv("kill", "victim")], check=True, timeout=LONG, capture_output=True, **way.popen())
            outcome = running.wait(LONG)
            return outcome.code, outcome.out
        finally:
            running.close()

    assert same(both, killed) == (137, "ready\n")


# ---- a terminal ----

def test_terminal(both):
    """An interactive shell as a user has it: size and resize, Ctrl-C for what runs in it, Ctrl-D, its status."""
    def session(way):
        seen = []

        def say(typed):
            # At the prompt nothing that is typed gets lost; what is echoed of it has the quotes in it, so it is never taken for the answer.
            t.expect(b"prompt ", LONG)
            t.send(b"echo be''gin; " + typed + b"; echo fin''ish\r")
            t.expect(b"begin\r\n", LONG)

        def answer(typed):
            say(typed)
            seen.append(t.expect(b"finish\r\n", LONG))

        t = Terminal(way, *way.words(["-it", "-e", "PS1=prompt "], ["sh"]), rows=30, cols=90)
        try:
            answer(b"tty; stty size; echo $TERM; echo err >&2")
            t.size(41, 101)
            answer(b"until [ \"$(stty size)\" = '41 101' ]; do sleep 0.1; done")
            t.expect(b"prompt ", LONG)
            # Said by a shell of its own: a signal that comes between fork and exec of an interactive one is lost in its child.
            t.send(b"sh -c \"echo star''ted; exec sleep 1000\"\r")
            t.expect(b"started\r\n", LONG)
            t.send(b"\x03")
            t.expect(b"prompt ", LONG)
            t.send(b"echo st''atus $?.\r")
            t.expect(b"status ", LONG)
            seen.append(t.expect(b".\r\n", LONG))
            say(b"cat")
            t.send(b"word\r\x04")
            seen.append(t.expect(b"finish\r\n", LONG))
            t.expect(b"prompt ", LONG)
            t.send(b"(exit 6)\r")
            t.expect(b"prompt ", LONG)
            t.send(b"\x04")
            t.wait(6)
        finally:
            t.close()
        return seen

    assert same(both, session) == [b"/dev/pts/0\r\n30 90\r\nxterm\r\nerr\r\n", b"", b"130", b"word\r\nword\r\n"]


def test_interrupt_key_and_size_without_a_shell(both):
    """Ctrl-C reaches a command with a handler, and its end is the run's; -t alone gives a terminal, too."""
    def keys(way):
        t = Terminal(way, *way.words(["-i", "-t"], ["sh", "-c", "trap 'echo key; exit 130' INT; stty size; while :; do sleep 0.1; done"]), rows=22, cols=66)
        try:
            t.expect(b"22 66\r\n", LONG)
            t.send(b"\x03")
            before = t.expect(b"key\r\n", LONG)
            t.wait(130)
            return before
        finally:
            t.close()

    assert same(both, keys) == b"^C"
    assert same(both, lambda way: to_its_end(way, ["-t"], ["sh", "-c", "tty; echo err >&2; exit 5"])) == (5, "/dev/pts/0\r\nerr\r\n", "")
