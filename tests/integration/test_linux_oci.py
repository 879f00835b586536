"""Containers of podman and of containerd, with and without Kubernetes, as microVMs, by naming mayfly-oci as their runtime."""

import fcntl
import json
import os
import pty
import re
import signal
import struct
import subprocess
import termios
import time
import urllib.request
from pathlib import Path

import grpc
import pytest

from engines import IMAGE, Containerd, Engine, Podman, oci_layout
from harness import IN_LAB, PATIENCE, artifact
from kubelet import Kubelet

pytestmark = [pytest.mark.linux, pytest.mark.host_has(IN_LAB)]

OCI = artifact("mayfly-oci")
CGROUPS = Path("/sys/fs/cgroup")
LONG = 2 * PATIENCE


@pytest.fixture(scope="module")
def layout(tmp_path_factory):
    return oci_layout(tmp_path_factory.mktemp("layout"))


@pytest.fixture(scope="module")
def podman(layout):
    engine = Podman("/dev/shm/podman", OCI)
    engine.load(layout)
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def containerd(layout):
    engine = Containerd("/dev/shm/containerd", OCI)
    engine.load(layout)
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def kubelet(layout, tmp_path_factory):
    engine = Kubelet("/dev/shm/kubelet", OCI, tmp_path_factory.mktemp("networks"))
    engine.load(layout)
    yield engine
    engine.close()


def leftovers():
    """What a container that is gone may not leave: processes, state, jails, disks, cgroups, mounts, network namespaces."""
    processes = [args for args in (path.read_bytes().split(b"\0") for path in Path("/proc").glob("[0-9]*/cmdline") if path.exists())
                 if Path(os.fsdecode(args[0])).name in ("mayfly", "mayfly-jailer", "mayfly-oci", "conmon", "containerd-shim-runc-v2")]
    places = ["/run/mayfly-oci/*", "/run/containerd/runc/*/*", "/var/lib/mayfly/jails/mayfly/*", "/var/lib/mayfly/tmp/*", "/run/netns/*"]
    files = [path for place in places for path in Path("/").glob(place[1:])]
    cgroups = [path for path in CGROUPS.glob("**/") if re.search(r"libpod-|/default/|mayfly-oci/.|/kubepods/.", str(path))]
    mounts = [line for line in Path("/proc/self/mounts").read_text().splitlines() if "/merged " in line or "/rootfs " in line]
    return [*processes, *files, *cgroups, *mounts]


@pytest.fixture(autouse=True)
def nothing_left():
    yield
    deadline = time.monotonic() + PATIENCE
    while leftovers() and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not leftovers()


def until(condition, what):
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"not within {PATIENCE} s: {what}"
        time.sleep(0.1)


# ---- podman ----

def test_podman_run(podman, tmp_path):
    """One container shows most of what config.json can say: streams, status, limits, user, environment, mounts, settings."""
    folder, file, work = tmp_path / "folder", tmp_path / "file", tmp_path / "work"
    (work / "sub").mkdir(parents=True)
    (work / "sub/todo").write_text("to be done")
    work.chmod(0o777)
    (folder / "deep").mkdir(parents=True)
    (folder / "deep/word").write_text("from the host")
    file.write_text("one file")
    script = """cat; echo error >&2; id; free -m | awk '/Mem/ { print "mem=" $2 }'; echo cpus=$(nproc) env=$A $FROM_IMAGE host=$(hostname)
        cat /folder/deep/word /etc/file; touch /folder/x || echo folder is read-only
        cat /deep/work/sub/todo; echo done >/deep/work/result && cat /deep/work/result; touch /written && echo root is writable
        cat /proc/sys/net/ipv4/ip_local_port_range; pwd; umask; ulimit -n; grep CapBnd /proc/self/status; grep NoNewPrivs /proc/self/status; uname -r; exit 7"""
    out = podman.run("run", "--rm", "-i", "--network=none", "--memory=100m", "--cpus=1.5", "--hostname=inside", "--env=A=b", "--workdir=/tmp",
                     "--user=1000:1000", "--umask=027", "--ulimit=nofile=100:200", "--cap-drop=all", "--cap-add=kill",
                     "--security-opt=no-new-privileges", "--sysctl=net.ipv4.ip_local_port_range=1111 2222", f"--volume={folder}:/folder:ro",
                     f"--volume={file}:/etc/file", f"--volume={work}:/deep/work", "--annotation=org.mayfly.folders=copy", "--tmpfs=/scratch", IMAGE, "sh", "-c", script, input=b"input\n", expected=7, timeout=LONG)
    text = out.out
    assert text.startswith("input\nuid=1000(worker) gid=1000(worker)"), text
    assert out.err.endswith("error\n") or "error\n" in out.err, out
    assert 70 <= int(re.search(r"mem=(\d+)", text).group(1)) <= 100
    assert "cpus=2 env=b yes host=inside\n" in text
    assert "from the hostone file" in text and "folder is read-only" in text
    assert "to be donedone\n" in text and not (work / "result").exists(), "a copy, and none that comes back"
    assert "root is writable" not in text, "uid 1000 may write to /"
    assert re.search(r"^1111\s+2222$", text, re.M) and "\n/tmp\n0027\n100\n" in text, text
    assert "CapBnd:\t0000000000000020" in text and "NoNewPrivs:\t1" in text, text
    assert os.uname().release not in text, "the host's kernel"


