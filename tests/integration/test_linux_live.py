"""What can be changed while a Linux guest runs: the file behind a disk, and the limits of disk and network."""

import hashlib
import os
import time

import pytest

from harness import PATIENCE, drive, sparse
from linux_guest import UP, Guest, counter
from net_peer import Namespace

pytestmark = pytest.mark.linux

HOST, GUEST = "10.9.0.1", "10.9.0.2"
KIB, MIB = 1 << 10, 1 << 20


def contents(path, mib):
    data = os.urandom(mib * MIB)
    path.write_bytes(data)
    return hashlib.sha256(data).hexdigest()


def test_another_file_behind_a_disk(debug, tmp_path):
    """The guest sees the new size and the new bytes; what it writes goes to the new file and no longer to the old one."""
    first, second = contents(tmp_path / "first", 2), contents(tmp_path / "second", 3)
    guest = Guest(debug, root="images/rootfs.ext4", kernel=UP, drives=[drive("data", tmp_path / "first", cache_type="Writeback")],
                  allow_path=[tmp_path / "second"])
    assert guest.run("cat /sys/block/vdc/size; sha256sum </dev/vdc").split()[:2] == [str(2 * 2048), first]
    guest.api.patch_drive("data", {"path_on_host": str(tmp_path / "second")})
    guest.run(f"until [ $(cat /sys/block/vdc/size) = {3 * 2048} ]; do usleep 10000; done; echo 3 >/proc/sys/vm/drop_caches")
    assert second in guest.run("sha256sum </dev/vdc")
    guest.run("echo mayfly | dd of=/dev/vdc bs=512 seek=4100 conv=sync,fsync,notrunc 2>/dev/null")
    assert (tmp_path / "second").read_bytes()[4100 * 512:][:7] == b"mayfly\n"
    assert hashlib.sha256((tmp_path / "first").read_bytes()).hexdigest() == first
    # A file that is not there changes nothing.
    answer = guest.api.request("PATCH", "/drives/data", {"drive_id": "data", "path_on_host": str(tmp_path / "none")})
    assert answer.status == 400 and "No such file" in answer.fault_message()
    assert guest.run("dd if=/dev/vdc bs=512 skip=4100 count=1 iflag=direct 2>/dev/null | head -c 6") == "mayfly"
    guest.finish()


def seconds(guest, command):
    begin = time.monotonic()
    guest.run(command)
    return time.monotonic() - begin


def test_limits(release, tmp_path):
    """1 MiB at 256 KiB/s, a quarter of it from the full bucket, takes three seconds; without a limit nobody is held up."""
    # Of what takes longer here than the limit asks for nothing can be said; so only lower bounds, and who was stopped.
    slow = {"bandwidth": {"size": 256 * KIB, "refill_time": 1000}}
    free = {"bandwidth": {"size": 0, "refill_time": 0}}
    namespace = Namespace()
    try:
        namespace.tap()
        (tmp_path / "www").mkdir()
        (tmp_path / "www/file").write_bytes(os.urandom(MIB))
        namespace.web(tmp_path / "www")
        sink = namespace.start("socat", f"TCP-LISTEN:9000,fork,bind={HOST}", "EXEC:sha256sum")
        guest = Guest(release, kernel=UP, wrapper=namespace.enter, drives=[drive("data", sparse(tmp_path / "data", MIB), cache_type="Unsafe")],
                      **{"network-interfaces": [{"iface_id": "eth0", "host_dev_name": "tap0"}]})
        guest.run(f"ip link set eth0 up && ip address add {GUEST}/24 dev eth0")
        download = f"curl -sSf -o /tmp/file http://{HOST}/file"
        upload = f"socat -t {PATIENCE} - TCP:{HOST}:9000,retry=100,interval=0.1 </tmp/file | grep $(sha256sum </tmp/file | cut -c-64)"
        write = "dd if=/dev/zero of=/dev/vdc bs=64k count=16 oflag=direct 2>/dev/null"

        def held_up():
            names = ("net_rx_rate_limiter_throttled", "net_tx_rate_limiter_throttled", "block_rate_limiter_throttled_events")
            return [counter(guest.api, name) for name in names]

        guest.run(f"{download}; {upload}; {write}")
        assert held_up() == [0, 0, 0]
        guest.api.patch_network_interface("eth0", {"rx_rate_limiter": slow})
        assert seconds(guest, download) > 2.5
        assert held_up()[0] and held_up()[1:] == [0, 0]
        guest.api.patch_network_interface("eth0", {"rx_rate_limiter": free, "tx_rate_limiter": slow})
        before = held_up()
        assert seconds(guest, upload) > 2.5
        assert held_up()[1] and held_up()[0] == before[0]
        guest.api.patch_network_interface("eth0", {"tx_rate_limiter": free})
        guest.api.patch_drive("data", {"rate_limiter": slow})
        assert seconds(guest, write) > 2.5
        assert held_up()[2]
        guest.api.patch_drive("data", {"rate_limiter": free})
        before = held_up()
        guest.run(f"{download}; {upload}; {write}")
        assert held_up() == before
        guest.finish()
        sink.terminate()
        sink.wait(10)
    finally:
        namespace.close()
