"""The generation ID as the test guest sees it: 16 bytes that change, and an interrupt that says so."""

import re
import subprocess

import pytest

from harness import artifact, machine
from test_snapshot import Snapshot, begin, create, end, load

ID = "mmio r 8 0xe0ff0; mmio r 8 0xe0ff8"
# The local APIC on; interrupt 3 (its entry has the registers 0x16 and 0x17) as vector 0x43, which stays pending: bit 3 of 0xfee00220.
LAPIC = "mmio w 4 0xfee000f0 0x1ff"
UNMASK = "mmio w 4 0xfec00000 0x16; mmio w 4 0xfec00010 0x43"
PENDING = "mmio r 4 0xfee00220"
# A driver's wish, and whether its interrupt is pending: bit 19 of 0xfee00250.
VECTOR, MINE = 0xb3, "mmio r 4 0xfee00250"


def start(vmm, *steps, vcpus=1):
    config = machine(artifact("tests/guest/guest.elf"), f"console=ttyS0 mayfly.test='{'; '.join(steps)}'", vcpus=vcpus)
    return vmm.start_api(["--config-file", vmm.config_file(config)], stdin=subprocess.PIPE)


def read(text):
    """What the guest read, in order: the halves of IDs, and whether the interrupt was pending."""
    halves = [int(value, 16) for value in re.findall(r"0xe0ff[08] = 0x([0-9a-f]+)", text)]
    pending = [int(value, 16) >> 3 & 1 for value in re.findall(r"0xfee00220 = 0x([0-9a-f]+)", text)]
    return list(zip(halves[::2], halves[1::2])), pending


def mine(text):
    """Whether the interrupt that the driver had wished for was pending."""
    return [int(value, 16) >> 19 & 1 for value in re.findall(r"0xfee00250 = 0x([0-9a-f]+)", text)]


@pytest.mark.parametrize("paused", [False, True], ids=["running", "paused"])
def test_renewal(mayfly, paused):
    """Before it there is an ID, and no interrupt; after it, another ID and an interrupt."""
    vm, api = start(mayfly, LAPIC, UNMASK, ID, PENDING, "print READY", "wait x", ID, PENDING)
    vm.expect(b"READY")
    if paused:
        api.pause()
    api.renew_generation_id()
    if paused:
        api.resume()
    vm.send(b"x")
    ids, pending = read(vm.wait().out)
    assert len(set(ids)) == 2 and (0, 0) not in ids and pending == [0, 1]


def test_driver_that_is_late(mayfly):
    """While the interrupt is masked, it waits; two renewals are one."""
    vm, api = start(mayfly, LAPIC, ID, "print READY", "wait x", PENDING, UNMASK, ID, PENDING)
    vm.expect(b"READY")
    api.renew_generation_id()
    api.renew_generation_id()
    vm.send(b"x")
    ids, pending = read(vm.wait().out)
    assert len(set(ids)) == 2 and pending == [0, 1]


def test_guests_are_told_apart(mayfly):
    """Two microVMs of one configuration have different IDs, and so has the same one after a second renewal."""
    ids = []
    for _ in range(2):
        vm, api = start(mayfly, ID, "print READY", "wait x", ID, "print AGAIN", "wait y", ID)
        vm.expect(b"READY")
        api.renew_generation_id()
        vm.send(b"x")
        vm.expect(b"AGAIN")
        api.renew_generation_id()
        vm.send(b"y")
        ids += read(vm.wait().out)[0]
    assert len(ids) == 6 and len(set(ids)) == 6


@pytest.mark.parametrize("vcpus", [1, 4])
def test_vector_that_the_driver_wants(mayfly, vcpus):
    """It comes on top of the interrupt at the pin; without a wish, and for an exception's number, nothing does."""
    wish = f"out8 0x600 {VECTOR}; out8 0x600 0x0e"
    vm, api = start(mayfly, LAPIC, "print READY", "wait x", MINE, wish, "print WISHED", "wait y", MINE, PENDING, vcpus=vcpus)
    vm.expect(b"READY")
    api.pause()
    api.renew_generation_id()
    api.resume()
    vm.send(b"x")
    vm.expect(b"WISHED")
    api.pause()
    api.renew_generation_id()
    api.resume()
    vm.send(b"y")
    outcome = vm.wait()
    assert outcome.code == 0
    assert mine(outcome.out) == [0, 1]
    assert read(outcome.out)[1] == [0]


def test_wish_is_in_the_snapshot(mayfly, tmp_path):
    """A clone's driver need not ask again."""
    snapshot = Snapshot(tmp_path)
    vm, api = begin(mayfly, f"{LAPIC}; out8 0x600 {VECTOR}; print READY; wait x; {MINE}")
    vm.expect(b"READY")
    create(api, snapshot)
    end(vm)
    clone, _ = load(mayfly, snapshot)
    clone.send(b"x")
    assert mine(clone.wait().out) == [1]
