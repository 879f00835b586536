"""
The cache of built images and of what registries gave: $XDG_DATA_HOME/mayfly/images, or /var/lib/mayfly/images for root.

  built/KEY.erofs, KEY.json   images and what is known of them; KEY says which image, format and builder
  blobs/sha256/…, refs/HASH/  layers, shared; an OCI layout without blobs for each name that a registry was asked for
  sources/HASH.json           which image a file had when it was last read, so that it need not be read again
  locks/KEY, work/KEY…        whoever builds KEY holds its lock; what lies in work without a lock is left from somebody who died
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import time
from typing import Any, Callable, Iterator

from .limits import ImageError

BUILDER = 1  # changes with the bytes that are made of an image
RECENT = 60.0  # seconds in which somebody may still be about to open an image that prune would remove


def default_root() -> str:
    if os.geteuid() == 0:
        return "/var/lib/mayfly/images"
    home = os.environ.get("XDG_DATA_HOME") or os.path.expanduser("~/.local/share")
    return os.path.join(home, "mayfly/images")


def write_atomically(path: str, value: Any) -> None:
    part = f"{path}.{os.getpid()}.part"
    with open(part, "w", encoding="utf-8") as file:
        json.dump(value, file)
    os.replace(part, path)


def read_json(path: str) -> dict[str, Any]:
    """What an earlier run wrote; {} when it did not, or was stopped in the middle."""
    try:
        with open(path, encoding="utf-8") as file:
            value = json.load(file)
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def disk_bytes(path: str) -> int:
    """What a file or folder takes on the disk; holes take nothing."""
    try:
        total = os.lstat(path).st_blocks * 512
        if os.path.isdir(path) and not os.path.islink(path):
            total += sum(disk_bytes(entry.path) for entry in os.scandir(path))
    except OSError:
        return 0
    return total


def remove(path: str) -> int:
    """Remove a file or folder of the cache; returns the bytes that this gives back."""
    size = disk_bytes(path)
    if os.path.isdir(path) and not os.path.islink(path):
        import shutil
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
    return size


class Cache:
    def __init__(self, root: str) -> None:
        self.root = root

    def create(self) -> None:
        """Make its folders; whoever builds a local image into a file of their own needs none."""
        try:
            for name in ("", "built", "blobs", "blobs/sha256", "refs", "sources", "locks", "work"):
                os.makedirs(os.path.join(self.root, name), mode=0o700, exist_ok=True)
        except OSError as error:
            raise ImageError(f"{self.root}: {error.strerror}; the image cache needs to be a folder that can be written") from None

    def path(self, *names: str) -> str:
        return os.path.join(self.root, *names)

    @staticmethod
    def key(digest: str, ext4: bool, size: int) -> str:
        text = f"{BUILDER} {digest} {f'ext4 {size}' if ext4 else 'erofs'}"
        return hashlib.sha256(text.encode()).hexdigest()[:32]

    def built(self, key: str, ext4: bool) -> str:
        return self.path("built", f"{key}.{'ext4' if ext4 else 'erofs'}")

    def hit(self, key: str, ext4: bool) -> str | None:
        """The path of a built image, marked as used now."""
        path = self.built(key, ext4)
        try:
            os.utime(self.path("built", f"{key}.json"))
        except OSError:
            return None
        return path if os.path.exists(path) else None

    @contextlib.contextmanager
    def lock(self, key: str, waiting: Callable[[], None] = lambda: None) -> Iterator[None]:
        fd = os.open(self.path("locks", key), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                waiting()
                fcntl.flock(fd, fcntl.LOCK_EX)
            yield
        finally:
            os.close(fd)

    def busy(self, key: str) -> bool:
        fd = os.open(self.path("locks", key), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return False
        except BlockingIOError:
            return True
        finally:
            os.close(fd)

    # ---- what is there ----

    def images(self) -> list[dict[str, Any]]:
        """All built images, the latest used first."""
        found = []
        for entry in os.scandir(self.path("built")):
            key, _, end = entry.name.partition(".")
            facts = read_json(entry.path) if end == "json" else {}
            if "digest" not in facts:
                continue
            path = self.built(key, facts.get("format") == "ext4")
            with contextlib.suppress(FileNotFoundError):  # somebody else prunes
                # Asked for here, or read by a microVM (to a day: relatime).
                used = max(entry.stat().st_mtime, os.stat(path).st_atime)
                found.append({**facts, "key": key, "path": path, "disk": disk_bytes(path), "used": used})
        return sorted(found, key=lambda image: (-image["used"], image["key"]))

    def prune(self, everything: bool, keep: int | None) -> tuple[int, int]:
        """
        Remove what nobody can use any more: leftovers, images of other builders, layers of no image. With everything all
        images, with keep the least recently used until the rest takes no more; never what was used a minute ago.
        Returns how many files went and how many bytes that gave back.
        """
        gone = self._leftovers()
        images = self.images()
        room = sum(image["disk"] for image in images) + disk_bytes(self.path("blobs"))
        for image in reversed(images):
            wanted = everything or image.get("builder") != BUILDER or (keep is not None and room > keep)
            if wanted and time.time() - image["used"] > RECENT and not self.busy(image["key"]):
                room -= image["disk"]
                gone += [remove(self.path("built", f"{image['key']}.json")), remove(image["path"])]
        digests = {image["digest"] for image in self.images()}
        for name in os.listdir(self.path("refs")):
            facts = read_json(self.path("refs", name, "mayfly.json"))
            unused = everything or (keep is not None and room > keep) or not facts
            if unused and facts.get("digest") not in digests and not self.busy(name):
                gone.append(remove(self.path("refs", name)))
        return len(gone), sum(gone) + sum(self._unused_blobs())

    def _leftovers(self) -> list[int]:
        gone = [remove(entry.path) for entry in os.scandir(self.path("work")) if not self.busy(entry.name.partition(".")[0])]
        for entry in os.scandir(self.path("built")):
            key = entry.name.partition(".")[0]
            if "digest" not in read_json(self.path("built", f"{key}.json")) and not self.busy(key):
                gone.append(remove(entry.path))
        for entry in os.scandir(self.path("sources")):
            if time.time() - entry.stat().st_mtime > 90 * 86400 or entry.name.endswith(".part"):
                gone.append(remove(entry.path))
        return gone

    def _unused_blobs(self) -> list[int]:
        used: set[str] = set()
        for name in os.listdir(self.path("refs")):
            used.update(read_json(self.path("refs", name, "mayfly.json")).get("blobs", []))
        gone = []
        for entry in os.scandir(self.path("blobs/sha256")):
            if entry.name not in used and time.time() - entry.stat().st_mtime > RECENT:
                gone.append(remove(entry.path))
        return gone
