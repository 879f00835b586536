"""Processes for the tests of the API: not started, booted with the test guest, and what must hold of them."""

import socket

import contract
from harness import artifact, sparse

GUEST_ARGS = "console=ttyS0 mayfly.test='print READY; idle'"

# What GET answers must not change when a request is refused.
RESOURCES = ["/vm/config", "/boot-source", "/machine-config", "/cpu-config", "/drives", "/drives/rootfs", "/network-interfaces",
             "/network-interfaces/eth0", "/vsock", "/mmds", "/mmds/config", "/logger", "/serial"]


def prepare(directory):
    """The files that the examples of the contract name."""
    (directory / "vmlinux").symlink_to(artifact("tests/guest/guest.elf"))
    for name in ("disk.img", "other.img", "initrd.img"):
        sparse(directory / name, 1 << 20)


def snapshot(api):
    """All that GET tells of the configuration and the state."""
    answers = {path: api.request("GET", path) for path in RESOURCES}
    return api.get("/")["state"], {path: (a.status, a.json()) for path, a in answers.items()}


def boot(vmm, guest_args=GUEST_ARGS, net=False, **popen):
    """A microVM that runs the test guest's script, with the drive "rootfs". Returns the process and the client."""
    running, api = vmm.start_api(**popen)
    api.put_boot_source({"kernel_image_path": "vmlinux", "boot_args": guest_args})
    api.put_drive("rootfs", {"path_on_host": "disk.img", "is_root_device": False})
    if net:
        listen(vmm.directory / "passt.socket")
        api.put_network_interface("eth0", {"host_dev_name": "unix:passt.socket", "guest_mac": "06:00:ac:10:00:02"})
    api.start()
    return running, api


SNAPSHOT = ("state.snapshot", "memory.snapshot")


def save(vmm):
    """A snapshot of a microVM with one of each device, in its directory under the names of the contract's examples."""
    running, api = vmm.start_api(["--allow-path", "."])
    listen(vmm.directory / "passt.socket")
    api.put_machine_config({"vcpu_count": 1, "mem_size_mib": 32})
    api.put_boot_source({"kernel_image_path": "vmlinux", "boot_args": GUEST_ARGS})
    api.put_drive("rootfs", {"path_on_host": "disk.img", "is_root_device": False})
    api.put_network_interface("eth0", {"host_dev_name": "unix:passt.socket"})
    api.put_vsock({"guest_cid": 3, "uds_path": "vsock.socket"})
    api.put("/mmds/config", {"network_interfaces": ["eth0"]})
    api.put_mmds({"saved": True})
    api.start()
    running.expect(b"READY")
    api.pause()
    api.put("/snapshot/create", dict(zip(("snapshot_path", "mem_file_path"), SNAPSHOT)))
    running.signal(15)
    running.wait()


def bring(saved, directory):
    """What the snapshot in the directory `saved` needs, in another directory."""
    for name in SNAPSHOT:
        (directory / name).symlink_to(saved / name)
    while len(_brought) > 10:  # those before belong to tests that are over
        _listeners.remove(_brought[0])
        _brought.pop(0).close()
    _brought.append(listen(directory / "passt.socket"))


_listeners, _brought = [], []


def listen(path):
    """The other side of a network interface: takes the connection and says nothing."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()
    _listeners.append(listener)  # open until the tests end
    return listener


def is_fault(answer, status=400, naming=""):
    """The answer refuses in the contract's form, with a sentence that names what is wrong."""
    assert answer.status == status, f"{answer.status} {answer.body[:300]!r} instead of {status}"
    contract.check(contract.FAULT, answer.json())
    assert answer.headers["content-type"] == "application/json"
    assert naming in answer.fault_message(), f"no {naming!r} in {answer.fault_message()!r}"
    return answer.fault_message()
