"""Container engines as people run them, each with storage, sockets and state of its own: podman, and containerd with its ctr."""

import hashlib
import io
import json
import os
import shutil
import subprocess
import tarfile
import time
from pathlib import Path

from harness import PATIENCE, Outcome

IMAGE = "localhost/busybox:latest"
APPLETS = ("sh", "ls", "cat", "echo", "sleep", "true", "false", "id", "ip", "env", "free", "nproc", "ps", "kill", "ping", "wget", "nc", "hostname",
           "stty", "tail", "head", "dd", "mount", "df", "wc", "tty", "touch", "rm", "mkdir", "stat", "awk", "grep", "seq", "readlink", "sort", "pwd", "httpd")


def _layer():
    """A root file system with nothing but a static busybox, as a tar file."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        def add(name, kind, mode=0o755, link="", data=b""):
            member = tarfile.TarInfo(name)
            member.type, member.mode, member.linkname, member.size = kind, mode, link, len(data)
            tar.addfile(member, io.BytesIO(data))
        for name in ("bin", "dev", "etc", "proc", "root", "run", "sys", "usr", "var"):
            add(name, tarfile.DIRTYPE)
        add("tmp", tarfile.DIRTYPE, 0o1777)
        add("etc/passwd", tarfile.REGTYPE, 0o644, data=b"root:x:0:0:root:/root:/bin/sh\nworker:x:1000:1000::/tmp:/bin/sh\n")
        add("etc/group", tarfile.REGTYPE, 0o644, data=b"root:x:0:\nworker:x:1000:\n")
        add("bin/busybox", tarfile.REGTYPE, data=Path(shutil.which("busybox")).read_bytes())
        for applet in APPLETS:
            add(f"bin/{applet}", tarfile.SYMTYPE, 0o777, "busybox")
    return out.getvalue()


def oci_layout(directory):
    """An OCI image layout in that directory, made from nothing but Debian's busybox; returns its path."""
    blobs = Path(directory) / "blobs/sha256"
    blobs.mkdir(parents=True)

    def blob(data, kind):
        data = data if isinstance(data, bytes) else json.dumps(data).encode()
        digest = hashlib.sha256(data).hexdigest()
        (blobs / digest).write_bytes(data)
        return {"mediaType": f"application/vnd.oci.image.{kind}", "digest": f"sha256:{digest}", "size": len(data)}

    layer = blob(_layer(), "layer.v1.tar")
    config = blob({"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": [layer["digest"]]},
                   "config": {"Env": ["PATH=/bin", "FROM_IMAGE=yes"], "Cmd": ["sh"], "StopSignal": "SIGTERM"}}, "config.v1+json")
    manifest = blob({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json", "config": config, "layers": [layer]}, "manifest.v1+json")
    manifest["annotations"] = {"org.opencontainers.image.ref.name": IMAGE, "io.containerd.image.name": IMAGE}
    (Path(directory) / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [manifest]}))
    (Path(directory) / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    return Path(directory)


class Engine:
    """What both have: a directory on a tmpfs of its own, and a way to run their command."""

    def __init__(self, directory):
        self.directory = Path(directory)
        self.directory.mkdir(parents=True)
        subprocess.run(["mount", "-t", "tmpfs", "engine", self.directory], check=True)

    def command(self, *words):
        raise NotImplementedError

    def run(self, *words, expected=0, input=b"", timeout=PATIENCE):
        """Run the engine's command to its end; expected None takes any status."""
        started = time.monotonic()
        done = subprocess.run([str(word) for word in self.command(*words)], input=input, capture_output=True, timeout=timeout, env=self.environment())
        outcome = Outcome(done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace"), time.monotonic() - started)
        assert expected is None or outcome.code == expected, outcome
        return outcome

    def environment(self):
        return {"PATH": os.environ["PATH"], "HOME": str(self.directory / "home")}

    def close(self):
        for line in reversed(Path("/proc/self/mounts").read_text().splitlines()):
            point = line.split()[1]
            if point == str(self.directory) or point.startswith(f"{self.directory}/"):
                subprocess.run(["umount", "-l", point], check=False)


class Podman(Engine):
    """podman as root with cgroupfs, logs and events in files; runtimes: name → path."""

    def __init__(self, directory, runtime, flags=()):
        super().__init__(directory)
        top = self.directory
        self.runtime, self.flags = runtime, flags
        (top / "containers.conf").write_text(f"""
[containers]
log_driver = "k8s-file"
[network]
network_backend = "netavark"
network_config_dir = "{top}/networks"
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
events_logfile_path = "{top}/events"
tmp_dir = "{top}/tmp"
static_dir = "{top}/storage/libpod"
volume_path = "{top}/volumes"
runtime_supports_json = ["crun", "runc", "mayfly-oci"]
""")
        (top / "storage.conf").write_text(f'[storage]\ndriver = "overlay"\ngraphroot = "{top}/storage"\nrunroot = "{top}/run"\n')
        (top / "policy.json").write_text('{"default": [{"type": "insecureAcceptAnything"}]}')
        (top / "registries.conf").write_text("unqualified-search-registries = []\n")

    def environment(self):
        return {**super().environment(), "CONTAINERS_CONF": str(self.directory / "containers.conf"),
                "CONTAINERS_STORAGE_CONF": str(self.directory / "storage.conf"), "CONTAINERS_REGISTRIES_CONF": str(self.directory / "registries.conf")}

    def command(self, *words):
        flags = [word for flag in self.flags for word in ("--runtime-flag", flag)]
        return ["podman", "--runtime", self.runtime, *flags, *words]

    def load(self, layout):
        self.run("pull", "--quiet", f"--signature-policy={self.directory}/policy.json", f"oci:{layout}:{IMAGE}", timeout=2 * PATIENCE)
        image = self.run("images", "--quiet", "--no-trunc").out.split()[0]
        self.run("tag", image, IMAGE)


class Containerd(Engine):
    """containerd with a socket of its own, and ctr to talk to it; settings are further lines of its configuration."""

    def __init__(self, directory, binary=None, disabled=("io.containerd.grpc.v1.cri",), settings=""):
        super().__init__(directory)
        top = self.directory
        self.binary = binary
        self.socket = top / "containerd.sock"
        disabled = [*disabled, *(f"io.containerd.snapshotter.v1.{name}" for name in ("btrfs", "aufs", "zfs", "devmapper")),
                    "io.containerd.internal.v1.opt", "io.containerd.tracing.processor.v1.otlp"]
        (top / "config.toml").write_text(f"""
version = 2
root = "{top}/root"
state = "{top}/state"
disabled_plugins = {json.dumps(disabled)}
[grpc]
  address = "{self.socket}"
[ttrpc]
  address = "{self.socket}.ttrpc"
{settings}""")
        self.log = (top / "log").open("wb")
        self.daemon = subprocess.Popen(["containerd", "--config", str(top / "config.toml")], stdout=self.log, stderr=subprocess.STDOUT,
                                       env=self.environment(), start_new_session=True)
        deadline = time.monotonic() + PATIENCE
        while self.run("version", expected=None).code:
            assert self.daemon.poll() is None and time.monotonic() < deadline, (top / "log").read_text()
            time.sleep(0.2)

    def command(self, *words):
        words = list(words)
        if words[0] == "run":  # options come after the command's name
            words[1:1] = ["--runc-binary", self.binary] if self.binary else []
        return ["ctr", "--address", self.socket, *words]

    def load(self, layout):
        archive = self.directory / "image.tar"
        with tarfile.open(archive, "w") as tar:
            tar.add(layout, ".")
        self.run("images", "import", archive, timeout=2 * PATIENCE)

    def close(self):
        self.daemon.terminate()
        self.daemon.wait(PATIENCE)
        self.log.close()
        super().close()
