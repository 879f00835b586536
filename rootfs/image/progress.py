"""How far a long task is: a bar on a terminal, a line every few seconds elsewhere, nothing when quiet."""

from __future__ import annotations

import sys
import time

from .limits import human

LINE_SECONDS = 5.0
REDRAW_SECONDS = 0.1
BAR = 24


class Progress:
    def __init__(self, quiet: bool) -> None:
        self.quiet, self.terminal = quiet, sys.stderr.isatty()
        self.label = ""
        self.total = self.done = 0
        self.begun = self.shown = 0.0

    def start(self, label: str, total: int) -> None:
        """A new task of so many bytes; 0 when nobody knows."""
        self.finish()
        self.label, self.total, self.done = label, total, 0
        self.begun = self.shown = time.monotonic()
        if self.terminal:
            self._show()

    def add(self, count: int) -> None:
        self.done += count
        now = time.monotonic()
        if now - self.shown >= (REDRAW_SECONDS if self.terminal else LINE_SECONDS):
            self.shown = now
            self._show()

    def note(self, text: str) -> None:
        """A line of its own."""
        if not self.quiet:
            self.finish()
            print(text, file=sys.stderr, flush=True)

    def finish(self) -> None:
        if self.label and self.terminal and not self.quiet:
            sys.stderr.write("\r\033[K")
            sys.stderr.flush()
        self.label = ""

    def _show(self) -> None:
        if self.quiet or not self.label:
            return
        spent = time.monotonic() - self.begun
        text = f"{self.label}: {human(self.done)}, {int(spent // 60)}:{int(spent % 60):02} so far"
        if self.total:
            part = min(1.0, self.done / self.total)
            left = int(spent / part * (1 - part) + 0.5) if part else 0
            bar = f"[{'#' * int(part * BAR):{BAR}}] " if self.terminal else ""
            remaining = f", {left // 60}:{left % 60:02} left" if part else ""
            text = f"{self.label}: {bar}{int(part * 100):3} %, {human(self.done)} of {human(self.total)}{remaining}"
        if self.terminal:
            sys.stderr.write(f"\r{text}\033[K")
            sys.stderr.flush()
        else:
            print(text, file=sys.stderr, flush=True)
