"""mayfly-image and images that mean harm: each is refused with one sentence, or is harmless, and nothing is left anywhere."""

import gzip
import json
import os
import random
import re
import resource
import subprocess
import zlib

import pytest

from harness import ROOT
from image_tool import built, contents, debugfs, image_tool, refused
from oci_layout import (BLOCK, CONFIG, FILE, GNU_SPARSE, INDEX, LAYER, MANIFEST, TIME, Layout, config, device, directory, docker_archive, entry,
                        hard_link, header, layer, number, pack, padded, sha256, symlink, write_tar)

MEMORY = 1 << 30  # bytes of address space: no image makes mayfly-image need more


@pytest.fixture
def layout(tmp_path):
    return Layout(tmp_path / "layout")


def limited():
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))


def refuse(tmp_path, source, *args):
    """Refused with one sentence, in bounded memory, and nothing is there that was not before."""
    before = sorted(tmp_path.rglob("*"))
    done = subprocess.run([ROOT / "rootfs/mayfly-image", "build", source, "-o", tmp_path / "image", *args], stdin=subprocess.DEVNULL, capture_output=True,
                          text=True, timeout=120, preexec_fn=limited)
    assert done.returncode == 1, done
    lines = done.stderr.splitlines()
    assert done.stdout == "" and lines and lines[-1].startswith("mayfly-image: ") and len(lines[-1]) < 1200, done
    assert all(" so far" in line or " left" in line for line in lines[:-1]), done
    assert sorted(tmp_path.rglob("*")) == before
    return lines[-1]


def sparse_header(pairs, real, stored, more=b"\0"):
    """The header of an old GNU sparse file."""
    sparse = b"".join(number(offset, 12) + number(length, 12) for offset, length in pairs).ljust(96, b"\0")
    tail = b"".join([bytes(386 - 345), sparse, more, number(real, 12)])
    block = header(b"sparse", GNU_SPARSE, stored, magic=b"ustar  \0")
    block = block[:345] + tail + bytes(512 - 345 - len(tail))
    total = sum(block) - sum(block[148:156]) + 8 * 32
    return block[:148] + b"%06o\0 " % total + block[156:]


PAX_SPARSE = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": "s"}

