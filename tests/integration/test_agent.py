"""The guest's agent as a program of this host's, under the sanitizers: its protocol, honest and hostile hosts, files that want to escape."""

import hashlib
import io
import os
import random
import socket
import stat
import struct
import tarfile
import time

import pytest

from agent_peer import (DATA, EXIT, FRAME_MAX, REPLY, REQUEST, RESIZE, SIGNAL, STDIN, STDOUT, Agent, Conversation, Lost, fields, frame, good, request_frames,
                        unix_dial, wait_until)
from harness import PATIENCE, Running, artifact


class Host:
    """An agent that runs; close() ends it and looks for what the sanitizers said."""

    def __init__(self, directory):
        self.root = directory / "root"
        for name in ("etc", "tmp", ".mayfly"):
            (self.root / name).mkdir(parents=True)
        self.socket = directory / "agent.sock"
        self.running = Running([artifact("integration/agent_host"), self.socket, self.root])
        self.running.wait_file(self.socket)
        self.agent = Agent(unix_dial(self.socket))
        wait_until(self.answers, "the first answer")
        self.outside = directory / "outside"
        self.outside.mkdir()

    def answers(self):
        try:
            return self.agent.call("info")
        except (ConnectionError, OSError):
            return False

    def end(self):
        return self.running.wait()

    def close(self):
        self.agent.close()
        try:
            if self.running.process.poll() is None:
                self.running.signal(15)
                self.end()
        finally:
            self.running.close()
        assert "Sanitizer" not in bytes(self.running.err.data).decode(errors="replace"), self.running.said()


@pytest.fixture
def host(tmp_path):
    started = Host(tmp_path)
    yield started
    started.close()


@pytest.fixture
def agent(host):
    return host.agent


def args(*words):
    return [("arg", word) for word in words]


def sh(script):
    return args("sh", "-c", script)


# ---- the protocol ----

def header(length, kind, *rest):
    return struct.pack("<IBBBB", length, kind, *(rest or (0, 0, 0)))


ONE = fields(("version", 1), ("op", "info"))


@pytest.mark.parametrize("data,sentence", [
    (header(65537, REQUEST), "frame of 65537 bytes: at most 65536"),
    (header(0xFFFFFFFF, REQUEST), "frame of 4294967295 bytes"),
    (header(0, 0), "no frame of this protocol"),
    (header(0, 10), "no frame of this protocol"),
    (header(5, REQUEST, 1, 0, 0), "no frame of this protocol"),
    (header(5, REQUEST, 0, 0, 1), "no frame of this protocol"),
    (b"GET / HTTP/1.1\r\n\r\n", "frame of 542393671 bytes"),
    (frame(STDIN, b"x"), "a request comes first"),
    (frame(REQUEST, ONE) + frame(DATA, b"x"), "a request comes first"),
    (frame(REQUEST, b"version=1\0op=info\0nonsense\0end=1\0"), "something else than fields"),
    (frame(REQUEST, b"version=1\0\0op=info\0end=1\0"), "something else than fields"),
    (frame(REQUEST, b"Version=1\0op=info\0end=1\0"), "something else than fields"),
    (frame(REQUEST, b"=1\0op=info\0end=1\0"), "something else than fields"),
    (frame(REQUEST, b"end=1\0"), "version=: this agent speaks version=1"),
    (frame(REQUEST, b"version=2\0op=info\0end=1\0"), "version=2: this agent speaks version=1"),
    (frame(REQUEST, b"version=1\0end=1\0"), "op=: no such operation"),
    (frame(REQUEST, b"version=1\0op=destroy\0end=1\0"), "op=destroy: no such operation"),
    (frame(REQUEST, ONE + b"color=red\0end=1\0"), "color=: op=info has no such field"),
    (frame(REQUEST, ONE + b"a" * 60000 + b"=red\0end=1\0"), "op=info has no such field"),
    (frame(REQUEST, b"x" * 65536) * 17, "longer than 1048576 bytes"),
], ids=lambda value: value if isinstance(value, str) else "")
def test_broken_requests(agent, data, sentence):
    """Each gets one sentence, and then the end."""
    talk = agent.connect()
    try:
        talk.sock.sendall(data)
    except ConnectionError:
        pass
    reply = dict(talk.reply())
    assert sentence in reply["error"] and "ok" not in reply
    talk.end()


