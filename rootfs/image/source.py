"""What mayfly-image can build from: finds out what SOURCE is, which image that means, and puts it into a tree."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import stat
from typing import Any, Protocol

from . import directory
from .cache import Cache, disk_bytes, read_json, write_atomically
from .limits import ImageError, Limits, show
from .oci import Archive, Folder, Image, Layout, docker_image, open_file
from .progress import Progress
from .stream import Blob, Budget, Reader, decompress
from .tar import Tar
from .tree import Spool, Tree

COMPONENT = r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*"
NAME = re.compile(rf"(?:(?:localhost|[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)+|[A-Za-z0-9-]+(?=:[0-9]))(?::[0-9]+)?/)?{COMPONENT}(?:/{COMPONENT})*"
                  r"(?::[A-Za-z0-9_][A-Za-z0-9_.-]{0,127})?(?:@sha256:[0-9a-f]{64})?")
PREFIXES = ("oci:", "oci-archive:", "docker-archive:", "dir:", "tar:", "docker://")


class Options:
    def __init__(self, limits: Limits, progress: Progress, tag: str = "", platform: str = "linux/amd64", pull: bool = False) -> None:
        self.limits, self.progress, self.tag, self.platform, self.pull = limits, progress, tag, platform, pull
        self.work: str | None = None  # a folder for temporary files; None for the system's


class Source(Protocol):
    def digest(self, cache: Cache) -> str:
        """Which image this is, as fast as that can be said."""
        ...

    def image(self) -> Image: ...

    def fill(self, tree: Tree) -> None: ...


def apply_layers(tree: Tree, image: Image, options: Options) -> None:
    count = len(image.layers)
    options.progress.start("reading layers" if image.whiteouts else "reading", sum(blob.size for blob in image.layers))
    for number, blob in enumerate(image.layers, 1):
        where = f"layer {number} of {count}" if image.whiteouts else blob.name
        if blob.digest:
            where += f" ({blob.digest[:19]}…)"
        reader = Reader(decompress(blob.verified(options.progress.add), where), where, tree.budget)
        tree.apply(Tar(reader, where, vouched=image.whiteouts), image.whiteouts)
        if image.whiteouts and f"sha256:{reader.sha256.hexdigest()}" != image.diff_ids[number - 1]:
            raise ImageError(f"{where}: unpacked it has the digest sha256:{reader.sha256.hexdigest()}, not {image.diff_ids[number - 1]}")


class OciFolder:
    def __init__(self, path: str, blobs: str, options: Options) -> None:
        self.folder, self.options = Folder(path, blobs), options
        self.found: Image | None = None

    def image(self) -> Image:
        if self.found is None:
            self.found = Layout(self.folder, self.options.limits, self.options.tag, self.options.platform).image()
        return self.found

    def digest(self, cache: Cache) -> str:
        return self.image().digest

    def fill(self, tree: Tree) -> None:
        apply_layers(tree, self.image(), self.options)


class File:
    """An OCI or docker archive, or a tar of a root file system; compressed or not."""

    def __init__(self, path: str, kind: str, options: Options) -> None:
        self.path, self.kind, self.options = path, kind, options
        self.found: Image | None = None

    def _plain(self, blob: Blob) -> Blob:
        """The archive itself, unpacked into a file without a name when it is compressed."""
        with open(blob.fd, "rb", closefd=False) as file:
            head = file.read(6)
        chunks = decompress(iter([head]), self.path) if head[:3] in (b"BZh", b"\xfd7z") else None
        if chunks is None and head[:2] != b"\x1f\x8b" and head[:4] != b"\x28\xb5\x2f\xfd":
            return blob
        self.options.progress.start("unpacking the archive", blob.size)
        spool = Spool(self.options.work)
        reader = Reader(decompress(blob.verified(self.options.progress.add), self.path), self.path, Budget(self.options.limits.size))
        while data := reader.some(1 << 20):
            spool.write(spool.end, data)
            spool.end += len(data)
        spool.done()
        self.keep = spool
        return Blob(spool.fd, 0, spool.end, self.path)

    def image(self) -> Image:
        if self.found is None:
            blob = self._plain(open_file(self.path, self.path))
            options = self.options
            if self.kind != "tar":
                archive = Archive(blob, options.limits)
                if self.kind in ("", "oci-archive") and {"oci-layout", "index.json"} <= archive.known_names:
                    self.found = Layout(archive, options.limits, options.tag, options.platform).image()
                elif self.kind in ("", "docker-archive") and "manifest.json" in archive.known_names:
                    self.found = docker_image(archive, options.limits, options.tag, options.platform)
                elif self.kind:
                    raise ImageError(f"{self.path}: no {self.kind}; without that word in front mayfly-image finds out itself")
            if self.found is None:
                self.found = self._root(blob)
        return self.found

    def _root(self, blob: Blob) -> Image:
        known = hashlib.sha256()
        self.options.progress.start("reading the archive", blob.size)
        for data in blob.chunks():
            known.update(data)
            self.options.progress.add(len(data))
        blob.digest = f"sha256:{known.hexdigest()}"  # so that what is unpacked later has to be the same
        image = Image(blob.digest, {}, [blob], [], self.options.platform)
        image.whiteouts = False
        return image

    def digest(self, cache: Cache) -> str:
        info = os.stat(self.path)
        seen = (os.path.realpath(self.path), info.st_dev, info.st_ino, info.st_size, info.st_mtime_ns, info.st_ctime_ns, self.kind,
                self.options.tag, self.options.platform)
        note = cache.path("sources", hashlib.sha256(repr(seen).encode(errors="surrogateescape")).hexdigest() + ".json")
        known = read_json(note).get("digest")
        if isinstance(known, str):
            return known
        digest = self.image().digest
        write_atomically(note, {"digest": digest})
        return digest

    def fill(self, tree: Tree) -> None:
        apply_layers(tree, self.image(), self.options)


class Directory:
    def __init__(self, path: str, options: Options) -> None:
        self.path, self.options = path, options

    def image(self) -> Image:
        return Image("", {}, [], [], self.options.platform)

    def digest(self, cache: Cache) -> str:
        return directory.fingerprint(self.path)

    def fill(self, tree: Tree) -> None:
        self.options.progress.start("reading files", 0)
        directory.fill(tree, self.path, self.options.limits, tree.budget)


class Registry:
    """A name that skopeo fetches, once; later runs need no network."""

    def __init__(self, name: str, options: Options, cache: Cache) -> None:
        self.name, self.options, self.cache = name, options, cache
        self.key = hashlib.sha256(f"{name} {options.platform}".encode()).hexdigest()[:32]
        self.path = cache.path("refs", self.key)
        self.folder: OciFolder | None = None

    def digest(self, cache: Cache) -> str:
        known = read_json(f"{self.path}/mayfly.json").get("digest")
        if isinstance(known, str) and not self.options.pull:
            return known
        return self.image().digest

    def image(self) -> Image:
        if self.folder is None:
            self.cache.create()
            with self.cache.lock(self.key, lambda: self.options.progress.note(f"{self.name} is being fetched already, waiting for that")):
                if self.options.pull or not read_json(f"{self.path}/mayfly.json"):
                    self._fetch()
            self.folder = self._layout(self.path)
        try:
            return self.folder.image()
        except ImageError:
            self._forget_damaged()
            raise

    def fill(self, tree: Tree) -> None:
        image = self.image()
        try:
            apply_layers(tree, image, self.options)
        except ImageError:
            self._forget_damaged()
            raise

    def _forget_damaged(self) -> None:
        """What the disk has spoilt is fetched again the next time."""
        import shutil
        for name in read_json(f"{self.path}/mayfly.json").get("blobs", []):
            path = self.cache.path("blobs/sha256", name)
            try:
                blob = open_file(path, path)
                blob.digest = f"sha256:{name}"
                for _ in blob.verified():
                    pass
            except ImageError:
                shutil.rmtree(self.path, ignore_errors=True)
                with contextlib.suppress(OSError):
                    os.unlink(path)

    def _layout(self, path: str) -> OciFolder:
        options = Options(self.options.limits, self.options.progress, platform=self.options.platform)
        return OciFolder(path, self.cache.path("blobs"), options)

    def _fetch(self) -> None:
        import shutil
        if not shutil.which("skopeo"):
            raise ImageError(f"{self.name}: no such file, and as the name of a registry's image it needs skopeo (apt-get install skopeo)")
        os_name, architecture, *variant = self.options.platform.split("/")
        work = self.cache.path("work", f"{self.key}.layout")
        shutil.rmtree(work, ignore_errors=True)
        command = ["skopeo", f"--override-os={os_name}", f"--override-arch={architecture}", *(f"--override-variant={v}" for v in variant),
                   "copy", "--quiet", f"--dest-shared-blob-dir={self.cache.path('blobs')}", f"docker://{self.name}", f"oci:{work}:latest"]
        self._run(command)
        image = self._layout(work).image()
        blobs = [blob.digest[7:] for blob in image.layers]
        manifest = json.loads(_bytes(f"{self.cache.path('blobs/sha256')}/{image.digest[7:]}"))
        blobs += [image.digest[7:], manifest["config"]["digest"][7:]]
        write_atomically(f"{work}/mayfly.json", {"digest": image.digest, "name": self.name, "blobs": blobs})
        shutil.rmtree(self.path, ignore_errors=True)
        os.rename(work, self.path)

    def _run(self, command: list[str]) -> None:
        """skopeo says nothing of its progress that could be shown, but the cache grows."""
        import subprocess
        import threading
        progress, blobs = self.options.progress, self.cache.path("blobs")
        before = seen = disk_bytes(blobs)
        progress.start(f"fetching {self.name}", 0)
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
                                   errors="replace")
        said: list[str] = []
        assert process.stderr
        reader = threading.Thread(target=lambda stream: said.append(stream.read()), args=(process.stderr,), daemon=True)
        reader.start()
        try:
            while True:
                try:
                    process.wait(0.5)
                    break
                except subprocess.TimeoutExpired:
                    now = disk_bytes(blobs)
                    progress.add(max(0, now - seen))
                    seen = max(seen, now)
        finally:
            process.kill()
            process.wait()
            reader.join()
            progress.finish()
        if process.returncode:
            lines = "".join(said).strip().splitlines() or [f"status {process.returncode}"]
            raise ImageError(f"{self.name}: skopeo could not fetch it: {re.sub(r'^time=.* msg=', '', lines[-1])[:600]}")
        progress.note(f"fetched {self.name}: {(disk_bytes(blobs) - before) / 1e6:.1f} MB that were not there yet")


def _bytes(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def open_source(text: str, options: Options, cache: Cache) -> Source:
    """Find out what SOURCE is."""
    prefix = next((p for p in PREFIXES if text.startswith(p)), "")
    rest = text[len(prefix):]
    if prefix == "docker://" or not prefix and not os.path.exists(text):
        return _registry(text, rest, options, cache)
    if prefix == "oci:" and not os.path.isdir(rest) and ":" in rest:
        rest, _, options.tag = rest.rpartition(":")
    try:
        mode = os.stat(rest).st_mode
    except (OSError, ValueError) as error:
        raise ImageError(f"{rest}: {error.strerror if isinstance(error, OSError) else 'no name for a file'}") from None
    if stat.S_ISDIR(mode):
        if prefix == "oci:" or not prefix and os.path.exists(f"{rest}/oci-layout"):
            return OciFolder(rest, "", options)
        if prefix in ("", "dir:"):
            return Directory(rest, options)
    elif prefix not in ("oci:", "dir:"):
        return File(rest, prefix[:-1], options)
    raise ImageError(f"{rest}: {'a directory' if stat.S_ISDIR(mode) else 'no directory'}, which {prefix} cannot mean")


def _registry(text: str, name: str, options: Options, cache: Cache) -> Source:
    if text.startswith(("/", ".")) or not NAME.fullmatch(name) or len(name) > 512:
        raise ImageError(f"{show(text)}: no such file or directory, and no name that a registry could have (such as debian:bookworm)")
    if options.tag:
        raise ImageError(f"--tag is for layouts and archives; the tag of a registry's image is in its name, such as {name}:{options.tag}")
    return Registry(name, options, cache)


def facts(image: Image) -> dict[str, Any]:
    size = sum(blob.size for blob in image.layers)
    return {"digest": image.digest, "platform": image.platform, "layers": len(image.layers), "layer_bytes": size}