def test_podman_commands_that_cannot_run(podman):
    missing = podman.run("run", "--rm", "--network=none", IMAGE, "nosuch", expected=127)
    assert "executable file not found" in missing.err
    denied = podman.run("run", "--rm", "--network=none", IMAGE, "/etc/passwd", expected=126)
    assert "permission denied" in denied.err.lower()


@pytest.mark.parametrize("options,sentence", [
    (["--volume=/tmp:/there"], "/there: a folder of the host cannot be written to"),
    (["--network=host"], "never the host's"),
], ids=["folder", "network"])
def test_podman_refusals(podman, options, sentence):
    """What a microVM cannot have is said, by name (the unit tests have all of it)."""
    out = podman.run("run", "--rm", *(options if "--network=host" in options else [*options, "--network=none"]), IMAGE, "true", expected=126)
    assert sentence in out.err


def test_podman_life(podman):
    """Detached: limits in the cgroup, exec, pause, stop, logs, start again with what was written, rm."""
    script = "trap 'echo bye; exit 4' TERM; cat /kept 2>/dev/null; echo once >/kept; echo hi; while sleep 1; do :; done"
    name = podman.run("run", "--detach", "--name=life", "--network=none", "--memory=80m", "--cpus=0.5", IMAGE, "sh", "-c", script,
                      timeout=LONG).out.strip()
    group = CGROUPS / f"libpod_parent/libpod-{name}"
    assert int((group / "memory.max").read_text()) == (80 << 20) + (48 << 20)
    assert (group / "cpu.max").read_text() == "50000 100000\n"
    pid = int(podman.run("inspect", "--format={{.State.Pid}}", "life").out)
    assert str(pid) in (group / "cgroup.procs").read_text().split()

    out = podman.run("exec", "--interactive", "--env=X=y", "--user=1000", "--workdir=/tmp", "life", "sh", "-c", "cat; id -u; pwd; echo $X; exit 9",
                     input=b"typed\n", expected=9, timeout=LONG)
    assert out.out == "typed\n1000\n/tmp\ny\n"
    podman.run("exec", "life", "nosuch", expected=127, timeout=LONG)
    podman.run("stop", "life", timeout=LONG)
    assert podman.run("inspect", "--format={{.State.Status}} {{.State.ExitCode}}", "life").out == "exited 4\n"
    podman.run("start", "life", timeout=LONG)
    until(lambda: podman.run("logs", "life").out == "hi\nbye\nonce\nhi\n", "the second start finds what the first wrote")
    podman.run("rm", "--force", "--time=0", "life", timeout=LONG)


