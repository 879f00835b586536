"""In the lab: runs a command, and prints as JSON when mayfly-run, its jailer, the VMM, the guest and its agent each began, from the kernel's tracing."""

import json
import re
import subprocess
import sys
from pathlib import Path

TRACEFS = Path("/sys/kernel/tracing")
INSTANCE = TRACEFS / "instances/mayfly-steps"
KERNEL_ENTRY = "0x1000000"  # of thousands of entries only the first matters
BOOT_TIMER = "0xc0000000"  # the first thing that the guest's init writes to
EVENTS = {
    "sched/sched_process_exec": None,
    "sched/sched_switch": None,
    "kvm/kvm_entry": f"rip == {KERNEL_ENTRY}",
    "kvm/kvm_mmio": f"gpa == {BOOT_TIMER}",
    "syscalls/sys_exit_accept4": "ret >= 0",
    "syscalls/sys_enter_write": "fd == 1",
}
LINE = re.compile(r"\s*(.+)-\d+\s+\[\d+\] \S+ +(\d+)\.(\d{6}): (\w+)(.*)")


def put(name, text):
    (INSTANCE / name).write_text(text, encoding="ascii")


def start():
    subprocess.run(["mount", "-t", "tracefs", "tracefs", TRACEFS], check=False, stderr=subprocess.DEVNULL)
    INSTANCE.mkdir(exist_ok=True)
    put("tracing_on", "0")
    put("trace_clock", "mono")
    put("buffer_size_kb", "8192")
    put("trace", "\n")
    for event, condition in EVENTS.items():
        if condition:
            put(f"events/{event}/filter", condition)
        put(f"events/{event}/enable", "1")
    put("tracing_on", "1")


def lines():
    """(name of the task, nanoseconds, event, rest) of every line."""
    put("tracing_on", "0")
    for line in (INSTANCE / "trace").read_text(encoding="utf-8", errors="replace").splitlines():
        found = LINE.match(line)
        if found:
            comm, seconds, micro, event, rest = found.groups()
            yield comm, int(seconds) * 10**9 + int(micro) * 1000, event, rest


def began(comm, event, seen):
    """Which step begins with this event, or None."""
    if event == "sched_process_exec":
        return comm if comm in ("mayfly-run", "mayfly-jailer", "mayfly") else None
    if event == "kvm_entry":
        return "guest"
    if event == "kvm_mmio":
        return "init"
    if comm == "mayfly-run" and "init" in seen:
        return {"sys_accept4": "agent", "sys_write": "output"}.get(event)
    return None


def steps():
    """When each step began, and how long which program had the CPU between the first and the last; swapper is nobody."""
    seen, cpu, running, since = {}, {}, None, 0
    for comm, now, event, rest in lines():
        if "mayfly-run" in seen and event in ("sched_switch", "sched_process_exec"):
            cpu[running] = cpu.get(running, 0) + now - since
        step = began(comm, event, seen)
        if step:
            seen.setdefault(step, now)
        if event == "sched_switch":
            running, since = re.search(r"next_comm=(.+) next_pid=", rest)[1], now
        elif event == "sched_process_exec":
            running, since = comm, now
        if "output" in seen:
            cpu[running] = cpu.get(running, 0) + now - since
            break
    return {"steps": seen, "cpu": cpu}


start()
done = subprocess.run(sys.argv[1:], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, check=False)
print(json.dumps({"status": done.returncode} | steps()))
INSTANCE.rmdir()
