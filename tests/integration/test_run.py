"""mayfly-run's whole life without a guest: a stand-in for jail, machine and agent runs the commands on this host, or breaks the rules."""

import io
import json
import os
import re
import signal
import socket
import subprocess
import tarfile
import threading
import time
from pathlib import Path

import pytest

from container_tool import UID, Terminal, Tool, own
from fake_machine import MODES
from harness import PATIENCE, ROOT

FAKE = Path(__file__).with_name("fake_machine.py")
NONE = ("--net", "none")


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    """An EROFS image; nothing looks into it here."""
    folder = tmp_path_factory.mktemp("image")
    (folder / "tree").mkdir()
    subprocess.run(["mkfs.erofs", "--quiet", folder / "image.erofs", folder / "tree"], check=True, timeout=PATIENCE)
    return folder / "image.erofs"


def make_tool(name, image):
    tool = Tool(name, FAKE)
    tool.image = tool.home / "image.erofs"
    tool.image.write_bytes(image.read_bytes())
    own(tool.home)
    return tool


@pytest.fixture
def tool(image):
    """With the sanitizers watching."""
    tool = make_tool("debug", image)
    yield tool
    tool.close()


@pytest.fixture
def release(image):
    tool = make_tool("release", image)
    yield tool
    tool.close()


@pytest.fixture
def terminal(tool):
    opened = []

    def make(*words, **options):
        opened.append(Terminal(tool, *words, **options))
        return opened[-1]
    yield make
    for each in opened:
        each.close()


def once(tool, *words, code=0, options=(), **more):
    return tool.run("run", "--rm", *NONE, *options, tool.image, *words, code=code, **more)


# ---- what comes out of a run ----

def test_exit_statuses(tool):
    assert once(tool, "echo", "hello") == ("hello\n", "")
    once(tool, "sh", "-c", "exit 7", code=7)
    once(tool, "sh", "-c", "exit 255", code=255)
    once(tool, "sh", "-c", "kill -9 $$", code=137)
    assert "not found" in once(tool, "x", code=127, env={"FAKE_MACHINE": "not-found"})[1]
    assert "Permission denied" in once(tool, "/etc/passwd", code=126)[1]
    tool.check_nothing_left()


def test_words_that_are_missing(tool):
    assert "the value is missing" in tool.run("run", "--env", code=125)[1]
    assert "too few words" in tool.run("run", "--rm", code=125)[1] and "too many words" in tool.run("logs", "a", "b", code=125)[1]
    assert "mayfly-run ps" in tool.run()[0] and tool.run("--version")[0].startswith("mayfly-run ")


def test_run_may_be_left_out(tool):
    assert tool.run("--rm", *NONE, tool.image, "echo", "-n", "x")[0] == "x"


def test_streams(tool):
    out, err = once(tool, "sh", "-c", "echo out; echo err >&2")
    assert (out, err) == ("out\n", "err\n")
    data = os.urandom(1 << 20)
    done = subprocess.run(tool.argv("run", "--rm", "-i", *NONE, tool.image, "cat"), input=data, stdout=subprocess.PIPE, check=True, timeout=PATIENCE,
                          **tool.popen())
    assert done.stdout == data
    assert once(tool, "cat", stdin=b"not for it")[0] == ""  # without -i
    tool.check_nothing_left()


def test_a_reader_that_is_gone(tool):
    """As in `yes | head -n 1`."""
    running = tool.start("run", "--rm", *NONE, tool.image, "yes")
    running.expect(rb"y\ny\n")
    running.process.stdout.close()
    assert running.process.wait(PATIENCE) == 128 + signal.SIGPIPE
    tool.check_nothing_left()


def test_a_reader_that_does_not_read_keeps_no_signal_away(tool):
    read, write = os.pipe()
    running = tool.start("run", "--rm", *NONE, tool.image, "sh", "-c", "trap 'exit 5' TERM; while :; do echo xxxxxxxxxxxxxxxxxxxxxxxxxxxx; done", stdout=write)
    os.close(write)
    assert os.read(read, 1)  # the shell has set its trap
    time.sleep(0.5)
    running.signal(signal.SIGTERM)
    time.sleep(0.1)
    while os.read(read, 65536):
        pass
    os.close(read)
    assert running.wait().code == 5
    tool.check_nothing_left()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1])