def test_requests_in_pieces(agent):
    """A byte at a time, in many frames, with empty frames: all the same."""
    talk = agent.connect()
    for byte in request_frames("info"):
        talk.sock.sendall(bytes([byte]))
    assert good(talk.reply())["main"] == "none"
    talk = agent.connect()
    text = fields(("version", 1), ("op", "info")) + b"end=1\0"
    for byte in text:
        talk.sock.sendall(frame(REQUEST, bytes([byte])) + frame(REQUEST))
    assert good(talk.reply())["version"] == "1"
    big = "v" * 300000
    assert agent.run("sh", "-c", "echo ${#BIG}", pairs=[("env", f"BIG={big[:120000]}"), ("env", f"OTHER={big[:120000]}")]).out == b"120000\n"


def test_lost_and_silent_connections(agent):
    """Whatever others do not say, the next one is answered; more than the agent takes at a time wait for their turn."""
    for n in range(60):
        talk = agent.connect()
        talk.sock.sendall(request_frames("info")[:n])
        talk.close()
    silent = [agent.connect() for _ in range(126)]
    for n, talk in enumerate(silent):
        talk.sock.sendall(request_frames("info")[:n % 9])
    assert agent.call("info")["ok"] == "1"
    silent += [agent.connect() for _ in range(20)]
    late = agent.connect()
    late.sock.sendall(request_frames("info"))
    for talk in silent:
        talk.close()
    assert good(late.reply())["ok"] == "1"


def test_garbage(agent):
    """Random frames of every kind at every stage; the agent lives."""
    dice = random.Random(7)
    for round_number in range(150):
        talk = agent.connect()
        try:
            if round_number % 3:
                talk.sock.sendall(request_frames("exec", *sh("cat >/dev/null"), stdin=1, tty=round_number % 2))
            for _ in range(dice.randrange(4)):
                payload = dice.choice([dice.randbytes(dice.randrange(100)), fields(signal=dice.randrange(70)), fields(rows=-1, cols="x"), b""])
                talk.send(dice.randrange(1, 10), payload)
            talk.sock.shutdown(socket.SHUT_WR)
        except ConnectionError:
            pass
        talk.close()
    assert agent.call("info")["ok"] == "1"
    wait_until(lambda: not agent.processes(), "the end of the commands")


# ---- commands ----

def test_streams(agent):
    ended = agent.run("sh", "-c", "cat; echo err >&2; exit 3", stdin=b"in\0put")
    assert ended == (b"in\0put", b"err\n", 3)
    assert agent.run("true") == (b"", b"", 0)
    assert agent.run("sh", "-c", "kill -SEGV $$").code == -11
    # Without stdin=1 there is none; what the host sends is dropped.
    talk, _ = agent.begin("exec", *args("cat"))
    talk.stdin(b"x" * 100000)
    assert talk.collect() == (b"", b"", 0)
    # Without a reader of its input, the command's output still comes, all of it.
    assert agent.run("sh", "-c", "exec <&-; head -c 300000 /dev/zero", stdin=b"x" * 3000000).out == bytes(300000)


def test_both_ways_without_deadlock(agent):
    """cat with far more than any buffer holds, written before anything is read."""
    data = os.urandom(8 << 20)
    talk, _ = agent.begin("exec", *args("cat"), stdin=1)
    talk.sock.setblocking(False)
    out = b"".join(frame(STDIN, data[at:at + FRAME_MAX]) for at in range(0, len(data), FRAME_MAX)) + frame(STDIN)
    sent, got, deadline = 0, bytearray(), time.monotonic() + PATIENCE
    while EXIT not in [kind for kind, _ in frames_of(got)]:
        assert time.monotonic() < deadline, f"{sent} of {len(out)} sent, {len(got)} received"
        try:
            sent += talk.sock.send(out[sent:sent + 200000]) if sent < len(out) else 0
        except BlockingIOError:
            pass
        try:
            got += talk.sock.recv(1 << 20)
        except BlockingIOError:
            time.sleep(0.001)
    assert b"".join(payload for kind, payload in frames_of(got) if kind == STDOUT) == data


def frames_of(data):
    at = 0
    while at + 8 <= len(data):
        length, kind = struct.unpack_from("<IB", data, at)
        if at + 8 + length > len(data):
            return
        yield kind, bytes(data[at + 8:at + 8 + length])
        at += 8 + length


def test_slow_reader(agent):
    """A host that does not read stops the command, and loses nothing of what it says."""
    talk, _ = agent.begin("exec", *sh("head -c 5000000 /dev/zero; echo done >&2"))
    time.sleep(0.3)
    assert len(agent.processes()) >= 1
    ended = talk.collect()
    assert ended == (bytes(5000000), b"done\n", 0)