def test_podman_terminal(podman):
    """A terminal that is resized, and Ctrl-C typed into it."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 33, 77, 0, 0))
    script = "trap 'echo size $(stty size); exit 5' INT; tty; echo first $(stty size); while sleep 0.1; do [ \"$(stty size)\" = '40 100' ] && echo resized; done"
    process = subprocess.Popen(podman.command("run", "--rm", "--interactive", "--tty", "--network=none", IMAGE, "sh", "-c", script),
                               stdin=slave, stdout=slave, stderr=slave, env=podman.environment(), start_new_session=True,
                               preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0))
    os.close(slave)
    said = b""

    def read_until(word):
        nonlocal said
        deadline = time.monotonic() + LONG
        while word not in said:
            assert time.monotonic() < deadline, said
            said += os.read(master, 4096)

    read_until(b"first ")
    fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 100, 0, 0))
    os.kill(process.pid, signal.SIGWINCH)
    read_until(b"resized")
    os.write(master, b"\x03")
    read_until(b"size 40 100")
    assert process.wait(LONG) == 5, said
    os.close(master)
    assert b"/dev/pts/0\r\n" in said


def test_podman_trouble_in_the_guest(podman):
    """A process that takes all memory is killed inside; a kernel that panics ends the container."""
    podman.run("run", "--name=oom", "--network=none", "--memory=64m", "--annotation=org.mayfly.scratch=tmpfs", IMAGE, "tail", "/dev/zero",
               expected=137, timeout=LONG)
    assert podman.run("inspect", "--format={{.State.OOMKilled}} {{.State.ExitCode}}", "oom").out == "true 137\n"
    podman.run("rm", "oom")
    panic = "echo 2 >/proc/sys/vm/panic_on_oom && tail /dev/zero"
    out = podman.run("run", "--rm", "--network=none", "--memory=64m", "--annotation=org.mayfly.scratch=tmpfs", IMAGE, "sh", "-c", panic,
                     expected=None, timeout=LONG)
    assert out.code == 125 and "Kernel panic" in out.err, out


def test_podman_network(podman):
    """The engine's address, both ways: a published port reaches a server inside, and the guest reaches the bridge."""
    podman.run("run", "--detach", "--name=web", "--publish=8080:80", IMAGE, "sh", "-c", "echo served >/tmp/index.html; httpd -f -p 80 -h /tmp", timeout=LONG)
    address, mac = podman.run("inspect", "--format={{.NetworkSettings.IPAddress}} {{.NetworkSettings.MacAddress}}", "web").out.split()
    inside = podman.run("exec", "web", "sh", "-c", "ip address show eth0; ping -c 1 -w 20 10.88.0.1", timeout=LONG).out
    assert address in inside and mac in inside
    for where in (address, f"{address}:80", "10.88.0.1:8080"):
        assert subprocess.run(["wget", "-q", "-T", "20", "-O", "-", f"http://{where}/"], check=True, capture_output=True, timeout=PATIENCE).stdout == b"served\n"
    podman.run("rm", "--force", "--time=0", "web", timeout=LONG)


def test_podman_pod(podman):
    """The container that holds a pod together is no machine; the two in it have each its own, and each its status."""
    podman.run("pod", "create", "--name=pod", "--hostname=peas", f"--infra-image={IMAGE}", "--infra-command=/pause", timeout=LONG)
    podman.run("create", "--pod=pod", "--name=first", IMAGE, "sh", "-c", "ip address show eth0; exit 3")
    podman.run("create", "--pod=pod", "--name=second", IMAGE, "sh", "-c", "hostname; exit 5")
    podman.run("pod", "start", "pod", timeout=LONG)
    for name, code in (("first", 3), ("second", 5)):
        assert podman.run("wait", name, timeout=LONG).out == f"{code}\n"
    address = re.search(r"inet 10\.88\.0\.(\d+)/16", podman.run("logs", "first").out)
    assert address and int(address.group(1)) > 1, "the pod's address, not that of the host's bridge"
    assert podman.run("logs", "second").out == "peas\n"
    podman.run("pod", "rm", "--force", "--time=0", "pod", timeout=LONG)


def test_keeper_killed(podman):
    """kill -9 of the process that keeps the container: its machine ends, and nothing stays behind."""
    podman.run("run", "--detach", "--name=gone", "--network=none", IMAGE, "sleep", "1000", timeout=LONG)
    os.kill(int(podman.run("inspect", "--format={{.State.Pid}}", "gone").out), signal.SIGKILL)
    assert podman.run("wait", "gone").out == "137\n"
    podman.run("rm", "gone")


# ---- containerd ----

def test_containerd_run(containerd):
    out = containerd.run("run", "--rm", "--memory-limit", str(90 << 20), "--cpus", "2", "--env", "A=b", IMAGE, "one", "sh", "-c",
                         "echo $A $(nproc); echo error >&2; exit 7", expected=7, timeout=LONG)
    assert (out.out, out.err.splitlines()[0]) == ("b 2\n", "error")
    assert "executable file not found" in containerd.run("run", "--rm", IMAGE, "two", "nosuch", expected=1, timeout=LONG).err


