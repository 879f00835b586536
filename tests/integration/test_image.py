"""mayfly-image: what it makes of good images, checked by the tools of others."""

import errno
import gzip
import json
import os
import pty
import re
import shutil
import stat
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from pathlib import Path

import pytest

from harness import PATIENCE, ROOT
from image_tool import ENVIRONMENT, PROGRAM, built, contents, debugfs, dump, image_tool, refused
from oci_layout import (BLOCK, FIFO, INDEX, Layout, compress, config, device, directory, docker_archive, entry, hard_link, layer, pack,
                        symlink, write_tar)

RUN = {
    "Entrypoint": ["/bin/sh", "-c"], "Cmd": ["echo a b", ""], "Env": ["PATH=/bin:/usr/bin", "EMPTY="], "WorkingDir": "/srv", "User": "1000:100",
    "StopSignal": "SIGQUIT", "ExposedPorts": {"8080/tcp": {}, "53/udp": {}}, "Volumes": {"/var/lib/x": {}}, "Labels": {"b": "2=3", "a": "é\n"},
}
RUN_CONFIG = ["entrypoint=/bin/sh", "entrypoint=-c", "cmd=echo a b", "cmd=", "env=PATH=/bin:/usr/bin", "env=EMPTY=", "cwd=/srv", "user=1000:100",
              "stop_signal=SIGQUIT", "exposed=53/udp", "exposed=8080/tcp", "volume=/var/lib/x", "label=a=é\n", "label=b=2=3"]
BIG = bytes(range(256)) * 80

# A tree with one of everything.
EVERYTHING = layer(
    directory("etc"), entry("etc/passwd", "root:x:0:0::/root:/bin/sh\n"), directory("usr"), directory("usr/bin"),
    entry("usr/bin/su", BIG, mode=0o4755), hard_link("usr/bin/su2", "usr/bin/su"), symlink("bin", "usr/bin"), symlink("abs", "/etc/passwd"),
    directory("tmp", mode=0o1777), entry("tmp/mine", b"x" * 4096, mode=0o640, uid=1000, gid=70000), entry("empty"), entry("fifo", kind=FIFO),
    device("null", 1, 3, mode=0o666), device("disk", 4095, 1048575, kind=BLOCK, uid=5), entry(b"latin-\xe9", "é"),
    entry("d" * 255, "long"), entry("/".join(["deep"] * 40), "deep"), entry("spaces and 'quotes' \\ \n", "odd"))


def config_of(image, tmp_path, name="config"):
    return contents(image, tmp_path / name)[".mayfly/config"][3].encode("latin-1").decode().split("\0")[:-1]


def names(tree):
    return {name for name in tree if name != "." and not name.startswith(".mayfly")}


@pytest.fixture
def layout(tmp_path):
    return Layout(tmp_path / "layout")


# ---- sources ----

def test_everything(tmp_path, layout):
    """Kinds, owners, modes, links, devices, contents: as the layer says."""
    layout.add([EVERYTHING], config(**RUN)).write()
    facts = built(layout.path, tmp_path / "image")
    assert facts["layers"] == 1 and facts["format"] == "erofs" and facts["size"] == (tmp_path / "image").stat().st_size
    tree = contents(tmp_path / "image", tmp_path / "tree")
    su = tree["usr/bin/su"]
    assert su[:3] == ("-rwsr-xr-x", 0, 0) and tree["usr/bin/su2"] == su
    assert tree["bin"][0] == "lrwxrwxrwx" and tree["bin"][3] == "usr/bin" and tree["abs"][3] == "/etc/passwd"
    assert tree["tmp"][0] == "drwxrwxrwt" and tree["tmp/mine"] == ("-rw-r-----", 1000, 70000, tree["tmp/mine"][3])
    assert tree["null"] == ("crw-rw-rw-", 0, 0, "1:3") and tree["disk"] == ("brw-r--r--", 5, 0, "4095:1048575")
    assert tree["fifo"][0] == "prw-r--r--" and tree["empty"] == ("-rw-r--r--", 0, 0, "")
    assert tree["latin-\xe9"][3].encode("latin-1").decode() == "é" and tree["d" * 255][3] == "long"
    assert tree["/".join(["deep"] * 40)][3] == "deep" and tree["spaces and 'quotes' \\ \n"][3] == "odd"
    assert dump(tmp_path / "image", "/usr/bin/su")["Links"] == "2" and dump(tmp_path / "image", "/usr")["Links"] == "3"
    assert dump(tmp_path / "image", "/etc/passwd")["Timestamp"].startswith("2001-09-09 01:46:40")
    assert config_of(tmp_path / "image", tmp_path) == RUN_CONFIG


@pytest.mark.parametrize("how", ["plain", "gzip", "zstd"])
def test_forms_agree(tmp_path, layout, how):
    """A layout, its archive, a docker archive, a compressed one, and a tar of the root: the same tree; the same image: the same bytes."""
    layout.add([pack(EVERYTHING, how)], config(**RUN), tag="docker.io/library/x:1").write()
    sources = {"layout": layout.path, "tagged": f"oci:{layout.path}:1", "archive": layout.archive(tmp_path / "a.tar"),
               "docker": docker_archive(tmp_path / "d.tar", [EVERYTHING], config(**RUN))}
    (tmp_path / "d.packed").write_bytes(compress((tmp_path / "d.tar").read_bytes(), how))
    (tmp_path / "root.packed").write_bytes(compress(EVERYTHING, how))
    sources |= {"packed": f"docker-archive:{tmp_path}/d.packed", "root": tmp_path / "root.packed"}
    for name, source in sources.items():
        built(source, tmp_path / f"{name}.image")
    for name in ("tagged", "archive", "docker", "packed"):
        assert (tmp_path / f"{name}.image").read_bytes() == (tmp_path / "layout.image").read_bytes(), name
    tree, plain = contents(tmp_path / "docker.image", tmp_path / "t1"), contents(tmp_path / "root.image", tmp_path / "t2")
    assert plain.pop(".mayfly/config")[3] == "" and tree.pop(".mayfly/config") and tree == plain


