"""The row about the API: how soon it answers, and what a start by five calls costs compared with a configuration file."""

import json
import subprocess
from pathlib import Path

from figures import number, print_table, ratio, summary
from monitors import Firecracker, Machine

BY_FILE, BY_SOCK, BY_FD = "configuration file", "--api-sock", "--api-fd"


def by_api(tool, monitor, machine, sock, inherited):
    """One run under timer_api: the machine described and started by API calls."""
    calls = [text for path, body in monitor.api_calls(machine) for text in (path, json.dumps(body))]
    where = ("--api-fd", "3") if inherited else ("--api-sock", str(sock))
    Path(sock).unlink(missing_ok=True)
    command = [str(tool), *(["--fd"] if inherited else []), str(sock), *calls, "--", *monitor.api_command(*where)]
    # To a file: whoever read the log from a pipe would be woken, and take a CPU, with each line.
    with open(f"{sock}.log", "w+", encoding="utf-8", errors="replace") as log:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, text=True, timeout=60, check=False)
        log.seek(0)
        return json.loads(done.stdout) if done.stdout else {"answered_ns": 0, "marker_ns": 0, "tail": log.read()[-300:]}


def row_api(tool, by_file, monitors, interleaved, runs, guests, folder):
    """by_file: times one command until the guest's first byte; interleaved: runs all the ways in turn."""
    folder = Path(folder)
    disks = [folder / "a.img", folder / "b.img"]
    for disk in disks:
        disk.write_bytes(bytes(1 << 20))
    machine = Machine(guests / "first.elf", boot_args="x", more_disks=tuple(disks), resets=True)
    ways = []
    for monitor in monitors:
        if not monitor.name.startswith("mayfly") and not (isinstance(monitor, Firecracker) and monitor.seccomp):
            continue
        ways += [(monitor, BY_FILE), (monitor, BY_SOCK)]
        if not isinstance(monitor, Firecracker):
            ways.append((monitor, BY_FD))
    commands = {monitor: monitor.command(machine, folder) for monitor, _ in ways}

    def measure(way):
        monitor, how = way
        if how == BY_FILE:
            return by_file(commands[monitor])
        return by_api(tool, monitor, machine, folder / "api.sock", how == BY_FD)

    results = interleaved("start by API", ways, runs, measure)
    return [{
        "monitor": monitor.name,
        "how": how,
        "answered_ns": summary([r["answered_ns"] for r in measured if r.get("answered_ns")]),
        "first_ns": summary([r["marker_ns"] for r in measured if r["marker_ns"]]),
        "failed": [r.get("tail", "") for r in measured if not r["marker_ns"]],
    } for (monitor, how), measured in results.items()]  # fmt: skip


def print_api(figures):
    def cells(s):
        return [number(s[k] / 1e6, 2) for k in ("min", "median", "iqr")] if s else ["–"] * 3

    base = figures[0]["first_ns"] and figures[0]["first_ns"]["median"]
    rows = [[f"{f['monitor']}, {f['how']}", f["first_ns"]["n"] if f["first_ns"] else 0, *cells(f["answered_ns"]), *cells(f["first_ns"]),
             ratio(f["first_ns"] and f["first_ns"]["median"], base)] for f in figures]  # fmt: skip
    print_table(
        "exec → the API has answered GET /, and exec → first guest instruction by file or by five API calls; milliseconds",
        "Two drives. The client connects as soon as the socket appears (--api-fd: it is there before), and sends each call when the\n"
        "  answer to the one before has come: GET /, machine-config, boot-source, two drives, actions. Runs in turn.",
        ["monitor, configured by", "runs", "answer: min", "median", "IQR", "first: min", "median", "IQR", "ratio"],
        rows,
    )
    for f in figures:
        if f["failed"]:
            print(f"  {f['monitor']}, {f['how']}: {len(f['failed'])} runs failed; last output: {f['failed'][0]!r}")
