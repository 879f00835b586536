"""The Python client has all of the API: a method for each request of openapi.yaml, a key for each field, an argument for each option of the jailer."""

import dataclasses
import inspect
import os
import re
import signal
import subprocess
import sys
import typing

import pytest
import yaml

import mayfly.schemas
from harness import PATIENCE, ROOT, artifact, sparse
from mayfly import Answer, Api, ApiError, Bind, Ended, Jail, Jailed, Mayfly

SPEC = yaml.safe_load((ROOT / "api-server/openapi.yaml").read_text())
METHODS = ("get", "put", "patch", "delete")
GUEST = "tests/guest/guest.elf"


def boot(script, kernel=None):
    """A boot source that runs a script in the test guest."""
    return {"kernel_image_path": kernel or str(artifact(GUEST)), "boot_args": f"console=ttyS0 mayfly.test='{script}'"}


class Recorder(Api):
    """Notes what would be sent."""

    def __init__(self):
        super().__init__("/nonexistent")
        self.sent = set()

    def request(self, method, path, body=None, headers=None):
        self.sent.add((method, re.sub("/NAME$", "/{}", path)))
        return Answer(200, {"content-type": "application/json"}, b'{"copies": []}')


def test_every_request_has_a_method():
    recorder = Recorder()
    generic = {"call", "request", "get", "put", "patch", "delete", "hang_up", "events", "action"}
    for name, method in inspect.getmembers(recorder, inspect.ismethod):
        if not name.startswith("_") and name not in generic:
            method(*("NAME" if p.annotation == "str" else {} for p in inspect.signature(method).parameters.values()))
    recorder.sent.add(("GET", "/events"))  # which is a stream
    wanted = {(method.upper(), re.sub(r"\{\w+\}", "{}", path)) for path, item in SPEC["paths"].items() for method in METHODS
              if method in item and "x-mayfly-refused" not in item[method]}
    assert recorder.sent == wanted


def resolve(schema):
    while "$ref" in schema:
        at = SPEC
        for part in schema["$ref"].removeprefix("#/").split("/"):
            at = at[part]
        schema = at
    return schema["allOf"][0] if "allOf" in schema and not schema.get("properties") else schema


def typed_dict(hint):
    """The TypedDict in a type such as Optional[List[Drive]]."""
    if typing.is_typeddict(hint):
        return hint
    return next(filter(None, map(typed_dict, typing.get_args(hint))), None)


def compare(schema, hint, where):
    """The same keys, and so on below them. Returns how many objects were looked at."""
    schema = resolve(schema)
    if schema.get("type") == "array":
        schema = resolve(schema["items"])
    if not schema.get("properties"):
        return 0
    found = typed_dict(hint)
    assert found, f"{where}: no TypedDict"
    hints = typing.get_type_hints(found)
    assert set(hints) == set(schema["properties"]), f"{where} and {found.__name__}"
    return 1 + sum(compare(below, hints[name], f"{where}.{name}") for name, below in schema["properties"].items())


def test_every_field_has_a_key():
    schemas = {name: schema for name, schema in SPEC["components"]["schemas"].items() if name not in ("Fault", "MmdsData")}
    looked_at = sum(compare(schema, getattr(mayfly.schemas, name), name) for name, schema in schemas.items())
    assert looked_at > len(schemas)


def test_is_typed():
    """For who checks with mypy, on the oldest Python that it is for."""
    command = ["mypy", "--strict", "--python-version", "3.9", "--cache-dir", "/dev/null", ROOT / "clients/python/mayfly"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=4 * PATIENCE, check=False)
    assert result.returncode == 0, result.stdout


# ---- a process ----

