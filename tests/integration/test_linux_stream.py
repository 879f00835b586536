"""A Linux guest sent from process to process while it works: disk and clocks go on as if nothing had happened."""

import pytest

from linux_guest import Guest
from test_linux_snapshot import Clocks, DiskTraffic, verify  # pylint: disable=unused-import
from test_snapshot import end
from test_snapshot_stream import Load, Relay, send

pytestmark = pytest.mark.linux


def test_three_moves(release, verify, tmp_path):
    """It runs on while it is sent, writing to memory and disk; no write is lost or done twice."""
    traffic = DiskTraffic(release, verify, ops=1000)
    guest = Guest(release, root="images/rootfs.ext4", drives=traffic.drives, allow_path=[tmp_path],
                  **{"machine-config": {"vcpu_count": 2, "mem_size_mib": 128, "track_dirty_pages": True}})
    clocks = Clocks(guest)
    traffic.prepare(guest)
    traffic.begin(guest)
    for move in range(3):
        traffic.reach(guest, 1)
        relay = Relay(tmp_path, f"relay{move}")
        target = Load(release, relay.target.name, track_dirty_pages=True, clock_realtime=True)
        report = send(guest.api, relay.source.name)
        print(report)
        assert report["rounds"] > 1
        end(guest.running)
        guest = guest.goes_on_in(target.loaded(), target.api)
    traffic.end(guest)
    clocks.are_right(guest)
    guest.finish()