def test_members_of_gzip(tmp_path, layout):
    """Several gzip members in a row are one layer, and zeros may follow."""
    tar = layer(entry("a", BIG), entry("b", "b"))
    data = gzip.compress(tar[:700]) + gzip.compress(b"") + gzip.compress(tar[700:]) + bytes(100)
    layout.add([pack(tar)._replace(data=data, digest=None, size=len(data))._replace(digest=layout.blob(data))]).write()
    built(layout.path, tmp_path / "image")
    assert names(contents(tmp_path / "image", tmp_path / "tree")) == {"a", "b"}


def test_directory(tmp_path):
    """A root file system on disk: the caller's files are root's, hard links stay, sockets are left out, and it is as good as a tar of it."""
    root = tmp_path / "root"
    (root / "bin").mkdir(parents=True)
    (root / "bin/tool").write_bytes(BIG)
    (root / "bin/tool").chmod(0o4755)
    os.link(root / "bin/tool", root / "same")
    (root / "out").symlink_to("/etc/shadow")
    (root / "loop").symlink_to("../root")
    os.mkfifo(root / "pipe")
    with open(root / "sparse", "wb") as file:
        file.truncate(50 << 20)
        file.seek(30 << 20)
        file.write(b"here")
    os.mknod(root / "socket", stat.S_IFSOCK | 0o600)
    (tmp_path / "way").symlink_to("root")
    facts = built(tmp_path / "way", tmp_path / "image")
    tree = contents(tmp_path / "image", tmp_path / "tree")
    assert names(tree) == {"bin", "bin/tool", "same", "out", "loop", "pipe", "sparse"}
    assert tree["bin/tool"][:3] == ("-rwsr-xr-x", 0, 0) and tree["out"][3] == "/etc/shadow"
    assert dump(tmp_path / "image", "/same")["Links"] == "2"
    assert facts["size"] > 50 << 20 and facts["disk"] < 2 << 20
    subprocess.run(["tar", "-C", root, "--format=pax", "--exclude=./socket", "--owner=0", "--group=0", "-cf", tmp_path / "root.tar", "."], check=True,
                   timeout=PATIENCE)
    built(tmp_path / "root.tar", tmp_path / "image2")
    assert (tmp_path / "image").read_bytes() == (tmp_path / "image2").read_bytes()


def sparse_tar(tmp_path, form):
    path = tmp_path / "file"
    with open(path, "wb") as file:
        for at in range(0, 60 << 18, 1 << 18):
            file.seek(at)
            file.write(b"data at %d" % at)
        file.truncate((60 << 18) + 12345)
    subprocess.run(["tar", "-C", tmp_path, *form, "--sparse", "--owner=0", "--group=0", "-cf", tmp_path / "sparse.tar", "file"], check=True, timeout=PATIENCE)
    return path


@pytest.mark.parametrize("form", [["--format=gnu"], ["--format=pax", "--sparse-version=0.0"], ["--format=pax", "--sparse-version=0.1"],
                                  ["--format=pax", "--sparse-version=1.0"]], ids=["gnu", "0.0", "0.1", "1.0"])
def test_sparse(tmp_path, form):
    """Each way in which tar says where holes are, with more pieces than one header has room for."""
    path = sparse_tar(tmp_path, form)
    facts = built(tmp_path / "sparse.tar", tmp_path / "image")
    assert facts["disk"] < 2 << 20 < facts["size"]
    place = tmp_path / "tree"
    subprocess.run(["fsck.erofs", f"--extract={place}", tmp_path / "image"], check=True, timeout=PATIENCE, capture_output=True, env=ENVIRONMENT)
    subprocess.run(["cmp", path, place / "file"], check=True, timeout=PATIENCE)


def test_large_directories(tmp_path):
    """Directories of one entry, of just a block, of many blocks; names of all lengths."""
    for count in (1, 101, 3000):
        (tmp_path / "root.tar").write_bytes(layer(*(entry(f"d/{'n' * (i % 200)}{i}", str(i)) for i in range(count))))
        built(tmp_path / "root.tar", tmp_path / f"image{count}")
        tree = contents(tmp_path / f"image{count}", tmp_path / f"tree{count}")
        assert {name: what[3] for name, what in tree.items() if name.startswith("d/")} == {f"d/{'n' * (i % 200)}{i}": str(i) for i in range(count)}


def test_every_size(tmp_path):
    """Files and links around the sizes where their last bytes move from the inode's block into one of their own."""
    sizes = [*range(0, 5), *range(4020, 4100), *range(8180, 8200)]
    (tmp_path / "root.tar").write_bytes(layer(*(entry(f"f{n}", (b"%d," % n * n)[:n]) for n in sizes),
                                              *(symlink(f"l{n}", "t" * n) for n in (1, 100, 2000, 4030, 4033, 4095))))
    built(tmp_path / "root.tar", tmp_path / "image")
    place = tmp_path / "tree"
    subprocess.run(["fsck.erofs", f"--extract={place}", tmp_path / "image"], check=True, timeout=PATIENCE, capture_output=True, env=ENVIRONMENT)
    for n in sizes:
        assert (place / f"f{n}").read_bytes() == (b"%d," % n * n)[:n], n
    for n in (1, 100, 2000, 4030, 4033, 4095):
        assert os.readlink(place / f"l{n}") == "t" * n


# ---- layers ----

