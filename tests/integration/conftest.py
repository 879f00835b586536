"""Fixtures: the two binaries, each with a directory of its own."""

import pytest

from harness import Vmm, sparse


def vmm(name, directory):
    instance = Vmm(name, directory)
    yield instance
    instance.close()


@pytest.fixture(params=["release", "debug"])
def mayfly(request, tmp_path):
    """Both binaries in turn: the one people run, and the one with AddressSanitizer and UBSan."""
    yield from vmm(request.param, tmp_path)


@pytest.fixture
def release(tmp_path):
    yield from vmm("release", tmp_path)


@pytest.fixture
def debug(tmp_path):
    yield from vmm("debug", tmp_path)


@pytest.fixture
def scratch(tmp_path):
    """A sparse disk of 8 MiB."""
    return sparse(tmp_path / "scratch.img", 8 << 20)
