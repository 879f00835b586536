"""The row about working sets: how soon a loaded guest has read scattered pages, with a list that is prefetched and without."""

import os
import time
from pathlib import Path

from figures import Progress, number, print_table, ratio, summary
from snapshots import Process

PAGES_MIB = 64
RAM_MIB = 512
LEAST_RUNS = 10


def save(mayfly, guest, folder):
    """A snapshot of a guest that waits for a letter to read its pages."""
    process = Process(mayfly, folder / "bench.sock", ["--allow-path", str(folder)])
    process.call("PUT", "/machine-config", {"vcpu_count": 1, "mem_size_mib": RAM_MIB})
    script = f"scatter {PAGES_MIB}M; print done; idle"
    process.call("PUT", "/boot-source", {"kernel_image_path": str(guest), "boot_args": f"console=ttyS0 mayfly.test='{script}'"})
    process.call("PUT", "/actions", {"action_type": "InstanceStart"})
    process.until(b"scattered")
    process.call("PATCH", "/vm", {"state": "Paused"})
    files = {"snapshot_path": str(folder / "ws.state"), "mem_file_path": str(folder / "ws.memory")}
    process.call("PUT", "/snapshot/create", files)
    process.end()
    return files


def evict(path):
    """Nobody has it mapped, and what is clean goes."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def run(mayfly, files, folder, cold, **body):
    """Seconds from the call until the guest has read everything."""
    process = Process(mayfly, folder / "bench.sock")
    if cold:
        evict(files["mem_file_path"])
    begun = time.perf_counter()
    process.call("PUT", "/snapshot/load", {**files, "resume_vm": True, **body})
    os.write(process.process.stdin.fileno(), b"g")
    process.until(b"done")
    took = time.perf_counter() - begun
    if body:  # the list is written at the pause, and whole when the process has ended
        process.process.terminate()
        process.process.wait()
    process.end()
    return took


def row_working_set(mayfly, guest, runs, folder):
    folder = Path(folder)
    files = save(mayfly, guest, folder)
    # Nothing beside this file, and the list beside a second name of it.
    listed = {**files, "mem_file_path": str(folder / "listed.memory")}
    os.link(files["mem_file_path"], listed["mem_file_path"])
    recording = run(mayfly, listed, folder, False, record_working_set=True)
    ways = [(cold, with_list) for cold in (False, True) for with_list in (False, True)]
    took = {way: [] for way in ways}
    runs = max(runs, LEAST_RUNS)
    progress = Progress("working set", (runs + 1) * len(ways))
    for n in range(runs + 1):
        for cold, with_list in ways:
            seconds = run(mayfly, listed if with_list else files, folder, cold)
            took[cold, with_list] += [seconds] if n else []
            progress.step()
    progress.end()
    return {
        "recording_s": recording,
        "list_bytes": os.stat(listed["mem_file_path"] + ".ws").st_size,
        "runs": [{"cold": cold, "list": with_list, "took_s": summary(took[cold, with_list])} for cold, with_list in ways],
    }


def print_working_set(figures):
    without = {f["cold"]: f["took_s"]["median"] for f in figures["runs"] if not f["list"]}
    print_table(
        f"A loaded guest reads {PAGES_MIB} MiB, page by page in no order; milliseconds from the call until it is done",
        f"Cold: the memory file is out of the page cache. The load that recorded the list: {number(figures['recording_s'] * 1e3, 0)} ms, warm.\n"
        f"  The list has {number(figures['list_bytes'] / 1024, 0)} KiB. Runs in turn.",
        ["page cache, list", "min", "median", "IQR", "ratio"],
        [[f"{'cold' if f['cold'] else 'warm'}, {'prefetched' if f['list'] else 'none'}", *[number(f["took_s"][k] * 1e3, 1) for k in ("min", "median", "iqr")],
          ratio(f["took_s"]["median"], without[f["cold"]])] for f in figures["runs"]],
    )