def test_end_with_others_holding_the_streams(agent):
    """EXIT comes with the command's end, even if what it left behind still could say something."""
    ended = agent.run("sh", "-c", "sleep 1000 & echo child; exit 4")
    assert ended == (b"child\n", b"", 4)
    wait_until(lambda: [comm for *_, comm in agent.processes().values()] == ["sleep"], "its child's exec")
    agent.call("kill", all=1, signal=9)
    wait_until(lambda: not agent.processes(), "the burial")


def test_signals(agent):
    """By frame in order behind the input; by kill at once, also while the input is stuck."""
    talk, reply = agent.begin("exec", *sh("trap 'echo usr1' USR1; trap 'echo term; exit 5' TERM; echo ready; while :; do sleep 0.05; done"), stdin=1)
    talk.expect(b"ready\n")
    talk.send(SIGNAL, fields(signal=10))
    talk.expect(b"usr1\n")
    talk.send(STDIN, b"x" * 65536)
    talk.send(STDIN, b"x" * 65536)  # nobody reads it: no frame behind it is looked at
    talk.send(SIGNAL, fields(signal=9))
    agent.call("kill", pid=reply["pid"], signal="SIGUSR1")
    talk.expect(b"usr1\n")
    agent.call("kill", pid=reply["pid"], signal=15)
    ended = talk.collect()
    assert (ended.out, ended.code) == (b"term\n", 5)
    assert "no such process" in agent.refused("kill", pid=reply["pid"], signal=15)["error"]
    for pid in (os.getpid(), 1, 2 ** 31 - 1):
        assert "error" in agent.refused("kill", pid=pid, signal=0 or 18)
    assert "signal=0: must be" in agent.refused("kill", pid="main", signal=0)["error"]
    assert "no such process" in agent.refused("kill", pid="main", signal=15)["error"]


def test_a_lost_connection_ends_the_command(host, agent):
    marks = host.root / "tmp"
    talk, _ = agent.begin("exec", *sh(f"trap 'touch {marks}/hup; exit' HUP; touch {marks}/ready; while :; do sleep 0.05; done"))
    deaf, _ = agent.begin("exec", *sh(f"trap '' HUP; touch {marks}/deaf; sleep 1000; sleep 1000"), stdin=1)
    deaf.send(STDIN, b"x" * 65536)
    deaf.send(STDIN, b"x" * 65536)
    tty, _ = agent.begin("exec", *sh(f"touch {marks}/tty; exec cat"), tty=1)
    wait_until(lambda: all((marks / name).exists() for name in ("ready", "deaf", "tty")))
    for one in (talk, deaf, tty):
        one.close()
    wait_until((marks / "hup").exists, "SIGHUP")
    wait_until(lambda: not agent.processes(), "SIGKILL")


def test_terminal(agent):
    ended = agent.run("sh", "-c", "tty; stty size; echo err >&2; ps -o pgid=,sid=,tpgid= $$ | tr -s ' '", tty=1, rows=11, cols=222)
    lines = ended.out.decode().split("\r\n")
    assert lines[0].startswith("/dev/pts/") and lines[1:3] == ["11 222", "err"] and ended.err == b""
    assert len(set(lines[3].split())) == 1, "its own session and process group, in the foreground"
    talk, _ = agent.begin("exec", *sh("trap 'stty size' WINCH; echo ready; read line; cat; echo end"), tty=1, stdin=1)
    talk.expect(b"ready\r\n")
    talk.send(RESIZE, fields(rows=5, cols=6))
    talk.send(STDIN, b"\n")
    talk.expect(b"5 6\r\n")
    talk.send(STDIN, b"half")
    talk.send(STDIN)
    ended = talk.collect(tty=True)
    assert ended.out.endswith(b"halfhalfend\r\n"), ended
    # Raw, with more than the terminal's buffer holds.
    data = bytes(range(32, 127)) * 3000
    talk, _ = agent.begin("exec", *sh(f"stty raw -echo; echo ready; head -c {len(data)} | sha256sum"), tty=1, stdin=1)
    talk.expect(b"ready")
    for at in range(0, len(data), 50000):
        talk.send(STDIN, data[at:at + 50000])
    assert hashlib.sha256(data).hexdigest().encode() in talk.collect(tty=True).out


