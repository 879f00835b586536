"""The Python client of the guest's agent: what it does with an honest one, and that a hostile one cannot harm it."""

import io
import os
import random
import signal
import socket
import struct
import subprocess
import tarfile
import threading
import time

import pytest

from fake_agent import DATA, EXIT, OK, REPLY, STDERR, STDIN, STDOUT, FakeAgent, fields, frame, honest, reply
from harness import PATIENCE, ROOT, Running, artifact
from mayfly import Agent, AgentError, AgentTimeout, Command, DialOut, ProcessInfo, connect
from mayfly.frames import Connection

MIB = 1 << 20


@pytest.fixture
def fake(tmp_path):
    """Makes agents, each at a socket; returns the client."""
    made = []

    def make(serve, patience=PATIENCE):
        path = tmp_path / f"{len(made)}.vsock"
        made.append(FakeAgent(path, serve))
        return Agent(path, patience=patience)
    make.made = made
    yield make
    for one in made:
        one.close()


class OfTheHost(Agent):
    """A client of the real agent, built for the host with the sanitizers: no CONNECT."""

    def connect(self, deadline):
        return Connection(connect(self.uds_path))


AGENTS = ["fake", *(["real"] if (ROOT / "rootfs/init/agent.h").exists() else [])]


@pytest.fixture(params=AGENTS)
def agent(request, fake, tmp_path):
    """The client of an agent that does what it is asked, with a folder as its root."""
    guest = tmp_path / "guest"
    guest.mkdir()
    if request.param == "fake":
        client = fake(honest(guest))
        client.folder = guest
        yield client
        return
    running = Running([artifact("integration/agent_host"), tmp_path / "real", guest])
    running.wait_file(tmp_path / "real")
    client = OfTheHost(tmp_path / "real")
    client.folder = guest
    yield client
    assert running.process.poll() is None, running.said()
    running.signal(signal.SIGTERM)
    running.wait()
    running.close()


def says(*frames, wait=False):
    """An agent that says this to whatever it is asked, and hangs up; or waits for that of the client."""
    def serve(peer, _pairs):
        peer.send(*frames)
        while wait:
            peer.exactly(1)
    return serve


# ---- an honest agent ----

def test_info_and_list(agent):
    info = agent.info()
    assert (info.agent, info.main, info.returncode) == ((ROOT / "VERSION").read_text().strip(), "none", None) and info.kernel and info.uptime > 0
    with agent.popen(["sleep", "1000"]):
        assert all(isinstance(process, ProcessInfo) for process in agent.list())


def test_run(agent):
    done = agent.run(["sh", "-c", "echo out; echo err >&2; exit 7"], capture_output=True)
    assert (done.returncode, done.stdout, done.stderr) == (7, b"out\n", b"err\n")
    assert agent.run(["sh", "-c", "kill -9 $$"]).returncode == -9
    assert agent.run(Command(["sh", "-c", "echo $A; pwd"], env={"A": "b=c"}, cwd="/usr"), capture_output=True).stdout == b"b=c\n/usr\n"
    with pytest.raises(subprocess.CalledProcessError):
        agent.run(["false"], check=True)
    with pytest.raises(AgentError, match="no-such-program: ") as error:
        agent.run(["no-such-program"])
    assert error.value.code == 127


def test_run_passes_output_on(agent, capfdbinary):
    agent.run(["sh", "-c", "echo out; echo err >&2"])
    assert capfdbinary.readouterr() == (b"out\n", b"err\n")


def test_input_and_output_at_once(agent):
    """More of both than any buffer holds."""
    data = random.Random(1).randbytes(3 * MIB)
    assert agent.run(["cat"], input=data, capture_output=True).stdout == data
    assert agent.run(["head", "-c", "5"], input=data, capture_output=True).stdout == data[:5]  # it does not take all
    assert agent.run(["cat"], input=b"", capture_output=True).stdout == b""
    with pytest.raises(AgentError, match="more than 1000 bytes"):
        agent.run(["cat"], input=data, capture_output=True, limit=1000)


def test_time_limit(agent):
    with pytest.raises(AgentTimeout, match="0.5 s") as late:
        agent.run(["sh", "-c", "echo begun; sleep 1000"], capture_output=True, timeout=0.5)
    assert late.value.stdout == b"begun\n" and isinstance(late.value, TimeoutError)