# What one layer can have in it, and what is said of it.
LAYERS = {
    "dotdot": ([entry("../x")], r"'\.\./x' has '\.\.'"),
    "dotdot-inside": ([entry("a/../../x")], r"has '\.\.'"),
    "dotdot-alone": ([directory("..")], r"has '\.\.'"),
    "dotdot-in-link-parent": ([symlink("a", "../../../../.."), entry("a/../x")], r"has '\.\.'"),
    "hard-link-dotdot": ([hard_link("x", "../../etc/passwd")], r"has '\.\.'"),
    "hard-link-absolute": ([hard_link("x", "/etc/passwd")], "hard link to '/etc/passwd', which is not there"),
    "hard-link-missing": ([hard_link("x", "y")], "not there"),
    "hard-link-itself": ([hard_link("x", "x")], "not there"),
    "hard-link-later": ([hard_link("x", "y"), entry("y")], "not there"),
    "hard-link-directory": ([directory("d"), hard_link("x", "d")], "a directory"),
    "hard-link-root": ([hard_link("x", "/")], "not there"),
    "hard-link-through-link": ([symlink("out", "/etc"), hard_link("x", "out/passwd")], "not there"),
    "hard-link-replaced": ([entry("y"), directory("y"), hard_link("x", "y")], "a directory"),
    "hard-link-empty": ([hard_link("x", "")], "without a target"),
    "symlink-empty": ([symlink("x", "")], "without a target"),
    "below-file": ([entry("f"), entry("f/x")], "'f', which is no directory"),
    "below-device": ([device("f", 1, 3), entry("f/x")], "no directory"),
    "below-hard-link": ([entry("f"), hard_link("g", "f"), entry("g/x")], "no directory"),
    "link-loop": ([symlink("a", "b"), symlink("b", "a"), entry("a/x")], "more than 40 symbolic links"),
    "link-to-itself": ([symlink("a", "a"), entry("a/x")], "more than 40 symbolic links"),
    "link-bomb": ([symlink(f"l{i}", f"/l{i + 1}/../l{i + 1}") for i in range(30)] + [directory("l30"), entry("l0/x")],
                  "more than 40 symbolic links"),
    "root-is-a-file": ([entry("/.")], "root something else"),
    "root-is-a-link": ([symlink(".", "/etc")], "root something else"),
    "root-is-nameless": ([entry("")], "root something else"),
    "whiteout-of-dot": ([entry(".wh..")], "removes nothing"),
    "whiteout-of-dotdot": ([entry("a/.wh...")], "removes nothing"),
    "whiteout-of-nothing": ([entry(".wh.")], "removes nothing"),
    "long-component": ([entry("n" * 256)], "a name of 256 bytes"),
    "long-component-in-link": ([symlink("l", "n" * 256), entry("l/x")], "a name of 256 bytes"),
    "name-4096": ([entry("a/" * 2048)], "a name of 4096 bytes"),
    "name-huge": ([entry("a/" * 200_000)], "a name of 400000 bytes"),
    "target-4096": ([symlink("l", "a" * 4096)], "4096 bytes"),
    "gnu-name-huge": ([header(b"././@LongLink", "L", 1 << 40) + padded(b"x" * 5000)], "a name of 1099511627776 bytes"),
    "pax-huge": ([header(b"pax", "x", 1 << 40), padded(b"x" * 5000)], "an extended header of 1099511627776 bytes"),
    "pax-global-huge": ([header(b"pax", "g", 1 << 30)], "a global header"),
    "pax-zero-byte": ([entry("x", pax={"path": b"a\0b"})], "zero byte"),
    "pax-no-number": ([entry("x", raw_pax=b"hello")], "extended header"),
    "pax-zero-length": ([entry("x", raw_pax=b"0 path=x\n")], "extended header"),
    "pax-long-length": ([entry("x", raw_pax=b"999 path=x\n")], "extended header"),
    "pax-endless-number": ([entry("x", raw_pax=b"1" * 4000)], "extended header"),
    "pax-negative": ([entry("x", raw_pax=b"-5 a=b\n")], "extended header"),
    "pax-short": ([entry("x", raw_pax=b"3 a\n")], "extended header"),
    "pax-no-newline": ([entry("x", raw_pax=b"11 path=xyz")], "extended header"),
    "pax-size-negative": ([entry("x", pax={"size": "-1"})], "size is no number"),
    "pax-size-huge": ([entry("x", pax={"size": "9" * 30})], "size is no number"),
    "pax-size-beyond": ([entry("x", pax={"size": str(1 << 62)})], "in the middle|unpacks"),
    "pax-uid": ([entry("x", pax={"uid": str(1 << 32)})], "the owner 4294967296"),
    "pax-mtime": ([entry("x", pax={"mtime": "1e9"})], "time is no number"),
    "pax-chain-to-the-end": ([header(b"pax", "x", 0)] * 5, "the archive ends where an entry should follow"),
    "xattr-huge": ([entry("x", pax={"SCHILY.xattr.user.a": b"x" * 70_000})], "attributes"),
    "xattr-many": ([entry("x", pax={f"SCHILY.xattr.user.{i}": b"x" * 100 for i in range(1000)})], "attributes"),
    "xattr-name": ([entry("x", pax={"SCHILY.xattr.user." + "n" * 300: b"x"})], "attributes"),
    "size-negative": ([header(b"x", FILE, -1)], "size is negative"),
    "size-8-EiB": ([header(b"x", FILE, (1 << 63) - 1)], "in the middle"),
    "size-beyond": ([header(b"x", FILE, 1 << 40), bytes(512)], "in the middle"),
    "size-no-number": ([header(b"x", FILE, 0, checksum=None)[:124] + b"zzz" + bytes(385)], "checksum"),
    "uid-negative": ([entry("x", uid=-1)], "owner is negative"),
    "uid-huge": ([entry("x", uid=1 << 40)], "the owner 1099511627776"),
    "uid-minus-one": ([entry("x", gid=0xFFFFFFFF)], "the owner"),
    "device-huge": ([device("x", 4096, 0)], "a device 4096:0"),
    "device-minor": ([device("x", 1, 1 << 20, kind=BLOCK)], "a device 1:1048576"),
    "type-unknown": ([header(b"x", "Z", 0)], "nobody knows a type 'Z'"),
    "type-multivolume": ([header(b"x", "M", 0)], "nobody knows a type 'M'"),
    "checksum": ([header(b"x", FILE, 0, checksum=1)], "checksum"),
    "no-tar": ([b"#!/bin/sh\necho hello\n" * 100], "checksum"),
    "sparse-8-EiB": ([sparse_header([((1 << 63) - 1, 0)], (1 << 63) - 1, 0)], "unpacks to more"),
    "sparse-20-GiB": ([sparse_header([(20 << 30, 0)], 20 << 30, 0)], "unpacks to more"),
    "sparse-overlapping": ([sparse_header([(0, 512), (0, 512)], 1024, 1024), bytes(1024)], "contradicts"),
    "sparse-backwards": ([sparse_header([(4096, 512), (0, 512)], 8192, 1024), bytes(1024)], "contradicts"),
    "sparse-beyond": ([sparse_header([(0, 4096)], 512, 4096), bytes(4096)], "contradicts"),
    "sparse-too-little": ([sparse_header([(0, 512)], 8192, 1024), bytes(1024)], "does not fit"),
    "sparse-too-much": ([sparse_header([(0, 1024)], 8192, 512), bytes(512)], "does not fit"),
    "sparse-negative": ([sparse_header([(-1, 512)], 8192, 512), bytes(512)], "negative"),
    "sparse-endless": ([sparse_header([(0, 0)], 8192, 0, more=b"\1")] + [number(0, 12) * 42 + b"\1" + bytes(7)] * 6000, "no end"),
    "cut-sparse": ([sparse_header([(0, 0)], 8192, 0, more=b"\1")], "no end"),
    "pax-sparse-count": ([entry("x", b"99999999\n".ljust(512, b"\0"), pax={**PAX_SPARSE, "GNU.sparse.realsize": "1"})], "map of holes"),
    "pax-sparse-endless": ([entry("x", b"9" * 4096, pax={**PAX_SPARSE, "GNU.sparse.realsize": "1"})], "map of holes"),
    "pax-sparse-no-map": ([entry("x", b"", pax={**PAX_SPARSE, "GNU.sparse.realsize": "1"})], "map of holes"),
    "pax-sparse-words": ([entry("x", b"one\ntwo\n".ljust(512, b"\0"), pax={**PAX_SPARSE, "GNU.sparse.realsize": "1"})], "map of holes"),
    "pax-sparse-no-size": ([entry("x", b"0\n".ljust(512, b"\0"), pax=PAX_SPARSE)], "size is no number"),
    "pax-sparse-old": ([entry("x", b"abc", pax={"GNU.sparse.map": "0,3,7", "GNU.sparse.size": "10"})], "map of holes"),
    "pax-sparse-old-size": ([entry("x", b"abc", pax={"GNU.sparse.map": "0,3", "GNU.sparse.size": "99999999999999999999"})], "unpacks to more"),
    "deep": ([entry("/".join("a" * 2000))], "more than 1024 directories"),
    "deep-through-links": ([directory("/".join("a" * 900)), symlink("l", "/".join("a" * 900)), entry("l/" + "/".join("b" * 900))], "more than 1024 directories"),
    "data-after-end": ([], "something follows the end mark"),
    "cut-in-data": ([entry("x", b"a" * 5000)[:3000]], "in the middle"),
    "cut-in-header": ([entry("x", b"a" * 512)[:700]], "in the middle|end mark"),
}