def test_containerd_life(containerd):
    containerd.run("run", "--detach", IMAGE, "life", "sleep", "1000", timeout=LONG)
    out = containerd.run("task", "exec", "--exec-id", "e1", "life", "sh", "-c", "echo inside; exit 6", expected=6, timeout=LONG)
    assert out.out == "inside\n"
    containerd.run("task", "exec", "--exec-id", "e2", "life", "nosuch", expected=1, timeout=LONG)
    containerd.run("task", "pause", "life")
    assert "PAUSED" in containerd.run("task", "list").out
    containerd.run("task", "resume", "life")
    assert "memory.usage" in containerd.run("task", "metrics", "life").out
    containerd.run("task", "kill", "--signal", "SIGKILL", "life", timeout=LONG)
    until(lambda: "STOPPED" in containerd.run("task", "list").out, "the task is stopped")
    assert "exit code 137" in containerd.run("task", "rm", "life").err
    containerd.run("container", "rm", "life")


# ---- Kubernetes ----

def test_kubernetes_pod(kubelet, tmp_path):
    """A pod as a kubelet makes it: its name, files, settings and address, logs, exec, statistics, new limits, a stop in time."""
    token, hosts, message = tmp_path / "token", tmp_path / "hosts", tmp_path / "message"
    token.mkdir()
    (token / "token").write_text("secret\n")
    hosts.write_text("10.77.7.99 other\n")
    message.write_text("")
    mounts = [("/var/run/secrets/kubernetes.io/serviceaccount", token, True), ("/etc/hosts", hosts, False), ("/dev/termination-log", message, False)]
    script = """echo $(hostname) $HOSTNAME $A; cat /proc/sys/net/ipv4/ip_unprivileged_port_start /etc/hosts /etc/resolv.conf
        httpd -p 80 -h /etc; cat /var/run/secrets/kubernetes.io/serviceaccount/token; echo error >&2; trap 'exit 5' TERM; echo up; while sleep 1; do :; done"""
    with kubelet.pod("web", sysctls={"net.ipv4.ip_unprivileged_port_start": "7"}) as pod:
        assert pod.wait(pod.run("init", "ip", "-4", "address")) == 0
        until(lambda: f"inet {pod.address}/24" in pod.log("init"), "it has the pod's address, which the next one gets")
        web = pod.run("web", "sh", "-c", script, mounts=mounts)
        beside = pod.run("beside", "sh", "-c", "hostname; exit 3")
        until(lambda: {"up", "error"} <= set(pod.log("web").splitlines()), "it is up")
        assert pod.log("web").replace("error\n", "") == "web web b\n7\n10.77.7.99 other\nsearch default.svc.cluster.local\nnameserver 10.77.7.1\nsecret\nup\n"
        with urllib.request.urlopen(f"http://{pod.address}/passwd", timeout=PATIENCE) as answer:
            assert answer.read().startswith(b"root:")
        assert pod.wait(beside) == 3
        until(lambda: pod.log("beside") == "web\n", "the pod's name")

        done = kubelet.call("ExecSync", container_id=web, cmd=["sh", "-c", "echo inside; echo error >&2; exit 4"], timeout=LONG)
        assert (done.stdout, done.stderr, done.exit_code) == (b"inside\n", b"error\n", 4)
        with pytest.raises(grpc.RpcError, match="executable file not found"):
            kubelet.call("ExecSync", container_id=web, cmd=["nosuch"], timeout=LONG)
        assert kubelet.call("ContainerStats", container_id=web).stats.memory.working_set_bytes.value > 1 << 20
        kubelet.call("UpdateContainerResources", container_id=web, linux={"cpu_period": 100000, "cpu_quota": 50000})
        assert (CGROUPS / f"kubepods/{web}/cpu.max").read_text() == "50000 100000\n"
        kubelet.call("StopContainer", container_id=web, timeout=PATIENCE)
        assert pod.wait(web) == 5


