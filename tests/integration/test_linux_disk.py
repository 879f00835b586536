"""Linux on virtio-blk: random I/O with verification against a model, and hosts whose disks fail while they are in use."""

import os
import re
import subprocess
from contextlib import contextmanager

import pytest

from harness import PATIENCE, drive, sparse
from images import MIB
from linux_guest import SMP, UP, build_tool, configure, file_disk, healthy, run, said
from verify_model import differences

pytestmark = pytest.mark.linux


@pytest.fixture(scope="module")
def verify(tmp_path_factory):
    return build_tool(tmp_path_factory.mktemp("verify"), "guest_verify")


@pytest.mark.parametrize("binary,kernel,cache", [("release", SMP, "Writeback"), ("debug", UP, "Unsafe")], ids=["release-smp-Writeback", "debug-up-Unsafe"])
def test_verify(request, tmp_path, verify, binary, kernel, cache):
    """Four processes at once; afterwards the image is what the same sequence makes of a list of numbers."""
    vmm = request.getfixturevalue(binary)
    jobs, ops, seed = 4, 150, 7
    image = sparse(tmp_path / "image", 8 * MIB)
    tool, length = file_disk(vmm, verify, "tool")
    text = run(vmm, f"""
    head -c {length} /dev/vdd >/tmp/verify && chmod +x /tmp/verify
    /tmp/verify /dev/vdc {jobs} {ops} {seed}
    echo "status=$?"
    """, kernel=kernel, drives=[drive("scratch", image, cache_type=cache), tool])
    assert said(text, "status") == "0"
    assert re.findall(r"^verify: job \d: \d+ operations, (\d+) mismatches$", text, re.M) == ["0"] * jobs, text
    wrong, written = differences(image, jobs, ops, seed)
    assert wrong == [] and written > 5000


def test_ext4_on_a_scratch_disk(release, tmp_path):
    """A file system made, filled, unmounted and mounted again in the guest is clean for the host."""
    image = sparse(tmp_path / "image", 64 * MIB)
    subprocess.run(["/usr/sbin/mkfs.ext4", "-q", image], check=True, timeout=PATIENCE)
    text = run(release, """
    mount /dev/vdc /mnt
    for i in 1 2 3 4; do head -c 2000000 /dev/urandom >/mnt/$i & done; wait
    sum=$(cat /mnt/? | md5sum); sync; umount /mnt
    echo 3 >/proc/sys/vm/drop_caches; mount /dev/vdc /mnt
    [ "$sum" = "$(cat /mnt/? | md5sum)" ] && echo same=yes
    rm /mnt/1; umount /mnt
    """, drives=[drive("data", image, cache_type="Writeback")])
    assert said(text, "same") == "yes"
    subprocess.run(["/usr/sbin/e2fsck", "-fn", image], check=True, timeout=PATIENCE, stdout=subprocess.DEVNULL)


# ---- the host lets the guest down; needs root, which the lab has ----

def tool(*command):
    return subprocess.run([str(word) for word in command], check=True, timeout=PATIENCE, capture_output=True, text=True).stdout.strip()


@contextmanager
def small_file_system(path, size):
    path.mkdir()
    tool("mount", "-t", "tmpfs", "-o", f"size={size}", "none", path)
    try:
        yield path
    finally:
        tool("umount", path)


@contextmanager
def loop_device(path):
    device = tool("losetup", "-f", "--show", path)
    try:
        yield device
    finally:
        subprocess.run(["losetup", "-d", device], check=False, timeout=PATIENCE, capture_output=True)


@contextmanager
def pluggable_disk():
    """A SCSI disk in RAM that can be pulled out like a real one."""
    tool("modprobe", "sd_mod")
    tool("modprobe", "scsi_debug", "dev_size_mb=8")
    try:
        name = tool("sh", "-c", "udevadm settle 2>/dev/null; ls -d /sys/bus/pseudo/drivers/scsi_debug/adapter*/host*/target*/*:*/block/* | head -n 1")
        assert name, "scsi_debug made no disk"
        yield name.rpartition("/")[2]
    finally:
        subprocess.run(["rmmod", "scsi_debug"], check=False, timeout=PATIENCE, capture_output=True)


ERRORS = """
say() { name=$1; shift; out=$("$@" 2>&1) && echo "$name=ok" || echo "$name=$(echo "$out" | tr '\\n' ' ')"; echo 3 >/proc/sys/vm/drop_caches; }
for disk in c d e f g; do say "before.$disk" dd if=/dev/vd$disk of=/dev/null bs=64k count=8; done
echo READY
read go
say cut.read dd if=/dev/vdc of=/dev/null bs=64k skip=64 count=1
say cut.start dd if=/dev/vdc of=/dev/null bs=64k count=1
say full.write dd if=/dev/zero of=/dev/vdd bs=64k count=96 conv=fsync
say full.read dd if=/dev/vdd of=/dev/null bs=64k count=1
say loop.read dd if=/dev/vde of=/dev/null bs=64k skip=64 count=1
say loop.write dd if=/dev/zero of=/dev/vde bs=64k seek=64 count=1 conv=fsync
say gone.read dd if=/dev/vdf of=/dev/null bs=64k count=1
say gone.write dd if=/dev/zero of=/dev/vdf bs=64k count=1 conv=fsync
say whole.write dd if=/dev/urandom of=/dev/vdg bs=64k count=64 conv=fsync
say whole.read dd if=/dev/vdg of=/dev/null bs=64k count=64
say root.read ls -lR /bin
echo "alive=$(nproc)"
finish 5
"""


def test_host_errors(debug, tmp_path):
    """Four disks fail in four ways, the guest is told each time, a fifth disk and everything else go on."""
    with small_file_system(tmp_path / "small", "3m") as small, loop_device(sparse(tmp_path / "backing", 8 * MIB)) as loop, pluggable_disk() as plug:
        drives = [
            drive("cut", sparse(tmp_path / "cut", 8 * MIB)),
            drive("full", sparse(small / "disk", 8 * MIB), cache_type="Writeback"),
            drive("loop", loop),
            drive("gone", f"/dev/{plug}"),
            drive("whole", sparse(tmp_path / "whole", 8 * MIB), cache_type="Writeback"),
        ]
        vm = debug.start(configure(debug, ERRORS, drives=drives), stdin=subprocess.PIPE)
        vm.expect(rb"READY\r?\n")
        os.truncate(tmp_path / "cut", MIB)
        os.truncate(tmp_path / "backing", MIB)
        tool("losetup", "-c", loop)
        tool("losetup", "-d", loop)
        with open(f"/sys/block/{plug}/device/delete", "w", encoding="ascii") as delete:
            delete.write("1")
        vm.send(b"go\n")
        outcome = vm.wait()
        text = healthy(outcome, 5, errors_wanted=True)
    for disk in "cdefg":
        assert said(text, f"before.{disk}") == "ok"
    for failure in ("cut.read", "full.write", "loop.read", "loop.write", "gone.read", "gone.write"):
        assert "I/O error" in said(text, failure) or "Input/output error" in said(text, failure), failure
    for success in ("cut.start", "full.read", "whole.write", "whole.read", "root.read"):
        assert said(text, success) == "ok"
    assert said(text, "alive") == "2"
    assert re.search(r"I/O error, dev vdc.*", text)