def test_what_cannot_be_run(host, agent):
    (host.outside / "script").write_text("#!/nowhere/interpreter\n")
    (host.outside / "script").chmod(0o755)
    (host.outside / "data").write_text("data")
    (host.outside / "data").chmod(0o755)
    for word, code in [("nonesuch", "127"), ("/nonesuch", "127"), ("/etc/passwd", "126"), ("/etc", "126"), (host.outside / "script", "127"),
                       (host.outside / "data", "126"), ("/etc/passwd/x", "127"), ("x" * 5000, "127")]:
        assert agent.refused("exec", ("arg", word))["code"] == code, word
    assert agent.refused("exec")["code"] == "127"
    assert agent.refused("exec", ("arg", ""))["code"] == "127"
    assert agent.refused("exec", ("arg", "data"), ("env", f"PATH={host.outside}"))["code"] == "126"
    assert agent.refused("exec", ("arg", "true"), cwd="/nowhere")["code"] == "127"
    assert agent.refused("exec", ("arg", "true"), cwd="/etc/passwd")["code"] == "126"
    assert "the image names none" in agent.refused("main")["error"]
    assert agent.call("info")["main"] == "none"


@pytest.mark.parametrize("key,value", [
    ("tty", 2), ("tty", "yes"), ("stdin", -1), ("rows", 65536), ("cols", "1e3"), ("umask", "8"), ("umask", "1000"), ("umask", ""), ("oom_score_adj", 1001),
    ("cwd", "tmp"), ("env", "NOVALUE"), ("env", "=x"), ("user", "nobody-there"), ("user", "0:nobody-there"), ("user", "4294967295"), ("group", "x"),
    ("caps", "CAP_FLY"), ("caps", "CAP_KILL,,CAP_CHOWN"), ("ambient", "FLY"), ("inheritable", "FLY"), ("no_new_privs", 3), ("rlimit", "nofile=5"), ("rlimit", "nofile=5:4"),
    ("rlimit", "fly=4:5"), ("rlimit", "nofile=-5:9"), ("rlimit", "=:"), ("rlimit", "nofile=99999999999999999999999999:1"), ("readonly", 1), ("entrypoint", "sh"),
    ("detach", "x"), ("rows", ""), ("rows", "+1"), ("rows", " 1"), ("rows", "1 "), ("rows", "99999999999999999999")])
def test_wrong_fields(agent, key, value):
    assert key in agent.refused("exec", ("arg", "true"), (key, value))["error"]


def test_environment_and_identity(host, agent):
    (host.root / "etc/passwd").write_text("broken\nx:y\nroot:x:0:0::/root:\nbin:x:2:3:::\nann:x:1000:100:Ann:/home/ann:/bin/sh\n0:x:5:5::/five:\n")
    (host.root / "etc/group").write_text("staff:x:100:\nwheel:x:10:bob,ann\nann:x:11:ann\nnope:x:zz:ann\n")
    config = [("env", "A=image"), ("env", "B=image"), ("env", "A=image2"), ("cwd", "/usr"), ("user", "ann")]
    (host.root / ".mayfly/config").write_bytes(fields(*config))
    out = agent.run("sh", "-c", "id -u; id -g; id -G; echo $A $B $HOME; pwd", pairs=[("env", "B=mine"), ("env", "C=c=c")]).out.decode().split("\n")
    assert out[:5] == ["1000", "100", "100 10 11", "image2 mine /home/ann", "/usr"]
    for user, wanted in [("0", "0 0"), ("root", "0 0"), ("1000", "1000 100 10 11"), ("1000:7", "1000 7"), ("77", "77 0"), ("bin:wheel", "2 10"), ("ann:", "1000 100 10 11"), ("", "0 0")]:
        assert agent.run("sh", "-c", "echo $(id -u) $(id -G)", user=user, cwd="/").out.decode().strip() == wanted, user
    assert agent.run("sh", "-c", "echo $HOME", user="77", cwd="/").out == b"/\n"
    # Files that are no files of users.
    (host.root / "etc/passwd").unlink()
    os.mkfifo(host.root / "etc/passwd")
    assert agent.run("id", "-u", user="5").out == b"5\n"
    assert "not in" in agent.refused("exec", ("arg", "id"), user="ann")["error"]
    (host.root / "etc/passwd").unlink()
    (host.root / "etc/passwd").symlink_to("/proc/self/environ")
    assert "not in" in agent.refused("exec", ("arg", "id"), user="ann")["error"]
    for bad in (b"no fields", b"user=ann", b"A=b\0"):
        (host.root / ".mayfly/config").write_bytes(bad)
        assert "/.mayfly/config: has something else than fields" in agent.refused("exec", ("arg", "id"))["error"]
    (host.root / ".mayfly/config").write_bytes(bytes((1 << 20) + 1))
    assert "/.mayfly/config: File too large" in agent.refused("exec", ("arg", "id"))["error"]


