"""Fixtures: the two binaries, each with a directory of its own; a network and peers for them."""

import pytest

from harness import IN_LAB, Vmm, sparse
from net_peer import Namespace
from standstill import what_they_do


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    """A failure in the lab says what the machines do that are still there: it may be that they do nothing."""
    report = (yield).get_result()
    if IN_LAB and call.when == "call" and report.failed:
        report.sections.append(("machines still running", what_they_do()))


def pytest_collection_modifyitems(config, items):
    """Leave out what this host cannot have: the cgroups of version 1, say."""
    absent = [item for item in items if any(not mark.args[0] for mark in item.iter_markers("host_has"))]
    if absent:
        config.hook.pytest_deselected(items=absent)
        items[:] = [item for item in items if item not in absent]


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
def attack(tmp_path):
    """The release with a hook that makes its threads do what somebody would who has taken them over."""
    yield from vmm("attack", tmp_path)


@pytest.fixture
def scratch(tmp_path):
    """A sparse disk of 8 MiB."""
    return sparse(tmp_path / "scratch.img", 8 << 20)


@pytest.fixture
def namespace():
    """A network namespace of the test's own."""
    ns = Namespace()
    yield ns
    ns.close()


@pytest.fixture
def processes():
    """Peers that the test starts; they end with it."""
    started = []
    yield started
    for process in started:
        process.kill()
        process.wait(10)
        for stream in (process.stdin, process.stdout):
            if stream:
                stream.close()
