"""
Makes container images for tests, good and hostile ones: tar entries byte by byte, layers of them, and OCI layouts, OCI archives and docker
archives of layers. Nothing here checks anything, so everything can be wrong that a test wants wrong.

    layout = Layout(directory)
    layout.add([layer(entry("bin", kind="5"), entry("bin/sh", busybox, mode=0o755))], config(Cmd=["/bin/sh"]), tag="latest")
    layout.write()
"""

import gzip
import hashlib
import io
import json
import subprocess
import tarfile
from typing import NamedTuple

OCI = "application/vnd.oci.image"
INDEX, MANIFEST, CONFIG, LAYER = f"{OCI}.index.v1+json", f"{OCI}.manifest.v1+json", f"{OCI}.config.v1+json", f"{OCI}.layer.v1.tar"
REF_NAME = "org.opencontainers.image.ref.name"
FILE, HARD, SYMLINK, CHAR, BLOCK, DIRECTORY, FIFO, GNU_SPARSE = "0", "1", "2", "3", "4", "5", "6", "S"
TIME = 1_000_000_000
END = bytes(1024)


def sha256(data):
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


# ---- tar ----

def number(value, width):
    """Octal where that fits, else GNU's binary."""
    if 0 <= value < 8 ** (width - 1):
        return b"%0*o\0" % (width - 1, value)
    return (0x80 << 8 * (width - 1) | value & (1 << 8 * width - 1) - 1).to_bytes(width, "big") if value >= 0 else value.to_bytes(width, "big", signed=True)


def header(name, kind, size, mode=0o644, uid=0, gid=0, mtime=TIME, target=b"", device=(0, 0), tail=b"", magic=b"ustar\x0000", checksum=None):
    block = name[:100].ljust(100, b"\0") + number(mode, 8) + number(uid, 8) + number(gid, 8) + number(size, 12) + number(mtime, 12) + b" " * 8
    block += kind.encode() + target[:100].ljust(100, b"\0") + magic + bytes(64) + number(device[0], 8) + number(device[1], 8) + tail
    block = block.ljust(512, b"\0")
    total = sum(block) if checksum is None else checksum
    return block[:148] + b"%06o\0 " % total + block[156:]


def padded(data):
    return data + bytes(-len(data) % 512)


def pax_record(key, value):
    body = b" " + key + b"=" + value + b"\n"
    length = len(body) + 1
    while len(b"%d" % length) + len(body) != length:
        length += 1
    return b"%d" % length + body


def as_bytes(text):
    return text if isinstance(text, bytes) else text.encode()


def entry(name, data=b"", kind=FILE, target=b"", pax=None, size=None, raw_pax=None, **fields):
    """
    One tar member. Long names, pax={key: value} and raw_pax (bytes of the extended header) get a PAX header; size lies about data;
    fields are those of header().
    """
    name, data, target = as_bytes(name), as_bytes(data), as_bytes(target)
    records = {as_bytes(k): as_bytes(v) for k, v in (pax or {}).items()}
    if len(name) > 100:
        records.setdefault(b"path", name)
    if len(target) > 100:
        records.setdefault(b"linkpath", target)
    extended = b"".join(pax_record(*record) for record in records.items()) if raw_pax is None else raw_pax
    front = header(b"pax", "x", len(extended)) + padded(extended) if extended else b""
    if kind == DIRECTORY:
        fields.setdefault("mode", 0o755)
    return front + header(name, kind, len(data) if size is None else size, target=target, **fields) + padded(data)


def directory(name, **fields):
    return entry(name, kind=DIRECTORY, **fields)


def symlink(name, target, **fields):
    return entry(name, kind=SYMLINK, target=target, mode=0o777, **fields)


def hard_link(name, target, **fields):
    return entry(name, kind=HARD, target=target, **fields)


def device(name, major, minor, kind=CHAR, **fields):
    return entry(name, kind=kind, device=(major, minor), **fields)


def layer(*entries, end=END):
    return b"".join(entries) + end


# ---- layers ----