A_AND_B = layer(directory("d"), entry("d/a", "1"), entry("d/b", "1"), directory("d/e"), entry("d/e/f", "1"), entry("top", "1"))
LAYERS = {
    "replace": ([A_AND_B, layer(entry("d/a", "2"))], {"d", "d/a", "d/b", "d/e", "d/e/f", "top"}),
    "whiteout": ([A_AND_B, layer(entry("d/.wh.a"))], {"d", "d/b", "d/e", "d/e/f", "top"}),
    "whiteout-of-directory": ([A_AND_B, layer(entry("d/.wh.e"))], {"d", "d/a", "d/b", "top"}),
    "whiteout-of-parent": ([A_AND_B, layer(entry(".wh.d"))], {"top"}),
    "whiteout-of-everything": ([A_AND_B, layer(entry(".wh.d"), entry(".wh.top"))], set()),
    "whiteout-of-nothing": ([A_AND_B, layer(entry("d/.wh.missing"), entry("missing/.wh.x"))], {"d", "d/a", "d/b", "d/e", "d/e/f", "top"}),
    "opaque": ([A_AND_B, layer(entry("d/.wh..wh..opq"), entry("d/new", "2"))], {"d", "d/new", "top"}),
    "opaque-after-what-it-spares": ([A_AND_B, layer(entry("d/new", "2"), entry("d/e/g", "2"), entry("d/.wh..wh..opq"))],
                                    {"d", "d/new", "d/e", "d/e/g", "top"}),
    "opaque-root": ([A_AND_B, layer(entry(".wh..wh..opq"), entry("x"))], {"x"}),
    "opaque-in-first": ([layer(directory("d"), entry("d/.wh..wh..opq"), entry("d/x"))], {"d", "d/x"}),
    "whiteout-and-new": ([A_AND_B, layer(entry("d/a", "2"), entry("d/.wh.a"))], {"d", "d/a", "d/b", "d/e", "d/e/f", "top"}),
    "whiteout-then-directory": ([A_AND_B, layer(entry(".wh.d"), directory("d"), entry("d/x"))], {"d", "d/x", "top"}),
    "directory-then-whiteout": ([A_AND_B, layer(directory("d"), entry("d/x"), entry(".wh.d"))], {"d", "d/x", "top"}),
    "file-over-directory": ([A_AND_B, layer(entry("d", "2"))], {"d", "top"}),
    "directory-over-file": ([A_AND_B, layer(directory("top"), entry("top/x"))], {"d", "d/a", "d/b", "d/e", "d/e/f", "top", "top/x"}),
    "aufs-books": ([layer(entry(".wh..wh.aufs"), entry(".wh..wh.plnk/1"), directory("d"), entry("d/.wh..wh.orph"))], {"d", ".wh..wh.plnk", ".wh..wh.plnk/1"}),
    "parents-that-nobody-made": ([layer(entry("a/b/c"))], {"a", "a/b", "a/b/c"}),
    "dots-and-slashes": ([layer(entry("./a//b/./c"), entry("/x"), directory("./"))], {"a", "a/b", "a/b/c", "x"}),
    "duplicates": ([layer(entry("x", "1"), entry("x", "2"), directory("y"), entry("y/z"), entry("y", "file"), directory("y"))], {"x", "y"}),
    "below-a-link": ([layer(directory("usr/lib"), symlink("lib", "usr/lib")), layer(entry("lib/x"))], {"usr", "usr/lib", "lib", "usr/lib/x"}),
    "below-a-link-outside": ([layer(symlink("etc", "/../../../outside")), layer(entry("etc/x"))], {"etc", "outside", "outside/x"}),
    "directory-becomes-link": ([layer(directory("d"), entry("d/old"), symlink("d", "/other"), entry("d/x"))], {"d", "other", "other/x"}),
    "hard-link-of-lower": ([A_AND_B, layer(hard_link("h", "d/a"), entry("d/.wh.a"))], {"h", "d", "d/b", "d/e", "d/e/f", "top"}),
    "hard-link-of-deleted": ([layer(entry("a", "1"), hard_link("h", "/./a")), layer(entry(".wh.a"))], {"h"}),
    "hard-link-to-link": ([layer(symlink("s", "/etc/shadow"), hard_link("h", "s"))], {"s", "h"}),
    "hard-link-through-link": ([layer(symlink("etc", "/usr"), directory("usr"), entry("usr/x"), hard_link("h", "etc/x"))], {"etc", "usr", "usr/x", "h"}),
    "no-layers": ([], set()),
    "empty-layer": ([layer()], set()),
    "ours-wins": ([layer(symlink(".mayfly", "/etc"), entry("etc/config", "evil"))], {"etc", "etc/config"}),
    "ours-wins-over-file": ([layer(entry(".mayfly/config", "evil"), entry(".mayfly/agent", "evil", mode=0o4755))], set()),
}


@pytest.mark.parametrize("case", LAYERS)
def test_layers(tmp_path, layout, case):
    layers, expected = LAYERS[case]
    layout.add(layers, config(Cmd=["ours"])).write()
    built(layout.path, tmp_path / "image")
    tree = contents(tmp_path / "image", tmp_path / "tree")
    assert names(tree) == expected
    assert tree[".mayfly"] == ("drwxr-xr-x", 0, 0, "") and tree[".mayfly/config"] == ("-rw-r--r--", 0, 0, "cmd=ours\0")
    assert {name for name in tree if name.startswith(".mayfly/")} == {".mayfly/config"}
    for name, (_, _, _, what) in tree.items():  # in these cases "2" is what the upper layer writes
        if name in ("d/a", "x") and "2" in str(layers[-1]) and case in ("replace", "duplicates", "whiteout-and-new"):
            assert what == "2", name