def test_signals_go_to_the_command(tool, number):
    running = tool.start("run", "--rm", *NONE, tool.image, "sh", "-c", f"trap 'echo got it; exit 9' {int(number)}; echo ready; while :; do sleep 0.05; done")
    running.expect(b"ready")
    running.signal(number)
    outcome = running.wait()
    assert outcome.code == 9 and "got it" in outcome.out
    tool.check_nothing_left()


def test_a_signal_before_there_is_a_command(tool):
    running = tool.start("run", "--rm", *NONE, tool.image, "true", env={"FAKE_MACHINE": "silent"})
    deadline = time.monotonic() + PATIENCE
    while not list(tool.state.glob("*/vsock")) or not list(tool.state.glob("*/status.json")):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    running.signal(signal.SIGINT)
    assert running.wait().code == 130
    tool.check_nothing_left()


# ---- the terminal ----

def test_terminal(terminal, tool):
    script = "stty size; trap 'stty size' WINCH; echo ready; until read line && [ \"$line\" ]; do :; done; echo got:$line; exec sleep 1000"
    t = terminal("run", "--rm", "-it", *NONE, tool.image, "sh", "-c", script, rows=30, cols=90)
    t.expect(b"30 90\r\n")
    t.expect(b"ready")
    assert t.is_raw()
    t.size(31, 91)
    t.expect(b"31 91")
    t.send(b"some words\r")
    t.expect(b"got:some words")
    t.send(b"\x03")
    t.wait(130)
    tool.check_nothing_left()


def test_terminal_is_restored_when_the_machine_dies(terminal, tool):
    t = terminal("run", "--rm", "-it", *NONE, tool.image, "sh", "-c", "echo ready; sleep 1000")
    t.expect(b"ready")
    jailer = json.loads(next(tool.state.glob("*/status.json")).read_text())["jailer"]["pid"]
    os.kill(jailer, signal.SIGKILL)
    t.wait(125)
    t.expect(b"the machine ended")
    tool.check_nothing_left()


def test_no_terminal(tool):
    assert "standard input is no terminal" in once(tool, "true", options=["-it"], code=125)[1]


# ---- in the background ----

LOOP = "trap 'echo bye; exit 4' TERM; echo out; echo err >&2; while :; do sleep 0.05; done"


def test_detached(tool):
    out, err = tool.run("run", "-d", "--name", "web", *NONE, tool.image, "sh", "-c", LOOP)
    assert re.fullmatch(r"[0-9a-f]{12}\n", out) and not err
    name = out.strip()
    assert [(e["id"], e["name"], e["state"]) for e in tool.ps()] == [(name, "web", "running")]
    assert tool.run("ps", "-q")[0] == out
    assert tool.run("exec", "web", "echo", "inside")[0] == "inside\n"
    assert tool.run("exec", "-i", name[:5], "sh", "-c", "cat; exit 9", stdin=b"words", code=9)[0] == "words"
    assert tool.run("exec", "-e", "A=b c", "web", "sh", "-c", "echo $A")[0] == "b c\n"
    assert "is the name of" in tool.run("run", "-d", "--name", "web", *NONE, tool.image, "true", code=125)[1]
    assert "runs" in tool.run("rm", "web", code=125)[1]
    assert tool.run("stop", "web")[0] == out
    entry = tool.wait_state("web", "exited")
    assert entry["exit_code"] == 4 and "jailer" not in entry
    assert tool.run("wait", "web")[0] == "4\n"
    assert tool.run("logs", "web") == ("out\nbye\n", "err\n")
    assert "does not run" in tool.run("exec", "web", "true", code=125)[1]
    assert tool.run("ps", "-q")[0] == ""
    tool.check_nothing_left(instances=1)
    assert tool.run("rm", "web")[0] == out
    assert "no such container" in tool.run("inspect", "web", code=125)[1]
    tool.check_nothing_left()


