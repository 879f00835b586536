"""Unpacks a tar that a guest sent: nothing is made outside of the folder, whatever names, links and numbers it holds."""

from __future__ import annotations

import os
import re
import stat
from typing import Callable, Dict, List, Optional, Set, Tuple

from mayfly.frames import AgentError
from mayfly.sockets import StrPath

# Not Python's tarfile: it trusts numbers in headers, and which mistakes of it are repaired depends on the Python that one has.

BLOCK = 512
LONGEST_NAME = 4096
LONGEST_EXTENSION = 1 << 16  # of a header that holds a long name
PIECE = 1 << 16
LONGEST_PADDING = 1 << 20
DEEPEST = 256

Read = Callable[[int], bytes]  # so many bytes at most, at least one; none at the end


class _Stream:
    """The bytes of an archive, counted."""

    def __init__(self, read: Read):
        self._read = read

    def exactly(self, count: int) -> bytes:
        parts: List[bytes] = []
        while count:
            part = self._read(count)
            if not part:
                raise AgentError("the guest's tar is cut short")
            parts.append(part)
            count -= len(part)
        return b"".join(parts)

    def copy(self, count: int, to: Optional[int]) -> None:
        """So many bytes and the padding after them, to a descriptor or nowhere."""
        padding = -count % BLOCK
        while count:
            part = self.exactly(min(count, PIECE))
            count -= len(part)
            left = memoryview(part)
            while to is not None and left:
                left = left[os.write(to, left):]
        self.exactly(padding)

    def drain(self) -> None:
        """What comes after the end of an archive: blocks of zeros, up to a full record."""
        left = LONGEST_PADDING
        while left > 0 and (part := self._read(left)):
            left -= len(part)
        if left <= 0:
            raise AgentError("the guest's tar does not end")


class _Entry:
    """What a header says."""

    def __init__(self, header: bytes, said: Dict[str, bytes]):
        if _number(header[148:156], "checksum") != sum(header) - sum(header[148:156]) + 8 * ord(" "):
            raise AgentError("the guest's tar has a header with a wrong checksum")
        name, prefix = _string(header[0:100]), _string(header[345:500]) if header[257:263] == b"ustar\0" else b""
        self.name = said.get("path", prefix + b"/" + name if prefix else name)
        self.link = said.get("linkpath", _string(header[157:257]))
        self.kind = header[156:157]
        self.mode = _number(header[100:108], "mode")
        size = said.get("size")
        self.size = _number(header[124:136], "size") if size is None else _decimal(size)


def _string(raw: bytes) -> bytes:
    return raw.split(b"\0", 1)[0]


def _number(raw: bytes, name: str) -> int:
    """Octal digits, or GNU's binary form for what these cannot hold."""
    if raw[0] == 0x80:
        return int.from_bytes(raw[1:], "big")
    digits = raw.strip(b" \0")
    if not re.fullmatch(rb"[0-7]*", digits):
        raise AgentError(f"the guest's tar has {raw!r} as {name}")
    return int(digits or b"0", 8)


def _decimal(raw: bytes) -> int:
    if not re.fullmatch(rb"[0-9]{1,18}", raw):
        raise AgentError(f"the guest's tar has {raw[:32]!r} as size")
    return int(raw)


def _extension(body: bytes) -> Dict[str, bytes]:
    """The records of a pax header: "LENGTH KEY=VALUE\\n"."""
    said: Dict[str, bytes] = {}
    at = 0
    while at < len(body):
        space = body.find(b" ", at, at + 8)
        length = _decimal(body[at:space]) if space > at else 0
        record = body[space + 1:at + length]
        key, equals, value = record.partition(b"=")
        if at + length > len(body) or not equals or not value.endswith(b"\n"):
            raise AgentError("the guest's tar has an extended header that cannot be read")
        if key.startswith(b"GNU.sparse"):
            raise AgentError("the guest's tar has a sparse file, which is not supported")
        if key in (b"path", b"linkpath", b"size"):
            said[key.decode()] = value[:-1]
        at += length
    return said


def _parts(name: bytes) -> List[bytes]:
    """The components of a name that stays in the folder."""
    shown = os.fsdecode(name[:100])
    parts = [part for part in name.split(b"/") if part not in (b"", b".")]
    if name.startswith(b"/") or b".." in parts or b"\0" in name:
        raise AgentError(f"the guest's tar has {shown!r}, which leads out of the folder")
    if len(name) > LONGEST_NAME or len(parts) > DEEPEST or any(len(part) > 255 for part in parts):
        raise AgentError(f"the guest's tar has a name that is too long: {shown!r}…")
    return parts


def _link_target(target: bytes, depth: int) -> bytes:
    """What a symbolic link so deep in the folder may point to: as many .. as lead to the folder, at the beginning alone, then names in it."""
    parts = [part for part in target.split(b"/") if part not in (b"", b".")]
    ups = 0
    while ups < len(parts) and parts[ups] == b"..":
        ups += 1
    if not target or target.startswith(b"/") or b".." in parts[ups:] or ups > depth or len(target) > LONGEST_NAME or b"\0" in target:
        raise AgentError(f"the guest's tar has a link to {os.fsdecode(target[:100])!r}, which leads out of the folder")
    return target


