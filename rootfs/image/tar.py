"""Reads tar streams that nobody vouches for: ustar, GNU and PAX, sparse files of both, in bounded memory."""

from __future__ import annotations

import stat
from typing import Iterator, Protocol

from .limits import MIB, NAME_BYTES, PATH_BYTES, XATTR_BYTES, ImageError, show

BLOCK = 512
LINK = 0  # the kind of a hard link: no file type of its own
KINDS = {b"0": stat.S_IFREG, b"\0": stat.S_IFREG, b"7": stat.S_IFREG, b"S": stat.S_IFREG, b"1": LINK, b"2": stat.S_IFLNK,
         b"3": stat.S_IFCHR, b"4": stat.S_IFBLK, b"5": stat.S_IFDIR, b"6": stat.S_IFIFO}
LATEST = 1 << 33  # the year 2242; times beyond are cut, those before 1970 too
EXTENTS = 100_000  # of one sparse file
PAX_BYTES = MIB
XATTR = b"SCHILY.xattr."


class Source(Protocol):
    def some(self, limit: int) -> bytes: ...
    def read(self, count: int) -> bytes: ...
    def skip(self, count: int) -> bool: ...


class Entry:
    """One member: what its headers say, nothing decided yet."""

    __slots__ = ("name", "kind", "mode", "uid", "gid", "mtime", "mtime_ns", "size", "stored", "target", "rdev", "xattrs", "extents")

    def __init__(self) -> None:
        self.name = self.target = b""
        self.kind = self.mode = self.uid = self.gid = self.mtime = self.mtime_ns = 0
        self.size = self.stored = self.rdev = 0  # size: as the program in the guest sees it; stored: bytes here
        self.xattrs: dict[bytes, bytes] = {}
        self.extents: list[tuple[int, int]] | None = None


def carried(name: bytes) -> bool:
    """Whether an extended attribute goes into the image: those that the guest's overlay or kernel would obey do not, but capabilities."""
    return name == b"security.capability" or (name.startswith(b"user.") and len(name) > 5 and not name.startswith(b"user.overlay."))