def test_popen(agent):
    with agent.popen(["sh", "-c", "read x; echo got $x; read x; echo $x >&2; exit 3"]) as process:
        assert process.poll() is None and process.pid > 1
        process.stdin.write(b"one\n")
        assert process.stdout.read(8) == b"got one\n"
        process.stdin.write(b"two\n")
        assert process.stderr.read(4) == b"two\n" and process.stdout.read() == b""
        assert process.wait(PATIENCE) == 3 and process.returncode == 3
        process.kill()  # of one that is gone, does nothing


def test_popen_ends(agent):
    with agent.popen(["sleep", "1000"]) as process:
        with pytest.raises(AgentTimeout, match="still runs"):
            process.wait(0.1)
        process.resize(24, 80)
        process.terminate()
        assert process.wait(PATIENCE) == -signal.SIGTERM
    with agent.popen(["sh", "-c", "cat; echo ended"]) as process:
        process.stdin.close()
        assert process.stdout.read() == b"ended\n" and process.wait(PATIENCE) == 0
    with agent.popen(["yes"]):  # nobody reads, and it is left
        time.sleep(0.05)
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("agent-")]


def test_files(agent, tmp_path):
    data = random.Random(2).randbytes(MIB)
    agent.put("/a", data, mode=0o600)
    assert (agent.folder / "a").read_bytes() == data and (agent.folder / "a").stat().st_mode & 0o777 == 0o600
    assert agent.get("/a") == data
    agent.put("/b", io.BytesIO(b"file"))
    agent.get_file("/b", tmp_path / "b")
    assert (tmp_path / "b").read_bytes() == b"file"
    for act in (lambda: agent.get("/none"), lambda: agent.get_file("/none", tmp_path / "none"), lambda: agent.put("/none/x", data)):
        with pytest.raises(AgentError, match="/none.*: No such file"):
            act()
    with pytest.raises(AgentError, match="more than was asked for"):
        agent.get("/a", limit=MIB - 1)
    assert sorted(path.name for path in tmp_path.iterdir() if not path.is_socket()) == ["b", "guest"]


def test_trees(agent, tmp_path):
    ours, back = tmp_path / "ours", tmp_path / "back"
    for folder in (ours / "deep/er", back, agent.folder / "there"):
        folder.mkdir(parents=True)
    (ours / "deep/er/file").write_bytes(b"x" * 100_000)
    (ours / "deep/link").symlink_to("er/file")
    (ours / "up").mkdir()
    (ours / "up/link").symlink_to("../deep/er")
    (ours / "empty").touch()
    (ours / "empty").chmod(0o755)
    (ours / ("n" * 200)).write_bytes(b"long")
    os.link(ours / "empty", ours / "same")
    agent.put_tree("/there", ours)
    agent.get_tree("/there", back)
    def tree(top):
        return {str(p.relative_to(top)): (os.readlink(p) if p.is_symlink() else p.is_dir() or (p.read_bytes(), p.stat().st_mode & 0o777)) for p in top.rglob("*")}
    assert tree(back) == tree(ours) and len(tree(back)) == 9
    archive = io.BytesIO()
    agent.get_tar("/there", archive)
    assert "deep/er/file" in [name.removeprefix("./") for name in tarfile.open(fileobj=io.BytesIO(archive.getvalue())).getnames()]


def test_what_it_says(fake):
    said = frame(REPLY, fields(("ok", 1), ("process", "1 0 0 S 400 init"), ("process", "17 1 1000 R 12 a b")))
    assert fake(says(said)).list() == [ProcessInfo(1, 0, 0, "S", 400, "init"), ProcessInfo(17, 1, 1000, "R", 12, "a b")]
    info = fake(says(reply(ok=1, version=1, agent="0.1.0", kernel="6.12.0", uptime_us=1500000, main="ended", signal=9))).info()
    assert info == ("0.1.0", "6.12.0", 1.5, "ended", -9)


