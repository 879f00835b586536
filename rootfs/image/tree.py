"""The image's file system as a tree in memory: layers, whiteouts and links are settled here, and no name of an image reaches the host."""

from __future__ import annotations

import os
import stat
from typing import IO, Iterator

from .limits import DEPTH, NAME_BYTES, SYMLINK_HOPS, ImageError, Limits, show
from .stream import Budget
from .tar import LINK, Entry, Tar

WHITEOUT, OPAQUE, AUFS = b".wh.", b".wh..wh..opq", b".wh..wh."
ALIGN = 4096
ZEROS = bytes(1 << 20)


class Node:
    """An inode. The same one under several names is a hard link."""

    __slots__ = ("mode", "uid", "gid", "mtime", "mtime_ns", "xattrs", "rdev", "size", "spool", "target", "children")

    def __init__(self, mode: int) -> None:
        self.mode = mode
        self.uid = self.gid = self.mtime = self.mtime_ns = self.rdev = 0
        self.size = self.spool = 0  # of a regular file: its bytes, and where they lie in the spool
        self.xattrs: dict[bytes, bytes] | None = None
        self.target = b""
        self.children: dict[bytes, Node] = {} if stat.S_ISDIR(mode) else NO_CHILDREN

    @property
    def is_directory(self) -> bool:
        return stat.S_ISDIR(self.mode)


NO_CHILDREN: dict[bytes, Node] = {}
NOTHING: set[bytes] = set()


class Spool:
    """The contents of files until it is known which of them the image has: a file without a name, with holes for zeros."""

    def __init__(self, directory: str | None) -> None:
        import tempfile  # here, because a hit in the cache needs none of it (so elsewhere in this package)
        self.file: IO[bytes] = tempfile.TemporaryFile(dir=directory, buffering=0)
        self.fd = self.file.fileno()
        self.end = 0

    def begin(self, size: int) -> int:
        start = self.end
        self.end += size + -size % ALIGN
        return start

    def write(self, position: int, data: bytes) -> None:
        if data != ZEROS[:len(data)]:
            view = memoryview(data)
            while view:
                done = os.pwrite(self.fd, view, position)
                view, position = view[done:], position + done

    def store(self, data: bytes) -> int:
        start = self.begin(len(data))
        self.write(start, data)
        return start

    def done(self) -> None:
        os.ftruncate(self.fd, self.end)

    def close(self) -> None:
        self.file.close()


def split(path: bytes, where: Tar) -> list[bytes]:
    """A member's name as components; what would lead out of the image is refused."""
    parts = [part for part in path.split(b"/") if part not in (b"", b".")]
    for part in parts:
        if part == b"..":
            raise where.error(f"{show(path)} has '..' in it, which no image needs")
        if len(part) > NAME_BYTES:
            raise where.error(f"{show(part)} is a name of {len(part)} bytes; Linux has {NAME_BYTES}")
    return parts


