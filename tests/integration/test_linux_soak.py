"""Half a minute of the soak: network, disk and vsock at once, the API asked all the time, pauses in between. `make soak` takes longer."""

import pytest

from soak import soak

pytestmark = pytest.mark.linux


def test_half_a_minute(release):
    report = soak(release, 30)
    print(report)
    assert not report.wrong, f"{report}"
