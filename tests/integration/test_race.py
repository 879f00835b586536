"""A guest with two vCPUs: one makes requests, the other changes rings, descriptors and buffers while the device reads them."""

import re
import socket

import pytest

from conftest import vmm
from harness import artifact, drive, machine, sparse

MIB = 1 << 20
TSAN = {"TSAN_OPTIONS": "halt_on_error=1 exitcode=66"}


@pytest.fixture(params=["release", "debug", "tsan"])
def any_mayfly(request, tmp_path):
    """ThreadSanitizer does not see what the guest does; it sees vCPU threads and the event loop at each other's data."""
    yield from vmm(request.param, tmp_path)


def run(mayfly, script, tmp_path, net):
    """All three kinds of device; what the interface sends goes to nobody who reads it."""
    config = machine(artifact("tests/guest/guest.elf"), f"console=ttyS0 mayfly.test='{script}'", [drive("d0", sparse(tmp_path / "d0", MIB))],
                     vcpus=2, mem_mib=64, vsock={"guest_cid": 52, "uds_path": str(tmp_path / "v.sock")},
                     **{"network-interfaces": [{"iface_id": "eth0", "host_dev_name": f"fd:{net.fileno()}",
                                                "egress": {"block_link_local": True}}]})
    # gcc 12's ThreadSanitizer does not know where kernels from 6.6 on may put memory: no randomization.
    # Its own system calls are in no policy.
    tsan = mayfly.name == "tsan"
    return mayfly.run(config, ["--level", "Error", *(["--no-seccomp"] if tsan else [])], timeout=60, wrapper=["setarch", "-R"] if tsan else [],
                      pass_fds=[net.fileno()], env=TSAN)


@pytest.mark.parametrize("device,check", [(0, "blk 0 open; blk 0 write 0 8 seed=3; blk 0 read 0 8 seed=3"), (1, "net 0 open; net 0 send 4"),
                                          (2, "vsock open")], ids=["block", "net", "vsock"])
def test_race(any_mayfly, tmp_path, device, check):
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with near, far:
        outcome = run(any_mayfly, f"race dev{device} ms=1500 seed={device}; {check}", tmp_path, near)
    assert outcome.code == 0, f"{outcome.out[-3000:]}\n{outcome.err[-5000:]}"
    requests, _, writes = map(int, re.search(r"race: (\d+) requests, (\d+) resets, (\d+) writes", outcome.out).groups())
    assert requests > 20 and writes > 1000  # on one CPU for both vCPUs there are few, but both had their turns
