"""
Writes ext4 images with mke2fs. It copies a directory, so the tree is laid out in a private one first: directories and files made by
this program alone, owners, device nodes and the rest told to fakeroot only. fakeroot runs this file as a program for that.
"""

from __future__ import annotations

import errno
import marshal
import os
import shutil
import stat
import subprocess
import sys
from typing import Any, Callable

if __name__ != "__main__":
    from .erofs import copy
    from .limits import MIB, PATH_BYTES, ImageError, human, show
    from .tree import Node, Tree

UUID = "6d617966-6c79-4000-8000-696d61676534"
TIME = "1735689600"  # what the file system itself says of its making
TOO_SMALL = ("allocate block", "o space", "enough space", "too small", "too big", "lower inode count")  # how mke2fs says it
FIRST_INODE = 11  # lost+found; those before belong to the file system


def need(program: str, package: str) -> str:
    path = shutil.which(program, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    if not path:
        raise ImageError(f"{program} is missing, which --ext4 needs (apt-get install {package})")
    return path


class Stage:
    """The tree laid out in an empty directory, and the list of what fakeroot shall be told."""

    def __init__(self, tree: Tree, root: bytes, progress: Callable[[int], None]) -> None:
        self.tree, self.root, self.progress = tree, root, progress
        self.paths: dict[Node, bytes] = {tree.root: b"."}
        self.orders: list[tuple[Any, ...]] = []
        self.bytes = 0

    def fill(self) -> None:
        self._order(b".", self.tree.root)
        for directory, name, node in self.tree.walk():
            path = self.paths[directory] + b"/" + name
            if len(self.root) + len(path) > PATH_BYTES:
                raise ImageError(f"{show(path)} is too long a path for an ext4 image; EROFS takes it")
            first = self.paths.setdefault(node, path)
            special = not (stat.S_ISREG(node.mode) or stat.S_ISLNK(node.mode) or node.is_directory)
            if first != path and not special:  # devices and pipes are made anew later, one for each name
                os.link(self._real(first), self._real(path), follow_symlinks=False)
                continue
            self._make(node, path)
            self._order(path, node)

    def _real(self, path: bytes) -> bytes:
        return self.root + b"/" + path

    def _make(self, node: Node, path: bytes) -> None:
        if node.is_directory:
            os.mkdir(self._real(path), 0o700)
        elif stat.S_ISLNK(node.mode):
            os.symlink(node.target, self._real(path))
        else:  # devices and pipes become what they are in fakeroot's eyes
            fd = os.open(self._real(path), os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            try:
                os.ftruncate(fd, node.size)
                copy(self.tree.spool.fd, node.spool, fd, 0, node.size)
            finally:
                os.close(fd)
            self.bytes += node.size + -node.size % 4096
            self.progress(node.size)

    def _order(self, path: bytes, node: Node) -> None:
        device = os.makedev((node.rdev >> 8) & 0xFFF, (node.rdev & 0xFF) | (node.rdev >> 12 & 0xFFF00))
        self.orders.append((path, node.mode, node.uid, node.gid, node.mtime, node.mtime_ns, device, node.xattrs or {}))


def write(tree: Tree, output: str, work: str, size: int, progress: Callable[[int], None]) -> None:
    """An ext4 image of that size (0: as large as needed, and half as much again) in output. work: an empty directory of the caller's."""
    programs = [need("fakeroot", "fakeroot"), need("mke2fs", "e2fsprogs"), need("debugfs", "e2fsprogs")]
    root = os.fsencode(work) + b"/root"
    os.mkdir(root, 0o700)
    stage = Stage(tree, root, progress)
    stage.fill()
    used = stage.bytes + len(stage.paths) * 4608
    size = size or max(32 * MIB, used + used // 2 + 16 * MIB)
    size -= size % 4096
    inodes = max(size // 16384, len(stage.paths) + len(stage.paths) // 4 + 1024)
    mke2fs = [programs[1], "-q", "-F", "-t", "ext4", "-d", ".", "-U", UUID, "-m", "0", "-b", "4096", "-N", str(inodes),
              "-O", "^resize_inode,sparse_super2", "-E", f"lazy_itable_init=0,lazy_journal_init=0,hash_seed={UUID}",
              os.path.abspath(output), f"{size // 1024}k"]
    environment = {**os.environ, "E2FSPROGS_FAKE_TIME": TIME, "LC_ALL": "C", "FAKEROOTDONTTRYCHOWN": "1"}
    done = subprocess.run([programs[0], "--", sys.executable, "-IS", os.path.abspath(__file__), *mke2fs], cwd=root, env=environment,
                          input=marshal.dumps(stage.orders), capture_output=True)
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().splitlines()
        if any(sign in line for line in said for sign in TOO_SMALL):
            raise ImageError(f"the image does not fit into {human(size)}; --size {-(-(used + used // 4) // MIB) + 16}M would do")
        raise ImageError(f"mke2fs failed: {show(said[-1]) if said else f'status {done.returncode}'}")
    _settle(programs[2], tree, output, environment)


def _settle(debugfs: str, tree: Tree, output: str, environment: dict[str, str]) -> None:
    """mke2fs copies the time of the last change of our own files, and leaves the root as it likes: both would differ each time."""
    root = tree.root
    lines = [f"sif <2> {field} {value}" for field, value in
             (("mode", oct(root.mode).replace("0o", "0")), ("uid", root.uid), ("gid", root.gid), ("mtime", f"@{root.mtime}"))]
    used = subprocess.run([debugfs, "-R", "stats", output], env=environment, capture_output=True, text=True, check=False).stdout
    free = int(next(line.split()[-1] for line in used.splitlines() if line.startswith("Free inodes:")))
    total = int(next(line.split()[-1] for line in used.splitlines() if line.startswith("Inode count:")))
    for number in range(FIRST_INODE, total - free + 1):
        lines += [f"sif <{number}> ctime @{TIME}", f"sif <{number}> ctime_extra 0"]
    done = subprocess.run([debugfs, "-w", "-f", "-", output], env=environment, input="\n".join(lines) + "\n", capture_output=True,
                          text=True, check=False)
    if done.returncode:
        raise ImageError(f"debugfs failed: {show(done.stderr.strip().splitlines()[-1])}")


def read_config(path: str) -> bytes:
    """/.mayfly/config of an ext4 image."""
    done = subprocess.run([need("debugfs", "e2fsprogs"), "-R", "cat /.mayfly/config", path], stdin=subprocess.DEVNULL, capture_output=True,
                          check=False)
    if done.returncode or b"File not found" in done.stderr:
        raise ImageError(f"{path}: not made by mayfly-image, there is no /.mayfly/config in it")
    return done.stdout[:MIB]


def pretend() -> int:
    """Inside fakeroot: give each file what it shall have, innermost first, then become mke2fs."""
    orders = marshal.loads(sys.stdin.buffer.read())
    for path, mode, uid, gid, mtime, mtime_ns, device, xattrs in reversed(orders):
        kind = stat.S_IFMT(mode)
        if kind in (stat.S_IFCHR, stat.S_IFBLK, stat.S_IFIFO):
            os.unlink(path)
            os.mknod(path, mode, device)
        os.lchown(path, uid, gid)
        if kind != stat.S_IFLNK:
            for name, value in sorted(xattrs.items()):
                os.setxattr(path, name, value, follow_symlinks=False)
            os.chmod(path, stat.S_IMODE(mode))
        times = (mtime * 10**9 + mtime_ns,) * 2
        os.utime(path, ns=times, follow_symlinks=False)
    sys.stdout.flush()
    os.execv(sys.argv[1], sys.argv[1:])


if __name__ == "__main__":
    sys.exit(pretend())