class Tree:
    def __init__(self, spool: Spool, limits: Limits, budget: Budget) -> None:
        self.spool, self.limits, self.budget = spool, limits, budget
        self.root = Node(stat.S_IFDIR | 0o755)
        self.fresh: dict[Node, set[bytes]] = {}  # the names that the current layer has set, which its whiteouts spare
        self.entries = self.metadata = self.steps = 0

    # ---- one layer ----

    def apply(self, tar: Tar, whiteouts: bool) -> None:
        """Put a layer on top. Without whiteouts (no layer, but a whole file system) such names are names like others."""
        self.fresh = {}
        for entry in tar:
            self._count(tar, len(entry.name) + len(entry.target) + sum(len(k) + len(v) for k, v in (entry.xattrs or {}).items()))
            parts = split(entry.name, tar)
            if whiteouts and parts and parts[-1].startswith(WHITEOUT):
                self._whiteout(tar, parts)
            else:
                self._add(tar, parts, entry)

    def _count(self, tar: Tar, size: int) -> None:
        self.entries += 1
        self.metadata += size
        if self.entries > self.limits.entries:
            raise tar.error(f"the image has more than {self.limits.entries} entries")
        if self.metadata > self.limits.metadata:
            raise tar.error(f"names, link targets and attributes of more than {self.limits.metadata >> 20} MiB")

    def _step(self, tar: Tar, count: int = 1) -> None:
        self.steps += count
        if self.steps > self.limits.steps:
            raise tar.error("names that take too long to look up; the image seems made to waste time")

    def _directory(self, tar: Tar, parts: list[bytes], make: bool) -> Node | None:
        """
        The directory of that name. Symbolic links on the way lead to where they lead inside the image, as at run time.
        With make, what is missing comes into being; else None stands for it.
        """
        way, todo, hops = [self.root], parts[::-1], 0
        while todo:
            self._step(tar)
            part, here = todo.pop(), way[-1]
            if part == b"..":  # only links have that
                del way[max(1, len(way) - 1):]
                continue
            child = here.children.get(part)
            if child is None:
                if not make:
                    return None
                self._count(tar, len(part))
                if len(part) > NAME_BYTES:
                    raise tar.error(f"{show(part)} is a name of {len(part)} bytes; Linux has {NAME_BYTES}")
                child = here.children[part] = Node(stat.S_IFDIR | 0o755)
            if stat.S_ISLNK(child.mode):
                hops += 1
                if hops > SYMLINK_HOPS:
                    raise tar.error(f"more than {SYMLINK_HOPS} symbolic links on the way to {show(b'/'.join(parts))}")
                todo += [p for p in child.target.split(b"/") if p not in (b"", b".")][::-1]
                if child.target.startswith(b"/"):
                    way = [self.root]
                continue
            if not child.is_directory:
                raise tar.error(f"it lies below {show(part)}, which is no directory")
            if make:
                self.fresh.setdefault(here, set()).add(part)
            way.append(child)
            if len(way) > DEPTH:
                raise tar.error(f"more than {DEPTH} directories deep")
        return way[-1]

    def _whiteout(self, tar: Tar, parts: list[bytes]) -> None:
        """The marks that hide what lower layers have, wherever they stand in this one."""
        mark = parts[-1]
        name = mark[len(WHITEOUT):]
        if mark != OPAQUE and mark.startswith(AUFS):
            return  # the books of an old union file system
        if name in (b"", b".", b".."):
            raise tar.error(f"{show(mark)} removes nothing that has a name of its own")
        parent = self._directory(tar, parts[:-1], make=False)
        if parent is None:
            return
        if mark == OPAQUE:
            self._hide(tar, parent)
        elif name in parent.children:
            if name not in self.fresh.get(parent, NOTHING):
                del parent.children[name]
            elif parent.children[name].is_directory:
                self._hide(tar, parent.children[name])

    def _hide(self, tar: Tar, directory: Node) -> None:
        todo = [directory]
        while todo:
            here = todo.pop()
            fresh = self.fresh.get(here, NOTHING)
            self._step(tar, len(here.children) + 1)
            for name, child in list(here.children.items()):
                if name not in fresh:
                    del here.children[name]
                elif child.is_directory:
                    todo.append(child)

    def _add(self, tar: Tar, parts: list[bytes], entry: Entry) -> None:
        if not parts:
            if entry.kind != stat.S_IFDIR:
                raise tar.error(f"{show(entry.name)} would make the root something else than a directory")
            self._describe(self.root, entry)
            return
        parent = self._directory(tar, parts[:-1], make=True)
        assert parent is not None
        name = parts[-1]
        there = parent.children.get(name)
        if entry.kind == LINK:
            node = self._linked(tar, entry)
        elif entry.kind == stat.S_IFDIR and there is not None and there.is_directory:
            node = there
            self._describe(node, entry)
        else:
            node = self._made(tar, entry)
        parent.children[name] = node
        self.fresh.setdefault(parent, set()).add(name)

    def _linked(self, tar: Tar, entry: Entry) -> Node:
        *above, name = split(entry.target, tar) or [b""]
        parent = self._directory(tar, above, make=False)
        node = parent.children.get(name) if parent else None
        if node is None or node.is_directory:
            raise tar.error(f"a hard link to {show(entry.target)}, which is {'a directory' if node else 'not there'}")
        return node

    def _made(self, tar: Tar, entry: Entry) -> Node:
        node = Node(entry.kind | entry.mode)
        self._describe(node, entry)
        node.rdev = entry.rdev
        if entry.kind == stat.S_IFLNK:
            node.target = entry.target
        elif entry.kind == stat.S_IFREG:
            # Holes count, too: what is declared is what a guest can read and what a copy needs.
            self.budget.spend(max(0, entry.size - entry.stored), tar.where)
            node.size = entry.size
            node.spool = self.spool.begin(entry.size)
            for offset, data in tar.contents():
                self.spool.write(node.spool + offset, data)
        return node

    @staticmethod
    def _describe(node: Node, entry: Entry) -> None:
        node.mode = stat.S_IFMT(node.mode) | entry.mode
        node.uid, node.gid, node.mtime, node.mtime_ns = entry.uid, entry.gid, entry.mtime, entry.mtime_ns
        node.xattrs = entry.xattrs or None

    # ---- afterwards ----

    def set_config(self, text: bytes) -> None:
        """Mayfly's own directory, whatever the image has of that name."""
        ours = self.root.children[b".mayfly"] = Node(stat.S_IFDIR | 0o755)
        config = ours.children[b"config"] = Node(stat.S_IFREG | 0o644)
        config.size, config.spool = len(text), self.spool.store(text)
        self.spool.done()

    def walk(self) -> Iterator[tuple[Node, bytes, Node]]:
        """(directory, name, node) for every name in the image, in an order of its own: a directory's names before what is below them."""
        todo = [self.root]
        while todo:
            here = todo.pop()
            below = []
            for name in sorted(here.children):
                child = here.children[name]
                yield here, name, child
                if child.is_directory:
                    below.append(child)
            todo += reversed(below)