def test_detached(host, agent):
    reply = agent.call("exec", *sh("echo to the console; exec sleep 1000"), detach=1)
    host.running.expect(b"to the console\n", "err")
    assert int(reply["pid"]) in agent.processes()
    agent.call("kill", pid=reply["pid"], signal=9)
    wait_until(lambda: not agent.processes(), "the burial")
    assert "has no streams" in agent.refused("exec", ("arg", "cat"), detach=1, stdin=1)["error"]


# ---- the main command ----

def test_main(host, agent):
    (host.root / ".mayfly/config").write_bytes(fields(("entrypoint", "sh"), ("entrypoint", "-c"), ("cmd", "echo image; read x; exit 6")))
    assert "does not run yet" in agent.refused("main", attach=1)["error"]
    assert agent.refused("main", entrypoint="/nonesuch")["code"] == "127"  # and another may be tried
    talk, reply = agent.begin("main", stdin=1)
    assert agent.call("info")["pid"] == reply["pid"]
    assert "runs already" in agent.refused("main")["error"]
    exec_talk, _ = agent.begin("exec", *args("sleep", "1000"))
    talk.expect(b"image\n")
    talk.stdin(b"\n")
    assert talk.collect().code == 6
    assert exec_talk.collect().code == -9, "with main everybody ends"
    assert host.end().code == 6


@pytest.mark.parametrize("pairs,out", [([], b"entry cmd\n"), (args("a b", ""), b"entry a b \n"), ([("entrypoint", ""), *args("echo", "x")], b"x\n"),
                                       ([("entrypoint", "echo"), ("entrypoint", "y")], b"y\n"), ([("entrypoint", "echo"), *args("z")], b"z\n")])
def test_entrypoint_and_cmd(host, agent, pairs, out):
    (host.root / ".mayfly/config").write_bytes(fields(("entrypoint", "echo"), ("entrypoint", "entry"), ("cmd", "cmd")))
    talk, _ = agent.begin("main", *pairs)
    assert talk.collect() == (out, b"", 0)
    assert host.end().code == 0


def test_attach_after_the_end(host, agent):
    """Nobody was there when it ended: the last words wait a while."""
    talk, _ = agent.begin("main", *sh("read x; seq 100000; echo error >&2; kill -15 $$"), stdin=1)
    talk.send(STDIN, b"go\n")
    talk.close()
    wait_until(lambda: agent.call("info")["main"] == "ended", "its end")
    assert agent.call("info")["signal"] == "15"
    second, _ = agent.begin("main", attach=1)
    ended = second.collect()
    assert ended.out.endswith(b"\n99999\n100000\n") and len(ended.out) <= 65536 and ended.err == b"error\n" and ended.code == -15
    assert host.end().code == 143


def test_a_host_that_stays_at_the_end(host, agent):
    """EXIT is the last word; who does not hang up then holds nothing up for long."""
    talk, _ = agent.begin("main", *args("true"))
    while talk.read()[0] != EXIT:
        pass
    assert host.end().code == 0


def test_a_host_whose_reader_is_slow(host, agent):
    """Nor is it hung up on, as long as it says something now and then."""
    talk, _ = agent.begin("main", *args("true"))
    for _ in range(4):
        time.sleep(2)
        talk.send(RESIZE, fields(rows=0, cols=0))
    assert host.running.process.poll() is None
    while talk.read()[0] != EXIT:
        pass
    talk.close()
    assert host.end().code == 0


def test_stop_and_detached_main(host, agent):
    (host.root / ".mayfly/config").write_bytes(fields(("stop_signal", "SIGRTMIN+3")))
    agent.call("main", *args("sleep", "1000"), detach=1)
    joined, _ = agent.begin("main", attach=1)
    assert agent.call("stop") == {"ok": "1", "signal": "37"}
    assert joined.collect() == (b"", b"", -37)
    assert host.end().code == 128 + 37


def test_stop_without_main(host, agent):
    assert agent.call("stop") == {"ok": "1"}
    assert host.end().code == 0


# ---- files ----