def test_a_microvm(release, scratch):
    """From nothing to its end."""
    with Mayfly(release.path, release.directory / "vm.socket", ["--id", "one"], stdout=subprocess.PIPE) as vm:
        vm.put_boot_source(boot("blk 0 read 0 8 zero=1; print done"))
        vm.patch_machine_config({"mem_size_mib": 32})
        vm.put_drive("d0", {"path_on_host": str(scratch), "is_root_device": False})
        assert vm.drive("d0")["path_on_host"] == str(scratch) and vm.machine_config()["mem_size_mib"] == 32
        with pytest.raises(ApiError, match="d1"):
            vm.drive("d1/../d0")
        assert vm.instance()["id"] == "one" and vm.version()["mayfly_version"] == (ROOT / "VERSION").read_text().strip()
        vm.start()
        assert b"done" in vm.process.stdout.read() and vm.wait(PATIENCE) == 0
        vm.process.stdout.close()


def test_it_does_not_begin(release):
    with pytest.raises(Ended):
        Mayfly(release.path, release.directory / "vm.socket", ["--surprise"], stderr=subprocess.DEVNULL)


def test_a_long_path(release):
    """Mayfly makes it from its own folder; the client gets there though the path does not fit into an address."""
    folder = release.directory / ("x" * 100)
    folder.mkdir()
    with Mayfly(release.path, "vm.socket", cwd=folder) as vm:
        assert len(vm.api_sock) > 107 and vm.instance()["state"] == "Not started"


def said(vm, what):
    """Read its console up to something."""
    text = b""
    while what not in text:
        part = vm.process.stdout.read1()
        assert part, text
        text += part
    return text


