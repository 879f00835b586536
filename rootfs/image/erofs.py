"""
Writes EROFS images (uncompressed; Linux: fs/erofs/erofs_fs.h), and reads a small file back. The same tree gives the same bytes.

Block 0 has the superblock, inodes follow it, with the last bytes of their file or directory behind them where these fit into the
block; then come the whole blocks of directories and files, in the order of the inodes.
"""

from __future__ import annotations

import os
import stat
import struct
from typing import BinaryIO, Callable, Iterator

from .limits import ImageError
from .tree import Node, Tree

BLOCK = 4096
MAGIC = 0xE0F5E1E2
UUID = bytes.fromhex("6d617966-6c79-4000-8000-696d61676531".replace("-", ""))
SUPERBLOCK = struct.Struct("<IIIBBHQQIIII16s16sIHHH38x")  # 128 bytes, at 1024
INODE = struct.Struct("<HHHHQIIIIQII16x")
DIRENT = struct.Struct("<QHBB")
XATTRS = struct.Struct("<IB7x")
XATTR = struct.Struct("<BBH")
COMPAT_MTIME = 2
PLAIN, INLINE = 0, 2
PREFIXES = {b"user.": 1, b"security.": 6}
TYPES = {stat.S_IFREG: 1, stat.S_IFDIR: 2, stat.S_IFCHR: 3, stat.S_IFBLK: 4, stat.S_IFIFO: 5, stat.S_IFSOCK: 6, stat.S_IFLNK: 7}
FIRST = 1024 + SUPERBLOCK.size
CONFIG_LIMIT = 1 << 20


def xattr_block(xattrs: dict[bytes, bytes] | None) -> bytes:
    if not xattrs:
        return b""
    block = XATTRS.pack(0, 0)
    for name in sorted(xattrs):
        prefix = next(p for p in PREFIXES if name.startswith(p))
        entry = XATTR.pack(len(name) - len(prefix), PREFIXES[prefix], len(xattrs[name])) + name[len(prefix):] + xattrs[name]
        block += entry + bytes(-len(entry) % 4)
    return block


class Inode:
    """A node with its place."""

    __slots__ = ("node", "parent", "number", "links", "size", "position", "blocks", "inline", "block")

    def __init__(self, node: Node, parent: "Inode | None", number: int) -> None:
        self.node, self.parent, self.number = node, parent or self, number
        self.links = 0
        self.size = self.position = self.blocks = self.inline = self.block = 0

    @property
    def nid(self) -> int:
        return self.position // 32


