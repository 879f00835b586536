"""Real Linux guests: sizes, consoles, root file systems, ways to end. Needs a KVM that boots Linux (else tests/lab/run)."""

import fcntl
import os
import re
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from harness import GUEST_CRASHED, PATIENCE, artifact, drive, sparse
from images import MIB
from linux_guest import SMP, UP, configure, console, run, said

pytestmark = pytest.mark.linux

SIZES = [(UP, 1, 64), (SMP, 1, 128), (SMP, 2, 3584), (SMP, 8, 6144), (UP, 1, 6144)]

LOOK_AROUND = """
echo "nproc=$(nproc)"
echo "online=$(cat /sys/devices/system/cpu/online 2>/dev/null)"
echo "ram=$(sed -n 's/^MemTotal: *\\([0-9]*\\) kB/\\1/p' /proc/meminfo)"
echo "regions=$(grep -c ' : System RAM$' /proc/iomem)"
echo "above=$(grep -c '^ *1[0-9a-f]\\{8\\}-.* : System RAM$' /proc/iomem)"
echo "now=$(date +%s)"
for cpu in $(seq 0 $(($(nproc) - 1))); do taskset -c $cpu sh -c 'set -- $(cat /proc/self/stat); shift 38; echo "ran=$1"' & done
wait
"""


@pytest.mark.parametrize("kernel,vcpus,mib", SIZES, ids=[f"{k.rpartition('-')[2]}-{c}-{m}MiB" for k, c, m in SIZES])
def test_sizes(release, kernel, vcpus, mib):
    text = run(release, LOOK_AROUND, kernel=kernel, vcpus=vcpus, mem_mib=mib)
    assert int(said(text, "nproc")) == vcpus
    if vcpus > 1:
        assert said(text, "online") == f"0-{vcpus - 1}"
        assert sorted(map(int, re.findall(r"^ran=(\d+)$", text, re.M))) == list(range(vcpus))
    ram = int(said(text, "ram")) / 1024
    # The kernel keeps its own image and one page structure in 64 bytes for itself.
    assert mib * (1 - 64 / 4096) - 45 < ram < mib, f"{ram} of {mib} MiB"
    assert int(said(text, "above")) == (1 if mib > 3072 else 0)
    assert abs(int(said(text, "now")) - time.time()) < 120


