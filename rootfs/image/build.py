"""From a source to an image file: the tree, the writer, and the cache's promise that a path it gives out is complete."""

from __future__ import annotations

import contextlib
import os
import time
from typing import TYPE_CHECKING, Any

from .cache import BUILDER, Cache, write_atomically
from .limits import ImageError, human
from .source import Options, Source, facts
from .stream import Budget

if TYPE_CHECKING:
    from .tree import Tree


class Format:
    def __init__(self, is_ext4: bool, size: int) -> None:
        self.is_ext4, self.size = is_ext4, size
        self.name = "ext4" if is_ext4 else "erofs"


def build(source: Source, output: str, work: str, form: Format, options: Options) -> dict[str, Any]:
    """Write the image to output, a new file. work: a folder for temporary files. Returns what is known of the image."""
    from . import config
    from .tree import Spool, Tree
    begun = time.monotonic()
    image = source.image()
    text = config.encode(config.fields(image.config))
    spool = Spool(work)
    try:
        tree = Tree(spool, options.limits, Budget(options.limits.size))
        source.fill(tree)
        tree.set_config(text)
        if form.is_ext4:
            _ext4(tree, output, work, form, options)
        else:
            _erofs(tree, output, options)
    except OSError as error:
        raise ImageError(f"{error.filename or output}: {error.strerror}") from None
    finally:
        spool.close()
        options.progress.finish()
    info = os.stat(output)
    disk, seconds = info.st_blocks * 512, time.monotonic() - begun
    options.progress.note(f"{form.name} image of {human(info.st_size)} ({human(disk)} on the disk) in {seconds:.1f} s")
    return {**facts(image), "format": form.name, "size": info.st_size, "disk": disk, "entries": tree.entries, "seconds": round(seconds, 3),
            "config": config.decode(text)}


def _erofs(tree: Tree, output: str, options: Options) -> None:
    from . import erofs
    with open(output, "xb") as file:
        writer = erofs.Writer(tree, file, options.progress.add)
        options.progress.start("writing the image", writer.plan())
        writer.write()


def _ext4(tree: Tree, output: str, work: str, form: Format, options: Options) -> None:
    import shutil
    import tempfile

    from . import ext4
    stage = tempfile.mkdtemp(dir=work, prefix="ext4-")
    try:
        options.progress.start("writing the image", 0)
        ext4.write(tree, output, stage, form.size, options.progress.add)
    finally:
        shutil.rmtree(stage, ignore_errors=True)


def build_to(source: Source, output: str, form: Format, options: Options) -> dict[str, Any]:
    """build -o: the file is there when it is complete, or as it was before."""
    import shutil
    import tempfile
    folder = os.path.dirname(os.path.abspath(output))
    if os.path.exists(output) and not os.path.isfile(output):
        raise ImageError(f"{output}: not a regular file, so no image is written there")
    try:
        work = tempfile.mkdtemp(dir=folder, prefix=".mayfly-image-")
    except OSError as error:
        raise ImageError(f"{folder}: {error.strerror}") from None
    options.work = work
    try:
        result = build(source, f"{work}/image", work, form, options)
        os.replace(f"{work}/image", output)
    except OSError as error:
        raise ImageError(f"{output}: {error.strerror}") from None
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return {"path": os.path.abspath(output), **result}


def get(source: Source, name: str, form: Format, options: Options, cache: Cache) -> dict[str, Any]:
    """The path of the cached image, built when it is not there yet; one of many at the same time builds, the others wait."""
    cache.create()
    options.work = cache.path("work")
    digest = source.digest(cache)
    key = cache.key(digest, form.is_ext4, form.size)
    if path := cache.hit(key, form.is_ext4):
        return {"path": path, "digest": digest, "built": False}
    import shutil
    with cache.lock(key, lambda: options.progress.note(f"{name} is being built already, waiting for that")):
        if path := cache.hit(key, form.is_ext4):
            return {"path": path, "digest": digest, "built": False}
        path = cache.built(key, form.is_ext4)
        work = cache.path("work", f"{key}.d")
        shutil.rmtree(work, ignore_errors=True)
        os.mkdir(work, 0o700)
        try:
            result = build(source, f"{work}/image", work, form, options)
            if (result["digest"] or source.digest(cache)) != digest:
                raise ImageError(f"{name}: changed while it was read")
            _settle(f"{work}/image")
            os.replace(f"{work}/image", path)
        finally:
            shutil.rmtree(work, ignore_errors=True)
        known = {**result, "digest": digest, "source": name, "builder": BUILDER, "created": int(time.time())}
        write_atomically(cache.path("built", f"{key}.json"), known)
    return {"path": path, "digest": digest, "built": True}


def _settle(path: str) -> None:
    """On the disk before its name is: a crash of the host leaves a whole image or none."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    with contextlib.closing(os.fdopen(fd, "rb")):
        os.fsync(fd)