def test_detached_gives_back_all_streams(tool):
    """Whoever waits for the end of `$(mayfly-run -d …)` does not wait for the container's."""
    started = time.monotonic()
    name = tool.run("run", "-d", "--rm", *NONE, tool.image, "sleep", "1000", timeout=PATIENCE)[0].strip()
    assert time.monotonic() - started < PATIENCE
    assert tool.run("kill", name)[0].strip() == name
    tool.check_nothing_left()


def test_detached_that_cannot_start(tool):
    out, err = tool.run("run", "-d", "--rm", *NONE, tool.image, "x", code=127, env={"FAKE_MACHINE": "not-found"})
    assert not out and "not found" in err
    out, err = tool.run("run", "-d", "--rm", *NONE, tool.image, "x", code=125, env={"FAKE_MACHINE": "crash"})
    assert not out and "something broke" in err
    tool.check_nothing_left()


def test_stop_kills_in_the_end(tool):
    tool.run("run", "-d", "--name", "deaf", *NONE, tool.image, "sh", "-c", "trap '' TERM; while :; do sleep 0.05; done")
    tool.run("stop", "-t", "1", "deaf")
    assert tool.wait_state("deaf", "exited")["exit_code"] == 137
    tool.run("rm", "deaf")
    tool.check_nothing_left()


def test_rm_force_and_wait(tool):
    name = tool.run("run", "-d", *NONE, tool.image, "sleep", "1000")[0].strip()
    waiting = tool.start("wait", name)
    time.sleep(0.3)
    assert tool.run("rm", "-f", name)[0].strip() == name
    waiting.wait()
    tool.check_nothing_left()


def test_names_are_free_again(tool):
    for _ in range(2):
        tool.run("run", "--rm", "--name", "again", *NONE, tool.image, "true")
    assert "--name" in tool.run("run", "--name", "a/b", *NONE, tool.image, "true", code=125)[1]


def test_logs(tool):
    script = r"for n in 1 2 3; do echo line $n; done; printf 'no end'; sleep 0.2; echo ' of line'; echo last >&2"
    tool.run("run", "--name", "talker", *NONE, tool.image, "sh", "-c", script)
    assert tool.run("logs", "talker") == ("line 1\nline 2\nline 3\nno end of line\n", "last\n")
    assert tool.run("logs", "--tail", "1", "talker") == ("", "last\n")
    assert re.fullmatch(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z .*\n?)+", tool.run("logs", "-t", "talker")[0])
    tool.run("rm", "-a")
    tool.check_nothing_left()


def test_logs_that_go_on(tool):
    name = tool.run("run", "-d", *NONE, tool.image, "sh", "-c", "echo first; sleep 0.5; echo second; exit 3")[0].strip()
    following = tool.start("logs", "-f", name)
    following.expect(rb"first\nsecond\n")
    assert following.wait().code == 0
    tool.run("rm", name)


def test_log_is_bounded(tool):
    """Two files of 4 MiB, and the last lines in them."""
    name = tool.run("run", "-d", *NONE, tool.image, "sh", "-c", "seq -w 1000000; echo end")[0].strip()
    tool.run("wait", name)
    files = {path.name: path.stat().st_size for path in (tool.state / name).glob("log*")}
    assert set(files) == {"log", "log.1"} and max(files.values()) < 5 << 20
    out = tool.run("logs", name)[0].splitlines()
    assert out[-1] == "end" and out[-2] == "1000000" and len(out) > 50000
    assert [int(line) for line in out[:-1]] == list(range(1000001 - len(out) + 1, 1000001))
    tool.run("rm", name)


# ---- what the guest is asked for ----

def asked(tool, *options, args=(), env=None):
    """The request and the machine's configuration."""
    out = tool.run("run", "--rm", *options, tool.image, "sh", "-c", 'echo "$REQUEST"; echo "$CONFIG"', *args, env=env)[0].splitlines()
    return json.loads(out[0]), json.loads(out[1])


