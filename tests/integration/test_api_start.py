"""A start that fails says why, leaves nothing behind, and can be repeated once the reason is mended."""

import os

import pytest

from api_machines import boot, is_fault, listen, prepare
from harness import artifact, descriptors
from mayfly import ApiError


@pytest.fixture
def prepared(mayfly):
    prepare(mayfly.directory)
    return mayfly


def all_devices(vmm, script):
    """Configured with one of each, not started."""
    running, api = vmm.start_api()
    api.put_boot_source({"kernel_image_path": "vmlinux", "boot_args": f"console=ttyS0 mayfly.test='{script}'"})
    api.put_drive("rootfs", {"path_on_host": "disk.img", "is_root_device": False})
    listen(vmm.directory / "passt.socket")
    api.put_network_interface("eth0", {"host_dev_name": "unix:passt.socket"})
    api.put_vsock({"guest_cid": 3, "uds_path": "vsock.socket"})
    api.put_serial({"serial_socket_path": "console.socket"})
    return running, api


def breaks_drive(vmm, _):
    os.rename(vmm.directory / "disk.img", vmm.directory / "away.img")
    yield "drives[rootfs].path_on_host: disk.img: No such file"
    os.rename(vmm.directory / "away.img", vmm.directory / "disk.img")


def breaks_kernel(vmm, _):
    (vmm.directory / "vmlinux").unlink()
    yield "boot-source.kernel_image_path: vmlinux: No such file"
    (vmm.directory / "vmlinux").symlink_to(artifact("tests/guest/guest.elf"))


def breaks_interface(_, api):
    api.put_network_interface("eth0", {"host_dev_name": "unix:nobody.socket"})
    yield "network-interfaces[eth0].host_dev_name: "
    api.put_network_interface("eth0", {"host_dev_name": "unix:passt.socket"})


def breaks_vsock(vmm, _):
    (vmm.directory / "vsock.socket").write_text("precious")
    yield "vsock.uds_path: vsock.socket: there is something already"
    (vmm.directory / "vsock.socket").unlink()


def breaks_console(vmm, _):
    (vmm.directory / "console.socket").write_text("precious")
    yield "serial.serial_socket_path: console.socket: there is something already"
    (vmm.directory / "console.socket").unlink()


def breaks_cpu(_, api):
    """Noticed when everything else is there already."""
    api.request("PUT", "/cpu-config", {"cpuid_modifiers": [{"leaf": "0x7777", "subleaf": "0x0", "flags": 0, "modifiers": [
        {"register": "eax", "bitmap": "0b" + "1" * 32}]}]})
    yield "0x7777"
    api.request("PUT", "/cpu-config", {})


@pytest.mark.parametrize("breaks", [breaks_drive, breaks_kernel, breaks_interface, breaks_vsock, breaks_console, breaks_cpu])
def test_failed_start(prepared, breaks):
    running, api = all_devices(prepared, "print READY; wait x")
    api.get("/")
    before, config = descriptors(running.pid), api.get("/vm/config")
    story = breaks(prepared, api)
    reason = next(story)
    files = sorted(os.listdir(prepared.directory))
    for _ in range(3):
        is_fault(api.request("PUT", "/actions", {"action_type": "InstanceStart"}), naming=reason)
        assert api.get("/")["state"] == "Not started"
        assert sorted(os.listdir(prepared.directory)) == files
        assert descriptors(running.pid) == before
    next(story, None)
    assert api.get("/vm/config") == config or breaks is breaks_cpu
    api.start()
    assert api.get("/")["state"] == "Running"
    running.signal(15)
    assert running.wait().code == 128 + 15
    assert not {"vsock.socket", "console.socket"} & set(os.listdir(prepared.directory))


def test_second_start_is_refused(prepared):
    _, api = boot(prepared)
    with pytest.raises(ApiError, match="not supported after starting"):
        api.start()


def test_events_tell_the_whole_story(prepared):
    running, api = all_devices(prepared, "timer; status 3")
    events = api.events()
    api.start()
    seen = list(events)
    assert running.wait().code == 3
    assert [e["event"] for e in seen] == ["configured"] * 5 + ["started", "guest_ready", "ended"]
    assert [e["seq"] for e in seen] == list(range(8))
    assert [e["resource"] for e in seen[:5]] == ["/boot-source", "/drives/rootfs", "/network-interfaces/eth0", "/vsock", "/serial"]
    assert seen[-1]["reason"] == "guest_shutdown" and seen[-1]["exit_code"] == 3
    assert all(a["uptime_us"] <= b["uptime_us"] for a, b in zip(seen, seen[1:]))


def test_removed_interface_serves_no_metadata(prepared):
    _, api = all_devices(prepared, "idle")
    listen(prepared.directory / "other.socket")
    api.put_network_interface("eth1", {"host_dev_name": "unix:other.socket"})
    api.request("PUT", "/mmds/config", {"network_interfaces": ["eth0", "eth1"]})
    assert api.request("DELETE", "/network-interfaces/eth0").status == 204
    assert api.get("/mmds/config")["network_interfaces"] == ["eth1"]
    assert api.request("DELETE", "/network-interfaces/eth1").status == 204
    is_fault(api.request("GET", "/mmds/config"), 404)
    api.start()


def test_removed_devices_are_not_there(prepared):
    running, api = all_devices(prepared, "info; blk 0 info")
    for path in ("/drives/rootfs", "/network-interfaces/eth0", "/vsock"):
        assert api.request("DELETE", path).status == 204
        is_fault(api.request("DELETE", path), 404)
        is_fault(api.request("GET", path), 404)
    api.request("PUT", "/serial", {})
    api.start()
    outcome = running.wait()
    assert outcome.code == 1 and "no block device" in outcome.out.lower() or "FAILED" in outcome.out
    assert not (prepared.directory / "vsock.socket").exists()