class Unpacker:
    """Makes what a tar says below a folder. Owners, setuid bits and times are not the guest's to say."""

    def __init__(self, folder: StrPath, most_bytes: int, most_entries: int):
        self.top = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self.bytes_left, self.entries_left = most_bytes, most_entries
        self.most_bytes, self.most_entries = most_bytes, most_entries
        self._files: Set[Tuple[int, int]] = set()  # made here, by device and inode: a hard link may be to these alone
        self._modes: List[Tuple[List[bytes], int]] = []  # of directories, for the end: one without w could not be filled

    def close(self) -> None:
        os.close(self.top)

    def unpack(self, read: Read) -> None:
        """All of it. What had been made stays when it is refused in the middle."""
        stream = _Stream(read)
        said: Dict[str, bytes] = {}
        while True:
            header = stream.exactly(BLOCK)
            if not any(header):
                break
            entry = _Entry(header, said)
            self._count(entry)
            if entry.kind in (b"x", b"L", b"K"):
                said.update(self._read_extension(stream, entry))
                continue
            if entry.kind == b"g":
                stream.copy(entry.size, None)
                continue
            self._make(stream, entry)
            said = {}
        stream.drain()
        for parts, mode in reversed(self._modes):
            self._in(parts, lambda at, name, mode=mode: os.chmod(name, mode, dir_fd=at))  # type: ignore[misc]

    def _count(self, entry: _Entry) -> None:
        self.entries_left -= 1
        self.bytes_left -= entry.size
        if self.entries_left < 0:
            raise AgentError(f"the guest's tar has more than {self.most_entries} entries")
        if self.bytes_left < 0:
            raise AgentError(f"the guest's tar holds more than {self.most_bytes} bytes")

    @staticmethod
    def _read_extension(stream: _Stream, entry: _Entry) -> Dict[str, bytes]:
        if entry.size > LONGEST_EXTENSION:
            raise AgentError(f"the guest's tar has an extended header of {entry.size} bytes")
        body = stream.exactly(entry.size)
        stream.exactly(-entry.size % BLOCK)
        if entry.kind == b"x":
            return _extension(body)
        return {"path" if entry.kind == b"L" else "linkpath": _string(body)}

    def _make(self, stream: _Stream, entry: _Entry) -> None:
        parts, mode = _parts(entry.name), entry.mode & 0o777
        if entry.kind == b"5":
            for depth in range(1, len(parts) + 1):
                self._in(parts[:depth], _make_directory)
            if parts:
                self._modes.append((parts, mode | 0o700))
        elif not parts:
            raise AgentError("the guest's tar has a file without a name")
        elif entry.kind in (b"0", b"\0", b"7"):
            self._in(parts, lambda at, name: self._make_file(stream, entry.size, mode, at, name))
            return
        elif entry.kind == b"2":
            target = _link_target(entry.link, len(parts) - 1)
            self._in(parts, lambda at, name: os.symlink(target, _free(at, name), dir_fd=at))
        elif entry.kind == b"1":
            source = _parts(entry.link)
            if not source:
                raise AgentError("the guest's tar has a hard link to nothing")
            self._in(parts, lambda at, name: self._in(source, lambda there, old: self._make_link(there, old, at, name)))
        elif entry.kind != b"6":  # FIFOs are left out
            raise AgentError(f"the guest's tar has {os.fsdecode(entry.name[:100])!r}, which is neither a file, a directory nor a link (type {entry.kind!r})")
        stream.copy(entry.size, None)

    def _make_file(self, stream: _Stream, size: int, mode: int, at: int, name: bytes) -> None:
        fd = os.open(_free(at, name), os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=at)
        try:
            stream.copy(size, fd)
            os.fchmod(fd, mode)
            st = os.fstat(fd)
            self._files.add((st.st_dev, st.st_ino))
        finally:
            os.close(fd)

    def _make_link(self, there: int, old: bytes, at: int, name: bytes) -> None:
        st = os.stat(old, dir_fd=there, follow_symlinks=False)
        if (st.st_dev, st.st_ino) not in self._files:
            raise AgentError(f"the guest's tar has a hard link to {os.fsdecode(old)!r}, which is no file of it")
        os.link(old, _free(at, name), src_dir_fd=there, dst_dir_fd=at, follow_symlinks=False)

    def _in(self, parts: List[bytes], do: Callable[[int, bytes], None]) -> None:
        """Do something with a name in its directory; directories on the way are made where they are missing, and no link is followed."""
        at = os.dup(self.top)
        try:
            for part in parts[:-1]:
                _make_directory(at, part)
                below = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=at)
                os.close(at)
                at = below
            do(at, parts[-1])
        except OSError as error:
            raise AgentError(f"{os.fsdecode(b'/'.join(parts))}: {error.strerror}") from None
        finally:
            os.close(at)


def _free(at: int, name: bytes) -> bytes:
    """The name, free for something new: a file or link of this name goes away. A directory stays, and is in the way."""
    try:
        os.unlink(name, dir_fd=at)
    except FileNotFoundError:
        pass
    return name


def _make_directory(at: int, name: bytes) -> None:
    try:
        os.mkdir(name, dir_fd=at)
    except FileExistsError:
        if not stat.S_ISDIR(os.stat(name, dir_fd=at, follow_symlinks=False).st_mode):
            raise
