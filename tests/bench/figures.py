"""Numbers and tables: medians with their spread, columns that line up."""

import statistics
import sys


def summary(values):
    """Minimum, median, maximum and interquartile range of some measurements."""
    values = sorted(values)
    if not values:
        return None
    quarters = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else [values[0]] * 3
    return {
        "n": len(values),
        "min": values[0],
        "median": statistics.median(values),
        "max": values[-1],
        "iqr": quarters[2] - quarters[0],
    }


def number(value, digits):
    """Thousands apart by a thin comma; nothing measured is a dash."""
    return "–" if value is None else f"{value:,.{digits}f}"


def ratio(value, base):
    return "–" if not value or not base else f"{value / base:.1f}×"


def print_table(title, note, head, rows):
    """First column to the left, the others to the right. note says how the figures came about."""
    bold, dim, plain = ("\033[1m", "\033[2m", "\033[0m") if sys.stdout.isatty() else ("", "", "")
    widths = [max(len(str(row[i])) for row in [head, *rows]) for i in range(len(head))]

    def line(cells):
        first = str(cells[0]).ljust(widths[0])
        return "  " + "  ".join([first, *(str(c).rjust(w) for c, w in zip(cells[1:], widths[1:]))])

    print(f"\n{bold}{title}{plain}")
    print(line(head))
    print("  " + "─" * (sum(widths) + 2 * (len(widths) - 1)))
    for row in rows:
        print(line(row))
    if note:
        print(f"{dim}  {note}{plain}")
    sys.stdout.flush()


class Progress:
    """One line that says how far a row has come: rewritten on a terminal; elsewhere four times."""

    def __init__(self, what, total):
        self.what, self.total, self.done = what, total, 0
        self.live = sys.stderr.isatty()
        self.show()

    def show(self):
        if self.live:
            sys.stderr.write(f"\r\033[K{self.what}: {self.done} of {self.total}")
        elif self.done in (0, self.total // 3, 2 * self.total // 3, self.total):
            sys.stderr.write(f"{self.what}: {self.done} of {self.total}\n")
        sys.stderr.flush()

    def step(self):
        self.done += 1
        self.show()

    def end(self):
        if self.live:
            sys.stderr.write("\r\033[K")
            sys.stderr.flush()