def test_snapshot_and_forks(release):
    args = ["--allow-path", str(release.directory), "--allow-fork"]
    state, memory = (str(release.directory / name) for name in ("state", "memory"))
    with Mayfly(release.path, release.directory / "vm.socket", args, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as vm:
        vm.put_boot_source(boot("cycle 1M; print done"))
        vm.start()
        said(vm, b"round 0")
        events = vm.events(PATIENCE)
        vm.pause()
        assert vm.create_snapshot({"snapshot_path": state, "mem_file_path": memory, "background": True}) is None
        assert events.wait_for("snapshot_written", "snapshot_failed")["event"] == "snapshot_written"
        copies = vm.fork([{"id": "c1", "resume_vm": False, "api_sock": str(release.directory / "c1.socket")}])
        copy = Api(copies[0]["api_sock"])
        assert copies[0]["id"] == "c1" and copy.instance()["id"] == "c1"
        copy.hang_up()
        os.kill(copies[0]["pid"], signal.SIGTERM)
        with Mayfly(release.path, release.directory / "other.socket", stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
            other.load_snapshot({"snapshot_path": state, "mem_file_path": memory, "resume_vm": True})
            assert other.config()["boot-source"] and other.instance()["state"] == "Running"
            other.process.stdin.write(b"q")
            other.process.stdin.close()
            said(other, b"done")
            other.process.stdout.close()
        vm.stop()
        with pytest.raises(EOFError):
            events.wait_for("never")
        vm.process.stdin.close()
        vm.process.stdout.close()


# ---- a jail ----

def everything():
    """A Jail in which every argument is given."""
    given = {"id": "vm1", "exec_file": "/m", "uid": 7, "gid": 8, "chroot_base_dir": "/j", "netns": "/run/netns/x", "cgroup": {"pids.max": "5"},
             "cgroup_version": 2, "parent_cgroup": "p", "resource_limit": {"no-file": 99}, "bind": [Bind("/a", "/b/c", read_only=True), Bind("/d", "/e")],
             "pass_fd": [5], "memory_max": "256M", "cpu_max": 150, "io_max": {"/srv": "rbps=1M"}}
    return Jail(**{f.name: given.get(f.name, True) for f in dataclasses.fields(Jail)})


def test_every_option_of_the_jailer():
    text = subprocess.run([artifact("mayfly-jailer"), "--help"], capture_output=True, text=True, timeout=PATIENCE, check=True).stdout
    options = everything().options([6])
    assert {word for word in options if word.startswith("--")} == set(re.findall(r"^  (--[a-z-]+)", text, re.M)) - {"--version", "--help"}
    assert ["--bind", "/a:/b/c:ro", "--bind", "/d:/e", "--pass-fd", "5", "--pass-fd", "6"] == options[options.index("--bind"):options.index("--daemonize")]
    assert Jail("x", "/m").options() == ["--id", "x", "--exec-file", "/m", "--chroot-base-dir", "/srv/jailer"]


def test_paths():
    jail = everything()
    assert str(jail.outside("/run/v.socket")) == "/j/m/vm1/root/run/v.socket" and str(jail.outside("/b/c/x")) == "/a/x"
    assert jail.inside("/a/x") == "/b/c/x" and jail.inside("/j/m/vm1/root/run/x") == "/run/x" and jail.inside("/d") == "/e"
    with pytest.raises(ValueError, match="bind it"):
        jail.inside("/b")
    for bad in ("run", "/run/../..", ""):
        with pytest.raises(ValueError, match="without .."):
            jail.outside(bad)


def runs(pid):
    """Whether the process is there, and no zombie (a daemon's is init's to bury)."""
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.parametrize("ways", [{}, {"cleanup": True}, {"new_pid_ns": True}, {"daemonize": True},
                                  {"cleanup": True, "new_pid_ns": True, "new_user_ns": True, "new_net_ns": True, "new_ipc_ns": True, "new_uts_ns": True}],
                         ids=lambda ways: "+".join(ways) or "plain")
def test_a_jail(release, tmp_path, ways):
    """However the process came to be, it is found, and it ends."""
    disk = sparse(tmp_path / "disk", 1 << 20)
    disk.chmod(0o666)
    binds = [Bind(artifact(GUEST), "/guest", read_only=True), Bind(disk, "/disk"), Bind("/dev/null", "/dev/null")]  # which --allow-fork opens
    jail = Jail("vm1", release.path, uid=12345, gid=12346, chroot_base_dir=tmp_path / "jails", bind=binds, **ways)
    jail.chroot_base_dir.mkdir()
    with Jailed(artifact("mayfly-jailer"), jail, ["--allow-fork"], stdout=subprocess.DEVNULL) as vm:
        vm.put_boot_source(boot("blk 0 read 0 8 zero=1; wait x", jail.inside(artifact(GUEST))))
        vm.put_drive("d0", {"path_on_host": "/disk", "is_root_device": False})
        vm.start()
        pid = vm.pid
        with open(f"/proc/{pid}/status", encoding="ascii") as file:
            assert re.search(r"^Uid:\t12345\t", file.read(), re.M)
        assert vm.instance()["jail"]["no_new_privs"]
    assert not runs(pid)
    assert jail.root.exists() != bool(ways.get("cleanup"))


def test_a_jail_that_is_refused(release, tmp_path):
    jail = Jail("no_such_id", release.path, uid=1, gid=1, chroot_base_dir=tmp_path)
    with pytest.raises(Ended):
        Jailed(artifact("mayfly-jailer"), jail, stderr=subprocess.DEVNULL)


def test_packaged(tmp_path):
    """What pip would install is all of it."""
    source = tmp_path / "python"
    subprocess.run(["cp", "-r", ROOT / "clients/python", source], check=True)
    build = "from setuptools import build_meta; import os; print(build_meta.build_sdist(os.environ['OUT']))"
    subprocess.run([sys.executable, "-W", "ignore", "-c", build], cwd=source, env={"OUT": str(tmp_path), "PATH": "/usr/bin:/bin"}, check=True,
                   capture_output=True, timeout=4 * PATIENCE)
    sdist, = tmp_path.glob("*.tar.gz")
    assert sdist.name == f"mayfly-client-{(ROOT / 'VERSION').read_text().strip()}.tar.gz"
    names = subprocess.run(["tar", "tf", sdist], capture_output=True, text=True, check=True).stdout
    for path in (ROOT / "clients/python/mayfly").glob("[a-z_]*.*"):
        assert f"/mayfly/{path.name}\n" in names, path
