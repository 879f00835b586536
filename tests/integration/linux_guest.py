"""Boots Linux in mayfly and lets it run a script: the pieces that the tests of real guests share."""

import re
import subprocess
from pathlib import Path

from harness import IN_LAB, artifact, drive, machine

# What a healthy kernel does not say.
TROUBLE = re.compile(r"^.*(WARNING:|BUG:|Oops|Call Trace|general protection|unable to handle|soft lockup|rcu_\w+ .*stall|I/O error).*$", re.M)

# QEMU's emulation of SVM does not intercept XSETBV, so the lab's KVM misses what the guest enables and CPUID leaf 0xd stays
# behind; the guest's kernel notices, says so and goes on without XSAVE. Not ours, and seen nowhere but in the lab.
LAB_ONLY = re.compile(r"^.*XSAVE consistency problem.*?(?=^[^\n]*pid_max)", re.M | re.S)

SMP, UP = "kernel/vmlinux-smp", "kernel/vmlinux-up"


def script_disk(vmm, script, name="script.sh"):
    """A disk whose bytes are a shell script, whole sectors of it; the guest runs it by `sh /dev/vdX`."""
    text = script.strip().encode() + b"\n"
    path = vmm.directory / name
    path.write_bytes(text + b"\n" * (-len(text) % 512))
    return drive("script", path, is_read_only=True)


def file_disk(vmm, source, name):
    """A disk that starts with the bytes of a file."""
    data = source.read_bytes()
    path = vmm.directory / f"{name}.img"
    path.write_bytes(data + bytes(-len(data) % 512))
    return drive(name, path, is_read_only=True), len(data)


def configure(vmm, script=None, kernel=SMP, root="images/rootfs.ext4", drives=(), args="", **options):
    """
    The configuration of a guest that runs script, prints its kernel log after it and ends with its status. Without root
    there is only the initrd. The script is the disk after the root (vdb, or vda), then come the drives.
    """
    disks = []
    if root:
        read_only = isinstance(root, str)  # the image itself; a Path is a copy that may be changed
        disks.append(drive("root", artifact(root) if read_only else root, is_root_device=True, is_read_only=read_only))
    if script is not None:
        args += f' "mayfly.exec=sh /dev/vd{"ab"[len(disks)]}"'
        log = "echo; echo '---- kernel log'; dmesg; echo '---- end'"
        disks.append(script_disk(vmm, f"set -u\nfinish() {{ {log}; exit $1; }}\n{script}\nfinish 0"))
    options.setdefault("vcpus", 1 if kernel == UP else 2)
    return machine(artifact(kernel), f"console=ttyS0 reboot=k panic=-1 {args}", drives=[*disks, *drives], **options)


def console(vm_or_outcome):
    """The console as text, lines ended by a newline alone."""
    out = vm_or_outcome.out
    text = out if isinstance(out, str) else bytes(out.data).decode(errors="replace")
    return text.replace("\r\n", "\n")


def healthy(outcome, expected=0, errors_wanted=False):
    """The guest ended as expected and its kernel had nothing to complain about; returns what it said."""
    text = console(outcome)
    assert outcome.code == expected, f"exit status {outcome.code}\n{text[-3000:]}\n{outcome.err}"
    assert "---- kernel log" in text and "---- end" in text, text[-3000:]
    log = LAB_ONLY.sub("", text) if IN_LAB else text
    complaint = TROUBLE.search(re.sub(r"^.*I/O error.*$", "", log, flags=re.M) if errors_wanted else log)
    assert not complaint, f"the guest's kernel complains: {complaint.group()}\n{text[-6000:]}"
    return text


def run(vmm, script, expected=0, **options):
    return healthy(vmm.run(configure(vmm, script, **options)), expected)


def said(text, name):
    """The value of a line `name=value` that the script printed."""
    match = re.search(rf"^{re.escape(name)}=(.*)$", text, re.M)
    assert match, f"no {name}= in\n{text[-4000:]}"
    return match.group(1).strip()


def build_verify(directory):
    """Compile guest_verify.c as a static program; returns its path."""
    program = directory / "guest_verify"
    here = Path(__file__).with_name("guest_verify.c")
    subprocess.run(["musl-gcc", "-D_GNU_SOURCE", "-std=gnu11", "-O2", "-static", "-s", "-Wall", "-Wextra", "-Werror",
                    "-idirafter", "/usr/include/x86_64-linux-gnu", "-idirafter", "/usr/include", "-o", program, here],
                   check=True, timeout=120)
    return program