def test_put_and_get(host, agent):
    data = os.urandom(1 << 20)
    for piece in (FRAME_MAX, 1000):
        agent.put("/tmp/file", data, piece, mode="0711", uid=7, gid=8)
        seen = (host.root / "tmp/file").stat()
        assert (stat.S_IMODE(seen.st_mode), seen.st_uid, seen.st_gid) == (0o711, 7, 8) and (host.root / "tmp/file").read_bytes() == data
    got, reply = agent.get("tmp/../tmp/file")
    assert got == data and (reply["mode"], reply["size"], reply["uid"], reply["gid"], reply["type"]) == ("0711", str(len(data)), "7", "8", "file")
    agent.put("/tmp/empty", b"")
    assert agent.get("/tmp/empty")[0] == b""
    assert sorted(os.listdir(host.root / "tmp")) == ["empty", "file"]
    for request, sentence in [({"path": "/tmp"}, "Is a directory"), ({"path": "/tmp/"}, "Invalid argument"), ({"path": "/no/file"}, "No such file"),
                              ({"path": ""}, "path=: must be"), ({"path": "/tmp/x", "mode": "9"}, "mode=9: must be octal"), ({"path": "/tmp/x", "uid": -1}, "uid=-1"),
                              ({"path": "/.."}, "Invalid argument"), ({"path": "/" + "x/" * 3000}, "Invalid argument"), ({"path": "/tmp/file/x"}, "Not a directory")]:
        with pytest.raises(Exception, match=sentence):
            agent.put(data=data, **request)
    for request, sentence in [({"path": "/tmp"}, "not a regular file"), ({"path": "/nothing"}, "No such file"), ({"path": "/", "tar": 3}, "tar=3")]:
        assert sentence in agent.refused("get", **request)["error"]
    os.mkfifo(host.root / "tmp/fifo")
    assert "not a regular file" in agent.refused("get", path="/tmp/fifo")["error"]


def test_put_is_all_or_nothing(host, agent):
    (host.root / "tmp/file").write_text("old")
    for breaks in (b"", frame(STDIN, b"x"), header(FRAME_MAX + 1, DATA), header(100, DATA) + b"half"):
        talk = agent.connect()
        talk.sock.sendall(request_frames("put", path="/tmp/file") + frame(DATA, b"new") + breaks)
        talk.sock.shutdown(socket.SHUT_WR)
        assert "error" in dict(talk.reply())
    wait_until(lambda: os.listdir(host.root / "tmp") == ["file"])
    assert (host.root / "tmp/file").read_text() == "old"


def test_paths_stay_below_the_root(host, agent):
    """Links that lead out lead to the same name inside, and nowhere if it is not there."""
    (host.outside / "secret").write_text("secret")
    (host.root / "out").symlink_to(host.outside)
    (host.root / "up").symlink_to("../../../../../../.." + str(host.outside))
    (host.root / "magic").symlink_to(f"/proc/{os.getpid()}/cwd")
    for path in ("/out/secret", "/up/secret", f"/../../..{host.outside}/secret", str(host.outside / "secret"), "../outside/secret", "/magic"):
        assert "error" in agent.refused("get", path=path)
        assert "error" in agent.refused("get", path=path, tar=1) if path != "/magic" else True
    for path in ("/out/new", "/up/new", f"/../../..{host.outside}/new", "../outside/new"):
        with pytest.raises(Exception, match="No such file"):
            agent.put(path, b"x")
    inside = host.root / str(host.outside).lstrip("/")
    inside.mkdir(parents=True)
    agent.put("/out/new", b"inside")
    assert (inside / "new").read_bytes() == b"inside" and os.listdir(host.outside) == ["secret"]
    # The last part is replaced, not followed.
    (host.root / "link").symlink_to(host.outside / "secret")
    agent.put("/link", b"mine")
    assert not (host.root / "link").is_symlink() and (host.outside / "secret").read_text() == "secret"


def archive(*entries, form=tarfile.PAX_FORMAT):
    """entries: (name, type, data or target)"""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as tar:
        for name, kind, what, *rest in entries:
            info = tarfile.TarInfo(name)
            info.type, info.mode, info.uid, info.gid, info.mtime = kind, *(rest or (0o644,)), 5, 6, 1_000_000_000
            if kind in (tarfile.SYMTYPE, tarfile.LNKTYPE):
                info.linkname = what
            elif kind == tarfile.REGTYPE:
                info.size = len(what)
            tar.addfile(info, io.BytesIO(what) if kind == tarfile.REGTYPE else None)
    return buffer.getvalue()