class Tar:
    """
    Iterate over it for the entries; between two of them contents() gives a regular file's bytes. Ends after the end mark,
    or, when vouched (a digest covers the bytes), also where the data ends between two members.
    """

    def __init__(self, source: Source, where: str, vouched: bool) -> None:
        self.source, self.where, self.vouched = source, where, vouched
        self.left = self.padding = 0  # of the member's stored bytes
        self.entry = Entry()
        self.count = 0

    def error(self, what: str) -> ImageError:
        return ImageError(f"{self.where}: entry {self.count}: {what}")

    def __iter__(self) -> Iterator[Entry]:
        while header := self._next():
            self.count += 1
            yield self._entry(header)

    # ---- blocks ----

    def _skip_member(self) -> None:
        if not self.source.skip(self.left + self.padding):
            raise self.error("the data ends in the middle of it")
        self.left = self.padding = 0

    def _next(self) -> bytes | None:
        self._skip_member()
        header = self.source.read(BLOCK)
        if not header and self.vouched:
            return None
        if len(header) < BLOCK:
            raise ImageError(f"{self.where}: the archive ends after {self.count} entries without an end mark, so it is cut, or no tar")
        if header.strip(b"\0"):
            total = sum(header) - sum(header[148:156]) + 8 * 32
            if self._octal(header[148:156], "checksum") not in (total, total - 256 * sum(b > 127 for b in header[:148] + header[156:])):
                raise self.error("a header follows whose checksum is wrong, so this is no tar, or damaged")
            return header
        while rest := self.source.some(MIB):
            if rest.strip(b"\0"):
                raise ImageError(f"{self.where}: something follows the end mark of the archive")
        return None

    def _body(self, size: int, limit: int, what: str) -> bytes:
        """All of a small member."""
        if size > limit:
            raise self.error(f"{what} of {size} bytes; {limit} are the most")
        data = self.source.read(size)
        self.left, self.padding = 0, -size % BLOCK
        if len(data) < size:
            raise self.error("the data ends in the middle of it")
        return data

    def contents(self) -> Iterator[tuple[int, bytes]]:
        """Pairs of offset and bytes; what lies between them is zeros."""
        entry = self.entry
        for offset, length in entry.extents if entry.extents is not None else [(0, entry.size)]:
            while length:
                data = self.source.some(min(length, MIB))
                if not data:
                    raise self.error("the data ends in the middle of it")
                self.left -= len(data)
                yield offset, data
                offset += len(data)
                length -= len(data)

    # ---- numbers ----

    def _octal(self, field: bytes, what: str) -> int:
        if field[0] & 0x80:
            value = int.from_bytes(field, "big") & ((1 << (8 * len(field) - 1)) - 1)
            if field[0] & 0x40:
                raise self.error(f"its {what} is negative")
            return value
        text = field.strip(b" \0").partition(b"\0")[0]
        if text.strip(b"01234567"):
            raise self.error(f"its {what} is no number: {show(text)}")
        return int(text or b"0", 8)

    def _decimal(self, text: bytes, what: str) -> int:
        if not text.isdigit() or len(text) > 20:
            raise self.error(f"its {what} is no number: {show(text)}")
        return int(text)

    # ---- headers ----

    def _entry(self, header: bytes) -> Entry:
        self.entry = entry = Entry()
        pax: dict[bytes, bytes] = {}
        names: dict[bytes, bytes] = {}
        while (flag := header[156:157]) in b"xgLKX" and flag:
            size = self._octal(header[124:136], "size")
            if flag in b"LK":
                names[flag] = self._body(size, PATH_BYTES + 1, "a name").rstrip(b"\0")
            elif flag == b"g":
                self._body(size, PAX_BYTES, "a global header")  # applies to comments in practice, and no container tool heeds it
            else:
                pax = self._pax(self._body(size, PAX_BYTES, "an extended header"))
            following = self._next()
            if following is None:
                raise self.error("the archive ends where an entry should follow")
            header = following
        self._plain(header, names)
        self._extended(pax)
        if entry.kind == stat.S_IFREG and not entry.name.rstrip(b"/") == entry.name and flag in b"\0" b"0":
            entry.kind = stat.S_IFDIR  # how tars of the 1970s say it
        if entry.kind != stat.S_IFREG:
            entry.size = entry.stored = 0
        self.left, self.padding = entry.stored, -entry.stored % BLOCK
        if entry.kind == stat.S_IFREG:
            self._sparse(header, pax)
        self._check()
        return entry

    def _plain(self, header: bytes, names: dict[bytes, bytes]) -> None:
        entry, flag = self.entry, header[156:157]
        if flag not in KINDS:
            raise self.error(f"nobody knows a type {show(flag)}")
        entry.kind = KINDS[flag]
        name = header[:100].partition(b"\0")[0]
        if header[257:265] == b"ustar\x0000" and (prefix := header[345:476 if header[508:512] == b"tar\0" else 500].partition(b"\0")[0]):
            name = prefix + b"/" + name
        entry.name = names.get(b"L", name)
        entry.target = names.get(b"K", header[157:257].partition(b"\0")[0])
        entry.mode = self._octal(header[100:108], "mode") & 0o7777
        entry.uid = self._octal(header[108:116], "owner")
        entry.gid = self._octal(header[116:124], "group")
        entry.size = entry.stored = self._octal(header[124:136], "size")
        if not header[136] & 0x80:  # a negative or absurd time is no reason to refuse
            entry.mtime = min(self._octal(header[136:148], "time"), LATEST)
        if entry.kind in (stat.S_IFCHR, stat.S_IFBLK):
            major, minor = self._octal(header[329:337], "device number"), self._octal(header[337:345], "device number")
            if major > 0xFFF or minor > 0xFFFFF:
                raise self.error(f"a device {major}:{minor}; Linux has none above 4095:1048575")
            entry.rdev = (minor & 0xFF) | major << 8 | (minor & ~0xFF) << 12

    def _pax(self, data: bytes) -> dict[bytes, bytes]:
        """The records "LENGTH KEY=VALUE\\n"; offsets of sparse files of version 0.0 come back as one map, as in 0.1."""
        records: dict[bytes, bytes] = {}
        extents: list[bytes] = []
        position = 0
        while position < len(data):
            blank = data.find(b" ", position, position + 12)
            length = self._decimal(data[position:max(blank, position)], "extended header")
            record = data[blank + 1:position + length]
            key, equals, value = record[:-1].partition(b"=")
            if length <= blank + 1 - position or position + length > len(data) or record[-1:] != b"\n" or not equals:
                raise self.error("its extended header is damaged")
            if key in (b"GNU.sparse.offset", b"GNU.sparse.numbytes"):
                extents.append(value)
            records[key] = value
            position += length
        if extents:
            records[b"GNU.sparse.map"] = b",".join(extents)
        return records

    def _extended(self, pax: dict[bytes, bytes]) -> None:
        entry = self.entry
        entry.name = pax.get(b"GNU.sparse.name", pax.get(b"path", entry.name))
        entry.target = pax.get(b"linkpath", entry.target)
        if value := pax.get(b"size"):
            entry.size = entry.stored = self._decimal(value, "size")
        if value := pax.get(b"uid"):
            entry.uid = self._decimal(value, "owner")
        if value := pax.get(b"gid"):
            entry.gid = self._decimal(value, "group")
        if value := pax.get(b"mtime"):
            whole, _, fraction = value.partition(b".")
            if whole.startswith(b"-"):
                entry.mtime = 0
            else:
                entry.mtime = min(self._decimal(whole, "time"), LATEST)
                entry.mtime_ns = self._decimal(fraction[:9].ljust(9, b"0"), "time") if fraction else 0
        for key, value in pax.items():
            if key.startswith(XATTR) and carried(key[len(XATTR):]):
                entry.xattrs[key[len(XATTR):]] = value

    def _check(self) -> None:
        entry = self.entry
        if max(len(entry.name), len(entry.target)) > PATH_BYTES:
            raise self.error(f"a name of {max(len(entry.name), len(entry.target))} bytes; {PATH_BYTES} are the most")
        if b"\0" in entry.name or b"\0" in entry.target:
            raise self.error("its name has a zero byte in it")
        if max(entry.uid, entry.gid) >= 0xFFFFFFFF:
            raise self.error(f"the owner {entry.uid}:{entry.gid}; numbers below 4294967295 are possible")
        if entry.kind in (stat.S_IFLNK, LINK) and not entry.target:
            raise self.error("a link without a target")
        if sum(len(k) + len(v) + 8 for k, v in entry.xattrs.items()) > XATTR_BYTES or any(len(k) > NAME_BYTES for k in entry.xattrs):
            raise self.error("extended attributes of more than 64 KiB, or one with a name of more than 255 bytes")

    # ---- sparse files ----

    def _sparse(self, header: bytes, pax: dict[bytes, bytes]) -> None:
        entry = self.entry
        if header[156:157] == b"S":
            numbers, real = self._gnu_map(header), self._octal(header[483:495], "size")
        elif pax.get(b"GNU.sparse.major") == b"1":
            numbers, real = self._pax_map(), self._decimal(pax.get(b"GNU.sparse.realsize", b""), "size")
        elif b"GNU.sparse.map" in pax:
            text = pax[b"GNU.sparse.map"]
            numbers = [self._decimal(word, "map of holes") for word in text.split(b",")] if text else []
            real = self._decimal(pax.get(b"GNU.sparse.size", b""), "size")
        else:
            return
        entry.size, end, stored = real, 0, 0
        entry.extents = list(zip(numbers[::2], numbers[1::2]))
        for offset, length in entry.extents:
            if offset < end or length > real or offset > real - length:
                raise self.error("its map of holes contradicts itself")
            end = offset + length
            stored += length
        if len(numbers) % 2 or stored != self.left:
            raise self.error("its map of holes does not fit its size")

    def _gnu_map(self, header: bytes) -> list[int]:
        numbers: list[int] = []
        part, more = header[386:482], header[482]
        while True:
            for i in range(0, len(part) - 23, 24):
                if part[i]:
                    numbers += [self._octal(part[i:i + 12], "map of holes"), self._octal(part[i + 12:i + 24], "map of holes")]
            if not more:
                return numbers
            block = self.source.read(BLOCK)
            if len(block) < BLOCK or len(numbers) > 2 * EXTENTS:
                raise self.error(f"its map of holes has no end (at most {EXTENTS} pieces)")
            part, more = block[:504], block[504]

    def _pax_map(self) -> list[int]:
        """Version 1.0: decimal lines in front of the data, in whole blocks."""
        lines: list[bytes] = []
        rest, wanted = b"", 1
        while len(lines) < wanted:
            if self.left < BLOCK:
                raise self.error("its map of holes does not end")
            block = self.source.read(BLOCK)
            self.left -= BLOCK
            *whole, rest = (rest + block).split(b"\n")
            lines += whole
            if wanted == 1 and lines:
                wanted += 2 * self._decimal(lines[0], "map of holes")
            if wanted > 2 * EXTENTS or len(rest) > 512 and len(lines) < wanted:
                raise self.error(f"its map of holes is damaged, or has more than {EXTENTS} pieces")
        return [self._decimal(line, "map of holes") for line in lines[1:wanted]]