@pytest.mark.parametrize("case", LAYERS)
def test_layer_refused(tmp_path, layout, case):
    """In a layer whose digests are right; the sentence says which entry and what is wrong."""
    parts, expected = LAYERS[case]
    tar = layer(*parts, end=bytes(1024) + b"evil".ljust(512) if case == "data-after-end" else b"" if case.startswith(("cut", "pax-chain")) else bytes(1024))
    layout.add([layer(entry("base")), pack(tar, "plain" if len(tar) % 3 else "gzip")]).write()
    said = refuse(tmp_path, layout.path)
    assert re.search(expected, said) and "layer 2 of 2" in said, said


def test_root_archive_refused(tmp_path):
    """No digest vouches for a tar by itself: without an end mark it counts as cut."""
    (tmp_path / "root.tar").write_bytes(layer(entry("a", b"x" * 700), end=b""))
    assert "without an end mark" in refuse(tmp_path, tmp_path / "root.tar")
    (tmp_path / "root.tar").write_bytes(b"")
    assert "without an end mark" in refuse(tmp_path, tmp_path / "root.tar")
    for name, magic in (("bzip2", b"BZh9"), ("xz", b"\xfd7zXZ\0")):
        (tmp_path / "root.tar").write_bytes(magic + bytes(1000))
        assert f"compressed by {name}" in refuse(tmp_path, tmp_path / "root.tar")


# ---- compressed data ----

