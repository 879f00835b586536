"""Runs mayfly-image, and says what is in an image by the tools of others: fsck.erofs, dump.erofs, debugfs."""

import json
import os
import re
import subprocess
import sys
from typing import NamedTuple

from harness import PATIENCE, ROOT

PROGRAM = ROOT / "rootfs/mayfly-image"
ENVIRONMENT = {**os.environ, "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin"}


class Said(NamedTuple):
    code: int
    out: str
    err: str


def image_tool(*args, program=PROGRAM, before=(), timeout=2 * PATIENCE, **environment):
    done = subprocess.run([*before, program, *args], stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="surrogateescape",
                          timeout=timeout, env={**ENVIRONMENT, **environment})
    return Said(done.returncode, done.stdout, done.stderr)


def built(source, output, *args, **options):
    """Build, which must work; returns what --json says."""
    done = image_tool("build", source, "-o", output, "--json", "--quiet", *args, **options)
    assert done.code == 0 and done.err == "", done
    return json.loads(done.out)


def refused(*args, **options):
    """What mayfly-image says when it refuses: one sentence on one line."""
    done = image_tool(*args, **options)
    assert done.code == 1 and re.fullmatch(r"mayfly-image: [^\n]+\n", done.err) and len(done.err) < 1200, done
    return done.err


LIST = r"""
import hashlib, json, os, stat, subprocess, sys
image, place = sys.argv[1:]
subprocess.run(["fsck.erofs", f"--extract={place}", "--preserve", "--overwrite", image], check=True, stdout=subprocess.DEVNULL)
found, place = {}, os.fsencode(place)
def add(path):
    info, name = os.lstat(path), os.path.relpath(path, place).decode("latin-1")
    kind = stat.S_IFMT(info.st_mode)
    what = ""
    if kind == stat.S_IFLNK:
        what = os.readlink(path).decode("latin-1")
    elif kind == stat.S_IFREG:
        with open(path, "rb") as file:
            what = file.read().decode("latin-1") if info.st_size < 4096 else hashlib.sha256(file.read()).hexdigest()
    elif kind in (stat.S_IFCHR, stat.S_IFBLK):
        what = f"{os.major(info.st_rdev)}:{os.minor(info.st_rdev)}"
    found[name] = [stat.filemode(info.st_mode), info.st_uid, info.st_gid, what]
    if kind == stat.S_IFDIR:
        for name in sorted(os.listdir(path)):
            add(path + b"/" + name)
add(place)
print(json.dumps(found))
"""


def contents(image, directory):
    """{path: (mode as ls shows it, uid, gid, bytes or link target or device)} of an EROFS image; names are latin-1."""
    directory.mkdir()
    done = subprocess.run(["fakeroot", "--", sys.executable, "-c", LIST, image, directory / "tree"], capture_output=True, text=True,
                          timeout=2 * PATIENCE, env=ENVIRONMENT)
    assert done.returncode == 0, done.stdout + done.stderr
    return {name: tuple(what) for name, what in json.loads(done.stdout).items()}


def dump(image, path):
    """What dump.erofs says of a file: {"Links": "2", …}."""
    done = subprocess.run(["dump.erofs", f"--path={path}", image], capture_output=True, text=True, timeout=PATIENCE, check=True, env=ENVIRONMENT)
    return {name: value.strip() for name, value in re.findall(r"(\w[\w ]*): +([^\s].*?)(?=  |\n|$)", done.stdout)}


def debugfs(image, command):
    done = subprocess.run(["debugfs", "-R", command, image], capture_output=True, timeout=PATIENCE, check=True, env=ENVIRONMENT)
    return done.stdout.decode(errors="replace")
