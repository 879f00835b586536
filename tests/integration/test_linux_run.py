"""mayfly-run with real machines: jail, kernel, agent and passt, as a normal user; what comes out, what goes in, and what is left behind."""

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import threading
import time
from pathlib import Path

import pytest

from container_tool import UID, Terminal, Tool, own
from harness import PATIENCE
from net_peer import Namespace

pytestmark = pytest.mark.linux

NONE = ("--net", "none")
CONFIG = ["cmd=/bin/sh", "env=PATH=/bin", "env=IMAGE=yes", "cwd=/work", "user=0", "stop_signal=SIGUSR1"]


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    """BusyBox with a shell, and the configuration that images carry."""
    folder = tmp_path_factory.mktemp("image")
    tree = folder / "tree"
    for name in ("bin", "dev", "etc", "proc", "run", "sys", "tmp", "work", ".mayfly"):
        (tree / name).mkdir(parents=True)
    shutil.copy("/bin/busybox", tree / "bin")
    for applet in subprocess.run(["/bin/busybox", "--list"], capture_output=True, text=True, check=True, timeout=PATIENCE).stdout.split():
        if applet != "busybox":
            (tree / "bin" / applet).symlink_to("busybox")
    (tree / "etc/passwd").write_text("root:x:0:0:root:/:/bin/sh\napp:x:1000:1001:app:/work:/bin/sh\n")
    (tree / "etc/group").write_text("root:x:0:\napp:x:1001:\n")
    (tree / ".mayfly/config").write_text("".join(f"{word}\0" for word in CONFIG))
    subprocess.run(["mkfs.erofs", "--quiet", "--all-root", folder / "image.erofs", tree], check=True, timeout=PATIENCE)
    return folder / "image.erofs"


@pytest.fixture
def tool(image):
    tool = Tool("release")
    tool.image = tool.home / "image.erofs"
    shutil.copy(image, tool.image)
    own(tool.home)
    os.chmod("/dev/kvm", 0o666)
    yield tool
    tool.close()


class Outside:
    """The network that the tool runs in, and another host behind its only cable, which is the way out for passt."""

    def __init__(self):
        self.near, self.far = Namespace(), Namespace()
        self.near.run("ip", "link", "add", "veth0", "type", "veth", "peer", "name", "veth1", "netns", str(self.far.holder.pid))
        self.near.ip_batch("link set veth0 up", "address add 192.0.2.2/24 dev veth0", "route add default via 192.0.2.1")
        self.far.ip_batch("link set veth1 up", "address add 192.0.2.1/24 dev veth1")

    def fetch(self, url):
        return self.far.run("python3", "-c", "import sys, urllib.request; print(urllib.request.urlopen(sys.argv[1], timeout=20).read().decode())", url)


@pytest.fixture
def outside():
    network = Outside()
    yield network
    network.near.close()
    network.far.close()


def once(tool, *words, code=0, options=(), **more):
    return tool.run("run", "--rm", *NONE, *options, tool.image, *words, code=code, **more)


def test_run(tool):
    """Streams, environment, user, root file system, exit status, in one go."""
    data = os.urandom(300000)
    script = r"""
        md5sum; echo err >&2; hostname; id; pwd; echo $IMAGE $A; ps -o comm | grep -c '^\['
        echo x >/new && cat /new; touch /sys/x 2>/dev/null || echo sys is read-only; cat /sys/class/net/*/address; exit 7
    """
    out, err = once(tool, "sh", "-c", script, code=7, stdin=data, options=["-i", "-e", "A=b c", "--hostname", "box"])
    lines = out.splitlines()
    assert err == "err\n" and lines[0].split()[0] == hashlib.md5(data).hexdigest()
    assert lines[1:5] == ["box", "uid=0(root) gid=0(root) groups=0(root)", "/work", "yes b c"] or lines[1:5] == ["box", "uid=0(root) gid=0(root)", "/work", "yes b c"]
    assert lines[6:] == ["x", "sys is read-only", "00:00:00:00:00:00"]
    tool.check_nothing_left()


def test_statuses_of_commands_that_fail(tool):
    assert re.search("nosuch", once(tool, "nosuch", code=127)[1])
    assert once(tool, "/etc/passwd", code=126)[1]
    assert once(tool, "sh", "-c", "id -u; id -g; touch /new || kill -KILL $$", options=["-u", "app", "--read-only"], code=137)[0] == "1000\n1001\n"
    tool.check_nothing_left()


