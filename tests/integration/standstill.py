"""What a microVM that stands still is found doing: its threads, KVM's counters of its vCPUs and the host's timers for them."""

import re
import subprocess
import time
from pathlib import Path

from harness import processes_where

KVM = Path("/sys/kernel/debug/kvm")
COUNTERS = ("exits", "halt_exits", "halt_wakeup", "irq_injections", "blocking")


def read(path):
    try:
        return path.read_text(errors="replace").strip()
    except OSError as problem:  # it has ended meanwhile
        return f"({problem.strerror})"


def thread(task):
    stack = " < ".join(line.rpartition(" ")[2].partition("+")[0] for line in read(task / "stack").splitlines()[:6])
    return f"  {read(task / 'comm'):<16} {read(task / 'syscall').partition(' ')[0]:>4}  {stack}"


def counters():
    """{folder of a VM: its counters}, by the kernel's own names: what all of its vCPUs have done."""
    if not KVM.is_dir():
        subprocess.run(["mount", "-t", "debugfs", "debugfs", "/sys/kernel/debug"], check=False)
    return {folder: [read(folder / name) for name in COUNTERS] for folder in sorted(KVM.glob("*-*"))}


def timers():
    """Those of local APICs, when they are due, and what the time is; of each CPU, when its next interrupt comes."""
    text = read(Path("/proc/timer_list"))
    lines = re.findall(r"^(?:cpu: .*|now at .*|.*apic_timer_fn.*\n # expires.*| *\.(?:expires_next|hres_active|nr_events|nr_hangs) .*|"
                       r" next_event: .*|Clock Event Device: .*)$", text, re.M)
    return "\n".join(lines)


def what_they_do():
    """For a person to read."""
    found = processes_where(lambda entry: (entry / "comm").read_text().startswith("mayfly"))
    parts = [f"{pid}: {line}\n" + "\n".join(thread(task) for task in sorted(Path(f"/proc/{pid}/task").glob("*"))) for pid, line in found.items()]
    before = counters()
    time.sleep(1)
    for folder, now in counters().items():
        changed = [f"{name} {then} and after 1 s {value}" for name, then, value in zip(COUNTERS, before.get(folder, now), now)]
        parts.append(f"{folder.relative_to(KVM)}: {', '.join(changed)}")
    return "\n".join([*parts, timers()])
