"""What an image may ask of the host, and the error that says so in one sentence."""

from __future__ import annotations

MIB = 1 << 20
NAME_BYTES = 255  # one component, as in Linux
PATH_BYTES = 4095
DEPTH = 1024  # directories
XATTR_BYTES = 64 << 10  # of one file
JSON_BYTES = 4 * MIB
CHOICE_BYTES = 16 * MIB  # of all the JSON that is read to find an image; in memory it takes up to thirty times as much
CONFIG_BYTES = 256 << 10  # /.mayfly/config, which the guest's agent reads into memory
SYMLINK_HOPS = 40


class ImageError(Exception):
    """One sentence: what is wrong, where, and what would be accepted."""


class Limits:
    layers = 512
    entries = 1_000_000
    metadata = 256 * MIB  # names, link targets and attributes
    steps = 100_000_000  # components looked up: about a minute

    def __init__(self, size: int) -> None:
        self.size = size  # bytes unpacked, and bytes of all files


def show(value: bytes | str) -> str:
    """A name out of an image, fit for a terminal: escaped, and not longer than a line."""
    text = value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else value
    text = "".join(c if c.isprintable() else c.encode("unicode_escape", "replace").decode() for c in text[:200])
    return f"'{text}'" if len(text) <= 80 else f"'{text[:60]}…{text[-12:]}'"


def human(size: float) -> str:
    for unit in ("B", "KB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" or size >= 100 else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"


def parse_size(text: str) -> int:
    """512M, 2G, 1048576: a size in bytes; K, M, G and T are powers of 1024."""
    units = {"K": 10, "M": 20, "G": 30, "T": 40}
    digits, shift = (text[:-1], units[text[-1].upper()]) if text[-1:].upper() in units else (text, 0)
    if not (digits.isascii() and digits.isdigit() and len(digits) <= 18 and 0 < int(digits) << shift < 1 << 60):
        raise ImageError(f"{show(text)} is no size: a whole number with K, M, G or T behind it, such as 512M")
    return int(digits) << shift