def test_whiteouts_are_names_elsewhere(tmp_path):
    """A tar of a root file system has no layers below it."""
    (tmp_path / "root.tar").write_bytes(layer(entry("a"), entry(".wh.a")))
    built(tmp_path / "root.tar", tmp_path / "image")
    assert names(contents(tmp_path / "image", tmp_path / "tree")) == {"a", ".wh.a"}


def test_what_is_hidden_is_not_there(tmp_path, layout):
    """Contents that a later layer removes are nowhere in the image file."""
    secret = b"this was deleted" * 1000
    layout.add([pack(layer(entry("secret", secret), entry("short", "deleted too")), "plain"), layer(entry(".wh.secret"), entry("short", "new"))]).write()
    built(layout.path, tmp_path / "image")
    data = (tmp_path / "image").read_bytes()
    assert b"deleted" not in data and b"new" in data


# ---- configuration and platforms ----

@pytest.mark.parametrize("settings,expected", [
    ({}, []), ({"Cmd": None, "Env": None, "Labels": None, "Entrypoint": None}, []), ({"User": "", "Cmd": []}, []),
    ({"Cmd": ["a"], "Volumes": {"/v": {}}}, ["cmd=a", "volume=/v"])])
def test_config(tmp_path, layout, settings, expected):
    layout.add([], config(**settings)).write()
    built(layout.path, tmp_path / "image")
    assert config_of(tmp_path / "image", tmp_path) == expected


def nested_index(layout, *manifests):
    return layout.descriptor({"schemaVersion": 2, "manifests": list(manifests)}, INDEX)


def for_platform(layout, name):
    system, architecture, *variant = name.split("/")
    found = layout.manifest([layer(entry(name.replace("/", "-")))], {**config(architecture, system), **({"variant": variant[0]} if variant else {})})
    return {**found, "platform": dict(zip(("os", "architecture", "variant"), name.split("/")))}


@pytest.mark.parametrize("there,args,expected", [
    (["linux/arm64", "linux/amd64"], [], "linux-amd64"), (["linux/amd64/v3", "linux/amd64/v2"], [], "linux-amd64-v2"),
    (["linux/amd64/v3", "linux/amd64"], [], "linux-amd64"), (["linux/amd64/v3", "linux/amd64"], ["--platform=linux/amd64/v3"], "linux-amd64-v3"),
    (["linux/arm64", "linux/amd64"], ["--platform=linux/arm64"], "linux-arm64"), (["unknown/unknown", "linux/amd64"], [], "linux-amd64"),
    (["linux/arm64", "windows/amd64", "unknown/unknown"], [], ["linux/amd64", "'linux/arm64', 'windows/amd64'"]), ([], [], ["no image at all"])])
@pytest.mark.parametrize("nested", [False, True])
def test_platforms(tmp_path, layout, there, args, expected, nested):
    manifests = [for_platform(layout, name) for name in there]
    layout.index = [nested_index(layout, *manifests)] if nested else manifests
    layout.write()
    if isinstance(expected, list):
        said = refused("build", layout.path, "-o", tmp_path / "image", *args)
        assert all(part in said for part in expected) and "unknown" not in said
    else:
        built(layout.path, tmp_path / "image", *args)
        assert names(contents(tmp_path / "image", tmp_path / "tree")) == {expected}


def test_other_architecture_alone(tmp_path, layout):
    """No index says it, but the image's configuration does."""
    layout.add([], config("arm64")).write()
    assert "'linux/arm64'" in refused("build", layout.path, "-o", tmp_path / "image")
    docker_archive(tmp_path / "d.tar", [], config("s390x"))
    assert "'linux/s390x'" in refused("build", tmp_path / "d.tar", "-o", tmp_path / "image")


def test_tags(tmp_path, layout):
    for tag, name in (("a", "a"), ("registry.example/team/b:1.0", "b"), ("c", "c")):
        layout.add([layer(entry(name))], tag=tag)
    layout.write()
    said = refused("build", layout.path, "-o", tmp_path / "image")
    assert "'a', 'c', 'registry.example/team/b:1.0'" in said
    assert "'a', 'c'" in refused("build", layout.path, "--tag", "x", "-o", tmp_path / "image")
    for args, name in ((["--tag", "1.0"], "b"), (["--tag", "registry.example/team/b:1.0"], "b"), (["--tag=c"], "c")):
        built(layout.path, tmp_path / "image", *args)
        shutil.rmtree(tmp_path / "tree", ignore_errors=True)
        assert names(contents(tmp_path / "image", tmp_path / "tree")) == {name}
    built(f"oci:{layout.path}:a", tmp_path / "image")
    layout.add([layer(entry("l"))], tag="latest").write()
    built(layout.path, tmp_path / "image")


def test_docker_tags_and_links(tmp_path):
    """Two names of one image; and archives of old, in which a layer is a link to another."""
    tar = layer(entry("a"))
    docker_archive(tmp_path / "d.tar", [tar], tags=["x:1", "y:2"])
    for tag in ("x:1", "2"):
        built(tmp_path / "d.tar", tmp_path / "image", "--tag", tag)
    assert "'x:1', 'y:2'" in refused("build", tmp_path / "d.tar", "--tag", "z", "-o", tmp_path / "image")
    docker_archive(tmp_path / "old.tar", [tar], Layers=["id/layer.tar"], links=[("id/layer.tar", f"../{pack(tar, 'plain').digest[7:]}.tar")])
    built(tmp_path / "old.tar", tmp_path / "image")
    assert names(contents(tmp_path / "image", tmp_path / "tree")) == {"a"}


def test_other_digest_algorithm(tmp_path, layout):
    import hashlib
    item = pack(layer(entry("a")))
    layout.add([item._replace(digest=f"sha512:{hashlib.sha512(item.data).hexdigest()}")]).write()
    built(layout.path, tmp_path / "image")


# ---- the same bytes ----

