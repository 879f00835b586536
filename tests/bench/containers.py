"""The row of containers: instructions from exec of mayfly-run to the first word of its command, beside those of a bare boot, in the lab."""

import os
import shlex
import shutil
from pathlib import Path

from figures import number, print_table, ratio, summary
from lab import INSIDE, MARKER, Stage, run_lab
from monitors import BOOT_ARGS, Machine

UID = 54321
WORD = "hello-container"
PROGRAMS = ("mayfly", "mayfly-jailer", "mayfly-run", "kernel/vmlinux-up", "images/container-initrd.cpio")
DEFAULT_MIB = 512  # of mayfly-run
STEPS = (
    ("mayfly-run", "mayfly-run: options, image, folder, configuration"),
    ("mayfly-jailer", "the jailer: namespaces, mounts, limits"),
    ("mayfly", "mayfly, until the guest's first instruction"),
    ("guest", "the guest's kernel, until its init runs"),
    ("init", "init: root, overlay, file systems, names; it calls the host"),
    ("agent", "the request, the command's process, its first word"),
    ("output", None),
)
PROGRAMS_SEEN = {"mayfly": "mayfly and its guest", "swapper/0": "nobody: everything waits"}


def add_programs(stage, build):
    """The tool beside all that it needs, as it is found in a build folder."""
    for name in PROGRAMS:
        target = stage.folder / "programs" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(build / name, target)
        except OSError:
            shutil.copy2(build / name, target)


def commands(stage, mayfly, build):
    """(name, command) of the two bare boots and of the container."""
    kernel = build / "kernel/vmlinux-up"
    out = []
    for label, mib, disk in (("128 MiB, ext4", 128, "rootfs.ext4"), (f"{DEFAULT_MIB} MiB, EROFS", DEFAULT_MIB, "rootfs.erofs")):
        folder = stage.folder / f"bare-{mib}"
        folder.mkdir()
        stage.add(build / "images" / disk)
        machine = Machine(kernel, boot_args=BOOT_ARGS, disk=build / "images" / disk, mem_mib=mib)
        command = mayfly.command(machine, folder, lambda path: INSIDE / Path(path).relative_to(stage.folder) if stage.folder in Path(path).parents else stage.place(path))
        out.append((f"bare mayfly, {label}", command))
    program = INSIDE / "programs/mayfly-run"
    out.append(("mayfly-run --rm --net none", [str(program), "--rm", "--net", "none", str(INSIDE / "rootfs.erofs"), "echo", WORD]))
    return out


def write_plan(stage, measured, runs, traced):
    """As a normal user, since that is how the tool is run; the clock starts after setpriv."""
    user = f"setpriv --reuid {UID} --regid {UID} --clear-groups"
    bare = f"{INSIDE}/timer -o - --timeout 9 --marker {shlex.quote(MARKER)}"
    container = f"{user} {INSIDE}/timer -o - --timeout 9 --wait --marker {WORD}"
    lines = [
        "#!/bin/sh",
        "one() { label=$1; shift; echo \"@$label\"; \"$@\" </dev/null; sleep 1; }",
        f"cd {INSIDE}",
        f"mkdir -m 700 home run && chown {UID}:{UID} home run && chmod 666 /dev/kvm",
        f"export HOME={INSIDE}/home XDG_RUNTIME_DIR={INSIDE}/run",
    ]
    for kind, count in (("warm", 1), ("run", runs)):
        for _ in range(count):
            lines += [f"one {kind}:{n} {container if n == len(measured) - 1 else bare} -- {shlex.join(command)}" for n, (_, command) in enumerate(measured)]
    lines += [f"one steps:0 /usr/bin/python3 {INSIDE}/steps.py {container} -- {shlex.join(measured[-1][1])}"] * traced
    (stage.folder / "plan.sh").write_text("\n".join(lines) + "\n", encoding="utf-8")


def median_steps(results):
    """The medians of what each step took, and of what each program had of the CPU."""
    whole = [r for r in results if set(r["steps"]) >= {name for name, _ in STEPS}]
    steps = {name: summary([r["steps"][after] - r["steps"][name] for r in whole]) for (name, _), (after, _) in zip(STEPS, STEPS[1:])}
    programs = sorted({program for r in whole for program in r["cpu"]})
    return steps, {program: summary([r["cpu"].get(program, 0) for r in whole]) for program in programs}


def row_containers(mayfly, build, timer, runs, cpu):
    """Returns the figures; raises RuntimeError when the container did not run."""
    stage = Stage(build / "bench/stage")
    stage.add(timer)
    stage.add(Path(__file__).with_name("steps.py"))
    stage.add(build / "kernel/vmlinux-up")
    stage.add(mayfly.binary)
    add_programs(stage, build)
    measured = commands(stage, mayfly, build)
    traced = 3
    write_plan(stage, measured, runs, traced)
    results = run_lab(stage, len(measured) * (1 + runs) + traced, cpu)
    shutil.rmtree(stage.folder, ignore_errors=True)
    out = []
    for n, (name, _) in enumerate(measured):
        good = [r for r in results.get("run", {}).get(n, []) if r["marker_ns"]]
        failed = [r["tail"] for r in results.get("run", {}).get(n, []) if not r["marker_ns"]]
        if not good:
            raise RuntimeError(f"{name}: no run of {runs} succeeded: {failed[:1]}")
        out.append({"name": name, "instructions": summary([r["marker_ns"] for r in good]), "failed": failed,
                    "gone": summary([r["gone_ns"] for r in good if r["gone_ns"]])})
    out[-1]["steps"], out[-1]["cpu"] = median_steps(results.get("steps", {}).get(0, []))
    return out


def print_containers(figures, cpu):
    def millions(s):
        return number(s["median"] / 1e6, 1) if s else "–"

    rows = []
    for f in figures:
        s = f["instructions"]
        rows.append([f["name"], s["n"], millions(s), f"{100 * s['iqr'] / s['median']:.1f} %",
                     *[ratio(s["median"], bare["instructions"]["median"]) for bare in figures[:2]], millions(f["gone"])])
    print_table(
        "Containers: exec → first word, millions of instructions, host and guest together",
        "Bare: mayfly from exec to its guest's init, as in row b. Container: mayfly-run from exec to what the command writes, as a normal user.\n"
        f"  Lab with -icount, CPU {cpu}, vmlinux-up, everything in memory. Gone: exec to the end of mayfly-run, with all that it cleans up.",
        ["", "runs", "total", "IQR", "to bare, 128", "to bare, 512", "gone"],
        rows,
    )
    steps, cpu_of = figures[-1]["steps"], figures[-1]["cpu"]
    print_table("Where they go in the container, one after the other", "Runs with the kernel's tracing on, which adds a little.", ["step", "M"],
                [[text, millions(steps[name])] for name, text in STEPS if text])
    rows = [[PROGRAMS_SEEN.get(name, name), millions(s)] for name, s in sorted(cpu_of.items(), key=lambda c: -c[1]["median"]) if s["median"] >= 50_000]
    print_table("The same by program, its system calls included", None, ["program", "M"], rows)