def test_what_is_asked(fake):
    """Every request has the fields of the protocol."""
    client = fake(says(reply(ok=1, code=3)))
    asked = fake.made[0].requests
    client.kill("main", signal.SIGHUP)
    client.kill_all(9)
    assert client.stop(seconds=2, signal=15) == 3
    client.clock(17)
    client.reseed(bytes(32), "clone")
    client.hostname("h")
    client.network(ip="10.0.0.2/24", gw="10.0.0.1", dns=["1.1.1.1", "8.8.8.8"], mtu=1400)
    client.main_detached(Command(["x"], entrypoint=[]))
    assert asked == [[("op", "kill"), ("pid", "main"), ("signal", "1")], [("op", "kill"), ("all", "1"), ("signal", "9")], [("op", "stop"), ("seconds", "2"), ("signal", "15")],
                     [("op", "clock"), ("ns", "17")], [("op", "reseed"), ("seed", "0" * 64), ("hostname", "clone")], [("op", "hostname"), ("name", "h")],
                     [("op", "network"), ("ip", "10.0.0.2/24"), ("gw", "10.0.0.1"), ("dns", "1.1.1.1,8.8.8.8"), ("mtu", "1400")],
                     [("op", "main"), ("arg", "x"), ("entrypoint", ""), ("detach", "1")]]


def test_what_a_command_asks(fake):
    client = fake(says(OK, frame(STDOUT), frame(STDERR), frame(EXIT, fields(("code", 0)))))
    command = Command(["a", ""], env={"K": "v"}, cwd="/", user="1:2", tty=True, rows=3, cols=4, caps=["CAP_KILL", "CAP_CHOWN"], ambient=["CAP_KILL"], inheritable=["CAP_CHOWN"], groups=["5", "a"], no_new_privs=True,
                      rlimits={"nofile": (1, 2)}, readonly=True, oom_score_adj=-5, umask=0o22)
    assert client.run(command, input=b"").returncode == 0
    assert fake.made[0].requests == [[("op", "exec"), ("arg", "a"), ("arg", ""), ("env", "K=v"), ("cwd", "/"), ("user", "1:2"), ("rows", "3"), ("cols", "4"),
                                      ("oom_score_adj", "-5"), ("tty", "1"), ("no_new_privs", "1"), ("readonly", "1"), ("caps", "CAP_KILL,CAP_CHOWN"), ("ambient", "CAP_KILL"), ("inheritable", "CAP_CHOWN"), ("group", "5"), ("group", "a"),
                                      ("rlimit", "nofile=1:2"), ("umask", "0022"), ("stdin", "1")]]
    with client.main() as process:
        assert process.wait(PATIENCE) == 0 and process.pid is None and process.stdin is None
    with client.attach() as process:
        assert process.wait(PATIENCE) == 0 and process.stdin
    assert [dict(pairs).get("attach") for pairs in fake.made[0].requests[1:]] == [None, "1"]


def test_long_requests(fake):
    """In several frames; what is too long is refused before anything is sent."""
    client = fake(says(OK, frame(EXIT, fields(("code", 0)))))
    args = [str(n) * 1000 for n in range(200)]
    client.run(args)
    assert [value for key, value in fake.made[0].requests[0] if key == "arg"] == args
    for bad, why in ((["x" * 70000], "65536"), (["x" * 60000] * 20, "1048576"), (["a\0b"], "NUL")):
        with pytest.raises(ValueError, match=why):
            client.run(bad)
    assert len(fake.made[0].requests) == 1


def test_it_calls(tmp_path):
    """The agent's own connection is used first, then ours."""
    path = tmp_path / "vsock"
    with DialOut(path) as dial_out:
        assert os.stat(dial_out.path).st_mode & 0o777 == 0o600
        with pytest.raises(AgentTimeout, match="called within"):
            dial_out.accept(0.05)
        server = FakeAgent(path, honest(tmp_path))
        caller = socket.socket(socket.AF_UNIX)
        caller.connect(dial_out.path)
        thread = threading.Thread(target=server.talk, args=[caller, False])
        thread.start()
        client = dial_out.agent()
        assert client.info().main == "none" and client.info().main == "none"
        thread.join(PATIENCE)
        server.close()
    assert not os.path.lexists(f"{path}_1024")


# ---- a hostile one ----

def test_nobody_is_there(tmp_path):
    with pytest.raises(AgentError, match="No such file"):
        Agent(tmp_path / "none").info()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "mute"))
        listener.listen()
        with pytest.raises(AgentTimeout):
            Agent(tmp_path / "mute", patience=0.2).info()