TAR = layer(entry("a", b"hello" * 1000))
DAMAGE = {
    "gzip-cut": (gzip.compress(TAR)[:-9], "ends too early"),
    "gzip-cut-in-header": (gzip.compress(TAR)[:5], "ends too early"),
    "gzip-garbage-behind": (gzip.compress(TAR) + b"garbage", "damaged"),
    "gzip-garbage-behind-zeros": (gzip.compress(TAR) + bytes(600) + b"garbage", "neither gzip nor zeros"),
    "gzip-checksum": (gzip.compress(TAR)[:-8] + bytes(8), "damaged"),
    "gzip-garbage-within": (gzip.compress(TAR)[:20] + b"\xff" * 100, "damaged"),
    "zstd-cut": (pack(TAR, "zstd").data[:-3], "zstd data"),
    "zstd-garbage-behind": (pack(TAR, "zstd").data + b"garbage", "zstd data"),
    "zstd-garbage-within": (pack(TAR, "zstd").data[:12] + b"\xff" * 30, "zstd data"),
    "zstd-window": (bytes.fromhex("28b52ffd 00 a8 010000"), "zstd data"),
    "raw-deflate": (zlib.compress(TAR), "no tar"),
    "empty": (b"", "diff_id|digest"),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_damaged(tmp_path, layout, case):
    data, expected = DAMAGE[case]
    layout.add([pack(TAR)._replace(data=data, digest=sha256(data), size=len(data))]).write()
    said = refuse(tmp_path, layout.path)
    assert re.search(expected, said), said


@pytest.mark.parametrize("how", ["gzip", "zstd"])
def test_bombs(tmp_path, layout, how):
    """128 MiB of zeros in a few KB: stopped at the size that is allowed; where they are allowed, they take no room."""
    zeros = header(b"zeros", FILE, 1 << 27, mtime=TIME) + bytes(1 << 27) + bytes(1024)
    layout.add([pack(zeros, how)]).write()
    assert "unpacks to more than 105 MB" in refuse(tmp_path, layout.path, "--max-size", "100M")
    facts = built(layout.path, tmp_path / "image", "--max-size", "200M")
    assert facts["size"] > 1 << 27 and facts["disk"] < 1 << 20


def test_bomb_of_an_archive(tmp_path):
    """The archive itself may be one, before anything is known of its images."""
    (tmp_path / "bomb.tar.gz").write_bytes(gzip.compress(bytes(1 << 26), 9))
    assert "unpacks to more" in refuse(tmp_path, tmp_path / "bomb.tar.gz", "--max-size", "50M")


def test_many_small_members(tmp_path, layout):
    """A hundred thousand empty gzip members are no way to keep us busy."""
    data = gzip.compress(b"", mtime=0) * 100_000 + gzip.compress(TAR)
    layout.add([pack(TAR)._replace(data=data, digest=sha256(data), size=len(data))]).write()
    built(layout.path, tmp_path / "image")


# ---- too much of everything ----

def test_too_many_layers(tmp_path, layout):
    item = pack(layer(), "plain")
    layout.add([item] * 10_000).write()
    assert "10000 layers; 512 are the most" in refuse(tmp_path, layout.path)
    docker_archive(tmp_path / "d.tar", [layer()], Layers=["x.tar"] * 10_000)
    assert "10000 layers; 512 are the most" in refuse(tmp_path, tmp_path / "d.tar")


def test_512_layers(tmp_path, layout):
    layout.add([pack(layer(entry(f"f{i}"), entry("same", str(i))), "plain") for i in range(512)]).write()
    built(layout.path, tmp_path / "image")
    tree = contents(tmp_path / "image", tmp_path / "tree")
    assert len(tree) == 512 + 4 and tree["same"][3] == "511"


SMALLER = """
import sys
sys.path.insert(0, sys.argv.pop(1))
from image import cli
class Smaller(cli.Limits):
    {limit} = {value}
cli.Limits = Smaller
sys.exit(cli.main())
"""


@pytest.mark.parametrize("limit,value,parts,expected", [
    ("entries", 5000, [entry(f"{i}/" + "/".join("a" * 900)) for i in range(6)], "more than 5000 entries"),
    ("entries", 5000, [entry(".wh.x")] * 5001, "more than 5000 entries"),
    ("steps", 20_000, [directory("/".join("a" * 500)), symlink("l", "/" + "/".join("a" * 500)), *(entry(f"l/{i}") for i in range(100))], "too long to look up"),
    ("steps", 20_000, [directory("d"), *(entry(f"d/{i}") for i in range(300)), *[entry("d/.wh..wh..opq")] * 100], "too long to look up"),
    ("metadata", 1 << 20, [entry("x", pax={f"SCHILY.xattr.user.{i}": b"x" * 10_000 for i in range(6)})] * 20, "more than 1 MiB"),
    ("metadata", 1 << 20, [symlink("x", "t" * 4000)] * 300, "more than 1 MiB")], ids=["directories", "whiteouts", "links", "opaque", "attributes", "targets"])
def test_limits(tmp_path, layout, limit, value, parts, expected):
    """Entries (directories that come into being count), look-ups, and what names take: with smaller limits, to be quick."""
    layout.add([layer(*parts)]).write()
    code = SMALLER.format(limit=limit, value=value)
    done = subprocess.run(["/usr/bin/python3", "-c", code, ROOT / "rootfs", "build", layout.path, "-o", tmp_path / "image"], capture_output=True,
                          text=True, timeout=60)
    assert done.returncode == 1 and expected in done.stderr and not (tmp_path / "image").exists(), done
    if limit != "steps":
        (tmp_path / "root.tar").write_bytes(layer(*parts))
        done = subprocess.run(["/usr/bin/python3", "-c", code, ROOT / "rootfs", "build", tmp_path / "root.tar", "-o", tmp_path / "image"],
                              capture_output=True, text=True, timeout=60)
        assert done.returncode == 1 and " more than " in done.stderr, done
    built(layout.path, tmp_path / "image")


# ---- documents ----

def swollen(document, size):
    """JSON of so many bytes, which takes thirty times as many in memory."""
    start = json.dumps(document)[:-1].encode() + b', "more": [{"":0}'
    return start + b',{"":0}' * ((size - len(start) - 2) // 7) + b"]}"


def test_swollen_documents(tmp_path, layout):
    """As much JSON as is allowed, all of which is needed at the same time."""
    found = layout.descriptor(swollen({"layers": [], "schemaVersion": 1}, 15 << 18), MANIFEST, platform={"os": "linux", "architecture": "amd64"})
    for _ in range(3):
        found = layout.descriptor(swollen({"manifests": [found]}, 4 << 20), INDEX)
    with_index(layout, swollen({"manifests": [found]}, 4 << 20)).write()
    assert "schema version 2" in refuse(tmp_path, layout.path)


def test_too_many_documents(tmp_path, layout):
    """Images that fit, one as well as the other, and are looked at before one is taken."""
    layout.index = [layout.descriptor(swollen({"schemaVersion": 2, "layers": [], "number": number}, 4 << 20), MANIFEST,
                                      platform={"os": "linux", "architecture": "amd64"}) for number in range(5)]
    layout.write()
    assert "more than 16 MiB of manifests" in refuse(tmp_path, layout.path)



def with_index(layout, text):
    layout.files["index.json"] = text if isinstance(text, bytes) else json.dumps(text).encode()
    return layout


DEEP = b'{"manifests":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
DESCRIPTOR = {"mediaType": MANIFEST, "digest": sha256(b"{}"), "size": 2}
INDEXES = {
    "no-json": (b"{", "not valid JSON"), "no-object": (b"[]", "object is expected"), "number": (b"3", "neither"), "deep": (DEEP, "nested too deeply"),
    "latin": (b'{"a": "\xff"}', "not valid JSON"), "digits": (b'{"a": %s}' % (b"9" * 5000), "not valid JSON"), "empty": (b"", "not valid JSON"),
    "huge": (b" " * (4 << 20) + b"{}", "are the most"), "no-list": ({"manifests": {}}, "no list of manifests"), "missing": ({}, "no list of manifests"),
    "strings": ({"manifests": ["x"]}, "no list of manifests"), "many": ({"manifests": [{}] * 10_001}, "more than 10000"),
    "no-digest": ({"manifests": [{"size": 2}]}, "is no digest"), "digest-path": ({"manifests": [{**DESCRIPTOR, "digest": "sha256:../../../etc/passwd"}]}, "no digest"),
    "digest-upper": ({"manifests": [{**DESCRIPTOR, "digest": DESCRIPTOR["digest"].upper()}]}, "no digest"),
    "digest-md5": ({"manifests": [{**DESCRIPTOR, "digest": "md5:" + "0" * 32}]}, "no digest"),
    "size-negative": ({"manifests": [{**DESCRIPTOR, "size": -1}]}, "is no size"), "size-float": ({"manifests": [{**DESCRIPTOR, "size": 2.0}]}, "is no size"),
    "size-true": ({"manifests": [{**DESCRIPTOR, "size": True}]}, "is no size"), "size-huge": ({"manifests": [{**DESCRIPTOR, "size": 1 << 70}]}, "is no size"),
    "media-number": ({"manifests": [{**DESCRIPTOR, "mediaType": 7}]}, "mediaType is no string"),
    "media-unknown": ({"manifests": [{**DESCRIPTOR, "mediaType": "text/x-evil\u001b[2J"}]}, "there is 'text/x-evil"),
    "blob-missing": ({"manifests": [DESCRIPTOR]}, "No such file"),
    "annotations": ({"manifests": [{**DESCRIPTOR, "annotations": "x"}]}, "no object"), "platform": ({"manifests": [{**DESCRIPTOR, "platform": []}]}, "no object"),
    "none": ({"manifests": []}, "no image at all"),
}


@pytest.mark.parametrize("case,form", [*((case, "folder") for case in INDEXES), *((case, "archive") for case in ("huge", "digest-path", "blob-missing"))])
def test_index_refused(tmp_path, layout, case, form):
    text, expected = INDEXES[case]
    with_index(layout, text).write()
    said = refuse(tmp_path, layout.path if form == "folder" else layout.archive(tmp_path / "a.tar"))
    assert expected in said or (case == "blob-missing" and "no 'blobs" in said), said
    assert said.isprintable()


@pytest.mark.parametrize("text", [b"{}", b'{"imageLayoutVersion": "2.0.0"}', b"x"])
def test_layout_version(tmp_path, layout, text):
    layout.files["oci-layout"] = text
    layout.add([]).write()
    assert "oci-layout" in refuse(tmp_path, layout.path) or "1.0.0 is known" in refuse(tmp_path, layout.path)


def test_index_loops(tmp_path, layout):
    """An index in itself needs a digest that is not its own; indexes in indexes end somewhere; a thousand lead nowhere."""
    digest = "sha256:" + "1" * 64
    text = json.dumps({"manifests": [{"mediaType": INDEX, "digest": digest, "size": 0}]}).encode()
    text = text.replace(b'"size": 0', b'"size": %d' % len(text.replace(b'"size": 0', b'"size": 000')))
    layout.blob(text, digest)
    with_index(layout, text).write()
    assert "digest" in refuse(tmp_path, layout.path)
    inner = layout.manifest([])
    for _ in range(10):
        inner = layout.descriptor({"manifests": [inner]}, INDEX)
    layout.index = [inner]
    del layout.files["index.json"]
    layout.write()
    assert "more than 4 deep" in refuse(tmp_path, layout.path)
    layout.index = [layout.descriptor({"manifests": [], "x": i}, INDEX) for i in range(1200)]
    layout.write()
    assert "more than 1000 entries" in refuse(tmp_path, layout.path)


def wrong_manifest(layout, change):
    """An image whose manifest is changed after it was made."""
    found = layout.manifest([TAR])
    manifest = json.loads(layout.files[f"blobs/{found['digest'].replace(':', '/')}"])
    layout.index = [layout.descriptor(change(manifest), MANIFEST)]
    layout.write()


MANIFESTS = {
    "array": (lambda m: [m], "object is expected"), "no-layers": (lambda m: {**m, "layers": None}, "no image manifest"),
    "version": (lambda m: {**m, "schemaVersion": 1}, "schema version"), "layers-of-strings": (lambda m: {**m, "layers": ["x"]}, "layer 1 is no object"),
    "no-config": (lambda m: {**m, "config": None}, "config is no object"),
    "media": (lambda m: {**m, "layers": [{**m["layers"][0], "mediaType": "application/x-evil"}]}, "type 'application/x-evil'"),
    "encrypted": (lambda m: {**m, "layers": [{**m["layers"][0], "mediaType": LAYER + "+gzip+encrypted"}]}, "encrypted"),
    "no-media": (lambda m: {**m, "layers": [{k: v for k, v in m["layers"][0].items() if k != "mediaType"}]}, "type ''"),
    "layer-size": (lambda m: {**m, "layers": [{**m["layers"][0], "size": 7}]}, "where 7 are announced"),
    "layer-size-negative": (lambda m: {**m, "layers": [{**m["layers"][0], "size": -7}]}, "is no size"),
    "layer-twice": (lambda m: {**m, "layers": m["layers"] * 2}, "2 layers, but 1 diff_ids"),
    "layer-none": (lambda m: {**m, "layers": []}, "0 layers, but 1 diff_ids"),
    "config-size": (lambda m: {**m, "config": {**m["config"], "size": 1}}, "where 1 are announced"),
    "config-is-layer": (lambda m: {**m, "config": {**m["layers"][0], "mediaType": CONFIG}}, "not valid JSON"),
}


@pytest.mark.parametrize("case", MANIFESTS)
def test_manifest_refused(tmp_path, layout, case):
    change, expected = MANIFESTS[case]
    wrong_manifest(layout, change)
    assert expected in refuse(tmp_path, layout.path)


@pytest.mark.parametrize("which", ["layer", "config", "manifest"])
def test_wrong_digests(tmp_path, layout, which):
    """One bit of any blob: noticed, whatever it is."""
    layout.add([pack(layer(entry("a", b"hello")), "plain")]).write()
    found = {"manifest": layout.index[0]["digest"]}
    manifest = json.loads(layout.files[f"blobs/{found['manifest'].replace(':', '/')}"])
    found |= {"config": manifest["config"]["digest"], "layer": manifest["layers"][0]["digest"]}
    blob = layout.path / "blobs" / found[which].replace(":", "/")
    data = blob.read_bytes()
    blob.write_bytes(data.replace(b"hello", b"hellp").replace(b"amd64", b"Amd64").replace(b"schema", b"schemb"))
    assert blob.read_bytes() != data and "another digest" in refuse(tmp_path, layout.path)


def test_wrong_diff_id(tmp_path, layout):
    layout.add([pack(TAR, diff_id=sha256(b""))]).write()
    assert "not sha256:e3b0c442" in refuse(tmp_path, layout.path)


@pytest.mark.parametrize("diff_ids", [[7], "x", ["sha256:1"], ["sha512:" + "0" * 128], None])
def test_diff_ids(tmp_path, layout, diff_ids):
    layout.add([TAR], {**config(), "rootfs": {"type": "layers", "diff_ids": diff_ids}}).write()
    assert "diff_id" in refuse(tmp_path, layout.path)


@pytest.mark.parametrize("run", [
    {"Cmd": "sh"}, {"Cmd": [1]}, {"Cmd": {"a": 1}}, {"Entrypoint": "sh -c"}, {"Env": ["NOVALUE"]}, {"Env": ["=x"]}, {"Env": {"A": "b"}}, {"User": 5},
    {"WorkingDir": ["/"]}, {"StopSignal": 9}, {"ExposedPorts": ["80"]}, {"Volumes": "x"}, {"Labels": {"a": 1}}, {"Cmd": ["a\0b"]}, {"User": "a\0entrypoint=b"},
    {"Env": ["A=\ud800"]}, {"Labels": {"a": "b" * 300_000}}, {"Labels": {str(i): "b" for i in range(60_000)}}])
def test_configuration_refused(tmp_path, layout, run):
    layout.add([], config(**run)).write()
    assert "the image's" in refuse(tmp_path, layout.path) or "a label of the image" in refuse(tmp_path, layout.path)


@pytest.mark.parametrize("settings", [{"config": []}, {"rootfs": 7}, {"os": 7}, {"architecture": ["amd64"]}, {"config": {"Cmd": [[[]]]}}])
def test_configuration_of_wrong_kinds(tmp_path, layout, settings):
    layout.add([], {**config(), "rootfs": {"diff_ids": []}, **settings}).write()
    refuse(tmp_path, layout.path)


# ---- archives and folders around it ----

DOCKER = {
    "no-json": ({"manifest.json": b"{"}, "not valid JSON"), "object": ({"manifest.json": b"{}"}, "no docker archive"),
    "empty": ({"manifest.json": b"[]"}, "no such image"), "numbers": ({"manifest.json": b"[1]"}, "no docker archive"),
    "no-config": ({"manifest.json": b'[{"Layers": []}]'}, "names no Config"),
    "config-path": ({"manifest.json": b'[{"Config": "../../../../etc/passwd", "Layers": []}]'}, "no '../../../../etc/passwd' in the archive"),
    "config-is-manifest": ({"manifest.json": b'[{"Config": "manifest.json", "Layers": []}]'}, "object is expected"),
    "layers-string": ({"manifest.json": b'[{"Config": "c", "Layers": "x"}]', "c": b"{}"}, "no list of strings"),
    "config-digest": ({"manifest.json": b'[{"Config": "%s.json", "Layers": []}]' % (b"0" * 64), "0" * 64 + ".json": b"{}"}, "another digest"),
    "two": ({"manifest.json": b'[{"RepoTags": ["a:1"]}, {"RepoTags": ["b:1"]}]'}, "which image"),
    "layer-missing": ({"manifest.json": b'[{"Config": "c", "Layers": ["/etc/passwd"]}]', "c": b'{"os": "linux", "architecture": "amd64"}'}, "in the archive"),
}


@pytest.mark.parametrize("case", DOCKER)
def test_docker_archive_refused(tmp_path, case):
    files, expected = DOCKER[case]
    said = refuse(tmp_path, write_tar(tmp_path / "d.tar", files))
    assert expected in said, said


def test_links_in_archives(tmp_path):
    """Links between members lead to members; in circles they lead nowhere."""
    text = b'[{"Config": "c", "Layers": []}]'
    for target in ("/etc/passwd", "../../../etc/passwd", "c", "d"):
        write_tar(tmp_path / "d.tar", {"manifest.json": text}, links=[("c", target), ("d", "c")])
        assert "in the archive" in refuse(tmp_path, tmp_path / "d.tar")


def test_wrong_diff_id_of_docker(tmp_path):
    tar = layer(entry("a"))
    docker_archive(tmp_path / "d.tar", [tar], Layers=["x"])
    with open(tmp_path / "d.tar", "r+b") as file:
        data = file.read()
        file.seek(0)
        file.write(data.replace(b"a" + bytes(99) + b"0000644", b"b" + bytes(99) + b"0000644"))
    refuse(tmp_path, tmp_path / "d.tar")


def test_blobs_that_are_no_files(tmp_path, layout):
    """A pipe that nobody writes to, a folder, a device: nobody waits for them."""
    layout.add([TAR]).write()
    blob = next(path for path in (layout.path / "blobs/sha256").iterdir() if path.read_bytes()[:2] == b"\x1f\x8b")
    blob.unlink()
    os.mkfifo(blob)
    assert "not a regular file" in refuse(tmp_path, layout.path)
    blob.unlink()
    blob.mkdir()
    refuse(tmp_path, layout.path)
    blob.rmdir()
    blob.symlink_to("/dev/zero")
    assert "not a regular file" in refuse(tmp_path, layout.path)
    os.mkfifo(tmp_path / "pipe")
    assert "not a regular file" in refuse(tmp_path, tmp_path / "pipe")
    refuse(tmp_path, "/dev/zero")


def test_directory_with_a_secret(tmp_path):
    """Links in a directory are kept as links; what they name is not read."""
    (tmp_path / "secret").write_text("the host's secret")
    root = tmp_path / "root"
    root.mkdir()
    (root / "file").symlink_to(tmp_path / "secret")
    (root / "folder").symlink_to(tmp_path)
    built(root, tmp_path / "image")
    data = (tmp_path / "image").read_bytes()
    assert b"the host's secret" not in data and str(tmp_path).encode() in data


# ---- contained ----

@pytest.mark.parametrize("args", [[], ["--ext4"]])
def test_contained(tmp_path, layout, args):
    """Names and links that would do harm on the host are just names in the image; nothing is made outside of it, in either format."""
    canary = tmp_path / "canary"
    canary.mkdir()
    up = "../" * 30 + str(canary)[1:]
    layout.add([layer(symlink("abs", str(canary)), entry("abs/one"), symlink("up", up), entry("up/two"), entry(f"{canary}/three", mode=0o4777),
                      device("dev/sda", 8, 0, kind=BLOCK, mode=0o666), entry("suid", b"#!/bin/sh\n", mode=0o6777), entry("-rf", "x"),
                      entry("a\nb\tc"), entry(b"\xff\xfe\x80"), entry('"; rm -rf ~; "'), entry("$(id)"), entry("*"))]).write()
    built(layout.path, tmp_path / "image", *args)
    assert list(canary.iterdir()) == [] and sorted(path.name for path in tmp_path.iterdir()) == ["canary", "image", "layout"]
    if args:
        listing = debugfs(tmp_path / "image", f"ls -p {canary}") + debugfs(tmp_path / "image", "ls -p /")
        assert all(f"/{name}/" in listing for name in ("one", "two", "three", "suid", "-rf", "$(id)", "*")), listing
        assert "/106777/" in listing and "Type: block" in debugfs(tmp_path / "image", "stat /dev/sda")
    else:
        tree = contents(tmp_path / "image", tmp_path / "tree")
        assert {f"{canary}/{name}"[1:] for name in ("one", "two", "three")} <= tree.keys()
        assert tree["dev/sda"][3] == "8:0" and tree["suid"][0] == "-rwsrwsrwx"
        assert {"-rf", "a\nb\tc", "\xff\xfe\x80", '"; rm -rf ~; "', "$(id)", "*"} <= tree.keys()


def test_deep_image(tmp_path, layout):
    """As deep as is allowed, beyond what a path can say: EROFS has it, ext4 refuses."""
    deep = "/".join(["d" * 200] * 15)
    layout.add([layer(directory(deep), symlink("l", deep), directory("l/" + deep), symlink("m", "l/" + deep), entry("m/" + "/".join("e" * 500)))]).write()
    built(layout.path, tmp_path / "image")
    subprocess.run(["fsck.erofs", tmp_path / "image"], check=False, timeout=60, capture_output=True)
    said = refused("build", layout.path, "-o", tmp_path / "image4", "--ext4")
    assert "too long a path for an ext4 image" in said and not (tmp_path / "image4").exists()


def test_mutations(tmp_path, layout):
    """A few hundred layers with bytes changed at random: built or refused, never anything else. Run in this process, to be quick."""
    code = f"""
import io, random, sys
sys.path.insert(0, {str(ROOT / 'rootfs')!r})
from image import erofs
from image.limits import ImageError, Limits
from image.stream import Budget, Reader, decompress
from image.tar import Tar
from image.tree import Spool, Tree
dice = random.Random(int(sys.argv[1]))
seed = sys.stdin.buffer.read()
built = refused = 0
for _ in range(600):
    data = bytearray(seed)
    for _ in range(dice.choice((1, 1, 2, 5, 20))):
        at = dice.randrange(len(data))
        data[at] = dice.choice((0, 255, 0x80, dice.randrange(256), data[at] ^ 1 << dice.randrange(8), 0x30 + dice.randrange(10)))
    if dice.random() < 0.7:  # checksums that fit, so that more than the first is looked at
        for at in range(0, len(data) - 511, 512):
            if data[at + 257:at + 262] == b"ustar":
                data[at + 148:at + 156] = b"%06o\\0 " % (sum(data[at:at + 148]) + 256 + sum(data[at + 156:at + 512]))
    spool = Spool(sys.argv[2])
    limits = Limits(64 << 20)
    tree = Tree(spool, limits, Budget(limits.size))
    try:
        for part in (bytes(data), seed):
            tree.apply(Tar(Reader(decompress(iter([part]), "x"), "x", tree.budget), "x", True), True)
        tree.set_config(b"cmd=x\\0")
        with open(sys.argv[2] + "/image", "wb+") as file:
            writer = erofs.Writer(tree, file)
            writer.plan()
            writer.write()
            file.flush()
            assert erofs.read_config(file.fileno(), "x") == b"cmd=x\\0"
        built += 1
    except ImageError:
        refused += 1
    spool.close()
assert built > 20 and refused > 20, (built, refused)
"""
    seed = layer(directory("a"), entry("a/b", b"x" * 700), symlink("l", "a"), hard_link("h", "a/b"), device("n", 1, 3),
                 entry("l/c", b"y", pax={"SCHILY.xattr.user.a": "b", "mtime": "12.5"}), entry("a/.wh.b"), entry("d/.wh..wh..opq"),
                 entry("p/" * 60 + "long", b"z"), sparse_header([(0, 3), (8192, 2)], 9000, 5), padded(b"12345"),
                 entry("s", b"1\n0\n3\n".ljust(512, b"\0") + b"abc", pax={**PAX_SPARSE, "GNU.sparse.realsize": "9000"}))
    value = random.randrange(1 << 30)
    done = subprocess.run(["/usr/bin/python3", "-c", code, str(value), tmp_path], input=seed, capture_output=True, timeout=120, preexec_fn=limited)
    assert done.returncode == 0, (value, done.stderr.decode()[-2000:])


def test_bad_utf8_in_arguments(tmp_path):
    """What is asked for may be nonsense, too."""
    done = image_tool("build", os.fsdecode(b"\xff\xfe"), "-o", tmp_path / "image")
    assert done.code == 1 and "Traceback" not in done.err
