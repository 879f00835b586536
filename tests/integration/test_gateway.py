"""The functions gateway without a guest: it removes no folder of others, follows no link of a jail's, and loses no copy whatever a zygote answers."""

import os
import signal
import socket
import subprocess
import sys
import threading

import pytest

from harness import PATIENCE, ROOT, Running

sys.path.insert(0, str(ROOT / "examples/faas"))
import gateway  # noqa: E402 (found by the line above)
from mayfly import ApiError  # noqa: E402

PROGRAM = ROOT / "examples/faas/gateway.py"


def command(folder):
    (folder / "functions.json").write_text("{}")
    return [sys.executable, str(PROGRAM), str(folder / "functions.json"), "--port", "0", "--run", str(folder / "run")]


def test_a_folder_of_its_own(tmp_path):
    server = Running(command(tmp_path))
    try:
        server.expect(rb"gateway: http://127.0.0.1:\d+\n")
        assert (tmp_path / "run").is_dir()
        server.signal(signal.SIGTERM)
        assert server.wait(PATIENCE).code == 0 and not (tmp_path / "run").exists()
    finally:
        server.close()


def test_a_folder_that_is_there(tmp_path):
    """Is not taken, and above all not removed."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run/dear").write_text("mine")
    process = subprocess.Popen(command(tmp_path), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        line = process.stdout.readline()
        process.terminate()
        error = process.communicate(timeout=PATIENCE)[1]
    finally:
        process.kill()
    assert line == "" and "File exists" in error and process.returncode == 2
    assert (tmp_path / "run/dear").read_text() == "mine"


# ---- a zygote's answers ----

class Machine:
    """A microVM whose API answers a fork in a way of its own."""

    def __init__(self, answer):
        self.answer, self.stops = answer, 0

    def fork(self, _copies):
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    def stop(self):
        self.stops += 1


def zygote(answer, folder):
    made = gateway.Zygote.__new__(gateway.Zygote)
    made.function, made.lock, made.count, made.vm = gateway.Function("f", "", "", ""), threading.Lock(), 0, Machine(answer)
    made.sockets, made.parents = gateway.Sockets(folder), [os.getpid()]
    return made


@pytest.mark.parametrize("answer", [TimeoutError("timed out"), ConnectionResetError(), KeyError("copies"), RuntimeError(), [], None, "x", [1], [{}], [{"pid": "x"}],
                                    [{"pid": None}], [{"pid": 1}, {"pid": 2}]], ids=str)
def test_a_copy_that_may_be_there(tmp_path, answer):
    """Who does not say which copy there is ends, and it with him."""
    one = zygote(answer, tmp_path)
    with pytest.raises(gateway.Failed, match="f: no microVM"):
        one.fork()
    assert one.vm.stops == 1


def test_no_copy(tmp_path):
    """One refusal costs a request, not the zygote."""
    one = zygote(ApiError("PUT", "/fork", 400, "no memory"), tmp_path)
    with pytest.raises(gateway.Failed, match="no memory"):
        one.fork()
    assert one.vm.stops == 0


@pytest.mark.parametrize("pid", [-1, 0, 1, 1 << 31, 1 << 70])
def test_a_copy_that_is_none(tmp_path, pid):
    with pytest.raises(gateway.Failed):
        zygote([{"pid": pid}], tmp_path).fork()


def test_a_copy(tmp_path):
    child = subprocess.Popen(["sleep", str(10 * PATIENCE)])
    instance = zygote([{"pid": child.pid}], tmp_path).fork()
    (tmp_path / "1").touch()
    instance.kill()
    instance.bury()
    assert child.wait(PATIENCE) == -signal.SIGKILL and not (tmp_path / "1").exists()


# ---- sockets in a jail ----

@pytest.fixture
def loader(tmp_path):
    """A socket called `real` in a folder, behind which somebody answers, and who was there."""
    folder = tmp_path / "run"
    folder.mkdir()
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(folder / "real"))
    listener.listen()
    heard = []

    def serve():
        while True:
            try:
                stream = listener.accept()[0]
            except OSError:
                return
            with stream, stream.makefile("rwb") as file:
                heard.append(file.readline())
                file.write(b"OK 5\n")
                file.flush()
                file.readline()
                file.write(b"200 text/plain 2 7\nhi")
    thread = threading.Thread(target=serve)
    thread.start()
    yield folder, heard
    listener.shutdown(socket.SHUT_RDWR)
    thread.join(PATIENCE)
    listener.close()


def ask(sockets, name):
    return gateway.converse(sockets, name, "GET", "/", b"", PATIENCE)


def test_a_socket(loader):
    folder, heard = loader
    assert ask(gateway.Sockets(folder), "real") == gateway.Reply(200, "text/plain", b"hi", 7) and heard == [b"CONNECT 8000\n"]


def test_what_is_no_socket(loader):
    """A link to somebody else's socket above all."""
    folder, heard = loader
    (folder / "link").symlink_to(folder / "real")
    (folder / "file").touch()
    os.mkfifo(folder / "fifo")
    (folder / "folder").mkdir()
    sockets = gateway.Sockets(folder)
    for name in ("link", "file", "fifo", "folder", "nothing"):
        with pytest.raises(gateway.Failed) as caught:
            ask(sockets, name)
        assert caught.value.status == 502
        sockets.remove(name)
    assert not heard and sorted(os.listdir(folder)) == ["folder", "real"]


def test_a_folder_that_becomes_a_link(loader, tmp_path):
    """What was opened before the guest ran counts."""
    folder, heard = loader
    (tmp_path / "others").mkdir()
    (tmp_path / "others/real").touch()
    sockets = gateway.Sockets(folder)
    folder.rename(tmp_path / "away")
    folder.symlink_to(tmp_path / "others")
    assert ask(sockets, "real").body == b"hi" and heard
    sockets.remove("real")
    assert (tmp_path / "others/real").exists() and not (tmp_path / "away/real").exists()
    with pytest.raises(OSError):
        gateway.Sockets(folder)