HEADER = struct.Struct("<IBBH")
BAD = {
    "nothing": b"", "half a header": b"\1\0\0", "half a frame": OK[:-1], "unknown type": HEADER.pack(0, 10, 0, 0), "type 0": bytes(8),
    "the host's type": frame(STDIN), "reserved byte": HEADER.pack(0, REPLY, 1, 0), "reserved word": HEADER.pack(0, REPLY, 0, 1),
    "too long": HEADER.pack(65537, REPLY, 0, 0), "huge": HEADER.pack((1 << 32) - 1, REPLY, 0, 0) + bytes(1000),
    "no fields": frame(REPLY), "not ok": reply(ok=0), "ok twice": frame(REPLY, fields(("ok", 1), ("ok", 1))), "no NUL": frame(REPLY, b"ok=1"), "no equals": frame(REPLY, b"ok\0"),
    "bad key": frame(REPLY, b"OK=1\0"), "empty field": frame(REPLY, b"\0"), "not UTF-8": frame(REPLY, b"\xff=1\0"), "early data": frame(DATA, b"x"), "text": b"HTTP/1.1 200 OK\r\n\r\n",
}


@pytest.mark.parametrize("sent", BAD.values(), ids=BAD.keys())
def test_bad_answers(fake, tmp_path, sent):
    """One error, with a sentence, whatever was asked."""
    client = fake(says(sent))
    acts = [client.info, client.list, lambda: client.run(["x"], input=b"x" * MIB), client.main, lambda: client.put("/x", bytes(MIB)), lambda: client.get("/x"),
            lambda: client.get_tree("/x", tmp_path), client.stop, client.clock]
    for act in acts:
        with pytest.raises(AgentError) as error:
            act()
        assert not isinstance(error.value, AgentTimeout) and len(str(error.value)) > 10


STREAMS = {
    "hangs up": b"", "fields": frame(STDOUT) + reply(ok=1), "data": frame(DATA, b"x"), "no status": frame(EXIT), "bad status": frame(EXIT, fields(("code", 256))),
    "negative": frame(EXIT, fields(("code", -1))), "signal 0": frame(EXIT, fields(("signal", 0))), "signal 65": frame(EXIT, fields(("signal", 65))),
    "words": frame(EXIT, fields(("code", "zero"))), "Arabic digits": frame(EXIT, fields(("code", "٣"))), "endless digits": frame(EXIT, fields(("code", "1" * 5000))),
    "garbage": os.urandom(64)[:4] + b"\xff" * 60,
}


@pytest.mark.parametrize("sent", STREAMS.values(), ids=STREAMS.keys())
def test_bad_streams(fake, sent):
    client = fake(says(OK, frame(STDOUT, b"before"), sent))
    with pytest.raises(AgentError):
        client.run(["x"], input=b"y" * MIB, capture_output=True)
    with client.popen(["x"]) as process:
        assert process.stdout.read() == b"before"
        with pytest.raises(AgentError):
            process.wait(PATIENCE)


@pytest.mark.parametrize("answer", [reply(ok=1, version=0, agent="x", kernel="x", uptime_us=1, main="none"), reply(ok=1, version=1, agent="x", kernel="x", uptime_us=-1, main="none"),
                                    reply(ok=1, version=1), reply(ok=1, process="1 2 3"), reply(ok=1, process="x 0 0 S 1 c"), reply(ok=1, process="-1 0 0 S 1 c"),
                                    reply(ok=1, version=1, agent="x", kernel="x", uptime_us=1, main="ended"), reply(ok=1, process="1 0 0 S 999999999999999999999 c")])
def test_bad_values(fake, answer):
    client = fake(says(answer))
    with pytest.raises(AgentError):
        client.info()
        client.list()


def test_sentences_are_harmless(fake):
    with pytest.raises(AgentError) as error:
        fake(says(reply(error=b"\x1b[2J\x07evil\n" + b"x" * 9000 + b"\xff"))).clock()
    assert str(error.value).startswith("?[2J?evil?xxx") and len(str(error.value)) == 1000


