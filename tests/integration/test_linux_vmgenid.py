"""Linux guests reseed their random numbers when the generation ID changes: by ACPI, and by the driver of our own kernels."""

import re

import pytest

from harness import artifact
from linux_guest import SMP, UP, Guest, build_tool, file_disk

pytestmark = pytest.mark.linux

DEBIAN = "kernel/debian-6.12/vmlinuz"
RESEEDED = "dmesg | grep -c 'crng reseeded due to virtual machine fork'"


def start(vmm, kernel, **options):
    if kernel == DEBIAN:
        options |= {"initrd": artifact("images/debian-6.12-initrd.img"), "mem_mib": 256}
    return Guest(vmm, kernel=kernel, root="images/rootfs.ext4", **options)


def has_reseeded(guest, times):
    """By ACPI it takes a thread and a worker of the kernel, so somebody has to wait for it; not once more often, though."""
    guest.run(f"until [ $({RESEEDED}) -ge {times} ]; do usleep 10000; done; sync; sleep 0.1")
    assert int(guest.run(RESEEDED)) == times


@pytest.mark.parametrize("kernel,interrupt", [(UP, "PLT: .*Platform interrupts"), (SMP, "PLT: .*Platform interrupts"), (DEBIAN, " 3-edge +ACPI:Ged")], ids=["up", "smp", "debian"])
def test_reseeds(release, kernel, interrupt):
    """Once for each renewal, paused or not, and never on its own."""
    guest = start(release, kernel)
    assert guest.run(RESEEDED, expected=1) == "0"
    assert re.search(rf"{interrupt}$", guest.run("cat /proc/interrupts"), re.M)
    guest.api.renew_generation_id()
    has_reseeded(guest, 1)
    guest.api.pause()
    guest.api.resume()
    has_reseeded(guest, 1)
    guest.api.pause()
    guest.api.renew_generation_id()
    guest.api.resume()
    has_reseeded(guest, 2)
    guest.finish()


@pytest.mark.parametrize("kernel,cpu", [(UP, 0), (SMP, 0), (SMP, 1)], ids=["up", "smp-0", "smp-1"])
def test_before_any_program_runs(release, tmp_path, kernel, cpu):
    """A program that the pause interrupted, on whichever vCPU, finds the generator reseeded with the very first instruction that can tell."""
    tool, length = file_disk(release, build_tool(tmp_path, "guest_clone"), "tool")
    guest = start(release, kernel, drives=[tool])
    guest.run(f"head -c {length} /dev/vdc >/tmp/clone && chmod +x /tmp/clone")
    guest.begin(f"/tmp/clone {cpu} 100")
    guest.running.expect(rb"clone: watching")
    for i in range(1, 101):
        guest.api.pause()
        guest.api.renew_generation_id()
        guest.api.resume()
        guest.running.expect(rb"clone: %d \w+\r?\n" % i)
    assert re.findall(r"^clone: \d+ (\w+)$", guest.end(), re.M) == ["reseeded"] * 100
    guest.finish()
