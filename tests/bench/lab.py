"""Rows that need a Linux guest: instruction counts from exec to user space, in the lab, with everything in memory."""

import json
import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

from figures import Progress, number, print_table, ratio, summary
from monitors import BOOT_ARGS, Firecracker, Machine

ROOT = Path(__file__).resolve().parents[2]
INSIDE = Path("/dev/shm/lab/stage")
MARKER = "mayfly-init: "
# QEMU counts every byte of `rep stosb` as an instruction; without ERMS kernels use `rep stosq`.
CPU = "max,+svm,la57=off,-erms"
UPTIME = re.compile(r"up (\d+)\.(\d+) s")


class Stage:
    """A directory with all that the runs in the lab need; the lab copies it to its tmpfs as a whole."""

    def __init__(self, folder):
        self.folder = folder
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        self.known = {}

    def add(self, path):
        """Link or copy path into the stage, under its own name."""
        path = Path(path)
        if path in self.known:
            return
        target = self.folder / path.name
        if target.exists():
            target = self.folder / f"{len(self.known)}-{path.name}"
        try:
            os.link(path.resolve(), target)
        except OSError:
            shutil.copy2(path.resolve(), target)
        self.known[path] = INSIDE / target.name

    def place(self, path):
        """Where path is inside the lab."""
        path = Path(path)
        if path.parent == self.folder:
            return INSIDE / path.name
        return self.known[path]


def cases(monitors, build):
    """(monitor, kernel name, kernel) for every combination that is measured."""
    out = []
    for name in ("generic", "smp", "up"):
        for monitor in monitors:
            if isinstance(monitor, Firecracker) and not monitor.seccomp:
                continue
            if name == "generic" and not monitor.boots_elf:
                kernel = build / "kernel/bzImage-generic"
            elif name == "generic" or monitor is monitors[0] or monitor.boots_tuned:
                kernel = build / f"kernel/vmlinux-{name}"
            else:
                continue
            if kernel.exists():
                out.append((monitor, name, kernel))
    return out


def write_plan(stage, commands, runs, memory_runs):
    """The script that runs inside: every command in turn, round after round; a label line before each line of JSON."""
    timer = f"{INSIDE}/timer -o - --timeout 5 --marker {shlex.quote(MARKER)}"
    lines = [
        "#!/bin/sh",
        "# A pause after each line: whoever passes it on must not run while the next measurement does.",
        "one() { label=$1; shift; echo \"@$label\"; \"$@\" </dev/null; sleep 1; }",
        "cd /dev/shm/lab/stage",
    ]
    for kind, count, options in (("warm", 1, ""), ("entry", 3, "--kvm"), ("run", runs, "")):
        for _ in range(count):
            lines += [f"one {kind}:{label} {timer} {options} -- {shlex.join(command)}" for label, command, _, _ in commands]
    # Memory is counted in programs that lie on a disk, as they do in life: pages of a tmpfs are always dirty.
    options = "--memory --settle 2000 --ram-mib 128"
    for _ in range(memory_runs):
        lines += [f"one memory:{label} {timer} {options} --exclude {kernel} -- {shlex.join(command)}" for label, _, command, kernel in commands]
    path = stage.folder / "plan.sh"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def prepare(monitors, build, timer, runs, memory_runs):
    stage = Stage(build / "bench/stage")
    disk = build / "images/rootfs.ext4"
    stage.add(timer)
    stage.add(disk)
    commands = []
    chosen = cases(monitors, build)
    for label, (monitor, name, kernel) in enumerate(chosen):
        for path in (*monitor.files(), kernel):
            stage.add(path)
        generic = name == "generic"
        boot_args = f"{BOOT_ARGS} {monitor.linux_args}".strip() if generic else BOOT_ARGS
        machine = Machine(kernel, boot_args=boot_args, disk=disk, clock=generic)
        on_disk = stage.folder / "on-disk"
        on_disk.mkdir(exist_ok=True)
        commands.append((label, monitor.command(machine, stage.folder, stage.place), monitor.command(machine, on_disk), kernel))
    write_plan(stage, commands, runs, memory_runs)
    return stage, chosen


def run_lab(stage, total, cpu):
    """Runs the plan; returns {kind: {label: [measurement]}}."""
    results, label = {}, None
    progress = Progress("Linux guests in the lab, counting instructions", total)
    command = [str(ROOT / "tests/lab/run"), "--icount", "--timeout", "7200", "--tmpfs", str(stage.folder)]
    command += ["--cpu", cpu, "sh", f"{INSIDE}/plan.sh"]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, errors="replace") as lab:
        for line in lab.stdout:
            if line.startswith("@"):
                label = line[1:].strip().split(":")
            elif line.startswith("{") and label:
                results.setdefault(label[0], {}).setdefault(int(label[1]), []).append(json.loads(line))
                progress.step()
    progress.end()
    if lab.returncode not in (0, 1):
        raise RuntimeError(f"the lab ended with status {lab.returncode}")
    return results