def test_it_takes_its_time(fake):
    """A byte now and then is no progress."""
    def serve(peer, _pairs):
        for byte in OK:
            time.sleep(0.1)
            peer.send(bytes([byte]))
    with pytest.raises(AgentTimeout):
        fake(serve, patience=0.4).info()
    with pytest.raises(AgentTimeout):
        fake(says(OK, wait=True), patience=0.2).get("/x")
    with pytest.raises(AgentTimeout):
        fake(says(OK, frame(STDOUT, b"x"), wait=True)).run(["x"], timeout=0.3)


def test_endless(fake, tmp_path):
    """More than was asked for is cut off."""
    def serve(peer, _pairs):
        peer.send(OK)
        while True:
            peer.send(frame(DATA, bytes(65536)))
    client = fake(serve)
    with pytest.raises(AgentError, match="more than was asked for"):
        client.get("/x", limit=3 * MIB)
    with pytest.raises(AgentError, match="more than was asked for"):
        client.get_file("/x", tmp_path / "file", limit=3 * MIB)
    assert not list(tmp_path.glob("*file*")) and not list(tmp_path.glob(".mayfly*"))


# ---- a hostile tar ----

def tar_of(*entries):
    """Entries: name, or (name, type, link or bytes, further TarInfo fields)."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, kind, what, *more in entries:
            entry = tarfile.TarInfo(name)
            entry.type, entry.mode = kind, 0o644
            data = what if isinstance(what, bytes) else b""
            entry.linkname = "" if isinstance(what, bytes) else what
            entry.size = len(data)
            for key, value in (more[0] if more else {}).items():
                setattr(entry, key, value)
            tar.addfile(entry, io.BytesIO(data))
    return out.getvalue()


REG, DIR, SYM, LNK = tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE
TARS = {
    "absolute": tar_of(("/etc/x", REG, b"x")), "up": tar_of(("../x", REG, b"x")), "up within": tar_of(("a/../../x", REG, b"x")), "up as a directory": tar_of(("..", DIR, "")),
    "absolute link": tar_of(("l", SYM, "/etc")), "link up": tar_of(("l", SYM, "..")), "link up from below": tar_of(("d/l", SYM, "../..")),
    "through a link": tar_of(("d", DIR, "", {"mode": 0o755}), ("l", SYM, "d"), ("l/x", REG, b"x")),
    "links that add up": tar_of(("a/b/s", SYM, "../.."), ("t", SYM, "a/b/s/..")),
    "through one that was there": tar_of(("outside/x", REG, b"x")), "directory over a link": tar_of(("outside", DIR, "")),
    "hard link out": tar_of(("l", LNK, "../secret")), "hard link to a stranger": tar_of(("l", LNK, "mine")), "hard link to nothing": tar_of(("l", LNK, "none")),
    "hard link to the folder": tar_of(("l", LNK, ".")), "hard link without a target": tar_of(("l", LNK, "")), "hard link to itself": tar_of(("l", LNK, "l")),
    "device": tar_of(("dev", tarfile.CHRTYPE, "", {"devmajor": 1, "devminor": 3})), "long": tar_of(("x/" * 3000, REG, b"x")),
    "deep": tar_of(("x/" * 300 + "x", REG, b"")), "too much": tar_of(("x", REG, bytes(2 * MIB))), "cut": tar_of(("x", REG, bytes(9999)))[:4096], "empty": b"", "no tar": b"x" * 10240,
    "many": tar_of(*((f"{n}", REG, b"") for n in range(30))), "file without a name": tar_of(("./", REG, b"")), "file over a directory": tar_of(("d", DIR, "", {"mode": 0o755}), ("d", REG, b"x")),
    "endless": tar_of(("x", REG, b"x")) + bytes(3 * MIB),
    "wrong checksum": tar_of(("x", REG, b"x")).replace(b"ustar", b"ustaR", 1), "negative size": None, "sparse": None, "size in pax": None, "pax without end": None,
}


def header(name, size, kind=b"0"):
    """A header with a size of any bytes."""
    raw = bytearray(tarfile.TarInfo(name).tobuf(tarfile.USTAR_FORMAT))
    raw[124:136], raw[156:157], raw[148:156] = size, kind, b" " * 8
    raw[148:156] = b"%06o\0 " % sum(raw)
    return bytes(raw)


def pax(body):
    return header("pax", b"%011o\0" % len(body), b"x") + body + bytes(-len(body) % 512)


TARS["negative size"] = header("x", b"\xff" * 12) + bytes(1024)
TARS["sparse"] = pax(b"22 GNU.sparse.major=1\n") + header("x", b"%011o\0" % 0) + bytes(1024)
TARS["size in pax"] = pax(b"29 size=99999999999999999999\n") + header("x", b"%011o\0" % 0) + bytes(1024)
TARS["pax without end"] = pax(b"999 path=x\n") + header("x", b"%011o\0" % 0) + bytes(1024)
TARS["pax of length 0"] = pax(b"0 path=x\n") + header("x", b"%011o\0" % 0) + bytes(1024)
TARS["huge size"] = header("x", b"\x80" + b"\x7f" * 11) + bytes(1024)
TARS["huge pax"] = header("x", b"\x80" + bytes(7) + b"\x7f\xff\xff\xff", b"x") + bytes(1024)


def snapshot_of(top):
    return {str(p.relative_to(top)): (p.lstat().st_mode, os.readlink(p) if p.is_symlink() else p.is_file() and p.read_bytes()) for p in top.rglob("*") if not p.is_socket()}


@pytest.mark.parametrize("archive", TARS.values(), ids=TARS.keys())
def test_bad_tar(fake, tmp_path, archive):
    """Refused, and nothing is made or changed outside of the folder."""
    top, inside = tmp_path / "top", tmp_path / "top/inside"
    inside.mkdir(parents=True)
    (top / "secret").write_bytes(b"secret")
    (inside / "mine").write_bytes(b"mine")
    (inside / "outside").symlink_to("..")
    def others():
        return {name: held for name, held in snapshot_of(top).items() if not name.startswith("inside/")}
    before = others()
    client = fake(says(OK, *(frame(DATA, archive[at:at + 65536]) for at in range(0, len(archive), 65536)), frame(DATA)))
    with pytest.raises(AgentError):
        client.get_tree("/", inside, limit=MIB, most_entries=25)
    assert others() == before and (inside / "mine").read_bytes() == b"mine" and (inside / "mine").stat().st_nlink == 1


def test_tar_takes_the_place(fake, tmp_path):
    """Of files and links that were there, which are not written through; a mode has no setuid bit."""
    target = tmp_path / "target"
    target.write_bytes(b"safe")
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "link").symlink_to(target)
    os.link(target, folder / "hard")
    archive = tar_of(("link", REG, b"new"), ("hard", REG, b"new", {"mode": 0o6755}), ("late", SYM, "link"), ("late", REG, b"2"), ("fifo", tarfile.FIFOTYPE, ""))
    fake(says(OK, frame(DATA, archive), frame(DATA))).get_tree("/", folder)
    assert target.read_bytes() == b"safe" and (folder / "link").read_bytes() == b"new" and (folder / "late").read_bytes() == b"2"
    assert (folder / "hard").stat().st_mode & 0o7777 == 0o755 and not (folder / "fifo").exists()


def test_noise(fake, tmp_path):
    """Thousands of answers that chance made of real ones."""
    chance = random.Random(3)
    good = [OK, reply(ok=1, pid=5), frame(STDOUT, b"x" * 10), frame(STDERR), frame(EXIT, fields(("code", 1))), frame(DATA, b"y"), frame(DATA), TARS["link up"][:1024]]
    answers = []
    for _ in range(3000):
        answer = bytearray(b"".join(chance.choices(good, k=chance.randint(1, 4))))
        for _ in range(chance.randint(0, 3)):
            answer[chance.randrange(len(answer))] = chance.randrange(256)
        answers.append(bytes(answer))
    given = iter(answers)
    client = fake(lambda peer, _pairs: peer.send(next(given)))
    acts = [client.info, client.list, lambda: client.run(["x"], input=b"y", capture_output=True), lambda: client.get("/x"), lambda: client.put("/x", b"z"),
            lambda: client.get_tree("/", tmp_path)]
    refused = 0
    for n in range(len(answers)):
        try:
            acts[n % len(acts)]()
        except AgentError:
            refused += 1
    assert len(answers) / 2 < refused < len(answers)