def test_demo():
    """What `make demo` runs once everything is built: the example's configuration, as it is."""
    demo = Path(__file__).resolve().parents[2] / "scripts/demo"
    env = {**os.environ, "MAYFLY_IN_LAB": "1"}  # it is where Linux runs
    done = subprocess.run([demo, "example"], env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "mayfly-init: Linux" in done.stdout and "guest in user space" in done.stdout


def test_console_input(mayfly):
    """A shell on the console: it echoes what is typed, answers, and its exit status becomes ours."""
    vm = mayfly.start(configure(mayfly), stdin=subprocess.PIPE)
    vm.expect(rb"mayfly-init: Linux \S+ x86_64, .*[#$] ?(\x1b\[6n)?$")
    vm.send(b"echo a$((6*7))b\n")
    vm.expect(rb"echo a\$\(\(6\*7\)\)b\r?\n.*a42b")
    long_line = b"x" * 300  # several times the UART's FIFO
    vm.send(b"echo " + long_line + b" | wc -c\n")
    vm.expect(rb"\n301\r?\n")
    vm.send(b"sh -c 'echo now; sleep 100'\n")
    vm.expect(rb"\nnow\r?\n")  # said by the foreground job; before that the shell would get the next key
    vm.send(b"\x03")
    vm.expect(rb"\^C")
    vm.send(b"exit 9\n")
    assert vm.wait().code == 9


def test_console_flood(release):
    """As fast as the guest can: complete and in order, while nobody reads at first."""
    read_end, write_end = os.pipe()
    fcntl.fcntl(write_end, fcntl.F_SETPIPE_SZ, 4096)
    vm = release.start(configure(release, "seq 1 2000"), stdout=write_end)
    os.close(write_end)
    with os.fdopen(read_end, "rb") as pipe:
        text = b""
        while b"\n1000\r\n" not in text:
            chunk = os.read(pipe.fileno(), 100)
            assert chunk, text[-1000:]
            text += chunk
        text += pipe.read()
    assert vm.wait().code == 0
    numbers = re.search(r"(?:^\d+\n)+", text.decode().replace("\r\n", "\n"), re.M).group().split()
    assert numbers == [str(n) for n in range(1, 2001)]


def test_root_read_write(release, tmp_path):
    """What a guest writes is there at its next boot, and the file system is clean afterwards."""
    root = tmp_path / "root.ext4"
    shutil.copyfile(artifact("images/rootfs.ext4"), root)
    text = run(release, "grep ' / ' /proc/mounts; head -c 3000000 /dev/urandom > /root/file; md5sum /root/file", root=root)
    assert re.search(r"^/dev/(root|vda) / ext4 rw", text, re.M)
    first = re.search(r"[0-9a-f]{32}", text).group()
    assert first in run(release, "md5sum /root/file", root=root)
    subprocess.run(["/usr/sbin/e2fsck", "-fn", root], check=True, timeout=PATIENCE, stdout=subprocess.DEVNULL)


def test_root_erofs(release):
    text = run(release, "grep ' / ' /proc/mounts; touch /x && echo bad", root="images/rootfs.erofs", kernel=UP)
    assert re.search(r"^/dev/(root|vda) / erofs ro", text, re.M) and "\nbad" not in text
    assert re.search("root /dev/vda erofs ro", text)


def test_initramfs_without_root(release):
    text = run(release, "ls /sys/block", root=None, initrd=artifact("images/initramfs.cpio"))
    assert "root initramfs rootfs rw" in text and re.search(r"^vda$", text, re.M) and not re.search("^vdb$", text, re.M)


def test_default_kernel_and_arguments(release, tmp_path):
    """Neither kernel nor boot_args given: the kernel for this number of vCPUs, and words that work with it."""
    config = configure(release)
    config["boot-source"] = {}
    vm = release.start(config, stdin=subprocess.PIPE)
    vm.expect(rb"mayfly-init: .* 2 vCPUs, .*[#$] ?(\x1b\[6n)?$")
    vm.send(b"cat /proc/cmdline; exit 3\n")
    assert vm.wait().code == 3
    assert "quiet reboot=k panic=-1 root=/dev/vda ro" in console(vm)


def test_devices(release, tmp_path):
    """The guest sees each drive once, with its id, size, access and cache mode, and gets interrupts for it."""
    disks = [
        drive("cached", sparse(tmp_path / "a", 3 * MIB), cache_type="Writeback"),
        drive("plain_1", sparse(tmp_path / "b", 5 * MIB), cache_type="Unsafe", io_engine="Async"),
        drive("locked", sparse(tmp_path / "c", 7 * MIB), is_read_only=True),
    ]
    text = run(release, """
    for disk in vdc vdd vde; do
        q=/sys/block/$disk/queue
        echo "$disk=$(cat /sys/block/$disk/serial) $(cat /sys/block/$disk/size) $(cat /sys/block/$disk/ro) $(cat $q/write_cache | tr ' ' _)"
        echo "$disk.discard=$(cat $q/discard_max_bytes) $(cat $q/write_zeroes_max_bytes)"
    done
    echo "disks=$(ls /sys/block | grep -c ^vd)"
    dd if=/dev/vdc of=/dev/null bs=64k count=16 2>/dev/null
    grep virtio /proc/interrupts
    dd if=/dev/zero of=/dev/vde count=1 && echo wrote to a read-only disk
    """, drives=disks)
    assert said(text, "disks") == "5"
    assert said(text, "vdc") == f"cached {3 * 2048} 0 write_back"
    assert said(text, "vdd") == f"plain_1 {5 * 2048} 0 write_through"
    assert said(text, "vde") == f"locked {7 * 2048} 1 write_through"
    assert all(int(n) > 0 for n in said(text, "vdc.discard").split())
    assert "wrote to" not in text
    counts = [sum(map(int, re.findall(r"\b\d+(?= )", line.partition(":")[2]))) for line in re.findall(r"^ *\d+:.*virtio.*$", text, re.M)]
    assert len(counts) == 5 and counts[2] > 0, text


# ---- ways to end ----

def test_restart_by_i8042(release):
    outcome = release.run(configure(release, "reboot -f; sleep 100"))
    assert outcome.code == 0


def test_restart_by_triple_fault(release):
    """reboot=t: without a status from the guest it cannot be told from a crash; with one it is what it says."""
    assert release.run(configure(release, "reboot -f; sleep 100", args="reboot=t")).code == GUEST_CRASHED
    assert release.run(configure(release, "finish 6", args="reboot=t")).code == 6


def test_panic(release):
    """No root file system: the kernel panics and, told to by panic=-1, resets at once."""
    outcome = release.run(configure(release, root=None, kernel=UP, args="loglevel=4"))
    assert "Kernel panic" in outcome.out
    assert outcome.code == 0


@pytest.mark.parametrize("status", [127])
def test_exit_status(release, status):
    outcome = release.run(configure(release, f"exit {status}", kernel=UP))
    assert outcome.code == status


# ---- distribution kernels ----

def test_debian_cloud_kernel(release):
    """An unmodified bzImage with its initrd and a Debian root: devices come from ACPI alone, each once."""
    text = run(release, """
    echo "acpi=$(ls /sys/firmware/acpi/tables | tr '\\n' ' ')"
    echo "disks=$(ls /sys/block | grep -c ^vd)"
    echo "nproc=$(nproc)"
    echo "devices=$(ls -d /sys/bus/platform/devices/LNRO0005* | wc -l)"
    . /etc/os-release; echo "id=$ID"
    python3 -c 'print("python=%d" % sum(range(1000)))'
    """, kernel="kernel/debian/vmlinuz", root="images/debian.ext4", initrd=artifact("images/debian-initrd.img"), mem_mib=512,
               args="quiet")
    assert {"DSDT", "FACP", "APIC"} <= set(said(text, "acpi").split())
    assert said(text, "disks") == "2" and said(text, "devices") == "2"
    assert said(text, "nproc") == "2"
    assert said(text, "id") == "debian" and said(text, "python") == "499500"


@pytest.mark.parametrize("kernel,mib", [(UP, 128)])
def test_debian_root_with_our_kernel(release, kernel, mib):
    text = run(release, "python3 -c 'import json, ssl; print(\"python=\" + json.dumps([1]))'", kernel=kernel, root="images/debian.ext4", mem_mib=mib)
    assert said(text, "python") == "[1]"