def test_reproducible(tmp_path, layout):
    """Somebody else, elsewhere, with other settings: the same bytes, of both formats. Run as an ordinary user where the tests are root's."""
    layout.add([EVERYTHING, layer(entry("etc/.wh.passwd"))], config(**RUN))
    with tempfile.TemporaryDirectory() as other:
        other = Path(other)
        other.chmod(0o777)
        layout.path = other / "layout"
        layout.write()
        program = other / "bin/mayfly-image"
        shutil.copytree(ROOT / "rootfs/image", other / "lib/mayfly/image", ignore=shutil.ignore_patterns("__pycache__"))
        program.parent.mkdir()
        shutil.copy(PROGRAM, other / "lib/mayfly")
        program.symlink_to("../lib/mayfly/mayfly-image")
        before = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"] if os.geteuid() == 0 else []
        for args in ([], ["--ext4"], ["--ext4", "--size", "64M"]):
            built(layout.path, tmp_path / "one", *args)
            built(layout.path, other / "two", *args, program=program, before=["env", "-i", "PATH=/usr/bin:/bin", "TZ=Asia/Tokyo", "LC_ALL=C",
                                                                              f"XDG_DATA_HOME={other}/data", *before])
            assert (tmp_path / "one").read_bytes() == (other / "two").read_bytes(), args
            (other / "two").unlink()
        assert sorted(path.name for path in other.iterdir()) == ["bin", "layout", "lib"]


def test_ext4(tmp_path, layout):
    """What fakeroot was told is in the image: owners, modes, devices, links; and the file system is clean."""
    layout.add([EVERYTHING], config(**RUN)).write()
    image = tmp_path / "image"
    built(layout.path, image, "--ext4", "--size", "64M")
    assert image.stat().st_size == 64 << 20
    subprocess.run(["e2fsck", "-fn", image], check=True, timeout=PATIENCE, capture_output=True, env=ENVIRONMENT)
    assert "Mode:  04755" in debugfs(image, "stat /usr/bin/su") and "Links: 2" in debugfs(image, "stat /usr/bin/su")
    mine = debugfs(image, "stat /tmp/mine")
    assert "User:  1000" in mine and "Group: 70000" in mine and "Mode:  0640" in mine and "Size: 4096" in mine
    assert "01:03" in debugfs(image, "stat /null") and "Type: character" in debugfs(image, "stat /null")
    assert "Type: block" in debugfs(image, "stat /disk") and "Type: FIFO" in debugfs(image, "stat /fifo")
    assert 'Fast link dest: "usr/bin"' in debugfs(image, "stat /bin")
    assert debugfs(image, "cat /.mayfly/config").split("\0")[:-1] == RUN_CONFIG
    assert "Mode:  01777" in debugfs(image, "stat /tmp") and "mtime: 0x3b9aca00" in debugfs(image, "stat /tmp")
    layout = Layout(tmp_path / "large")
    layout.add([layer(entry("a", b"a" * (20 << 20)), *(entry(f"f{i}", "x") for i in range(500)))]).write()
    for size in ("200K", "4M", "20M"):
        said = refused("build", layout.path, "-o", tmp_path / "small", "--ext4", "--size", size)
        assert "does not fit" in said, said
    built(layout.path, tmp_path / "fits", "--ext4", "--size", re.search(r"--size (\d+M)", said).group(1))
    built(layout.path, tmp_path / "fits", "--ext4")


def test_attributes(tmp_path, layout):
    """File capabilities and user attributes go into the image; what an overlay or a security module would obey does not."""
    capability = bytes.fromhex("0100000200200000000000000000000000000000")
    pax = {"SCHILY.xattr.security.capability": capability, "SCHILY.xattr.user.note": b"n\0\xff", "SCHILY.xattr.trusted.overlay.opaque": b"y",
           "SCHILY.xattr.user.overlay.redirect": b"/x", "SCHILY.xattr.security.selinux": b"evil", "SCHILY.xattr.system.posix_acl_access": b"acl"}
    layout.add([layer(entry("ping", BIG, pax=pax), entry("tail", "short", pax=pax))]).write()
    built(layout.path, tmp_path / "image")
    data = (tmp_path / "image").read_bytes()
    assert data.count(b"capability" + capability) == 2 and data.count(b"noten\0\xff") == 2
    assert not any(word in data for word in (b"overlay", b"opaque", b"selinux", b"acl"))
    assert names(contents(tmp_path / "image", tmp_path / "tree")) == {"ping", "tail"}
    built(layout.path, tmp_path / "image4", "--ext4")
    said = debugfs(tmp_path / "image4", "ea_list /ping")
    assert "security.capability" in said and "user.note" in said and "overlay" not in said and "selinux" not in said


# ---- inspect ----

def test_inspect(tmp_path, layout):
    layout.add([EVERYTHING], config(**RUN)).write()
    built(layout.path, tmp_path / "erofs")
    built(layout.path, tmp_path / "ext4", "--ext4")
    answers = [json.loads(image_tool("inspect", source, "--json", XDG_DATA_HOME=str(tmp_path)).out)
               for source in (layout.path, tmp_path / "erofs", tmp_path / "ext4")]
    assert [answer["config"] for answer in answers] == [[line.split("=", 1) for line in RUN_CONFIG]] * 3
    assert answers[0]["digest"].startswith("sha256:") and answers[1]["format"] == "erofs" and answers[2]["format"] == "ext4"
    text = image_tool("inspect", tmp_path / "erofs").out
    assert "entrypoint   /bin/sh\n" in text and "label        a=é\\n\n" in text


