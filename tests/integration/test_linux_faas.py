"""The functions gateway: each request by a fork of its own, limits hold, and nothing is left behind."""

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from harness import PATIENCE, ROOT, Running, artifact
from jailer import GID, UID
from linux_guest import UP

pytestmark = pytest.mark.linux

FUNCTIONS = {  # runtime, and the rest
    "hello": ("images/rootfs.erofs", {"memory_mib": 48, "seconds": 30, "instances": 2, "warm": [{"body": "x"}]}),
    "python": ("images/debian.ext4", {"memory_mib": 96, "seconds": 60, "instances": 2}),
    "broken": ("images/rootfs.erofs", {"memory_mib": 64}),
}


class Server:
    """The gateway, and what it left on the host."""

    def __init__(self, folder, names=tuple(FUNCTIONS), user=()):
        subprocess.run([ROOT / "examples/faas/make-functions", "hello", "python"], check=True, timeout=PATIENCE, env={**os.environ, "BUILD": str(folder)})
        config = {name: {"kernel": str(artifact(UP)), "runtime": str(artifact(runtime)), "code": str(folder / f"faas/{name}.erofs"), **rest}
                  for name, (runtime, rest) in FUNCTIONS.items() if name in names}
        (folder / "faas/broken.erofs").write_bytes(bytes(4096))
        (folder / "functions.json").write_text(json.dumps(config))
        self.run = folder / "run"
        self.running = Running([*user, sys.executable, ROOT / "examples/faas/gateway.py", folder / "functions.json", "--port", "0", "--run", self.run],
                               env={"FAAS_BOOT_SECONDS": str(2 * PATIENCE)})
        self.port = int(self.running.expect(rb"gateway: http://127.0.0.1:(\d+)\n").group(1))

    def ask(self, path, body=None):
        """Status and text of an answer."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", body, timeout=2 * PATIENCE) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    @staticmethod
    def processes(name):
        """The mayfly processes of a function: its zygote, the one that makes copies, and copies."""
        found = set()
        for entry in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                words = entry.read_bytes().split(b"\0")
            except OSError:
                continue
            if os.path.basename(words[0]) == b"mayfly" and words[2] == name.encode():
                found.add(int(entry.parent.name))
        return found

    def quiet(self, name, before):
        """No microVM of the function's is there but those of before, and no socket of one."""
        def sockets():
            return [path.name for path in self.run.glob(f"mayfly/{name}/root/run/*") if path.name.isdigit()]
        until = time.monotonic() + PATIENCE
        while self.processes(name) != before or sockets():
            assert time.monotonic() < until, (self.processes(name), before, sockets())
            time.sleep(0.05)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    instance = Server(tmp_path_factory.mktemp("faas"))
    yield instance
    instance.running.close()


def test_it_serves(server):
    """By microVMs that differ in their random numbers, know what time it is, and are gone afterwards."""
    server.running.expect(rb"gateway: hello is ready\n", timeout=4 * PATIENCE)
    before = server.processes("hello")
    seeds = set()
    for name in ("one", "two", "three"):
        begin = int(time.time())
        status, text = server.ask("/hello/x", name.encode())
        assert status == 200
        said, clock, seed = re.fullmatch(r"hello (\w+), it is (\d+), here is (\w{16})\n", text).groups()
        assert said == name and begin <= int(clock) <= time.time()
        seeds.add(seed)
    assert len(seeds) == 3
    server.quiet("hello", before)
    assert server.ask("/none/")[0] == 404 and server.ask("/hello/")[0] == 200
    figures = json.loads(server.ask("/")[1])["functions"]["hello"]
    assert figures["requests"] == 4 and figures["failed"] == 0


@pytest.mark.parametrize("path,status,why", [("/hello/spin", 504, "within 30 s"), ("/hello/crash", 502, "ended without"), ("/hello/eat", 502, "ended without")])
def test_limits(server, path, status, why):
    """One that hangs, dies or wants too much memory has cost this request, and is gone."""
    server.running.expect(rb"gateway: hello is ready\n", timeout=4 * PATIENCE)
    before = server.processes("hello")
    answer = server.ask(path)
    assert answer[0] == status and why in answer[1], answer
    server.quiet("hello", before)
    assert server.ask("/hello/", b"again")[1].startswith("hello again,")


def test_python(server):
    server.running.expect(rb"gateway: python is ready\n", timeout=4 * PATIENCE)
    before = server.processes("python")
    assert server.ask("/python/", b"to be or not to be") == (200, "2 to\n2 be\n1 or\n1 not\n")
    assert server.ask("/python/raise") == (500, "ValueError: as asked\n")
    first, second = (server.ask("/python/random")[1].split() for _ in range(2))
    assert first[0] != second[0] and first[1] != second[1]
    server.quiet("python", before)


def test_one_that_does_not_start(server):
    """Is said, tried again, and answered 503; the others work on."""
    server.running.expect(rb"gateway: broken does not start: the function ended|gateway: broken does not start: ", timeout=4 * PATIENCE)
    assert server.ask("/broken/")[0] == 503 and server.ask("/hello/")[0] == 200


def test_a_zygote_that_dies(server):
    """Is started anew."""
    server.running.expect(rb"gateway: hello is ready\n", timeout=4 * PATIENCE)
    os.kill(min(server.processes("hello")), signal.SIGKILL)
    server.running.expect(rb"gateway: hello is ready\n.*gateway: hello is ready\n", timeout=4 * PATIENCE)
    until = time.monotonic() + PATIENCE
    while server.ask("/hello/")[0] != 200:
        assert time.monotonic() < until


def test_nothing_is_left(server):
    server.running.signal(signal.SIGTERM)
    assert server.running.wait(2 * PATIENCE).code == 0
    assert not any(map(server.processes, FUNCTIONS)) and not server.run.exists()
    assert not list(Path("/sys/fs/cgroup").glob("**/faas-*"))


def test_as_a_user(tmp_path):
    """Without root: in a user namespace, memory limited by RLIMIT_AS."""
    for folder in (*tmp_path.parents[:-2], tmp_path):
        folder.chmod(0o755)
    os.chown(tmp_path, UID, GID)
    os.chmod("/dev/kvm", 0o666)
    server = Server(tmp_path, ["hello"], ["setpriv", "--reuid", str(UID), "--regid", str(GID), "--clear-groups"])
    try:
        server.running.expect(rb"gateway: hello is ready\n", timeout=4 * PATIENCE)
        before = server.processes("hello")
        assert server.ask("/hello/", b"you")[1].startswith("hello you,") and server.ask("/hello/crash")[0] == 502
        server.quiet("hello", before)
        assert len(before) == 2 and any(re.search(r"^Max address space +\d", Path(f"/proc/{pid}/limits").read_text(), re.M) for pid in before)
        server.running.signal(signal.SIGTERM)
        assert server.running.wait(2 * PATIENCE).code == 0 and not server.processes("hello") and not server.run.exists()
    finally:
        server.running.close()