def test_request(tool):
    env_file = tool.home / "env"
    env_file.write_text("# comment\nA=from file\nB=two words\nNOT_SET\nHOST\n")
    request, config = asked(tool, *NONE, "-e", "A=1", "-e", "HOST", "--env-file", env_file, "-u", "app:staff", "-w", "/usr", "--read-only", "--cap-drop", "all",
                            "--cap-add", "net_raw", "--ulimit", "nofile=100", "--ulimit", "core=0:5", "--hostname", "box 1%", "--cpus", "2",
                            "-m", "256m", env={"HOST": "here"})
    assert request["env"] == ["A=from file", "B=two words", "HOST=here", "A=1", "HOST=here"]
    assert request["user"] == ["app:staff"] and request["cwd"] == ["/usr"] and request["readonly"] == ["1"]
    assert request["caps"] == ["CAP_NET_RAW"] and request["rlimit"] == ["nofile=100:100", "core=0:5"]
    assert "tty" not in request and "stdin" not in request
    assert config["machine-config"] == {"vcpu_count": 2, "mem_size_mib": 256}
    assert config["boot-source"]["boot_args"] == "console=ttyS0 loglevel=4 reboot=k panic=-1 mayfly.hostname=box%201%25"
    assert config["network-interfaces"] == [] and len(config["drives"]) == 1
    assert config["drives"][0]["is_read_only"] and not config["drives"][0]["is_root_device"]


def test_capabilities(tool):
    default = set("CHOWN DAC_OVERRIDE FOWNER FSETID KILL NET_BIND_SERVICE SETFCAP SETGID SETPCAP SETUID SYS_CHROOT".split())
    def caps(*options):
        return {name.removeprefix("CAP_") for name in asked(tool, *NONE, *options)[0]["caps"][0].split(",")}
    assert caps("--cap-add", "NET_ADMIN") == default | {"NET_ADMIN"}
    assert caps("--cap-drop", "CAP_CHOWN") == default - {"CHOWN"}
    assert len(caps("--cap-add", "ALL", "--cap-drop", "SYS_ADMIN")) == 40
    assert "needs a capability" in tool.run("run", "--cap-add", "FLY", tool.image, code=125)[1]


def test_volumes(tool):
    folder = tool.home / "a folder"
    folder.mkdir()
    (folder / "file").write_text("x")
    own(tool.home)
    config = asked(tool, *NONE, "-v", f"{folder}:/data:ro", "-v", "kept:/kept", "--scratch", "64M")[1]
    words = config["boot-source"]["boot_args"].split()
    assert words[-3:] == ["mayfly.scratch=/dev/vdb", "mayfly.mount=/dev/vdc:/data:ro", "mayfly.mount=/dev/vdd:/kept"]
    assert [drive["is_read_only"] for drive in config["drives"]] == [True, False, True, False]
    volume = tool.data / "volumes/kept.ext4"
    assert volume.stat().st_size == 16 << 30 and volume.stat().st_blocks * 512 < 200 << 20
    made = volume.stat().st_mtime_ns
    asked(tool, *NONE, "-v", "kept:/kept")
    assert volume.stat().st_mtime_ns == made
    tool.check_nothing_left()


@pytest.mark.parametrize("word, why", [
    ("{home}:/data", "cannot be written to .*needs :ro"), ("/nonexistent:/data:ro", "No such file"), ("{home}/file:/data", "neither a folder nor"),
    ("name:data", "needs SOURCE:DIR"), ("a/b", "needs SOURCE:DIR"), (":/data", "needs SOURCE:DIR"), ("-x:/data", "needs SOURCE:DIR"),
    ("name:/data:z", "needs SOURCE:DIR"),
])
def test_volumes_that_are_refused(tool, word, why):
    (tool.home / "file").write_text("x")
    err = tool.run("run", *NONE, "-v", word.format(home=tool.home), tool.image, "true", code=125)[1]
    assert err.startswith("mayfly-run: --volume: ") and err.count("\n") == 1 and re.search(why, err), err
    tool.check_nothing_left()


def test_a_volume_has_one_writer(tool):
    name = tool.run("run", "-d", *NONE, "-v", "kept:/kept", tool.image, "sleep", "1000")[0].strip()
    assert "in use by another container" in tool.run("run", *NONE, "-v", "kept:/kept", tool.image, "true", code=125)[1]
    assert "in use by another container" in tool.run("run", *NONE, "-v", "kept:/kept:ro", tool.image, "true", code=125)[1]
    tool.run("rm", "-f", name)
    tool.run("run", "--rm", *NONE, "-v", "kept:/kept", tool.image, "true")