def test_memory_used_up(tool):
    out, err = tool.run("run", "--name", "greedy", *NONE, "-m", "64M", tool.image, "tail", "/dev/zero", code=137)
    entry = tool.ps()[0]
    assert entry["oom_killed"] and entry["exit_code"] == 137 and entry["state"] == "exited"
    tool.run("rm", "greedy")
    tool.check_nothing_left()


def test_guest_panics(tool):
    err = once(tool, "true", code=125, options=["--kernel-arg", "rdinit=/nosuch", "--kernel-arg", "root=/dev/vdz"])[1]
    assert "the guest's kernel gave up: " in err and "Kernel panic" in err and err.count("\n") == 1
    tool.check_nothing_left()


def test_terminal(tool):
    script = "stty size; trap 'stty size' WINCH; echo ready; while :; do sleep 0.1; done"
    t = Terminal(tool, "run", "--rm", "-it", *NONE, tool.image, "sh", "-c", script, rows=30, cols=90)
    try:
        t.expect(b"30 90\r\n")
        t.expect(b"ready")
        assert t.is_raw()
        t.size(31, 91)
        t.expect(b"31 91")
        t.send(b"\x03")
        t.wait(130)
    finally:
        t.close()
    tool.check_nothing_left()


SERVER = """
    trap 'echo asked to stop; exit 5' USR1
    echo started; mkdir /www; echo "from $(hostname)" >/www/index.html
    httpd -p 80 -h /www
    while :; do sleep 0.1; done
"""


def test_service(tool, outside):
    """A web server behind a published port, from its start to its end."""
    tool.enter(outside.near)
    name = tool.run("run", "-d", "--name", "web", "--hostname", "web", "-p", "8080:80", tool.image, "sh", "-c", SERVER)[0].strip()
    assert [(e["id"], e["state"], e["network"]) for e in tool.ps()] == [(name, "running", "user")]
    deadline = time.monotonic() + 2 * PATIENCE
    while "started" not in tool.run("logs", "web")[0]:
        assert time.monotonic() < deadline
    assert outside.fetch("http://192.0.2.2:8080/") == "from web\n\n"
    assert "10.0.2.15/24" in tool.run("exec", "web", "ip", "address", "show", "eth0")[0]
    assert tool.run("exec", "web", "cat", "/etc/resolv.conf")[0].strip() == "nameserver 10.0.2.3"
    # Out to another host; this host's own loopback is not there for it.
    with outside.far.start("python3", "-m", "http.server", "8081", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=tool.home) as server:
        try:
            fetch = "for n in 1 2 3 4 5 6 7 8 9; do printf 'GET / HTTP/1.0\\r\\n\\r\\n' | timeout 20 nc 192.0.2.1 8081 | grep image && exit 0; sleep 1; done; exit 1"
            assert "image.erofs" in tool.run("exec", "web", "sh", "-c", fetch)[0]
        finally:
            server.kill()
    with outside.near.start("python3", "-m", "http.server", "8082", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=tool.home) as server:
        try:
            assert "image.erofs" not in tool.run("exec", "web", "sh", "-c", "printf 'GET / HTTP/1.0\\r\\n\\r\\n' | timeout 3 nc 10.0.2.2 8082; true")[0]
        finally:
            server.kill()
    # The port is taken.
    err = tool.run("run", "--rm", "-p", "8080:80", tool.image, "true", code=125)[1]
    assert "passt: Failed to bind" in err and err.count("\n") == 1
    # Files, both ways.
    (tool.home / "folder/below").mkdir(parents=True)
    (tool.home / "folder/below/file").write_bytes(os.urandom(150000))
    own(tool.home)
    tool.run("cp", "folder", "web:/www")
    tool.run("cp", "web:/www", "back")
    assert (tool.home / "back/folder/below/file").read_bytes() == (tool.home / "folder/below/file").read_bytes()
    assert tool.run("stop", "web")[0].strip() == name
    assert tool.run("wait", "web")[0] == "5\n"
    assert tool.run("logs", "web")[0] == "started\nasked to stop\n"
    tool.check_nothing_left(instances=1)
    tool.run("rm", "web")
    tool.check_nothing_left()