class Writer:
    def __init__(self, tree: Tree, out: BinaryIO, progress: Callable[[int], None] = lambda n: None) -> None:
        self.tree, self.out, self.fd, self.progress = tree, out, out.fileno(), progress
        self.inodes: dict[Node, Inode] = {}
        self.end = FIRST

    def plan(self) -> int:
        """Give everything its place; returns the bytes that write() will report as progress."""
        self._collect()
        for inode in self.inodes.values():
            self._place(inode)
        blocks = -(-self.end // BLOCK)
        for inode in self.inodes.values():
            inode.block, blocks = (blocks if inode.blocks else 0), blocks + inode.blocks
        self.blocks = blocks
        if blocks >= 1 << 32:
            raise ImageError("the image would have more than 16 TiB, which EROFS cannot")
        return sum(inode.blocks for inode in self.inodes.values()) * BLOCK

    def _collect(self) -> None:
        root = self.inodes[self.tree.root] = Inode(self.tree.root, None, 1)
        root.links = 2
        for directory, _, node in self.tree.walk():
            parent = self.inodes[directory]
            inode = self.inodes.get(node)
            if inode is None:
                inode = self.inodes[node] = Inode(node, parent, len(self.inodes) + 1)
            inode.links += 1
            if node.is_directory:
                inode.links += 1
                parent.links += 1

    def _place(self, inode: Inode) -> None:
        node = inode.node
        if node.is_directory:
            groups = list(self._groups(node))
            inode.size = (len(groups) - 1) * BLOCK + groups[-1][1]
        else:
            inode.size = len(node.target) or node.size
        head = INODE.size + len(xattr_block(node.xattrs))
        tail = inode.size % BLOCK
        room = head + tail if head + tail <= BLOCK else 0  # 0: the tail has a block of its own
        inode.inline = tail if room else 0
        position = self.end + -self.end % 32
        in_block = position % BLOCK
        if in_block + max(room, INODE.size) > BLOCK:
            position += BLOCK - in_block
        inode.position = position
        self.end = position + head + inode.inline
        inode.blocks = -(-(inode.size - inode.inline) // BLOCK)

    # ---- directories ----

    def _groups(self, node: Node) -> Iterator[tuple[list[bytes], int]]:
        """The names of each block and how many bytes they take."""
        group: list[bytes] = []
        used = 0
        for name in sorted([b".", b"..", *node.children]):
            need = DIRENT.size + len(name)
            if used + need > BLOCK:
                yield group, used
                group, used = [], 0
            group.append(name)
            used += need
        yield group, used

    def _directory(self, inode: Inode) -> bytes:
        blocks: list[bytes] = []
        for group, _ in self._groups(inode.node):
            offset = DIRENT.size * len(group)
            head, names = b"", b"".join(group)
            for name in group:
                child = {b".": inode, b"..": inode.parent}.get(name) or self.inodes[inode.node.children[name]]
                head += DIRENT.pack(child.nid, offset, TYPES[stat.S_IFMT(child.node.mode)], 0)
                offset += len(name)
            blocks.append(head + names)
        return b"".join(block.ljust(BLOCK, b"\0") for block in blocks[:-1]) + blocks[-1]

    # ---- writing ----

    def write(self) -> None:
        os.ftruncate(self.fd, self.blocks * BLOCK)
        self.out.seek(1024)
        root = self.inodes[self.tree.root]
        self.out.write(SUPERBLOCK.pack(MAGIC, 0, COMPAT_MTIME, 12, 0, root.nid, len(self.inodes), 0, 0, self.blocks, 0, 0, UUID, b"",
                                       0, 0, 0, 0))
        for inode in self.inodes.values():
            self._inode(inode)
        self.out.flush()
        for inode in self.inodes.values():
            if inode.blocks and stat.S_ISREG(inode.node.mode):
                copy(self.tree.spool.fd, inode.node.spool, self.fd, inode.block * BLOCK, inode.size - inode.inline)
                self.progress(inode.blocks * BLOCK)

    def _inode(self, inode: Inode) -> None:
        node = inode.node
        xattrs = xattr_block(node.xattrs)
        place = inode.block
        if stat.S_ISCHR(node.mode) or stat.S_ISBLK(node.mode):
            place = node.rdev
        head = INODE.pack(1 | (INLINE if inode.inline else PLAIN) << 1, (len(xattrs) - XATTRS.size) // 4 + 1 if xattrs else 0, node.mode, 0,
                          inode.size, place, inode.number, node.uid, node.gid, node.mtime, node.mtime_ns, inode.links)
        whole = inode.size - inode.inline
        data = b""
        if node.is_directory or stat.S_ISLNK(node.mode):
            data = node.target or self._directory(inode)
            if inode.blocks:
                os.pwrite(self.fd, data[:whole], inode.block * BLOCK)
        tail = data[whole:]
        if inode.inline and stat.S_ISREG(node.mode):
            tail = os.pread(self.tree.spool.fd, inode.inline, node.spool + whole)
        self.out.write(bytes(inode.position - self.out.tell()))
        self.out.write(head + xattrs + (tail if inode.inline else b""))


def copy(source: int, position: int, target: int, to: int, length: int) -> None:
    """Copy a range between files; holes stay holes."""
    end = position + length
    while position < end:
        try:
            data = os.lseek(source, position, os.SEEK_DATA)
        except OSError:  # nothing but a hole to the end
            return
        if data >= end:
            return
        to += data - position
        position = data
        hole = min(os.lseek(source, position, os.SEEK_HOLE), end)
        while position < hole:
            done = _copy_some(source, position, target, to, hole - position)
            position, to = position + done, to + done


def _copy_some(source: int, position: int, target: int, to: int, length: int) -> int:
    try:
        done = os.copy_file_range(source, target, length, position, to)
        if done:
            return done
    except OSError:  # not between these file systems
        pass
    data = os.pread(source, min(length, 1 << 20), position)
    if not data:
        raise ImageError("a temporary file has lost its end; is somebody else at work in the same folder?")
    return os.pwrite(target, data, to)


# ---- reading ----

class Damaged(ImageError):
    def __init__(self, path: str) -> None:
        super().__init__(f"{path}: a damaged EROFS image, or one of another builder")


def _contents(fd: int, nid: int, path: str) -> tuple[int, bytes]:
    """Mode and bytes of a small file or directory."""
    head = os.pread(fd, INODE.size, nid * 32) if nid < 1 << 56 else b""
    if len(head) < INODE.size:
        raise Damaged(path)
    layout, xattrs, mode, _, size, block, *_ = INODE.unpack(head)
    if size > CONFIG_LIMIT or layout not in (1 | PLAIN << 1, 1 | INLINE << 1):
        raise Damaged(path)
    whole = size if layout >> 1 == PLAIN else size - size % BLOCK
    data = os.pread(fd, whole, block * BLOCK) if whole else b""
    data += os.pread(fd, size - whole, nid * 32 + INODE.size + (XATTRS.size + 4 * (xattrs - 1) if xattrs else 0))
    if len(data) < size:
        raise Damaged(path)
    return mode, data


def _find(data: bytes, wanted: bytes, path: str) -> int:
    for start in range(0, len(data), BLOCK):
        block = data[start:start + BLOCK]
        count = int.from_bytes(block[8:10], "little") // DIRENT.size
        if count * DIRENT.size > len(block) or not count:
            raise Damaged(path)
        entries = [DIRENT.unpack_from(block, i * DIRENT.size) for i in range(count)]
        ends = [entry[1] for entry in entries[1:]] + [len(block)]
        for (nid, offset, _, _), end in zip(entries, ends):
            if block[offset:end].rstrip(b"\0") == wanted:
                return int(nid)
    raise ImageError(f"{path}: not made by mayfly-image, there is no /.mayfly/config in it")


def read_config(fd: int, path: str) -> bytes:
    """/.mayfly/config of an image, which may be anybody's."""
    head = os.pread(fd, SUPERBLOCK.size, 1024)
    if len(head) < SUPERBLOCK.size or SUPERBLOCK.unpack(head)[0] != MAGIC:
        raise Damaged(path)
    fields = SUPERBLOCK.unpack(head)
    nid = fields[5]
    if fields[10]:
        raise Damaged(path)
    for name in (b".mayfly", b"config"):
        mode, data = _contents(fd, nid, path)
        if not stat.S_ISDIR(mode):
            raise Damaged(path)
        nid = _find(data, name, path)
    mode, data = _contents(fd, nid, path)
    if not stat.S_ISREG(mode):
        raise Damaged(path)
    return data