FILE, DIR, LINK, HARD, FIFO, CHAR = tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT], ids=["pax", "gnu"])
def test_tar_there_and_back(host, agent, form):
    deep = "d/" * 70 + "é" * 60
    entries = [("a", DIR, None, 0o750), ("a/file", FILE, b"x" * 70000, 0o4755), ("a/empty", FILE, b""), ("a/link", LINK, "/nowhere/" + "l" * 150),
               ("a/hard", HARD, "a/file"), ("a/fifo", FIFO, None), (deep, FILE, b"deep"), ("new/without/folder", FILE, b"1"), ("a/exact" + "y" * 93, FILE, b"2" * 512)]
    (host.root / "tmp/t/a").mkdir(parents=True)
    (host.root / "tmp/t/a/file").symlink_to(host.outside / "target")
    agent.put("/tmp/t", archive(*entries, form=form), 777, tar=1)
    root = host.root / "tmp/t"
    assert (root / "a/file").read_bytes() == b"x" * 70000 and not (root / "a/file").is_symlink() and not os.listdir(host.outside)
    seen = (root / "a/file").stat()
    assert (stat.S_IMODE(seen.st_mode), seen.st_uid, seen.st_gid, seen.st_nlink, seen.st_mtime) == (0o4755, 5, 6, 2, 1_000_000_000)
    assert stat.S_IMODE((root / "a").stat().st_mode) == 0o750 and os.readlink(root / "a/link") == "/nowhere/" + "l" * 150
    assert (root / deep).read_bytes() == b"deep" and stat.S_ISFIFO((root / "a/fifo").stat().st_mode)
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(str(root / "socket"))
    sock.close()
    back, _ = agent.get("/tmp/t", tar=1)
    with tarfile.open(fileobj=io.BytesIO(back)) as tar:
        names = {member.name: member for member in tar.getmembers()}
        assert {name for name, *_ in entries} <= set(names) and "socket" not in names
        assert tar.extractfile(names[deep]).read() == b"deep" and names["a/link"].linkname == "/nowhere/" + "l" * 150
        assert tar.extractfile(names["a/file"]).read() == b"x" * 70000 and (names["a/file"].mode, names["a/file"].uid) == (0o4755, 5)
        assert len(tar.extractfile(names["a/exact" + "y" * 93]).read()) == 512
    # What comes out goes in again; one entry alone; owners as the host says.
    (host.root / "tmp/u").mkdir()
    agent.put("/tmp/u", back, tar=1, uid=0, gid=0)
    assert (host.root / "tmp/u" / deep).stat().st_uid == 0
    for name in ("a/file", "a/link"):
        with tarfile.open(fileobj=io.BytesIO(agent.get(f"/tmp/t/{name}", tar=1)[0])) as tar:
            assert tar.getnames() == [name.split("/")[1]]


@pytest.mark.parametrize("entries,sentence", [
    ([("../escaped", FILE, b"x")], "absolute or has a part"),
    ([("a/../../escaped", FILE, b"x")], "absolute or has a part"),
    ([("..", DIR, None)], "absolute or has a part"),
    ([("/escaped", FILE, b"x")], "absolute or has a part"),
    ([("hard", HARD, "../../../outside/secret")], "absolute or has a part"),
    ([("hard", HARD, "/etc/passwd")], "absolute or has a part"),
    ([("link", LINK, "OUTSIDE"), ("link/escaped", FILE, b"x")], None),
    ([("link", LINK, "../../../../../../../../.."), ("linkOUTSIDE/escaped", FILE, b"x")], None),
    ([("link", LINK, "OUTSIDE"), ("hard", HARD, "link/secret")], "No such file"),
    ([("link", LINK, "OUTSIDE/secret"), ("link", FILE, b"mine")], None),
    ([("link", LINK, "OUTSIDE"), ("link", DIR, None, 0o777)], None),
    ([("device", CHAR, None)], "are not unpacked"),
    ([("file", FILE, b"x"), ("file/below", FILE, b"x")], "Not a directory"),
    ([("dir", DIR, None), ("dir", FILE, b"x")], "Is a directory"),
])
def test_tar_that_wants_to_leave(host, agent, entries, sentence):
    """It is refused with a sentence, or stays below where it is unpacked."""
    (host.outside / "secret").write_text("secret")
    mode = host.outside.stat().st_mode
    base = host.root / "tmp/base"
    base.mkdir()
    entries = [tuple(part.replace("OUTSIDE", str(host.outside)) if isinstance(part, str) else part for part in entry) for entry in entries]
    try:
        agent.put("/tmp/base", archive(*entries), tar=1)
        assert sentence is None
    except Exception as error:  # pylint: disable=broad-except
        assert sentence is None or sentence in str(error), error
    assert os.listdir(host.outside) == ["secret"] and (host.outside / "secret").read_text() == "secret" and host.outside.stat().st_mode == mode
    assert os.listdir(host.root / "tmp") == ["base"] and sorted(os.listdir(host.root)) == [".mayfly", "etc", "tmp"]