def test_volumes_and_scratch(tool):
    site = tool.home / "site"
    site.mkdir()
    (site / "page").write_text("words")
    own(tool.home)
    script = "cat /site/page; touch /site/new 2>/dev/null || echo is read-only; cat /kept/note 2>/dev/null; echo kept >/kept/note; df -m / | tail -1 | tr -s ' ' | cut -d ' ' -f 2"
    options = ["-v", f"{site}:/site:ro", "-v", "notes:/kept", "--scratch", "1G", "--cpus", "2"]
    first = once(tool, "sh", "-c", script, options=options)[0].splitlines()
    second = once(tool, "sh", "-c", script, options=options)[0].splitlines()
    assert first[:1] == ["wordsis read-only"] and second[:2] == ["wordsis read-only", "kept"]
    assert 800 < int(first[-1]) < 1100
    tool.check_nothing_left()


def monitor_of(entry):
    """The mayfly process: the jailer's child."""
    pid = entry["jailer"]["pid"]
    return int(Path(f"/proc/{pid}/task/{pid}/children").read_text())


def test_killed_outright(tool, outside):
    """Each part of four containers; the rest of each ends by itself, and prune takes what is left."""
    tool.enter(outside.near)
    parts = ("keeper", "jailer", "monitor", "passt")
    for part in parts:
        tool.run("run", "-d", "--name", part, "--net", "user", tool.image, "sleep", "1000")
    entries = {entry["name"]: entry for entry in tool.ps()}
    for part in parts:
        os.kill(monitor_of(entries[part]) if part == "monitor" else entries[part][part]["pid"], signal.SIGKILL)
    assert tool.wait_state("jailer", "exited")["exit_code"] == 125
    assert tool.wait_state("monitor", "exited")["exit_code"] == 137
    tool.wait_state("keeper", "dead")
    # Without its network, but there.
    assert tool.run("exec", "passt", "echo", "alive")[0] == "alive\n"
    tool.run("rm", "-f", "passt")
    assert entries["keeper"]["id"] in tool.run("ps", "--prune")[1]
    assert {e["name"] for e in tool.ps()} == {"jailer", "monitor"}
    tool.wait_no_processes()
    tool.check_nothing_left(instances=2)
    tool.run("rm", "-a")
    tool.check_nothing_left()


AT_ONCE, IN_A_ROW = (int(os.environ.get(name, "4")) for name in ("MAYFLY_AT_ONCE", "MAYFLY_IN_A_ROW"))


def test_many(tool):
    """Some at once and some in a row."""
    failed = []

    def one(number):
        try:
            assert once(tool, "sh", "-c", f"echo {number}; exit {number}", code=number, options=["-m", "64M"])[0] == f"{number}\n"
        except (AssertionError, subprocess.TimeoutExpired) as error:
            failed.append(error)

    threads = [threading.Thread(target=one, args=(number,)) for number in range(AT_ONCE)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number in range(IN_A_ROW):
        one(number)
    assert not failed, failed[0]
    tool.check_nothing_left()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_as_root(tool):
    """Every machine has a user of its own, and nothing is left of it either."""
    for path in [tool.folder, *tool.folder.rglob("*")]:
        os.chown(path, 0, 0, follow_symlinks=False)
    before = set(Path("/var/lib/mayfly").rglob("*"))
    env = {**tool.env, "HOME": "/root"}
    start = subprocess.run([*tool.argv("run", "-d", "--rm", *NONE, tool.image, "sleep", "1000")], env=env, capture_output=True, text=True, timeout=4 * PATIENCE,
                           check=True)
    name = start.stdout.strip()
    entry = json.loads(Path(f"/run/mayfly/{name}/status.json").read_text())
    assert 1879048192 <= os.stat(f"/proc/{monitor_of(entry)}").st_uid <= 2147483647
    subprocess.run(tool.argv("rm", "-f", name), env=env, check=True, timeout=4 * PATIENCE, capture_output=True)
    assert not list(Path("/run/mayfly").glob(f"{name}*"))
    assert {path.name for path in set(Path("/var/lib/mayfly").rglob("*")) - before} <= {"jails", "mayfly", "sources", "tmp"}
