"""OCI layouts and archives, docker archives: from the index to the layers, each byte checked against its digest."""

from __future__ import annotations

import hashlib
import os
import re
import stat
from typing import Any, Protocol

from .config import json_object, mapping, parse_json, strings
from .limits import CHOICE_BYTES, JSON_BYTES, SYMLINK_HOPS, ImageError, Limits, show
from .stream import Blob, FileReader
from .tar import LINK, Tar

DIGEST = re.compile(r"sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128}")
REF_NAME = "org.opencontainers.image.ref.name"
INDEXES = {"application/vnd.oci.image.index.v1+json", "application/vnd.docker.distribution.manifest.list.v2+json"}
MANIFESTS = {"application/vnd.oci.image.manifest.v1+json", "application/vnd.docker.distribution.manifest.v2+json"}
LAYER = re.compile(r"application/vnd\.(oci\.image\.layer(\.nondistributable)?\.v1\.tar|docker\.image\.rootfs\.(foreign\.)?diff\.tar)"
                   r"([+.](gzip|zstd))?")
NESTED = 4  # indexes in indexes
VARIANTS = ("", "v1", "v2", "v3", "v4")


class Image:
    """An image found in a source. digest says which it is: of the manifest, or what stands for it."""

    def __init__(self, digest: str, config: dict[str, Any], layers: list[Blob], diff_ids: list[str], platform: str) -> None:
        self.digest, self.config, self.layers, self.diff_ids, self.platform = digest, config, layers, diff_ids, platform
        self.whiteouts = True


class Store(Protocol):
    where: str

    def open(self, name: str) -> Blob:
        """A file of the layout; an ImageError when it is not there."""
        ...