@pytest.mark.parametrize("words, why", [
    (["--memory", "1M"], "--memory"), (["--cpus", "1.5"], "--cpus.*whole number"), (["--net", "bridge"], "--net.*tap:NAME"), (["-p", "80"], "--publish: goes with"),
    (["--nosuch"], "unknown option"), (["-e", "=x"], "--env"), (["--ulimit", "nofile"], "--ulimit"), (["--pull", "often"], None),
    (["--net", "tap:nosuch"], "no such TAP"), (["--stop-signal", "FOO"], "--stop-signal"), (["--scratch", "1"], "--scratch"), (["--scratch", "/etc/passwd"], "--scratch"),
])
def test_options_that_are_refused(tool, words, why):
    if why is None:
        out, err = tool.run("run", *words, "/nonexistent/image", code=125)
        why = "--pull"
    else:
        net = () if "--net" in words else NONE
        out, err = tool.run("run", *net, *words, tool.image, "true", code=125)
    assert not out and err.count("\n") == 1 and re.search(why, err), err
    tool.check_nothing_left()


# ---- images ----

IMAGE_TOOL = """#!/bin/sh
echo "asked for $2" >&2
[ "$2" != bad ] || exit 1
echo "$HOME/image.erofs"
"""


@pytest.mark.parametrize("place", ["mayfly-image", "../rootfs/mayfly-image"])
def test_image_is_built_once(tool, place):
    builder = tool.programs / place
    builder.parent.mkdir(exist_ok=True)
    builder.write_text(IMAGE_TOOL)
    builder.chmod(0o755)
    layout = tool.home / "layout"
    layout.mkdir()
    (layout / "index.json").write_text("{}")
    (tool.home / "folder").mkdir()
    own(tool.home)
    def run(source, *options, code=0):
        return "asked" in tool.run("run", "--rm", *NONE, *options, source, "true", code=code)[1]
    assert run("layout") and not run("layout") and not run("./layout") and run("layout", "--pull=always")
    (layout / "index.json").write_text("{ }")
    assert run("layout") and not run("layout")
    assert run("folder") and run("folder")  # who knows what is in it now?
    assert run("debian:bookworm") and not run("debian:bookworm")
    assert run("bad", code=125) and not run("other", "--pull=never", code=125)
    (tool.home / "image.erofs").rename(tool.home / "gone")
    assert run("layout", code=125)
    (tool.home / "image.erofs").write_bytes(b"no image")
    assert "neither EROFS nor ext4" in tool.run("run", *NONE, "layout", "true", code=125)[1]


# ---- a guest that breaks the rules ----

HOSTILE = sorted(set(MODES) - {"silent", "not-found", "flood", "empty-flood", "linger", "ignores-term", "link", "dribble"})


@pytest.mark.parametrize("mode", HOSTILE)
def test_hostile_guest(tool, mode):
    """One line says what happened, nothing in it steers a terminal, and nothing is left."""
    out, err = once(tool, "true", code=125, env={"FAKE_MACHINE": mode})
    assert out in ("", "half a ") and err.startswith("mayfly-run: ") and err.count("\n") == 1
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", err), err
    tool.check_nothing_left()


def test_flood_is_what_the_command_printed(tool):
    running = tool.start("run", "--rm", *NONE, tool.image, "true", env={"FAKE_MACHINE": "flood"})
    running.expect(rb"x{100000}")
    status = json.loads(next(tool.state.glob("*/status.json")).read_text())
    os.kill(status["jailer"]["pid"], signal.SIGTERM)
    running.wait()
    tool.check_nothing_left()


def test_machine_that_does_not_end(tool):
    """The command's status counts; the machine is ended, by force where it has to be."""
    once(tool, "sh", "-c", "exit 3", code=3, env={"FAKE_MACHINE": "ignores-term"})
    tool.check_nothing_left()