def test_broken_archives(host, agent):
    whole = archive(("file", FILE, b"x" * 1000), ("x/" * 150 + "y", FILE, b"y"))
    (host.root / "tmp/t").mkdir()

    def refused(data):
        with pytest.raises(Exception, match="tar archive|middle of an entry|broken|are not unpacked|absolute"):
            agent.put("/tmp/t", data, tar=1)

    for size in (1, 511, 513, 600, 1535, 2000, len(whole) % 512 + 2600):
        refused(whole[:size])
    for at in (0, 100, 124, 148, 257):
        refused(whole[:at] + b"\xff" + whole[at + 1:])
    refused(b"\0" * 511 + b"x")
    refused(b"not an archive" * 1000)

    def record(text, kind=b"x", size=None):
        head = bytearray(tarfile.TarInfo("pax").tobuf(tarfile.USTAR_FORMAT))
        head[156:157] = kind
        head[124:136] = b"%011o\0" % (len(text) if size is None else size)
        head[148:156] = b" " * 8
        head[148:156] = b"%06o\0 " % sum(head)
        return bytes(head) + text + bytes(-len(text) % 512)

    for text in (b"99999999999999999999 path=x\n", b"0 path=x\n", b"5 x", b"10 path=xxx", b"path=x\n", b"11 pathxxx\n", b"30 GNU.sparse.major=1\n12345678\n",
                 b"12 size=-5\n\n", b"%d path=%s\n" % (5011, b"x" * 5000), b"12 path=a\0b\n"):
        refused(record(text) + whole)
    refused(record(b"", b"L", 1 << 30))
    refused(record(b"", b"x", 65536))
    refused(record(b"x" * 5000, b"L") + whole)
    refused(record(b"", b"S") + whole)
    huge = bytearray(whole)
    huge[124:136] = b"\x80" + b"\x7f" * 11
    huge[148:156] = b" " * 8
    huge[148:156] = b"%06o\0 " % sum(huge[:512])
    refused(bytes(huge))
    # An archive without its end, and one with something behind it, are good enough.
    agent.put("/tmp/t", whole[:whole.rstrip(b"\0").__len__() // 512 * 512 + 512], tar=1)
    agent.put("/tmp/t", whole + os.urandom(5000), tar=1)
    assert (host.root / "tmp/t/file").read_bytes() == b"x" * 1000 and agent.call("info")["ok"] == "1"


# ---- the machine's ----

@pytest.mark.parametrize("op,more,sentence", [
    ("clock", {}, "ns=: must be"), ("clock", {"ns": -5}, "ns=-5"), ("clock", {"ns": "now"}, "ns=now"), ("reseed", {}, "seed=: must be"),
    ("reseed", {"seed": "5a" * 31}, "64 hexadecimal"), ("reseed", {"seed": "zz" * 32}, "64 hexadecimal"), ("hostname", {"name": "a b"}, "must be up to 64"),
    ("hostname", {"name": ""}, "must be up to 64"), ("hostname", {"name": "x" * 65}, "must be up to 64"), ("stop", {"signal": "SIGFLY"}, "signal=SIGFLY"),
    ("stop", {"seconds": -1}, "seconds=-1"), ("network", {"mtu": 1}, "mtu=1: must be"), ("kill", {"pid": "x"}, "pid=x: must be"), ("kill", {}, "pid=: must be")])
def test_refusals(agent, op, more, sentence):
    assert sentence in agent.refused(op, **more)["error"]


def test_list(agent):
    """Names may hold anything; more processes than a reply has room for are cut short, and it says so."""
    talk, reply = agent.begin("exec", *args("python3", "-c", "import ctypes, time; ctypes.CDLL(None).prctl(15, b') R 1 x(\\n\\xff'); print(1, flush=True); time.sleep(1000)"))
    talk.expect(b"1\n")
    (pid, (parent, uid, state, rss, comm)), = agent.processes().items()
    assert str(pid) == reply["pid"] and uid == 0 and state in "RS" and rss > 1000 and comm == ") R 1 x(\n\udcff" and parent != 1
    talk.close()