def open_file(path: str, name: str) -> Blob:
    """A regular file; nothing is waited for, whatever else it may be."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else "no name for a file"
        raise ImageError(f"{name}: {why}") from None
    info = os.fstat(fd)
    if not stat.S_ISREG(info.st_mode):
        os.close(fd)
        raise ImageError(f"{name}: not a regular file")
    return Blob(fd, 0, info.st_size, name)


class Folder:
    def __init__(self, path: str, blobs: str = "") -> None:
        self.where, self.blobs = path, blobs

    def open(self, name: str) -> Blob:
        path = f"{self.where}/{name}"
        if self.blobs and name.startswith("blobs/"):
            path = f"{self.blobs}/{name[len('blobs/'):]}"
        return open_file(path, path)


class Archive:
    """The members of a tar file that is not compressed."""

    def __init__(self, blob: Blob, limits: Limits) -> None:
        self.where, self.blob = blob.name, blob
        self.members: dict[str, tuple[int, int]] = {}
        self.links: dict[str, str] = {}
        reader = FileReader(blob.fd, blob.size)
        tar = Tar(reader, blob.name, vouched=True)
        names = 0
        for entry in tar:
            names += len(entry.name) + len(entry.target)
            if tar.count > limits.entries or names > limits.metadata:
                raise tar.error(f"the archive has more than {limits.entries} entries, or names of more than {limits.metadata >> 20} MiB")
            name = normal(entry.name.decode("utf-8", "replace"))
            self.members.pop(name, None)
            self.links.pop(name, None)
            if entry.kind == stat.S_IFREG and entry.extents is None:
                self.members[name] = (reader.position, entry.size)
            elif entry.kind in (stat.S_IFLNK, LINK):
                target = entry.target.decode("utf-8", "replace")
                self.links[name] = normal(target if entry.kind == LINK else f"{name.rpartition('/')[0]}/{target}")
        self.known_names = set(self.members) | set(self.links)

    def open(self, name: str) -> Blob:
        """Older docker archives have symbolic links between their layers."""
        place = normal(name)
        for _ in range(SYMLINK_HOPS):
            if place not in self.links:
                break
            place = self.links[place]
        if place not in self.members:
            raise ImageError(f"{self.where}: no {show(name)} in the archive")
        offset, size = self.members[place]
        return Blob(self.blob.fd, self.blob.offset + offset, size, f"{self.where}: {show(name)[1:-1]}")


def normal(name: str) -> str:
    parts: list[str] = []
    for part in name.split("/"):
        if part == "..":
            parts = parts[:-1]
        elif part not in ("", "."):
            parts.append(part)
    return "/".join(parts)


def whole(blob: Blob) -> bytes:
    if blob.size > JSON_BYTES:
        raise ImageError(f"{blob.name}: {blob.size} bytes of JSON; {JSON_BYTES} are the most")
    return b"".join(blob.verified())


# ---- OCI ----

def descriptor(value: Any, what: str) -> tuple[str, str, int]:
    """Media type, digest and size of what a descriptor points to."""
    if not isinstance(value, dict):
        raise ImageError(f"{what} is no object")
    media, digest, size = value.get("mediaType", ""), value.get("digest"), value.get("size")
    if not isinstance(media, str):
        raise ImageError(f"{what}: mediaType is no string")
    if not isinstance(digest, str) or not DIGEST.fullmatch(digest):
        raise ImageError(f"{what}: {show(str(digest))} is no digest; sha256:… and sha512:… are supported")
    if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size < 1 << 62:
        raise ImageError(f"{what}: {show(str(size)[:40])} is no size")
    return media, digest, size


def open_blob(store: Store, digest: str, size: int) -> Blob:
    blob = store.open(f"blobs/{digest.replace(':', '/')}")
    if blob.size != size:
        raise ImageError(f"{blob.name}: {blob.size} bytes, where {size} are announced")
    blob.digest = digest
    return blob


def platform_name(os_name: Any, architecture: Any, variant: Any) -> str:
    parts = [part for part in (os_name, architecture, variant) if isinstance(part, str) and part]
    return "/".join(parts)


def platform_rank(name: str, wanted: str) -> int | None:
    """How well a platform fits, 0 best; None when not. A wish without a variant takes the one that runs on most processors."""
    if name == wanted:
        return 0
    base, _, variant = name.rpartition("/")
    return VARIANTS.index(variant) if wanted.count("/") == 1 and base == wanted and variant in VARIANTS else None


class Layout:
    def __init__(self, store: Store, limits: Limits, tag: str, platform: str) -> None:
        self.store, self.limits, self.tag, self.platform = store, limits, tag, platform
        self.read = 0  # bytes of JSON

    def image(self) -> Image:
        layout = json_object(whole(self.store.open("oci-layout")), f"{self.store.where}: oci-layout")
        if layout.get("imageLayoutVersion") != "1.0.0":
            raise ImageError(f"{self.store.where}: an OCI layout of version {show(str(layout.get('imageLayoutVersion')))}; 1.0.0 is known")
        index = json_object(whole(self.store.open("index.json")), f"{self.store.where}: index.json")
        entries = self._tagged(self._entries(index, "index.json"))
        digest, manifest = self._select(entries, NESTED)
        return self._manifest(digest, manifest)

    def _entries(self, index: dict[str, Any], what: str) -> list[dict[str, Any]]:
        entries = index.get("manifests")
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            raise ImageError(f"{self.store.where}: {what} has no list of manifests")
        if len(entries) > 10_000:
            raise ImageError(f"{self.store.where}: {what} has more than 10000 manifests")
        return entries

    def _tagged(self, entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
        names = [mapping(entry.get("annotations"), "annotations").get(REF_NAME) for entry in entries]
        known = sorted({name for name in names if isinstance(name, str)})
        have = ", ".join(show(name) for name in known[:20]) or "only unnamed ones"
        wanted = self.tag
        if not wanted:
            if len(known) <= 1:
                return entries
            if "latest" not in known:
                raise ImageError(f"{self.store.where}: which image? There are {have} (--tag says which)")
            wanted = "latest"
        fitting = [entry for entry, name in zip(entries, names) if isinstance(name, str) and f":{name}".endswith(f":{wanted}")]
        if not fitting:
            raise ImageError(f"{self.store.where}: no image {show(wanted)}; there are {have}")
        return fitting

    def _select(self, entries: list[dict[str, Any]], depth: int) -> tuple[str, dict[str, Any]]:
        """The manifest for the platform wanted, through indexes in indexes."""
        found: list[tuple[int, str, dict[str, Any]]] = []
        there: list[str] = []
        self._candidates(entries, depth, set(), found, there)
        if not found:
            have = ", ".join(dict.fromkeys(show(name) for name in there[:20])) or "no image at all"
            raise ImageError(f"{self.store.where}: no image for {self.platform}; there is {have}")
        return found[0][1:]

    def _candidates(self, entries: list[dict[str, Any]], depth: int, seen: set[str], found: list[tuple[int, str, dict[str, Any]]],
                    there: list[str]) -> None:
        """Leaves in found the one that fits best, the first of equals, and in there what does not fit."""
        for entry in entries:
            media, digest, size = descriptor(entry, f"{self.store.where}: an entry of an index")
            if digest in seen:
                continue
            seen.add(digest)
            if len(seen) > 1000:
                raise ImageError(f"{self.store.where}: indexes with more than 1000 entries")
            platform = mapping(entry.get("platform"), "a platform")
            name = platform_name(platform.get("os"), platform.get("architecture"), platform.get("variant"))
            if name and platform_rank(name, self.platform) is None:
                if name != "unknown/unknown":  # what build tools attest
                    there.append(name)
                continue
            if media and media not in INDEXES | MANIFESTS:
                there.append(media)
                continue
            document = self._document(digest, size)
            if media in INDEXES or "manifests" in document:
                if not depth:
                    raise ImageError(f"{self.store.where}: indexes in indexes more than {NESTED} deep")
                self._candidates(self._entries(document, digest), depth - 1, seen, found, there)
                continue
            name = name or self._platform_of(document)
            rank = platform_rank(name, self.platform)
            if rank is None:
                there.append(name)
            elif not found or rank < found[0][0]:
                found[:] = [(rank, digest, document)]

    def _config(self, manifest: dict[str, Any]) -> dict[str, Any]:
        _, digest, size = descriptor(manifest.get("config"), f"{self.store.where}: the manifest's config")
        return self._document(digest, size)

    def _document(self, digest: str, size: int) -> dict[str, Any]:
        data = whole(open_blob(self.store, digest, size))
        self.read += size
        if self.read > CHOICE_BYTES:
            raise ImageError(f"{self.store.where}: more than {CHOICE_BYTES >> 20} MiB of manifests, indexes and configurations")
        return json_object(data, f"{self.store.where}: {digest}")

    def _platform_of(self, manifest: dict[str, Any]) -> str:
        config = self._config(manifest)
        return platform_name(config.get("os"), config.get("architecture"), config.get("variant"))

    def _manifest(self, digest: str, manifest: dict[str, Any]) -> Image:
        where = self.store.where
        layers = manifest.get("layers")
        if manifest.get("schemaVersion") != 2 or not isinstance(layers, list):
            raise ImageError(f"{where}: {digest} is no image manifest of schema version 2")
        if len(layers) > self.limits.layers:
            raise ImageError(f"{where}: {len(layers)} layers; {self.limits.layers} are the most")
        config = self._config(manifest)
        blobs = []
        for number, layer in enumerate(layers, 1):
            media, layer_digest, size = descriptor(layer, f"{where}: layer {number}")
            if not LAYER.fullmatch(media):
                raise ImageError(f"{where}: layer {number} is of the type {show(media)}; tar, tar+gzip and tar+zstd are supported")
            blobs.append(open_blob(self.store, layer_digest, size))
        return Image(digest, config, blobs, diff_ids(config, len(blobs), where), self.platform)


def diff_ids(config: dict[str, Any], count: int, where: str) -> list[str]:
    ids = strings(mapping(config.get("rootfs"), "the image's 'rootfs'").get("diff_ids"), "the image's diff_ids")
    if len(ids) != count:
        raise ImageError(f"{where}: {count} layers, but {len(ids)} diff_ids in the image's configuration")
    for digest in ids:
        if not DIGEST.fullmatch(digest) or not digest.startswith("sha256:"):
            raise ImageError(f"{where}: the diff_id {show(digest)} is no sha256:…")
    return ids


# ---- docker ----

def docker_image(archive: Archive, limits: Limits, tag: str, platform: str) -> Image:
    where = archive.where
    manifest = parse_json(whole(archive.open("manifest.json")), f"{where}: manifest.json")
    if not isinstance(manifest, list) or not all(isinstance(item, dict) for item in manifest):
        raise ImageError(f"{where}: manifest.json is no list of images, so this is no docker archive")
    names = [(item, strings(item.get("RepoTags"), f"{where}: RepoTags")) for item in manifest]
    fitting = [item for item, tags in names if not tag or tag in tags or any(name.endswith(f":{tag}") for name in tags)]
    if len(fitting) != 1:
        have = ", ".join(show(name) for _, tags in names[:20] for name in tags[:20]) or "none with a name"
        raise ImageError(f"{where}: {'which image? --tag says it' if fitting else 'no such image'}; there are {have}")
    config_name, layers = fitting[0].get("Config"), strings(fitting[0].get("Layers"), f"{where}: Layers")
    if not isinstance(config_name, str):
        raise ImageError(f"{where}: manifest.json names no Config")
    if len(layers) > limits.layers:
        raise ImageError(f"{where}: {len(layers)} layers; {limits.layers} are the most")
    blob = archive.open(config_name)
    data = whole(blob)
    digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
    if (claimed := re.search(r"[0-9a-f]{64}", config_name)) and claimed.group() != digest[7:]:
        raise ImageError(f"{blob.name}: its bytes have another digest, {digest}")
    config = json_object(data, blob.name)
    name = platform_name(config.get("os"), config.get("architecture"), config.get("variant"))
    if platform_rank(name, platform) is None:
        raise ImageError(f"{where}: no image for {platform}; there is {show(name)}")
    return Image(digest, config, [archive.open(layer) for layer in layers], diff_ids(config, len(layers), where), platform)