def test_socket_that_is_a_link(tool):
    """Whoever took over the monitor cannot have us speak to another of the user's sockets."""
    other = socket.socket(socket.AF_UNIX)
    other.bind(str(tool.home / "other.socket"))
    other.listen()
    other.settimeout(0.2)
    own(tool.home)
    running = tool.start("run", "--rm", "--name", "taken", *NONE, tool.image, "sleep", "1000", env={"FAKE_MACHINE": "link"})
    tool.wait_state("taken", "running")
    assert "not a socket" in tool.run("exec", "taken", "true", code=125)[1]
    with other, pytest.raises(TimeoutError):
        other.accept()
    tool.run("rm", "-f", "taken")
    running.wait()
    tool.check_nothing_left()


@pytest.mark.parametrize("words", [("stop", "--time", "0"), ("kill",)])
def test_guest_that_does_not_let_go(tool, words):
    """A byte of an answer now and then keeps no machine alive."""
    tool.run("run", "-d", "--name", "held", *NONE, tool.image, "sleep", "1000", env={"FAKE_MACHINE": "dribble"})
    tool.run(*words, "held", timeout=2 * PATIENCE)
    tool.wait_state("held", "exited")
    tool.run("rm", "held")
    tool.check_nothing_left()


# ---- copying ----

@pytest.fixture
def box(tool):
    tool.box = tool.run("run", "-d", "--name", "box", *NONE, tool.image, "sleep", "1000")[0].strip()
    return tool


def test_copy_in_and_out(box):
    source = box.home / "source"
    (source / "deep/er").mkdir(parents=True)
    (source / "deep/er/file").write_bytes(os.urandom(200000))
    (source / "deep/er/file").chmod(0o750)
    (source / "link").symlink_to("deep/er/file")
    (source / ("long" * 50)).write_text("name")
    own(box.home)
    box.run("cp", source, "box:/")
    box.run("cp", f"{source}/.", "box:new")
    box.run("cp", source / "deep/er/file", f"{box.box}:/new/renamed")
    for name in ("files/source", "files/new"):
        copied = box.home / name
        assert (copied / "deep/er/file").read_bytes() == (source / "deep/er/file").read_bytes()
        assert os.readlink(copied / "link") == "deep/er/file" and (copied / ("long" * 50)).read_text() == "name"
    assert (box.home / "files/new/renamed").read_bytes() == (source / "deep/er/file").read_bytes()
    box.run("cp", "box:/source", "back")
    box.run("cp", "box:/source", "back")  # now it is there: into it
    box.run("cp", "box:/source/deep/er/file", ".")
    for name in ("back", "back/source"):
        assert (box.home / name / "deep/er/file").read_bytes() == (source / "deep/er/file").read_bytes()
        assert (box.home / name / "link").resolve() == (box.home / name / "deep/er/file")
    assert (box.home / "file").read_bytes() == (source / "deep/er/file").read_bytes()
    assert (box.home / "back/deep/er/file").stat().st_mode & 0o777 == 0o750
    assert "No such file" in box.run("cp", "box:/nosuch", ".", code=125)[1]
    assert "No such file" in box.run("cp", "nosuch", "box:/", code=125)[1]
    assert "one of the two" in box.run("cp", "a", "b", code=125)[1]


