"""How the life of a Linux guest looks from outside: its events, Ctrl-Alt-Del, a clean end, a panic."""

import subprocess

import pytest

from harness import PATIENCE, artifact
from linux_guest import UP, Guest, configure

pytestmark = pytest.mark.linux

# What Firecracker gives kernels by default, so that they do not look for more than there is.
KEYBOARD = "i8042.noaux i8042.nomux i8042.dumbkbd"


def told(events):
    """Its life in order: names of events, and how it ended. The requests before it are left out."""
    found = [event for event in events if event["event"] != "configured"]
    assert [e["uptime_us"] for e in found] == sorted(e["uptime_us"] for e in found)
    return [event["event"] for event in found], (found[-1].get("reason"), found[-1].get("exit_code"))


def test_clean_end(release):
    """A workload that ends with a status: ready, paused and resumed on the way, and a goodbye with that status."""
    guest = Guest(release, root="images/rootfs.ext4", kernel=UP)
    events = guest.api.events(2 * PATIENCE)
    guest.api.pause()
    guest.api.resume()
    guest.running.send(b"exit 7\n")
    assert told(events) == (["started", "guest_ready", "paused", "resumed", "ended"], ("guest_shutdown", 7))
    assert guest.running.wait().code == 7


def test_panic(release):
    """Nothing to run: the kernel panics, and panic=-1 makes a reset of that. Without it, it stands there until it is told to go."""
    vm, api = release.start_api(["--config-file", release.config_file(configure(release, root=None, kernel=UP))])
    events = api.events(2 * PATIENCE)
    assert told(events) == (["started", "ended"], ("guest_shutdown", 0))
    outcome = vm.wait()
    assert outcome.code == 0 and "Kernel panic" in outcome.out

    vm, api = release.start_api(["--config-file", release.config_file(configure(release, root=None, kernel=UP, args="panic=0"))])
    events = api.events(2 * PATIENCE)
    vm.expect(rb"end Kernel panic")
    assert api.instance()["state"] == "Running"
    vm.process.terminate()
    assert told(events) == (["started", "ended"], ("signal", 143))
    assert vm.wait().code == 143


@pytest.mark.parametrize("args", [KEYBOARD, ""], ids=["with-Firecracker-s-arguments", "without-any"])
def test_ctrl_alt_del(release, args):
    """Debian's kernel has the keyboard's driver: init may do as it likes with the keys; ours leaves it to the kernel, which reboots."""
    config = configure(release, kernel="kernel/debian/vmlinuz", root="images/rootfs.ext4", initrd=artifact("images/debian-initrd.img"), vcpus=1,
                       mem_mib=256, args=f"quiet {args}")
    vm, api = release.start_api(["--config-file", release.config_file(config)], stdin=subprocess.PIPE)
    vm.expect(rb"mayfly-init: .*[#$] ?(\x1b\[6n)?$", timeout=2 * PATIENCE)
    vm.send(b"cat /proc/bus/input/devices; echo e''nd\n")
    vm.expect(rb"AT .*Set 2 keyboard.*\nend\r?\n")
    events = api.events(PATIENCE)
    api.send_ctrl_alt_del()
    assert told(events) == (["started", "guest_ready", "ended"], ("guest_shutdown", 0))
    assert vm.wait().code == 0
