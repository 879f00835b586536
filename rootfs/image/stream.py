"""Bytes on their way out of a blob: counted, hashed, decompressed, and never more of them than allowed."""

from __future__ import annotations

import hashlib
import os
import zlib
from typing import Callable, Iterator

from .limits import ImageError, human

CHUNK = 64 << 10


class Blob:
    """A range of a file that this process has open, with what is known of it."""

    def __init__(self, fd: int, offset: int, size: int, name: str, digest: str = "") -> None:
        self.fd, self.offset, self.size, self.name, self.digest = fd, offset, size, name, digest

    def chunks(self) -> Iterator[bytes]:
        position, end = self.offset, self.offset + self.size
        while position < end:
            data = os.pread(self.fd, min(CHUNK, end - position), position)
            if not data:
                raise ImageError(f"{self.name}: the file ends {end - position} bytes early")
            position += len(data)
            yield data

    def verified(self, progress: Callable[[int], None] = lambda n: None) -> Iterator[bytes]:
        """The chunks; after the last one the digest has been checked."""
        known = hashlib.new(self.digest.partition(":")[0]) if self.digest else None
        for data in self.chunks():
            if known:
                known.update(data)
            progress(len(data))
            yield data
        if known and known.hexdigest() != self.digest.partition(":")[2]:
            raise ImageError(f"{self.name}: its bytes have another digest, {known.name}:{known.hexdigest()}")


def gunzip(chunks: Iterator[bytes], name: str) -> Iterator[bytes]:
    """Any number of gzip members, zeros after the last."""
    inflate = None
    padding = False
    for data in chunks:
        while data:
            if inflate is None:
                if padding or data[0] == 0:
                    padding = True
                    if data.strip(b"\0"):
                        raise ImageError(f"{name}: something follows the gzip data that is neither gzip nor zeros")
                    break
                inflate = zlib.decompressobj(31)
            try:
                out = inflate.decompress(data, 16 * CHUNK)
                while out:
                    yield out
                    data = inflate.unconsumed_tail
                    out = b"" if inflate.eof else inflate.decompress(data, 16 * CHUNK)
            except zlib.error:
                raise ImageError(f"{name}: this is no gzip data, or damaged") from None
            data = inflate.unconsumed_tail
            if inflate.eof:
                data, inflate = inflate.unused_data, None
    if inflate is not None:
        raise ImageError(f"{name}: the gzip data ends too early")


def unzstd(chunks: Iterator[bytes], name: str) -> Iterator[bytes]:
    """Through the zstd program, which may use 128 MiB for its window."""
    import subprocess
    import threading
    try:
        process = subprocess.Popen(["zstd", "-dcq", "--memory=128MB"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                   stderr=subprocess.DEVNULL)
    except FileNotFoundError:
        raise ImageError(f"{name}: zstd data needs the zstd program (apt-get install zstd)") from None
    assert process.stdin and process.stdout
    pipe, output = process.stdin, process.stdout
    trouble: list[Exception] = []

    def feed() -> None:
        try:
            for data in chunks:
                pipe.write(data)
        except BrokenPipeError:
            pass  # zstd has given up, and says so by its status
        except Exception as error:
            trouble.append(error)
        finally:
            try:
                pipe.close()
            except BrokenPipeError:
                pass

    feeder = threading.Thread(target=feed, daemon=True)
    feeder.start()
    try:
        while data := output.read(16 * CHUNK):
            yield data
        feeder.join()
        if trouble:
            raise trouble[0]
        if process.wait():
            raise ImageError(f"{name}: the zstd data is damaged, ends too early, or needs a window of more than 128 MiB")
    finally:
        process.kill()
        feeder.join()
        output.close()
        process.wait()


OTHER = {b"BZh": "bzip2", b"\xfd7zXZ": "xz"}


def decompress(chunks: Iterator[bytes], name: str) -> Iterator[bytes]:
    """Plain, gzip or zstd, as the first bytes say (media types are wrong too often)."""
    first = next(chunks, b"")

    def all_of_it() -> Iterator[bytes]:
        yield first
        yield from chunks

    for magic, what in OTHER.items():
        if first.startswith(magic):
            raise ImageError(f"{name}: compressed by {what}; plain tar, gzip and zstd are supported")
    if first.startswith(b"\x1f\x8b"):
        return gunzip(all_of_it(), name)
    if first.startswith(b"\x28\xb5\x2f\xfd") or (first[1:4] == b"\x2a\x4d\x18" and 0x50 <= first[0] <= 0x5F):
        return unzstd(all_of_it(), name)
    return all_of_it()


class Budget:
    """Bytes that may still be unpacked, of the whole image."""

    def __init__(self, size: int) -> None:
        self.size = self.left = size

    def spend(self, count: int, name: str) -> None:
        self.left -= count
        if self.left < 0:
            raise ImageError(f"{name}: the image unpacks to more than {human(self.size)} (--max-size allows more)")


class Reader:
    """read(n) and skip(n) over chunks, with the digest of all that went by."""

    def __init__(self, chunks: Iterator[bytes], name: str, budget: Budget) -> None:
        self.chunks, self.name, self.budget = chunks, name, budget
        self.sha256 = hashlib.sha256()
        self.rest = memoryview(b"")

    def some(self, limit: int) -> bytes:
        """Up to limit bytes, none only at the end."""
        while not self.rest:
            data = next(self.chunks, None)
            if data is None:
                return b""
            self.budget.spend(len(data), self.name)
            self.sha256.update(data)
            self.rest = memoryview(data)
        part, self.rest = self.rest[:limit], self.rest[limit:]
        return bytes(part)

    def read(self, count: int) -> bytes:
        """count bytes, fewer only at the end."""
        data = self.some(count)
        while len(data) < count:
            more = self.some(count - len(data))
            if not more:
                break
            data += more
        return data

    def skip(self, count: int) -> bool:
        """Pass over count bytes; False when the end comes first."""
        while count:
            data = self.some(min(count, 16 * CHUNK))
            if not data:
                return False
            count -= len(data)
        return True


class FileReader:
    """The same over a plain file, where skipping costs nothing."""

    def __init__(self, fd: int, size: int) -> None:
        self.fd, self.size, self.position = fd, size, 0

    def some(self, limit: int) -> bytes:
        data = os.pread(self.fd, min(limit, 16 * CHUNK), self.position)
        self.position += len(data)
        return data

    def read(self, count: int) -> bytes:
        data = os.pread(self.fd, count, self.position)
        self.position += len(data)
        return data

    def skip(self, count: int) -> bool:
        self.position += count
        return self.position <= self.size