def evil(entries):
    """A tar archive of (name, type, more) as they are; tarfile lets nothing get in the way of that."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for name, kind, more in entries:
            info = tarfile.TarInfo(name)
            info.type, info.mode = kind, 0o6777
            content = more if isinstance(more, bytes) else b""
            info.linkname = more if isinstance(more, str) else ""
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return data.getvalue()


FILE, DIR, LINK, HARD, DEVICE, FIFO = tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE


@pytest.mark.parametrize("entries, code, said", [
    ([("../outside", FILE, b"x")], 125, "leads out"),
    ([("/absolute", FILE, b"x")], 125, "leads out"),
    ([("a/../../outside", FILE, b"x")], 125, "leads out"),
    ([("out", LINK, "/etc"), ("good", FILE, b"x")], 0, "1 left out, the first: out: a link that leads out"),
    ([("d", DIR, ""), ("d/out", LINK, "../.."), ("good", FILE, b"x")], 0, "1 left out"),
    ([("d", DIR, ""), ("d/up", LINK, ".."), ("d/out", LINK, "up/.."), ("good", FILE, b"x")], 0, "1 left out"),
    ([("in", LINK, "d"), ("in/file", FILE, b"x")], 125, "link is in the way|Not a directory|No such file"),
    ([("was", LINK, "good"), ("was", FILE, b"new"), ("good", FILE, b"x")], 0, ""),
    ([("good", FILE, b"x"), ("hard", HARD, "good"), ("dev", DEVICE, ""), ("fifo", FIFO, "")], 0, "3 left out"),
    ([("evil\x1b]0;x\x07", DEVICE, ""), ("good", FILE, b"x")], 0, r"evil\\x1b"),
])
def test_hostile_archive(tool, entries, code, said):
    (tool.home / "evil.tar").write_bytes(evil(entries))
    (tool.home / "target").mkdir(mode=0o755)
    own(tool.home)
    before = {path for path in tool.folder.rglob("*") if not path.is_relative_to(tool.runtime)}
    tool.run("run", "-d", "--name", "box", *NONE, tool.image, "sleep", "1000", env={"FAKE_MACHINE": "evil-tar"})
    err = tool.run("cp", "box:/x/.", "target", code=code)[1]
    assert re.search(said, err) if said else not err, err
    target = tool.home / "target"
    after = {path for path in tool.folder.rglob("*") if not path.is_relative_to(tool.runtime) and not path.is_relative_to(target)}
    assert after <= before | {tool.home / ".local", tool.home / ".local/share", tool.data, *tool.data.rglob("*")}
    for path in target.rglob("*"):
        st = path.lstat()
        assert not st.st_mode & 0o6000 and st.st_nlink == 1 or path.is_dir(), path
        assert path.is_symlink() or path.is_file() or path.is_dir()
        assert path.resolve().is_relative_to(target), path
    if code == 0:
        assert (target / "good").read_text() == "x"


def test_truncated_archive(tool):
    (tool.home / "evil.tar").write_bytes(evil([("good", FILE, b"x" * 100000)])[:30000])
    own(tool.home)
    tool.run("run", "-d", "--name", "box", *NONE, tool.image, "sleep", "1000", env={"FAKE_MACHINE": "evil-tar"})
    assert "ends in the middle" in tool.run("cp", "box:/x/.", "target", code=125)[1]


def test_copy_of_more_than_is_wanted(box):
    with open(box.home / "files/large", "wb") as file:
        file.truncate(3 << 20)
    (box.home / "files/folder").mkdir()
    (box.home / "files/large").rename(box.home / "files/folder/large")
    own(box.home)
    for path in ("folder/large", "folder"):
        assert "--max-size" in box.run("cp", "--max-size", "2M", f"box:/{path}", path.replace("/", "-"), code=125)[1]
    box.run("cp", "--max-size=4M", "box:/folder", "copied")
    assert (box.home / "copied/large").stat().st_size == 3 << 20


def test_prune_with_a_data_folder_that_is_not_ours(tool):
    """What may be in it is left alone, and nobody falls over it."""
    elsewhere = tool.home / "elsewhere"
    elsewhere.mkdir()
    tool.data.parent.mkdir(parents=True)
    tool.data.symlink_to(elsewhere)
    own(tool.home)
    tool.run("ps", "--prune")
    assert not list(elsewhere.iterdir())


# ---- what is killed ----

def test_killed_keeper(tool):
    """The jailer gets SIGTERM from the kernel and takes the machine along; prune takes the rest."""
    tool.run("run", "-d", "--name", "lost", *NONE, tool.image, "sleep", "1000")
    keeper = tool.ps()[0]["keeper"]["pid"]
    os.kill(keeper, signal.SIGKILL)
    assert tool.wait_state("lost", "dead")
    assert "its keeper was killed" in tool.run("wait", "lost", code=125)[1]
    out, err = tool.run("ps", "--prune")
    assert "removed what was left" in err
    tool.check_nothing_left()


def test_killed_jailer_and_keeper_at_once(tool):
    tool.run("run", "-d", "--name", "lost", *NONE, tool.image, "sleep", "1000")
    entry = tool.ps()[0]
    os.kill(entry["keeper"]["pid"], signal.SIGSTOP)
    os.kill(entry["jailer"]["pid"], signal.SIGKILL)
    os.kill(entry["keeper"]["pid"], signal.SIGKILL)
    tool.wait_state("lost", "dead")
    assert list(tool.state.glob("*/mayfly/*/root"))
    tool.run("ps", "--prune")
    tool.check_nothing_left()


def test_prune_leaves_alone_what_is_not_ours(tool):
    """Another process has got the PID of a jailer that ended long ago; a running and an ended instance stay."""
    tool.run("run", "-d", "--name", "alive", *NONE, tool.image, "sleep", "1000")
    tool.run("run", "--name", "ended", *NONE, tool.image, "true")
    stranger = subprocess.Popen(["sleep", "1000"], **tool.popen(env={"HOME": "/"}))
    try:
        dead = tool.state / "0123456789ab"
        dead.mkdir(mode=0o700)
        (dead / "status.json").write_text(json.dumps({"id": "0123456789ab", "name": "gone", "state": "running",
                                                      "jailer": {"pid": stranger.pid, "start": 1}, "passt": {"pid": 1, "start": 0}}))
        empty = tool.state / "ba9876543210"
        empty.mkdir(mode=0o700)
        target = tool.home / "precious"
        target.mkdir()
        (target / "file").write_text("x")
        (dead / "vsock").symlink_to(target)
        (tool.state / "no instance").mkdir()
        own(tool.folder)
        tool.run("ps", "--prune")
        assert stranger.poll() is None and (target / "file").exists() and (tool.state / "no instance").exists()
        assert not dead.exists() and not empty.exists()
        assert {e["name"]: e["state"] for e in tool.ps()} == {"alive": "running", "ended": "exited"}
    finally:
        stranger.kill()
        stranger.wait(10)
    tool.run("rm", "-f", "alive", "ended")


def test_state_folder_of_somebody_else(tool):
    if os.geteuid() == 0:
        tool.state.mkdir(mode=0o700)
        assert re.search("belongs to uid 0|Permission denied", tool.run("ps", code=125)[1])
        os.chown(tool.state, UID, UID)
    else:
        tool.run("ps")
    tool.state.chmod(0o770)
    assert "others can get at it" in tool.run("ps", code=125)[1]


# ---- many ----

def test_many_in_a_row(release):
    for _ in range(20):
        once(release, "true")
    release.check_nothing_left()


def test_many_at_once(release):
    failed = []

    def one(number):
        try:
            assert once(release, "sh", "-c", f"echo {number}; exit {number}", code=number)[0] == f"{number}\n"
        except AssertionError as error:
            failed.append(error)

    threads = [threading.Thread(target=one, args=(number,)) for number in range(30)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed, failed[0]
    release.check_nothing_left()


# ---- the words ----

def test_completion_and_manual_know_every_option(tool):
    manual = (ROOT / "containers/mayfly-run.1").read_text().replace("\\-", "-")
    guide = (ROOT / "docs/run.md").read_text()
    for command in tool.run("__words")[0].split():
        assert f"mayfly-run {command}" in guide and re.search(rf"^\.(B|SS) .*\b{command}\b", manual, re.M), command
        for option in tool.run("__words", command)[0].split():
            name = option.removesuffix("=")
            assert re.search(rf"{name}\b", manual), f"{command} {name} is not in the manual"
            assert f"`{name}" in guide or f" {name}" in guide, f"{command} {name} is not in docs/run.md"
        assert tool.run(command, "--help")[0].startswith(f"mayfly-run {command} ")


def test_completion(tool):
    script = f"""
. {ROOT}/containers/mayfly-run.bash
complete_line() {{ COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMPREPLY=(); _mayfly_run; echo "${{COMPREPLY[*]}}"; }}
complete_line mayfly-run lo
complete_line mayfly-run run --mem
complete_line mayfly-run run --net=
complete_line mayfly-run stop bo
"""
    tool.run("run", "-d", "--name", "box", *NONE, tool.image, "sleep", "1000")
    env = {"PATH": f"{tool.programs}:{tool.env['PATH']}"}
    out = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=PATIENCE, check=True, **tool.popen(env)).stdout.splitlines()
    assert out[0] == "logs" and out[1] == "--memory=" and set(out[2].split()) == {"none", "user", "tap:"} and out[3] == "box"
