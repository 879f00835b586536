"""Boots Linux in mayfly and lets it run a script, or one command after the other: what the tests of real guests share."""

import copy
import re
import subprocess
from pathlib import Path

from harness import IN_LAB, PATIENCE, artifact, drive, machine

# What a healthy kernel does not say.
COMPLAINTS = ("WARNING:|BUG:|Oops|Call Trace|general protection|unable to handle|soft lockup|rcu_[a-z]+ .*stall|I/O error|clocksource .*unstable|"
              "Marking TSC unstable")
TROUBLE = re.compile(rf"^.*({COMPLAINTS}).*$", re.M)

# QEMU's emulation of SVM does not intercept XSETBV, so the lab's KVM misses what the guest enables and CPUID leaf 0xd stays
# behind; the guest's kernel notices, says so at length and goes on without XSAVE. Not ours, and seen nowhere but in the lab.
LAB_ONLY = re.compile(r"^.*XSAVE consistency problem.*?(?=^[^\n]*pid_max)", re.M | re.S)

# A console takes the lab half a second for each KiB, so the guest leaves out what no test looks at, and all before that point:
# the emulated processor's TSC is complained about there, too, by kernels with ACPI.
KERNEL_LOG = f"dmesg | sed '1,/pid_max/d' | grep -E '{COMPLAINTS}|EXT4-fs|Run /'" if IN_LAB else "dmesg"

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
        log = f"echo; echo '---- kernel log'; {KERNEL_LOG}; echo '---- end'"
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
    assert not IN_LAB or "] Run /" in text, f"the kernel's log is not whole\n{text[-3000:]}"
    complaint = TROUBLE.search(re.sub(r"^.*I/O error.*$", "", text, flags=re.M) if errors_wanted else text)
    assert not complaint, f"the guest's kernel complains: {complaint.group()}\n{text[-6000:]}"
    return text


def run(vmm, script, expected=0, **options):
    return healthy(vmm.run(configure(vmm, script, **options)), expected)


def said(text, name):
    """The value of a line `name=value` that the script printed."""
    match = re.search(rf"^{re.escape(name)}=(.*)$", text, re.M)
    assert match, f"no {name}= in\n{text[-4000:]}"
    return match.group(1).strip()


# Does what the console says, one line after the other.
SHELL = r"""
n=0
stty -echo
echo "at your service"
while read -r line; do
    n=$((n + 1)) status=0
    eval "$line" </dev/null || status=$?
    echo; echo "---- $n ended with $status"
done
"""


class Guest:
    """A Linux guest under the API, with a shell on its console that does what the test says when it says it."""

    def __init__(self, vmm, args="quiet", root="images/debian.ext4", **options):
        popen = {"wrapper": options.pop("wrapper")} if "wrapper" in options else {}
        allowed = options.pop("allow_path", ())  # for drives to change to, and snapshots
        more = ["--allow-fork"] if options.pop("allow_fork", False) else []
        config = configure(vmm, SHELL, args=args, root=root, **options)
        command = ["--config-file", vmm.config_file(config), *(f"--allow-path={path}" for path in allowed), *more]
        self.running, self.api = vmm.start_api(command, stdin=subprocess.PIPE, **popen)
        self.before = rb"at your service\r?\n"  # after this comes what the next command prints
        self.running.expect(self.before, timeout=2 * PATIENCE)
        self.begun = self.seen = 0

    def goes_on_in(self, running, api):
        """The same guest in another process, loaded from a snapshot or forked; nothing has been said on its console there."""
        other = copy.copy(self)
        other.running, other.api, other.before = running, api, rb""
        return other

    def begin(self, command):
        """Say what to do next, at once or after what it does now."""
        self.running.send(command.encode() + b"\n")
        self.begun += 1

    def end(self, expected=0, timeout=2 * PATIENCE):
        """Wait until what was begun first is done; returns what it printed. Its status must be the expected one, unless that is None."""
        self.seen += 1
        ended = rb"---- %d ended with (\d+)\r?\n" % self.seen
        done = self.running.expect(ended, timeout=timeout)
        start = self.running.expect(self.before).end()
        self.before = ended
        text = bytes(self.running.out.data)[start:done.start()].decode(errors="replace").replace("\r\n", "\n").strip()
        assert expected is None or int(done.group(1)) == expected, f"status {int(done.group(1))}, expected {expected}\n{text}"
        return text

    def run(self, command, expected=0, timeout=2 * PATIENCE):
        self.begin(command)
        return self.end(expected, timeout)

    def finish(self, expected=0):
        """Shut it down; it must be as healthy as at the start. Returns the whole console."""
        self.running.send(b"finish 0\n")
        return healthy(self.running.wait(2 * PATIENCE), expected)


def counter(api, name):
    """One of the numbers of GET /metrics, such as net_egress_denied."""
    match = re.search(rf"^mayfly_{name}_total (\d+)$", api.prometheus(), re.M)
    assert match, f"no counter {name}"
    return int(match.group(1))


def build_tool(directory, name):
    """Compile guest_verify.c and the like as a static program; returns its path."""
    program = directory / name
    here = Path(__file__).with_name(f"{name}.c")
    subprocess.run(["musl-gcc", "-D_GNU_SOURCE", "-std=gnu11", "-O2", "-static", "-s", "-Wall", "-Wextra", "-Werror",
                    "-idirafter", "/usr/include/x86_64-linux-gnu", "-idirafter", "/usr/include", "-o", program, here],
                   check=True, timeout=120)
    return program