def test_inspect_of_damaged_images(tmp_path, layout):
    """Any byte of the first blocks may be wrong: an answer or one sentence, and soon."""
    layout.add([layer(entry("a", "b"))], config(**RUN)).write()
    built(layout.path, tmp_path / "image")
    whole = (tmp_path / "image").read_bytes()
    sys.path.insert(0, str(ROOT / "rootfs"))
    try:
        from image import erofs
        from image.limits import ImageError
    finally:
        sys.path.pop(0)
    refusals = 0
    with open(tmp_path / "image", "r+b") as file:
        for at in range(1024, 2600):
            for value in (0, 0xFF, whole[at] ^ 0x10):
                os.pwrite(file.fileno(), bytes([value]), at)
                try:
                    erofs.read_config(file.fileno(), "damaged")
                except ImageError:
                    refusals += 1
            os.pwrite(file.fileno(), whole[at:at + 1], at)
    assert refusals > 100
    (tmp_path / "damaged").write_bytes(whole[:1500])
    refused("inspect", tmp_path / "damaged")


# ---- the cache ----

def get(source, cache, *args, **options):
    done = image_tool("get", source, "--cache", cache, "--json", *args, **options)
    assert done.code == 0, done
    return json.loads(done.out)


def cached(cache):
    return json.loads(image_tool("list", "--json", "--cache", cache).out)


def test_get(tmp_path, layout):
    """Built once, then found, by whatever form the image comes in; a change of the source is seen."""
    cache = tmp_path / "cache"
    layout.add([EVERYTHING], config(**RUN)).write()
    first = get(layout.path, cache)
    assert first["built"] and Path(first["path"]).is_relative_to(cache)
    assert get(layout.path, cache) == {**first, "built": False}
    assert get(layout.archive(tmp_path / "a.tar"), cache) == {**first, "built": False}
    assert image_tool("get", layout.path, "--cache", cache).out == first["path"] + "\n"
    assert get(layout.path, cache, "--ext4")["built"] and get(layout.path, cache, "--ext4", "--size=64M")["built"]
    root = tmp_path / "root"
    root.mkdir()
    (root / "a").write_text("1")
    one = get(root, cache)
    assert one["built"] and not get(root, cache)["built"]
    (root / "a").write_text("2")
    two = get(root, cache)
    assert two["built"] and two["path"] != one["path"]
    (tmp_path / "t.tar").write_bytes(layer(entry("a")))
    assert get(tmp_path / "t.tar", cache)["built"] and not get(tmp_path / "t.tar", cache)["built"]
    (tmp_path / "t.tar").write_bytes(layer(entry("b")))
    assert get(tmp_path / "t.tar", cache)["built"]
    listing = cached(cache)
    assert len(listing) == 7 and all(Path(image["path"]).exists() and image["disk"] > 0 for image in listing)
    assert str(layout.path) in image_tool("list", "--cache", cache).out
    assert stat.S_IMODE(cache.stat().st_mode) == 0o700 and not list((cache / "work").iterdir())


HOOKED = """
import os, sys
sys.path.insert(0, sys.argv.pop(1))
from image import cli, source
read, spool = source.File._root, source.Spool
def changed(self, blob):
    image = read(self, blob)
    if "CHANGE" in os.environ:
        with open(self.path, "r+b") as file, open(os.environ["CHANGE"], "rb") as other:
            file.write(other.read())
    return image
def told(folder):
    print("unpacked in", folder, file=sys.stderr)
    return spool(folder)
source.File._root, source.Spool = changed, told
sys.exit(cli.main())
"""


def hooked(*args, **options):
    """mayfly-image which overwrites a tar once it has looked at it, by the file CHANGE, and says where it unpacks compressed archives."""
    return image_tool("-c", HOOKED, ROOT / "rootfs", *args, program="/usr/bin/python3", **options)


def test_a_tar_that_changes(tmp_path):
    """What was not hashed is not built, and above all not kept under the digest of what was."""
    tar, cache = tmp_path / "t.tar", tmp_path / "cache"
    before = layer(entry("a", b"one"))
    (tmp_path / "other.tar").write_bytes(layer(entry("b", b"two")))
    for command in (["get", tar, "--cache", cache], ["build", tar, "-o", tmp_path / "image"]):
        tar.write_bytes(before)
        done = hooked(*command, CHANGE=str(tmp_path / "other.tar"))
        assert done.code == 1 and "its bytes have another digest" in done.err, done
    assert not cached(cache) and not (tmp_path / "image").exists()
    tar.write_bytes(before)
    assert list(contents(get(tar, cache)["path"], tmp_path / "tree"))[-1] == "a"


def test_where_archives_are_unpacked(tmp_path, layout):
    """Beside what is written, where there is room, and nothing stays."""
    archive, cache = tmp_path / "a.tar.gz", tmp_path / "cache"
    layout.add([EVERYTHING], config(**RUN)).archive(tmp_path / "a.tar")
    archive.write_bytes(gzip.compress((tmp_path / "a.tar").read_bytes(), 1))
    before = sorted(tmp_path.iterdir())
    assert f"unpacked in {tmp_path}/.mayfly-image-" in hooked("build", archive, "-o", tmp_path / "image").err
    assert sorted(tmp_path.iterdir()) == sorted([*before, tmp_path / "image"])
    assert f"unpacked in {cache}/work\n" in hooked("get", archive, "--cache", cache).err and not list((cache / "work").iterdir())
    assert "unpacked in None\n" in hooked("inspect", archive).err


