"""A directory of the host as an image's root file system: walked by descriptors, so that links cannot lead out of it."""

from __future__ import annotations

import hashlib
import os
import stat
from typing import Iterator

from .limits import XATTR_BYTES, ImageError, Limits, show
from .stream import Budget
from .tar import LATEST, carried
from .tree import Node, Tree

OPEN = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK


class Found:
    """A name in the directory, with an open descriptor of the directory it is in."""

    __slots__ = ("above", "name", "fd", "info")

    def __init__(self, above: tuple[bytes, ...], name: bytes, fd: int, info: os.stat_result) -> None:
        self.above, self.name, self.fd, self.info = above, name, fd, info

    def path(self) -> str:
        return show(b"/".join((*self.above, self.name)))


def walk(path: str) -> Iterator[Found]:
    """Everything below path in a fixed order; sockets are left out, since nobody listens on them in a guest."""
    root = os.open(os.path.realpath(path), OPEN | os.O_DIRECTORY)
    way: list[tuple[int, tuple[bytes, ...], Iterator[bytes]]] = [(root, (), names(root))]
    try:
        while way:
            fd, above, rest = way[-1]
            name = next(rest, None)
            if name is None:
                os.close(fd)
                way.pop()
                continue
            found = Found(above, name, fd, os.stat(name, dir_fd=fd, follow_symlinks=False))
            if stat.S_ISSOCK(found.info.st_mode):
                continue
            yield found
            if stat.S_ISDIR(found.info.st_mode):
                try:
                    child = os.open(name, OPEN | os.O_DIRECTORY, dir_fd=fd)
                except OSError as error:
                    raise ImageError(f"{path}: {found.path()}: {error.strerror}") from None
                way.append((child, (*above, name), names(child)))
    finally:
        for fd, _, _ in way:
            os.close(fd)


def names(fd: int) -> Iterator[bytes]:
    return iter(sorted(os.fsencode(name) for name in os.listdir(fd)))


def fingerprint(path: str) -> str:
    """Changes when anything below path does, as far as sizes and times tell."""
    known = hashlib.sha256(os.fsencode(os.path.realpath(path)))
    for found in walk(path):
        info = found.info
        numbers = (info.st_mode, info.st_uid, info.st_gid, info.st_size, info.st_mtime_ns, info.st_ctime_ns, info.st_ino, info.st_dev,
                   info.st_rdev)
        known.update(repr((found.above, found.name, numbers)).encode())
    return f"sha256:{known.hexdigest()}"


def fill(tree: Tree, path: str, limits: Limits, budget: Budget) -> None:
    """Copy the directory into the tree. What belongs to the caller belongs to root in the image."""
    seen: dict[tuple[int, int], Node] = {}
    ours = (os.geteuid(), os.getegid())
    describe(tree.root, os.stat(path), ours)
    places: dict[tuple[bytes, ...], Node] = {(): tree.root}
    for number, found in enumerate(walk(path), 1):
        tree.entries = number
        if number > limits.entries:
            raise ImageError(f"{path}: more than {limits.entries} files and directories")
        info = found.info
        identity = (info.st_dev, info.st_ino)
        node = seen.get(identity)
        if node is None:
            node = Node(info.st_mode)
            describe(node, info, ours)
            try:
                contents(tree, node, found, budget)
            except OSError as error:
                raise ImageError(f"{path}: {found.path()}: {error.strerror} (every file must be readable)") from None
            if info.st_nlink > 1 and not node.is_directory:
                seen[identity] = node
        places[found.above].children[found.name] = node
        if node.is_directory:
            places[(*found.above, found.name)] = node


def describe(node: Node, info: os.stat_result, ours: tuple[int, int]) -> None:
    node.mode = info.st_mode
    node.uid = 0 if info.st_uid == ours[0] else info.st_uid
    node.gid = 0 if info.st_gid == ours[1] else info.st_gid
    node.mtime, node.mtime_ns = min(max(0, info.st_mtime_ns // 10**9), LATEST), info.st_mtime_ns % 10**9


def contents(tree: Tree, node: Node, found: Found, budget: Budget) -> None:
    mode = found.info.st_mode
    if stat.S_ISLNK(mode):
        node.target = os.readlink(found.name, dir_fd=found.fd)
    elif stat.S_ISCHR(mode) or stat.S_ISBLK(mode):
        major, minor = os.major(found.info.st_rdev), os.minor(found.info.st_rdev)
        node.rdev = (minor & 0xFF) | major << 8 | (minor & ~0xFF) << 12
    elif stat.S_ISREG(mode):
        fd = os.open(found.name, OPEN, dir_fd=found.fd)
        try:
            regular(tree, node, found, fd, budget)
        finally:
            os.close(fd)


def regular(tree: Tree, node: Node, found: Found, fd: int, budget: Budget) -> None:
    size = found.info.st_size
    budget.spend(size, found.path())
    node.size, node.spool = size, tree.spool.begin(size)
    position = 0
    while position < size:
        data = os.pread(fd, min(1 << 20, size - position), position)
        if not data:
            raise ImageError(f"{found.path()} became shorter while it was read")
        tree.spool.write(node.spool + position, data)
        position += len(data)
    kept = {os.fsencode(name): os.getxattr(fd, name) for name in os.listxattr(fd) if carried(os.fsencode(name))}
    if sum(len(name) + len(value) + 8 for name, value in kept.items()) > XATTR_BYTES:
        raise ImageError(f"{found.path()}: extended attributes of more than 64 KiB")
    node.xattrs = kept or None