def test_kubernetes_failures(kubelet, tmp_path):
    """What a pod's events and status say when it does not go well."""
    with kubelet.pod("bad", annotations={"org.mayfly.scratch": "tmpfs"}) as pod:
        missing = pod.create("missing", "nosuch")
        with pytest.raises(grpc.RpcError, match="executable file not found"):
            kubelet.call("StartContainer", container_id=missing)
        assert pod.status(missing).reason == "StartError" and pod.status(missing).exit_code == 128
        folder = pod.create("folder", "true", mounts=[("/data", tmp_path, False)])
        with pytest.raises(grpc.RpcError, match="/data: a folder of the host cannot be written to"):
            kubelet.call("StartContainer", container_id=folder)
        with pytest.raises(grpc.RpcError, match="a network of its own, never the host's"), kubelet.pod("host", namespaces={"network": 2}):
            pass
        assert pod.wait(pod.run("hungry", "sh", "-c", "head -c 300m /dev/zero | tail", memory=64 << 20)) == 137
        until(lambda: "Killed" in pod.log("hungry"), "its shell says why")


# ---- by hand ----

NETWORK_HOOK = """pid=$(sed 's/.*"pid":\\([0-9]*\\).*/\\1/')
    ip link add hook0 type veth peer name eth0 netns $pid; ip addr add 10.99.0.1/24 dev hook0; ip link set hook0 up
    nsenter --net=/proc/$pid/ns/net sh -ec 'ip addr add 10.99.0.2/24 dev eth0; ip link set eth0 up'"""


def test_by_hand(tmp_path):
    """The commands themselves, as a person or a test suite would call them, without an engine; a hook makes the network."""
    (tmp_path / "rootfs/bin").mkdir(parents=True)
    (tmp_path / "rootfs/bin/busybox").write_bytes(Path("/bin/busybox").read_bytes())
    (tmp_path / "rootfs/bin/busybox").chmod(0o755)
    root = tmp_path / "state"

    def oci(*words, expected=0, **options):
        done = subprocess.run([OCI, "--root", root, *words], capture_output=True, text=True, timeout=LONG, **options)
        assert done.returncode == expected, done
        return done.stdout if expected == 0 else done.stderr

    oci("spec", "--bundle", tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["process"]["args"] = ["/bin/busybox", "sleep", "1000"]
    config["hooks"] = {kind: [{"path": "/bin/sh", "args": ["sh", "-ec", script], "env": [f"PATH={os.environ['PATH']}:/usr/sbin:/sbin"]}]
                       for kind, script in (("createRuntime", NETWORK_HOOK), ("poststop", f"touch {tmp_path}/stopped"))}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert "does not exist" in oci("state", "hand", expected=1)
    assert oci("list", "--quiet") == ""
    with open(tmp_path / "out", "wb") as out:  # a keeper holds the streams that create had
        subprocess.run([OCI, "--root", root, "create", "--bundle", tmp_path, "--pid-file", tmp_path / "pid", "hand"],
                       stdin=subprocess.DEVNULL, stdout=out, stderr=out, check=True, timeout=LONG)
    state = json.loads(oci("state", "hand"))
    assert state["status"] == "created" and state["pid"] == int((tmp_path / "pid").read_text()) and state["bundle"] == str(tmp_path)
    assert "exists already" in oci("create", "--bundle", tmp_path, "hand", expected=1)
    assert "created" in oci("delete", "hand", expected=1)
    oci("start", "hand")
    assert "running" in oci("start", "hand", expected=1)
    assert "busybox" in oci("ps", "hand")
    assert "inet 10.99.0.2/24" in oci("exec", "hand", "/bin/busybox", "ip", "addr")
    subprocess.run(["/bin/busybox", "ping", "-c", "1", "-w", "60", "10.99.0.2"], check=True, timeout=LONG)
    assert json.loads(oci("list", "--format", "json"))[0]["status"] == "running"
    assert json.loads(oci("events", "--stats", "hand"))["data"]["memory"]["usage"]["usage"] > 0
    (tmp_path / "limits").write_text('{"cpu": {"quota": 20000, "period": 100000}}')
    oci("update", "--resources", tmp_path / "limits", "hand")
    assert (CGROUPS / "mayfly-oci/hand/cpu.max").read_text() == "20000 100000\n"
    assert "no signal" in oci("kill", "hand", "NOSUCH", expected=1)
    oci("kill", "hand", "TERM")
    until(lambda: json.loads(oci("state", "hand"))["status"] == "stopped", "stopped by SIGTERM")
    assert "not running" in oci("kill", "hand", expected=1)
    oci("delete", "hand")
    assert (tmp_path / "stopped").exists()
    until(lambda: "hook0" not in os.listdir("/sys/class/net"), "the kernel removes the namespace's interfaces")
    assert "does not exist" in oci("delete", "hand", expected=1)
    oci("delete", "--force", "hand")