def test_many_at_once(tmp_path, layout):
    """Eight ask for the same image: one builds it, the others wait, all get the same whole file."""
    layout.add([layer(*(entry(f"f{i}", BIG * 20) for i in range(100)))]).write()
    answers = []
    threads = [threading.Thread(target=lambda: answers.append(get(layout.path, tmp_path / "cache"))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(answers) == 8 and sum(answer["built"] for answer in answers) == 1 and len({answer["path"] for answer in answers}) == 1
    assert len(names(contents(answers[0]["path"], tmp_path / "tree"))) == 100


def test_a_builder_that_dies(tmp_path, layout):
    """Killed in the middle: the next one builds, prune removes what was left. Asked to end: nothing is left at once."""
    cache, pipe = tmp_path / "cache", tmp_path / "bin"
    pipe.mkdir()
    (pipe / "zstd").write_text("#!/bin/sh\ncat >/dev/null; exec sleep 600\n")
    (pipe / "zstd").chmod(0o755)
    layout.add([pack(EVERYTHING, "zstd")]).write()
    environment = {**ENVIRONMENT, "PATH": f"{pipe}:{ENVIRONMENT['PATH']}"}
    for action in ("kill", "terminate"):
        with subprocess.Popen([PROGRAM, "get", layout.path, "--cache", cache], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                              start_new_session=True) as process:
            deadline = time.monotonic() + PATIENCE
            while not list(cache.glob("work/*.d")):
                assert process.poll() is None and time.monotonic() < deadline
                time.sleep(0.01)
            time.sleep(0.3)
            getattr(process, action)()
            process.wait(PATIENCE)
            os.killpg(process.pid, 9) if action == "kill" else None
        left = list(cache.glob("work/*.d"))
        assert bool(left) == (action == "kill") and cached(cache) == []
        if left:
            assert image_tool("prune", "--cache", cache).code == 0 and not list(cache.glob("work/*"))
    assert get(layout.path, cache)["built"]


def test_prune(tmp_path):
    """Without options only what nobody can use; --keep takes the longest unused first; --all spares what was used just now."""
    cache = tmp_path / "cache"
    paths = []
    for i in range(4):
        (tmp_path / f"{i}.tar").write_bytes(layer(entry("a", bytes([65 + i]) * (1 << 20))))
        paths.append(Path(get(tmp_path / f"{i}.tar", cache)["path"]))

    def prune(*args):
        done = image_tool("prune", "--cache", cache, *args)
        assert done.code == 0, done
        return [path.exists() for path in paths]

    assert prune() == prune("--all") == [True] * 4
    for i, age in enumerate((4000, 1000, 3000, 2000)):
        os.utime(paths[i].with_suffix(".json"), (time.time() - 5000,) * 2)
        os.utime(paths[i], (time.time() - age,) * 2)
    assert prune("--keep", "2200K") == [False, True, False, True]
    facts = json.loads(paths[1].with_suffix(".json").read_text())
    paths[1].with_suffix(".json").write_text(json.dumps({**facts, "builder": 0}))
    os.utime(paths[1].with_suffix(".json"), (1, 1))
    assert prune() == [False, False, False, True]
    assert prune("--all") == [False] * 4 and cached(cache) == []


# A skopeo that has one registry: the folder $REGISTRY, with a layout for each name.
SKOPEO = r"""#!/usr/bin/python3
import json, os, shutil, sys
source, target = sys.argv[-2:]
options = dict(arg[2:].partition("=")[::2] for arg in sys.argv[1:-2] if arg.startswith("--"))
with open(os.environ["REGISTRY"] + "/log", "a") as log:
    log.write(" ".join(sys.argv[1:]) + "\n")
name = source.removeprefix("docker://")
layout = os.environ["REGISTRY"] + "/" + name.replace(":", "_")
if not os.path.isdir(layout):
    sys.exit('time="2026-01-01" level=fatal msg="manifest unknown"')
place = target.removeprefix("oci:").rpartition(":")[0]
os.makedirs(place)
for file in ("oci-layout", "index.json"):
    shutil.copy(f"{layout}/{file}", place)
shutil.copytree(f"{layout}/blobs", options["dest-shared-blob-dir"], dirs_exist_ok=True)
"""


@pytest.fixture
def registry(tmp_path):
    place = tmp_path / "registry"
    (place / "bin").mkdir(parents=True)
    (place / "bin/skopeo").write_text(SKOPEO)
    (place / "bin/skopeo").chmod(0o755)
    (place / "log").touch()
    environment = {"REGISTRY": str(place), "PATH": f"{place}/bin:{ENVIRONMENT['PATH']}"}
    yield place, environment


def test_registry(tmp_path, registry):
    """Fetched once; found without a network after that; fetched again when asked to; layers are shared and go with the last who has them."""
    place, environment = registry
    cache = tmp_path / "cache"
    base = layer(entry("base", BIG * 100))
    for name in ("one_1", "two_1"):
        Layout(place / name).add([pack(base), layer(entry(name))], tag="latest").write()
    first = get("one:1", cache, **environment)
    assert names(contents(first["path"], tmp_path / "tree")) == {"base", "one_1"}
    assert get("one:1", cache, **environment) == {**first, "built": False} and len((place / "log").read_text().splitlines()) == 1
    get("two:1", cache, **environment)
    assert len(list((cache / "blobs/sha256").iterdir())) == 1 + 2 * 3
    shutil.rmtree(place / "one_1")
    assert "manifest unknown" in refused("get", "one:1", "--pull", "--cache", cache, **environment)
    Layout(place / "one_1").add([pack(base), layer(entry("newer"))], tag="latest").write()
    newer = get("one:1", cache, "--pull", **environment)
    assert newer["built"] and newer["path"] != first["path"]
    assert "copy" in (place / "log").read_text() and "--override-arch=amd64" in (place / "log").read_text()
    for file in [*cache.glob("built/*"), *cache.glob("blobs/sha256/*")]:
        os.utime(file, (time.time() - 1000,) * 2)
    image_tool("prune", "--cache", cache)
    assert len(list((cache / "blobs/sha256").iterdir())) == 1 + 2 * 3  # what only the older one:1 had is gone
    image_tool("prune", "--cache", cache, "--all")
    assert not list((cache / "blobs/sha256").iterdir()) and not list((cache / "refs").iterdir())


def test_registry_with_damaged_cache(tmp_path, registry):
    """A layer that was damaged on the disk is refused once, and fetched again the next time."""
    place, environment = registry
    Layout(place / "one_1").add([layer(entry("a"))], tag="latest").write()
    get("one:1", tmp_path / "cache", **environment)
    for blob in (tmp_path / "cache/blobs/sha256").iterdir():
        data = blob.read_bytes()
        if data[:2] == b"\x1f\x8b":
            blob.write_bytes(data[:-1] + b"?")
    assert "damaged" in refused("get", "one:1", "--ext4", "--cache", tmp_path / "cache", **environment)
    assert get("one:1", tmp_path / "cache", "--ext4", **environment)["built"]


@pytest.mark.parametrize("name", ["-version", "--config=x", "a b", "A/b", "../x", "/nowhere", "./x", "docker://-x", "a:b:c:d", "x@sha256:1", "", "a\nb"])
def test_no_names_of_images(tmp_path, registry, name):
    """What is no name never comes near skopeo."""
    place, environment = registry
    refused("get", "--cache", tmp_path / "cache", "--", name, **environment)
    assert (place / "log").read_text() == ""


def test_without_skopeo(tmp_path):
    assert "apt-get install skopeo" in refused("get", "debian:bookworm", "--cache", tmp_path / "cache", PATH=str(tmp_path))


# ---- what it says ----

def test_progress(tmp_path, layout):
    """A bar on a terminal, with the time left; lines elsewhere; nothing when quiet, and only the path on the standard output."""
    layout.add([pack(layer(entry("a", os.urandom(60 << 20))), "plain")]).write()
    main, side = pty.openpty()
    with subprocess.Popen([PROGRAM, "build", layout.path, "-o", tmp_path / "image"], stderr=side, stdout=subprocess.PIPE) as process:
        os.close(side)
        said = b""
        while True:
            try:
                said += os.read(main, 65536)
            except OSError as error:
                assert error.errno == errno.EIO
                break
        assert process.wait(PATIENCE) == 0 and process.stdout.read() == b""
    os.close(main)
    assert b"reading layers: [" in said and b" left" in said and b"MB of 62.9 MB" in said and said.count(b"\n") == 1
    done = image_tool("get", layout.path, "--cache", tmp_path / "cache")
    assert "erofs image of 62.9 MB" in done.err and "\r" not in done.err and done.out.count("\n") == 1
    assert image_tool("get", layout.path, "--ext4", "--cache", tmp_path / "cache", "--quiet").err == ""


@pytest.mark.parametrize("args", [[], ["build"], ["build", "x"], ["frobnicate"], ["get", "x", "--size=1x"], ["prune", "--all", "--keep=1G"]])
def test_usage(args):
    done = image_tool(*args)
    assert done.code in (1, 2) and done.out == "" and done.err.count("\n") == 1 and done.err.startswith("mayfly-image: "), done


def test_outputs(tmp_path, layout):
    """An image replaces an older file when it is complete; other things and failures leave all as it was."""
    layout.add([EVERYTHING]).write()
    output = tmp_path / "image"
    output.write_text("old")
    built(layout.path, output)
    assert output.stat().st_size > 3
    before = output.read_bytes()
    (layout.path / "index.json").write_text("{")
    refused("build", layout.path, "-o", output)
    assert output.read_bytes() == before
    refused("build", tmp_path / "layout", "-o", tmp_path)
    refused("build", tmp_path / "layout", "-o", "/dev/null")
    refused("build", tmp_path / "layout", "-o", tmp_path / "no/such/folder")
    assert "--ext4" in refused("build", layout.path, "-o", output, "--size", "1G")
    assert "--platform" in refused("build", layout.path, "-o", output, "--platform", "linux")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["image", "layout"]


def test_without_a_home(tmp_path, layout):
    """No cache is needed, nor made, for a local image and a file to write; get says what it needs."""
    layout.add([EVERYTHING]).write()
    (tmp_path / "file").touch()
    for source in (layout.path, layout.archive(tmp_path / "a.tar")):
        built(source, tmp_path / "image", XDG_DATA_HOME="/proc/nowhere")
        assert image_tool("inspect", source, XDG_DATA_HOME="/proc/nowhere").code == 0
    assert "needs to be a folder that can be written" in refused("get", layout.path, "--cache", tmp_path / "file/cache")


def test_tar_of_python(tmp_path):
    """Tars as Python's own module writes them, in each of its formats."""
    trees = []
    for form in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        with tarfile.open(tmp_path / "t.tar", "w", format=form) as tar:
            for name in ("short", "d" * 60 + "/" + "e" * 90, "u-é"):
                info = tarfile.TarInfo(name)
                info.uid, info.mtime = 1234, 1e9
                tar.addfile(info)
            info = tarfile.TarInfo("link")
            info.type, info.linkname = tarfile.SYMTYPE, "t" * (99 if form == tarfile.USTAR_FORMAT else 300)
            tar.addfile(info)
        built(tmp_path / "t.tar", tmp_path / f"image{form}")
        tree = contents(tmp_path / f"image{form}", tmp_path / f"tree{form}")
        assert tree.pop("link")[3].strip("t") == ""
        trees.append(tree)
    assert trees[0] == trees[1] == trees[2] and len(trees[0]) == 7


def test_write_tar_is_plain(tmp_path):
    """An archive of neither kind, named as one, is refused."""
    write_tar(tmp_path / "x.tar", {"hello": b"1"})
    assert "no oci-archive" in refused("build", f"oci-archive:{tmp_path}/x.tar", "-o", tmp_path / "image")
    assert "no docker-archive" in refused("build", f"docker-archive:{tmp_path}/x.tar", "-o", tmp_path / "image")
    built(f"tar:{tmp_path}/x.tar", tmp_path / "image")
