"""A container's machine: the agent as a real guest's first process, with an EROFS image under it."""

import io
import os
import re
import select
import subprocess
import tarfile

import pytest

from agent_peer import RESIZE, STDIN, Agent, Conversation, fields, good, request_frames, wait_until
from harness import PATIENCE, artifact, drive, machine
from linux_guest import LAB_ONLY, TROUBLE, UP, console
from vsock_peer import Peers

pytestmark = pytest.mark.linux

CONFIG = [("entrypoint", "/bin/sh"), ("entrypoint", "-c"), ("cmd", "echo from the image; exit 7"), ("env", "PLANET=earth"),
          ("env", "PATH=/opt/bin:/bin"), ("cwd", "/work"), ("stop_signal", "SIGUSR1"), ("user", "")]
PASSWD = "root:x:0:0:root:/root:/bin/sh\nwally:x:1234:1235::/home/wally:/bin/sh\n"
GROUP = "root:x:0:\nwally:x:1235:\naudio:x:77:wally,other\nvideo:x:78:wally\ntty:x:5:\n"


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    """Busybox, two users and a configuration."""
    tree = tmp_path_factory.mktemp("tree")
    tree.chmod(0o755)
    for name in ("bin", "etc", "tmp", "opt/bin", "home/wally", "root", ".mayfly"):
        (tree / name).mkdir(parents=True)
    (tree / "tmp").chmod(0o1777)
    busybox = "/bin/busybox"
    subprocess.run(["cp", busybox, tree / "bin/busybox"], check=True)
    for applet in subprocess.run([busybox, "--list"], check=True, capture_output=True, text=True).stdout.split():
        if applet != "busybox":
            (tree / "bin" / applet).symlink_to("busybox")
    (tree / "etc/passwd").write_text(PASSWD)
    (tree / "etc/group").write_text(GROUP)
    (tree / "etc/resolv.conf").symlink_to("../run/nowhere/resolv.conf")
    (tree / "opt/bin/hello").write_text("#!/bin/sh\necho hello, $1\n")
    (tree / "opt/bin/hello").chmod(0o755)
    (tree / ".mayfly/config").write_bytes(fields(*CONFIG))
    path = tmp_path_factory.mktemp("image") / "image.erofs"
    subprocess.run(["mkfs.erofs", "-zlz4", "--all-root", path, tree], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return path


class Container:
    """A machine that has called us; first is the connection it called on."""

    def __init__(self, vmm, image, args="", disks=(), calls=True, wrapper=(), arguments=(), api=False, mem_mib=128, **sections):
        self.peers = Peers(vmm.directory / f"v{len(vmm.running)}.sock")
        listener = self.peers.listen(1024)
        listener.settimeout(2 * PATIENCE)
        drives = [drive("image", image, is_read_only=True), *disks]
        config = machine(artifact(UP), f"console=ttyS0 quiet reboot=k panic=-1 {args}", drives=drives, mem_mib=mem_mib,
                         initrd=artifact("images/container-initrd.cpio"), vsock={"guest_cid": 3, "uds_path": str(self.peers.path)}, **sections)
        if api:
            self.running, self.api = vmm.start_api(["--config-file", vmm.config_file(config), *arguments])
        else:
            self.running = vmm.start(config, list(arguments), wrapper=wrapper)
        self.agent = Agent(lambda: self.peers.dial(1024))
        self.first = Conversation(self.peers.accept(listener)) if calls else None

    def main(self, *pairs, **more):
        """Start the main command on the connection that the agent made; returns the reply's fields."""
        self.first.sock.sendall(request_frames("main", *pairs, **more))
        return good(self.first.reply())

    def shell(self, script, **more):
        """What a script prints; it must succeed, and say nothing on standard error."""
        ended = self.agent.run("sh", "-c", script, **more)
        assert (ended.code, ended.err) == (0, b""), ended
        return ended.out.decode().strip()

    def finish(self, code):
        """The machine ends, with that exit status and nothing that troubles its kernel."""
        outcome = self.running.wait(2 * PATIENCE)
        text = LAB_ONLY.sub("", console(outcome))
        assert outcome.code == code and not TROUBLE.search(text), f"status {outcome.code}\n{text}\n{outcome.err}"
        self.agent.close()
        self.peers.close()
        return text


def args(*words):
    return [("arg", word) for word in words]


def test_the_images_command(release, image):
    """What the image says is run, over the connection the agent made; its exit status becomes mayfly's."""
    container = Container(release, image)
    assert int(container.main()["pid"]) > 1
    ended = container.first.collect()
    assert (ended.out, ended.err, ended.code) == (b"from the image\n", b"", 7)
    container.finish(7)


def test_main_as_asked(release, image):
    """Another command, user, environment and folder; standard input; a read-only root."""
    container = Container(release, image, "mayfly.hostname=tree%2dhouse", calls=True)
    script = "id; pwd; env | sort; touch /tmp/file; touch /dev/shm/file || echo no shm; grep Cap /proc/self/status; wc -c; exit 130"
    container.main(*args(script), ("env", "PLANET=mars"), user="wally", cwd="/tmp", readonly=1, stdin=1)
    container.first.stdin(b"x" * 300000)
    ended = container.first.collect()
    lines = ended.out.decode().splitlines()
    assert lines[0] == "uid=1234(wally) gid=1235(wally) groups=77(audio),78(video)"
    assert lines[1] == "/tmp" and "PLANET=mars" in lines and "HOME=/home/wally" in lines and "HOSTNAME=tree-house" in lines
    assert "PATH=/opt/bin:/bin" in lines
    caps = dict(line.split(":\t") for line in lines if line.startswith("Cap"))
    assert int(caps["CapEff"], 16) == int(caps["CapPrm"], 16) == int(caps["CapAmb"], 16) == 0 and int(caps["CapBnd"], 16) == 0x800405FB
    assert lines[-1].strip() == "300000" and ended.code == 130
    assert ended.err == b"touch: /tmp/file: Read-only file system\n" and "no shm" not in lines
    container.finish(127)  # all that mayfly can say of a status above


def test_inside(release, image):
    """What a command finds: mounts, devices, processes, and nothing of the agent's."""
    container = Container(release, image, "mayfly.tmpfs_size=16m")
    container.main(*args("exec sleep 10000"))
    mounts = {line.split()[1]: line.split() for line in container.shell("cat /proc/mounts").splitlines()}
    assert mounts["/"][2] == "overlay" and mounts["/sys"][3].startswith("ro,") and mounts["/sys/fs/cgroup"][3].startswith("ro,")
    assert mounts["/dev/pts"][2] == "devpts" and mounts["/run"][2] == mounts["/dev/shm"][2] == mounts["/dev"][2] == "tmpfs"
    assert not {"/image", "/upper"} & set(mounts)
    assert container.shell("ls /").split() == ["bin", "dev", "etc", "home", "opt", "proc", "root", "run", "sys", "tmp", "work"]
    devices = container.shell("ls /dev").split()
    assert devices == ["fd", "full", "mqueue", "null", "ptmx", "pts", "random", "shm", "stderr", "stdin", "stdout", "tty", "urandom", "zero"]
    assert container.shell("stat -c '%a %F' / /dev/null /dev/shm /tmp") == "755 directory\n666 character special file\n1777 directory\n1777 directory"
    assert container.shell("echo on stdout >/dev/stdout; echo nothing >/dev/null; echo x >/dev/full 2>/dev/null || echo full", user="wally") == "on stdout\nfull"
    assert container.shell("ulimit -n; ulimit -Hn; ulimit -u") == "65536\n1048576\nunlimited"
    assert container.shell("cat /proc/sys/net/ipv4/ping_group_range").split() == ["0", "0"]
    # The upper layer is as large as it was said to be.
    assert 14 < int(container.shell("df -m / | tail -n 1").split()[1]) <= 16
    # Nobody but root may touch what is root's; root has podman's capabilities and no others.
    assert container.agent.run("touch", "/etc/passwd", user="wally").code == 1
    for command in (["mount", "-t", "tmpfs", "x", "/tmp"], ["mknod", "/tmp/null", "c", "1", "3"], ["reboot", "-f"],
                    ["chroot", "/tmp", "/x"], ["cat", "/proc/kcore"], ["dmesg", "-c"]):
        assert container.agent.run(*command).code != 0, command
    # The agent is there, but is no process of the container's; it cannot be killed by one as one of them can.
    before = container.agent.processes()
    assert [comm for *_, comm in before.values()] == ["sleep"]
    ended = container.agent.run("sh", "-c", "kill -9 1; kill -0 1 && echo still there")
    assert ended.out == b"still there\n"
    assert container.agent.refused("kill", pid=1, signal=9)
    assert container.agent.refused("kill", pid=2, signal=9)
    info = container.agent.call("info")
    assert info["main"] == "running" and info["pid"] == str(next(iter(before))) and info["version"] == "1" and int(info["uptime_us"]) > 0
    # Orphans are buried: two that end after their parents, and nothing of them is left.
    container.shell("for i in 1 2 3; do (sleep 0.1 & ) ; done; (setsid sleep 10000 >/dev/null 2>&1 </dev/null &); true")
    wait_until(lambda: sorted(comm for *_, comm in container.agent.processes().values()) == ["sleep", "sleep"], "the orphans' end")
    assert not [state for _, _, state, *_ in container.agent.processes().values() if state == "Z"]
    container.agent.call("kill", all=1, signal="KILL")
    assert container.first.collect().code == -9
    container.finish(127)


def test_exec_and_files(release, image):
    container = Container(release, image)
    agent = container.agent
    assert agent.run("hello", "you").out == b"hello, you\n"
    assert agent.refused("exec", *args("nonesuch"))["code"] == "127"
    assert agent.refused("exec", *args("/etc/passwd"))["code"] == "126"
    # Capabilities: all, some, and for a user.
    assert container.shell("mount -t tmpfs x /tmp && umount /tmp && echo mounted", caps="all") == "mounted"
    assert container.shell("date -s @1000000000 >/dev/null; date +%s", caps="CAP_SYS_TIME").startswith("10000000")
    caps = container.shell("grep -E 'Cap(Inh|Eff|Amb|Bnd)|NoNewPrivs' /proc/self/status", user="4321:99", caps="CAP_NET_RAW,CAP_KILL", ambient="CAP_NET_RAW",
                           inheritable="CAP_KILL,CAP_CHOWN", no_new_privs=1)
    assert re.findall(r"\d+", caps.replace("0000000000", "")) == ["002020", "002000", "002020", "002000", "1"], caps
    assert container.shell("grep CapAmb /proc/self/status", caps="CAP_NET_RAW,CAP_KILL", ambient="CAP_NET_RAW").endswith("0000002000"), "uid 0, too"
    assert container.shell("id -u; id -g", user="4321:99") == "4321\n99"
    assert container.shell("id", pairs=[("group", "audio"), ("group", "555")], user="4321").endswith("groups=77(audio),555")
    assert container.shell("ulimit -n; ulimit -Hn; cat /proc/self/oom_score_adj; umask; touch f; stat -c %a f", umask="077", oom_score_adj=500,
                           rlimit="RLIMIT_NOFILE=77:88", cwd="/tmp") == "77\n88\n500\n0077\n600"
    # A terminal: its size, a change of it, Ctrl-C, job control, the end of input.
    talk, _ = agent.begin("exec", *args("sh", "-c", "trap 'stty size' WINCH; tty; stty size; while :; do read line && echo got $line; done"), tty=1, stdin=1, rows=33, cols=99)
    assert b"/dev/pts/0\r\n33 99\r\n" in talk.expect(b"33 99\r\n")
    talk.send(RESIZE, fields(rows=44, cols=55))
    talk.send(STDIN, b"line\n")
    assert b"44 55\r\n" in talk.expect(b"got line\r\n")
    talk.send(STDIN, b"\x03")
    assert talk.collect(tty=True).code == -2
    ended = agent.run("sh", "-c", "read a; read b; echo got $a $b; cat", tty=1, stdin=b"one\ntwo\nrest")
    assert b"got one two\r\n" in ended.out and ended.code == 0
    # Files in and out.
    data = os.urandom(3 << 20)
    agent.put("/tmp/random", data, mode="4751", uid=1234, gid=1235)
    assert container.shell("stat -c '%a %u %g %s' /tmp/random") == f"4751 1234 1235 {len(data)}"
    got, reply = agent.get("/tmp/random")
    assert got == data and reply["size"] == str(len(data)) and reply["mode"] == "4751"
    # The image's own link leads to a file below the container's root, and what replaces it is a file.
    agent.put("/etc/resolv.conf", b"nameserver 1.2.3.4\n")
    assert container.shell("cat /etc/resolv.conf; stat -c %F /etc/resolv.conf") == "nameserver 1.2.3.4\nregular file"
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for number in range(50):
            info = tarfile.TarInfo(f"folder/{'long/' * 30}{number}")
            info.size, info.uid, info.gid = 1000 * number, 1234, 77
            tar.addfile(info, io.BytesIO(data[:info.size]))
    agent.put("/home", buffer.getvalue(), tar=1)
    assert container.shell("find /home/folder -type f -user wally -group audio | wc -l") == "50"
    back, _ = agent.get("/home/folder", tar=1)
    with tarfile.open(fileobj=io.BytesIO(back)) as tar:
        files = [member for member in tar.getmembers() if member.isfile()]
        assert len(files) == 50 and all(member.uid == 1234 and tar.extractfile(member).read() == data[:member.size] for member in files)
    # Nobody started main: stop is the end of the machine.
    assert agent.call("stop") == {"ok": "1"}
    container.finish(0)


def test_stop(release, image):
    """The image's signal first; SIGKILL for one that does not listen."""
    container = Container(release, image)
    container.main(*args("trap 'echo bye; exit 3' USR1; echo ready; while :; do sleep 0.1; done"))
    container.first.expect(b"ready\n")
    assert container.agent.call("stop", seconds=60) == {"ok": "1", "code": "3"}
    ended = container.first.collect()
    assert (ended.out, ended.code) == (b"bye\n", 3)
    container.finish(3)
    container = Container(release, image)
    container.main(*args("trap '' USR1 TERM; echo ready; while :; do sleep 0.1; done"))
    container.first.expect(b"ready\n")
    container.agent.call("kill", pid="main", signal="TERM")
    assert container.agent.call("stop", seconds=1, signal="TERM") == {"ok": "1", "signal": "9"}
    assert container.first.collect().code == -9
    container.finish(127)


def test_main_outlives_its_connection(release, image):
    """The host's program goes away and another one comes: the newest output is kept for it, and then the rest comes."""
    container = Container(release, image)
    container.main(*args("while read line; do echo \"$line\"; [ \"$line\" ] || seq 100000; done; exit 9"), stdin=1)
    container.first.send(STDIN, b"first\n")
    container.first.expect(b"first\n")
    assert "attached already" in container.agent.refused("main", attach=1)["error"]
    assert "runs already" in container.agent.refused("main")["error"]
    container.first.send(STDIN, b"\n")
    container.first.expect(b"1\n2\n")
    container.first.close()
    # It goes on without us to the end of its numbers.
    wait_until(lambda: container.shell("pidof seq || echo none") == "none", "the end of the output")
    second, _ = container.agent.begin("main", attach=1)
    kept = second.expect(b"\n100000\n")
    assert len(kept) <= 65536 and kept.endswith(b"99999\n100000\n")
    second.send(STDIN, b"second\n")
    second.expect(b"second\n")
    second.send(STDIN)
    assert second.collect().code == 9
    container.finish(9)


def test_a_killed_keeper(release, image):
    """Somebody in the container with every right kills all there is: the machine still ends with main's status."""
    container = Container(release, image)
    container.main(*args("trap '' HUP PIPE; echo ready; while ! [ -e /tmp/end ]; do sleep 0.1; done; exit 21"))
    container.first.expect(b"ready\n")
    pids = container.shell("for p in /proc/[0-9]*; do [ \"$(cat $p/comm 2>/dev/null)\" = init ] && echo ${p#/proc/}; done; true").split()
    assert "1" in pids and len(pids) > 2
    try:
        container.agent.run("sh", "-c", f"kill -9 {' '.join(pids)}")
    except Exception:  # pylint: disable=broad-except
        pass  # its own connection may be one of them
    assert container.agent.call("info")["main"] == "running"
    container.shell("touch /tmp/end")
    container.finish(21)


def test_out_of_memory(release, image):
    """The kernel kills the one that takes it all, never the agent."""
    container = Container(release, image, mem_mib=64, args="mayfly.tmpfs_size=8m")
    container.main(*args("exec tail /dev/zero"))
    assert container.first.collect().code == -9
    container.finish(127)


def test_reboot(release, image):
    container = Container(release, image)
    container.main(*args("exec reboot -f"), caps="all")
    container.finish(0)


def test_scratch_disk(release, image, tmp_path):
    """What is written stays on the disk, whose file system is left clean; further disks are where they are wanted."""
    scratch, more = tmp_path / "scratch.ext4", tmp_path / "more.ext4"
    for path in (scratch, more):
        with open(path, "wb") as disk:
            disk.truncate(16 << 20)
        subprocess.run(["mke2fs", "-q", "-t", "ext4", path], check=True, stdout=subprocess.DEVNULL)
    disks = [drive("scratch", scratch), drive("more", more), drive("again", image, is_read_only=True)]
    arguments = "mayfly.scratch=/dev/vdb mayfly.mount=/dev/vdc:/srv/data%20here mayfly.mount=/dev/vdd:/mnt:ro"
    container = Container(release, image, arguments, disks)
    container.main(*args("echo kept >/etc/kept; rm /etc/group; cp /mnt/etc/passwd '/srv/data here/'; touch /mnt/x; true"))
    ended = container.first.collect()
    assert ended.code == 0 and ended.err == b"touch: /mnt/x: Read-only file system\n"
    container.finish(0)
    for path in (scratch, more):
        checked = subprocess.run(["e2fsck", "-n", path], capture_output=True, text=True, check=False)
        assert checked.returncode == 0 and "recovering" not in checked.stdout + checked.stderr and "clean" in checked.stdout, checked
    container = Container(release, image, arguments, disks)
    container.main(*args("cat /etc/kept; ls /etc/group '/srv/data here'"))
    ended = container.first.collect()
    assert ended.out == b"kept\n/srv/data here:\nlost+found\npasswd\n" and b"/etc/group" in ended.err
    container.finish(1)


@pytest.mark.parametrize("arguments,sentence", [
    ("mayfly.exec=sh", "mayfly.exec=sh: no such argument"), ("mayfly.scratch=/dev/vdq", "/dev/vdq on /upper: No such file or directory"),
    ("mayfly.ip=10.0.0.2/24", "eth0: No such device"),
    ("mayfly.tmpfs_size=10m,mode=777", "tmpfs_size=10m,mode=777: must be"), ("mayfly.mount=/dev/vda", "mount=/dev/vda: must be as")])
def test_wrong_arguments(release, image, arguments, sentence):
    """The machine ends at once with 125, and the console says why."""
    container = Container(release, image, arguments, calls=False)
    text = container.finish(125)
    assert re.search(rf"^mayfly-init: .*{re.escape(sentence)}", text, re.M), text


def test_identity(release, image):
    """A clock, a seed, a name: what a copy gets to be its own."""
    container = Container(release, image)
    agent = container.agent
    agent.call("clock", ns=1_500_000_000_123_456_789)
    assert 1_500_000_000 <= int(container.shell("date +%s")) < 1_500_000_000 + 4 * PATIENCE
    agent.call("reseed", seed="5a" * 32, hostname="copy-1")
    first = container.shell("cat /etc/machine-id; hostname; cat /etc/hostname; grep copy-1 /etc/hosts").split()
    assert re.fullmatch("[0-9a-f]{32}", first[0]) and first[1:] == ["copy-1", "copy-1", "127.0.1.1", "copy-1"]
    agent.call("reseed", seed="5a" * 32)
    assert container.shell("cat /etc/machine-id") != first[0]
    agent.call("hostname", name="copy-2")
    assert container.shell("hostname; echo $HOSTNAME") == "copy-2\ncopy-2"
    agent.call("stop")
    container.finish(0)


def test_copies(release, image, tmp_path):
    """Of a machine that waits: each copy listens at once, is told who it is, and runs its own command to its own end."""
    zygote = Container(release, image, api=True, arguments=["--allow-fork", "--allow-path", tmp_path, "--allow-path", image.parent])
    assert zygote.shell("echo warm >/tmp/state; cat /tmp/state") == "warm"
    names = ["one", "two"]
    copies = zygote.api.call("PUT", "/fork", {"copies": [{"id": name, "vsock_override": {"uds_path": str(tmp_path / name)}} for name in names]})["copies"]
    seen = set()
    for name, copy in zip(names, copies):
        peers = Peers(tmp_path / name)
        agent = Agent(lambda peers=peers: peers.dial(1024, PATIENCE * 1000))
        agent.call("reseed", seed=os.urandom(32).hex(), hostname=name)
        agent.call("clock", ns=2_000_000_000 * 10 ** 9)
        talk, _ = agent.begin("main", *args("hostname; cat /tmp/state /etc/machine-id; date +%Y; exit 5"))
        ended = talk.collect()
        lines = ended.out.decode().split()
        assert lines[:2] == [name, "warm"] and lines[3] == "2033" and ended.code == 5
        seen.add(lines[2])
        gone = os.pidfd_open(copy["pid"])
        assert select.select([gone], [], [], PATIENCE)[0], "the copy's end"
        os.close(gone)
        peers.close()
        agent.close()
    assert len(seen) == 2 and zygote.shell("hostname; ls /etc/machine-id 2>&1 || true") == "mayfly\nls: /etc/machine-id: No such file or directory"
    # The connection that it made at its start is still there, in the original.
    zygote.first.sock.sendall(request_frames("stop"))
    assert good(zygote.first.reply())
    zygote.finish(0)


def net(**more):
    return {"network-interfaces": [{"iface_id": "eth0", "host_dev_name": "tap0", "guest_mac": "06:00:ac:10:00:02"}], **more}


def test_network(release, image, namespace):
    """Addresses of both families, a gateway, names, by the command line; then others, as a copy gets them."""
    namespace.tap()
    namespace.run("sh", "-c", "echo 0 >/proc/sys/net/ipv6/conf/tap0/disable_ipv6")
    namespace.ip("addr add fd00:9::1/64 dev tap0 nodad")
    namespace.ip("addr add 172.30.0.1/32 dev tap0")
    container = Container(release, image, '"sysctl.net.ipv4.ping_group_range=7 1234" '
                          "mayfly.ip=10.9.0.2/24 mayfly.gw=10.9.0.1 mayfly.ip6=fd00:9::2/64 mayfly.gw6=fd00:9::1 mayfly.mtu=1400 "
                          "mayfly.dns=10.9.0.1,fd00:9::1 mayfly.search=example.org mayfly.hostname=box", wrapper=namespace.enter, **net())
    shell = container.shell
    assert shell("cat /etc/resolv.conf") == "search example.org\nnameserver 10.9.0.1\nnameserver fd00:9::1"
    assert shell("cat /etc/hosts").endswith("10.9.0.2 box") and shell("hostname") == "box"
    assert shell("cat /sys/class/net/eth0/mtu") == "1400"
    assert shell("cat /proc/sys/net/ipv4/ping_group_range").split() == ["7", "1234"]  # the caller's word, not the agent's
    is_as_made = ("BROADCAST", "MULTICAST", "UP")
    assert all(flag in shell("ip link show eth0") for flag in is_as_made)
    raw = {"caps": "CAP_NET_RAW"}
    for there in ("10.9.0.1", "fd00:9::1", "172.30.0.1", "127.0.0.1", "::1"):
        assert "2 packets received" in shell(f"ping -c 2 -W {PATIENCE} {there}", **raw), there
    routes = shell("ip route; ip -6 route")
    assert "default via 10.9.0.1 dev eth0" in routes and "default via fd00:9::1 dev eth0" in routes
    # A copy: another address, and a gateway that is not in its network.
    namespace.ip("route add 10.77.0.5/32 dev tap0")
    container.agent.call("network", ip="10.77.0.5/32", gw="10.9.0.1", dns="9.9.9.9")
    assert "2 packets received" in shell(f"ping -c 2 -W {PATIENCE} 172.30.0.1", **raw)
    assert shell("cat /etc/resolv.conf") == "nameserver 9.9.9.9"
    assert all(flag in shell("ip link show eth0") for flag in is_as_made)
    assert "10.9.0.2" not in shell("ip addr") and "fd00:9::2" not in shell("ip addr")
    assert "must be as" in container.agent.refused("network", ip="10.77.0/8")["error"]
    assert "addresses with commas" in container.agent.refused("network", ip="10.77.0.5/32", dns="here")["error"]
    container.agent.call("stop")
    container.finish(0)


def test_network_from_mmds(release, image, namespace, tmp_path):
    """The same from the metadata service, which wants a token first."""
    namespace.tap()
    metadata = tmp_path / "metadata.json"
    metadata.write_text('{"mayfly": {"network": {"ip": "10.9.0.2/24", "gw": "10.9.0.1", "dns": "10.9.0.1", "hostname": "from-mmds"}}}')
    container = Container(release, image, "mayfly.net=mmds", wrapper=namespace.enter, arguments=["--metadata", metadata],
                          **net(**{"mmds-config": {"version": "V2", "network_interfaces": ["eth0"]}}))
    assert container.shell("hostname; cat /etc/resolv.conf") == "from-mmds\nnameserver 10.9.0.1"
    assert "2 packets received" in container.shell(f"ping -c 2 -W {PATIENCE} 10.9.0.1", caps="CAP_NET_RAW")
    assert "169.254.0.2" not in container.shell("ip addr")
    container.agent.call("stop")
    container.finish(0)
