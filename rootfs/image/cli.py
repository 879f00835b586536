"""mayfly-image: the command line."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
from typing import Any, NoReturn

from .limits import ImageError, Limits, human, parse_size, show

SOURCES = """\
SOURCE is one of
  DIR                   an OCI layout, or else a root file system
  oci:DIR[:TAG]         an OCI layout, and which image in it
  FILE.tar[.gz|.zst]    an OCI archive, a docker archive (docker save), or a tar of a root file system (docker export)
  debian:bookworm       a registry's image, through skopeo; fetched once, then kept
oci-archive:, docker-archive:, tar:, dir: and docker:// in front of it say which, where that is not clear.
"""


class Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        sys.stderr.write(f"mayfly-image: {message} (mayfly-image --help)\n")
        sys.exit(2)


def parser() -> argparse.ArgumentParser:
    top = Parser(prog="mayfly-image", description="Make disk images for microVMs from container images. No root needed.",
                 epilog=SOURCES, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, text: str, source: bool = True) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text, epilog=SOURCES if source else None,
                                  formatter_class=argparse.RawDescriptionHelpFormatter)
        if source:
            sub.add_argument("source", metavar="SOURCE")
            sub.add_argument("--tag", default="", metavar="TAG", help="which image of a layout or archive")
            sub.add_argument("--platform", default="linux/amd64", metavar="OS/ARCH", help="of an image for several (default linux/amd64)")
            sub.add_argument("--max-size", type=parse_size, default=16 << 30, metavar="SIZE",
                             help="refuse what unpacks to more (default 16G)")
            sub.add_argument("--pull", action="store_true", help="ask the registry again, even when its image is in the cache")
        sub.add_argument("--cache", metavar="DIR",
                         help="the cache to use (default ~/.local/share/mayfly/images, root: /var/lib/mayfly/images)")
        sub.add_argument("--json", action="store_true", help="say it as JSON")
        return sub

    build = command("build", "write an image file")
    build.add_argument("-o", "--output", required=True, metavar="FILE", help="the file to write")
    get = command("get", "print the path of the built image in the cache; build it when it is not there")
    for sub in (build, get):
        sub.add_argument("--ext4", action="store_true", help="a writable ext4 file system instead of read-only EROFS")
        sub.add_argument("--size", type=parse_size, default=0, metavar="SIZE",
                         help="of the ext4 file system (default: what is needed, and half as much again)")
        sub.add_argument("--quiet", "-q", action="store_true", help="say nothing but errors")
    command("inspect", "show what a source, or an image file, is and runs")
    command("list", "show the images in the cache, the latest used first", source=False)
    prune = command("prune", "remove from the cache what is of no use any more", source=False)
    which = prune.add_mutually_exclusive_group()
    which.add_argument("--all", action="store_true", help="all images that nobody has used for a minute")
    which.add_argument("--keep", type=parse_size, metavar="SIZE",
                       help="the least recently used images, until the rest takes no more than SIZE")
    return top


def say(value: Any) -> None:
    print(json.dumps(value, ensure_ascii=True), flush=True)


def open_for(args: argparse.Namespace) -> tuple[Any, Any, Any]:
    from .cache import Cache, default_root
    from .progress import Progress
    from .source import Options, open_source
    if not all(args.platform.split("/")) or not 2 <= len(args.platform.split("/")) <= 3 or not args.platform.replace("/", "").isalnum():
        raise ImageError(f"--platform {show(args.platform)}: OS/ARCH or OS/ARCH/VARIANT is expected, such as linux/amd64")
    options = Options(Limits(size=args.max_size), Progress(getattr(args, "quiet", True)), args.tag, args.platform, args.pull)
    cache = Cache(args.cache or default_root())
    return open_source(args.source, options, cache), options, cache


def build_or_get(args: argparse.Namespace) -> None:
    from . import build
    if args.size and not args.ext4:
        raise ImageError("--size is for --ext4; an EROFS image is as large as its files")
    form = build.Format(args.ext4, args.size)
    source, options, cache = open_for(args)
    if args.command == "build":
        result = build.build_to(source, args.output, form, options)
        if args.json:
            say(result)
    else:
        result = build.get(source, args.source, form, options, cache)
        if args.json:
            say(result)
        else:
            print(result["path"], flush=True)


def image_config(path: str) -> tuple[str, bytes] | None:
    """Format and configuration when path is an image file."""
    from . import erofs, ext4
    if not os.path.isfile(path):
        return None
    with open(path, "rb") as file:
        head = file.read(2048)
        if head[1024:1028] == erofs.MAGIC.to_bytes(4, "little"):
            return "erofs", erofs.read_config(file.fileno(), path)
    return ("ext4", ext4.read_config(path)) if head[1080:1082] == b"\x53\xef" else None


def inspect(args: argparse.Namespace) -> None:
    from . import config
    if found := image_config(args.source):
        info = os.stat(args.source)
        facts = {"format": found[0], "size": info.st_size, "disk": info.st_blocks * 512}
        pairs = config.decode(found[1])
    else:
        from .source import facts as facts_of
        source, _, cache = open_for(args)
        image = source.image()
        facts = {**facts_of(image), "digest": image.digest or source.digest(cache)}
        pairs = config.fields(image.config)
    if args.json:
        say({**facts, "config": pairs})
        return
    for name, value in [*facts.items(), *pairs]:
        shown = human(value) if name in ("size", "disk", "layer_bytes") and isinstance(value, int) else show(str(value))[1:-1]
        print(f"{name.replace('_', ' '):12} {shown}")


def existing_cache(args: argparse.Namespace) -> Any:
    from .cache import Cache, default_root
    cache = Cache(args.cache or default_root())
    cache.create()
    return cache


def list_images(args: argparse.Namespace) -> None:
    images = existing_cache(args).images()
    if args.json:
        say(images)
        return
    print(f"{'SOURCE':40} {'DIGEST':14} {'FORMAT':6} {'ON DISK':>9}  LAST USED")
    for image in images:
        used = time.strftime("%Y-%m-%d %H:%M", time.localtime(image["used"]))
        source, digest = show(str(image.get("source")))[1:-1], str(image.get("digest"))[7:19]
        print(f"{source:40} {digest:14} {image.get('format', ''):6} {human(image['disk']):>9}  {used}")


def prune(args: argparse.Namespace) -> None:
    count, size = existing_cache(args).prune(args.all, args.keep)
    if args.json:
        say({"removed": count, "bytes": size})
    else:
        print(f"removed {count} files, {human(size)}")


def main() -> int:
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, frame: sys.exit(128 + number))  # so that temporary files go
    try:
        args = parser().parse_args()
        commands = {"build": build_or_get, "get": build_or_get, "inspect": inspect, "list": list_images, "prune": prune}
        commands[args.command](args)
        return 0
    except ImageError as error:
        sys.stderr.write(f"mayfly-image: {error}\n")
    except KeyboardInterrupt:
        sys.stderr.write("mayfly-image: interrupted\n")
        return 130
    except BrokenPipeError:
        sys.stdout = open(os.devnull, "w", encoding="ascii")
    except OSError as error:
        sys.stderr.write(f"mayfly-image: {f'{error.filename}: ' if error.filename else ''}{error.strerror}\n")
    except MemoryError:
        sys.stderr.write("mayfly-image: not enough memory\n")
    return 1