def guest_clock(line):
    found = UPTIME.search(line)
    return int(found.group(1)) * 1e9 + int(found.group(2).ljust(9, "0")[:9]) if found else None


def boot_figures(results, chosen):
    """One dictionary for each case, with all its measurements."""
    out = []
    for label, (monitor, name, kernel) in enumerate(chosen):
        runs = [r for r in results.get("run", {}).get(label, []) if r["marker_ns"]]
        entries = [r["first_entry_ns"] for r in results.get("entry", {}).get(label, []) if r["first_entry_ns"]]
        seen = [r for r in results.get("entry", {}).get(label, []) if r["exits"]]
        clocks = [c for c in (guest_clock(r["line"]) for r in runs) if c]
        failed = [r["tail"] for r in results.get("run", {}).get(label, []) if not r["marker_ns"]]
        total, entry = summary([r["marker_ns"] for r in runs]), summary(entries)
        out.append({
            "monitor": monitor.name,
            "kernel": name,
            "image": kernel.name,
            "instructions": total,
            "vmm_instructions": entry,
            "guest_instructions": total["median"] - entry["median"] if total and entry else None,
            "guest_clock_ns": summary(clocks),
            "exits": summary([r["exits"] for r in seen]),
            "page_faults": summary([r["exits_page_fault"] for r in seen]),
            "io_exits": summary([r["exits_io"] + r["exits_mmio"] for r in seen]),
            "failed": failed,
            "runs": [r["marker_ns"] for r in runs],
        })
    return out


def print_boot(figures, cpu):
    rows, base = [], {}
    for f in figures:
        total, entry, clock, exits = f["instructions"], f["vmm_instructions"], f["guest_clock_ns"], f["exits"]
        if not total:
            rows.append([f["monitor"], f["kernel"], 0, *["–"] * 8])
            continue
        base.setdefault(f["kernel"], total["median"] if f is figures[0] or f["monitor"] == figures[0]["monitor"] else None)
        rows.append([
            f["monitor"], f["kernel"], total["n"], number(total["median"] / 1e6, 1), f"{100 * total['iqr'] / total['median']:.1f} %",
            ratio(total["median"], base[f["kernel"]]), number(entry["median"] / 1e6, 1) if entry else "–",
            number(f["guest_instructions"] / 1e6, 1) if f["guest_instructions"] else "–",
            number(clock["median"] / 1e6, 1) if clock else "–", number(exits["median"], 0) if exits else "–",
            number(f["page_faults"]["median"], 0) if f["page_faults"] else "–",
        ])  # fmt: skip
    print_table(
        "Linux: exec → user space, millions of instructions, host and guest together",
        "VMM: exec to the first instruction of the guest. Guest: the rest, exits included; own clock: what the guest's init reads.\n"
        f"  Lab with -icount, CPU {cpu}, 1 vCPU, 128 MiB, read-only ext4 root, everything in memory.\n"
        "  Exits (and page faults among them): up to the init's line. Ratio: to Mayfly with the same kernel.",
        ["monitor", "kernel", "runs", "total", "IQR", "ratio", "VMM", "guest", "own clock", "exits", "faults"],
        rows,
    )
    for f in figures:
        if f["failed"]:
            print(f"  {f['monitor']}, {f['kernel']}: {len(f['failed'])} runs failed; last output: {f['failed'][0][-200:]!r}")


def memory_figures(results, chosen):
    out = []
    for label, (monitor, name, _) in enumerate(chosen):
        runs = [r for r in results.get("memory", {}).get(label, []) if r.get("pss_kb")]
        out.append({
            "monitor": monitor.name,
            "guest": f"Linux {name}, shell prompt",
            "pss_kb": summary([r["pss_kb"] for r in runs]),
            "private_kb": summary([r["private_clean_kb"] + r["private_dirty_kb"] for r in runs]),
            "dirty_kb": summary([r["private_dirty_kb"] for r in runs]),
            "threads": summary([r["threads"] for r in runs]),
            "guest_kb": summary([r["guest_kb"] for r in runs]),
        })
    return out


def measure(monitors, build, timer, runs, memory_runs, cpu):
    """All lab rows in one boot of the lab. Returns (boot figures, memory figures)."""
    stage, chosen = prepare(monitors, build, timer, runs, memory_runs)
    if not chosen:
        raise FileNotFoundError("no kernel under build/kernel: run `make kernel kernel-generic` first")
    results = run_lab(stage, len(chosen) * (1 + 3 + runs + memory_runs), cpu)
    shutil.rmtree(stage.folder, ignore_errors=True)
    return boot_figures(results, chosen), memory_figures(results, chosen)