class Packed(NamedTuple):
    """A layer as it lies in a layout; every field may be a lie."""
    data: bytes
    media: str
    diff_id: str
    digest: str
    size: int


def compress(data, how):
    if how == "gzip":
        return gzip.compress(data, 1, mtime=0)
    if how == "zstd":
        return subprocess.run(["zstd", "-qc1"], input=data, stdout=subprocess.PIPE, check=True, timeout=60).stdout
    return data


def pack(data, how="gzip", **lies):
    stored = compress(data, how)
    truth = {"data": stored, "media": LAYER if how == "plain" else f"{LAYER}+{how}", "diff_id": sha256(data), "digest": sha256(stored), "size": len(stored)}
    return Packed(**{**truth, **lies})


def config(architecture="amd64", system="linux", **run):
    """An image's configuration; run is what its 'config' has: Cmd=[…], Env=[…]."""
    return {"architecture": architecture, "os": system, "config": run}


# ---- layouts ----

class Layout:
    """An OCI layout in the making: files by name, entries of the index."""

    def __init__(self, path):
        self.path = path
        self.files = {"oci-layout": b'{"imageLayoutVersion": "1.0.0"}'}
        self.index = []

    def blob(self, data, digest=None):
        digest = digest or sha256(data)
        self.files[f"blobs/{digest.replace(':', '/')}"] = data
        return digest

    def descriptor(self, document, media, **more):
        """Store a JSON document (or raw bytes); returns what refers to it."""
        data = document if isinstance(document, bytes) else json.dumps(document).encode()
        return {"mediaType": media, "digest": self.blob(data), "size": len(data), **more}

    def manifest(self, layers, settings=None, **more):
        """Store an image; returns its descriptor. Layers: bytes of a tar (gzipped here), or Packed."""
        packed = [item if isinstance(item, Packed) else pack(item) for item in layers]
        settings = dict(config() if settings is None else settings)
        settings.setdefault("rootfs", {"type": "layers", "diff_ids": [item.diff_id for item in packed]})
        for item in packed:
            self.blob(item.data, item.digest if item.digest.count(":") == 1 and "/" not in item.digest else None)
        document = {"schemaVersion": 2, "mediaType": MANIFEST, "config": self.descriptor(settings, CONFIG),
                    "layers": [{"mediaType": item.media, "digest": item.digest, "size": item.size} for item in packed]}
        return self.descriptor({**document, **more}, MANIFEST)

    def add(self, layers, settings=None, tag=None, platform=None, **more):
        found = self.manifest(layers, settings, **more)
        if tag:
            found["annotations"] = {REF_NAME: tag}
        if platform:
            found["platform"] = dict(zip(("os", "architecture", "variant"), platform.split("/")))
        self.index.append(found)
        return self

    def contents(self):
        return {"index.json": json.dumps({"schemaVersion": 2, "manifests": self.index}).encode(), **self.files}

    def write(self):
        for name, data in self.contents().items():
            file = self.path / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(data)
        return self.path

    def archive(self, path):
        """The same as an OCI archive."""
        return write_tar(path, self.contents())


def write_tar(path, files, links=()):
    with tarfile.open(path, "w") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
        for name, target in links:
            info = tarfile.TarInfo(name)
            info.type, info.linkname = tarfile.SYMTYPE, target
            tar.addfile(info)
    return path


def docker_archive(path, layers, settings=None, tags=("test:latest",), links=(), **lies):
    """What `docker save` writes."""
    settings = dict(config() if settings is None else settings)
    settings["rootfs"] = {"type": "layers", "diff_ids": [sha256(data) for data in layers]}
    text = json.dumps(settings).encode()
    names = [f"{sha256(data)[7:]}.tar" for data in layers]
    image = {"Config": f"{sha256(text)[7:]}.json", "RepoTags": list(tags), "Layers": names, **lies}
    return write_tar(path, {image["Config"]: text, **dict(zip(names, layers)), "manifest.json": json.dumps([image]).encode()}, links)
