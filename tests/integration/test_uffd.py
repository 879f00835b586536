"""Snapshots whose memory a page-fault handler brings, by Firecracker's protocol."""

import signal
import subprocess

import pytest

from harness import BAD_CONFIG
from page_handler import PageHandler
from test_snapshot import MIB, Snapshot, begin, create, end, load, refused

PAGE = 4096


@pytest.fixture
def snap(tmp_path):
    return Snapshot(tmp_path)


@pytest.fixture
def handler(snap, tmp_path):
    return lambda block=PAGE: PageHandler(tmp_path / "handler.socket", snap.memory, block)


def backend(path):
    return {"mem_backend": {"backend_type": "Uffd", "backend_path": str(path)}}


def load_from(vmm, snap, handler, **body):
    """By the API; resumed unless the body says otherwise."""
    vm, api = vmm.start_api(["--allow-path", str(vmm.directory)], stdin=subprocess.PIPE)
    api.put("/snapshot/load", {"snapshot_path": str(snap.state), "resume_vm": True, **backend(handler.path), **body})
    return vm, api


def save(vmm, snap, script, **options):
    vm, api = begin(vmm, script, **options)
    vm.expect(rb"round 0")
    create(api, snap)
    end(vm)


@pytest.mark.parametrize("vcpus,mib", [(1, 32), (2, 128), (1, 5000)])
def test_goes_on(mayfly, snap, handler, vcpus, mib):
    """It finds its memory as it was, of which only what it touches is brought."""
    save(mayfly, snap, "cycle 4M; print bye", vcpus=vcpus, mem_mib=mib)
    handler = handler()
    vm, _ = load_from(mayfly, snap, handler)
    for i in range(1, 4):
        vm.send(b"a")
        vm.expect(rb"(round \d+\s.*){%d}" % i)
    vm.send(b"q")
    outcome = vm.wait()
    assert outcome.code == 0 and "bye" in outcome.out
    assert 4 * MIB // PAGE <= handler.faults < 8 * MIB // PAGE
    assert handler.credentials[0] == vm.pid


def test_what_the_handler_is_told(mayfly, snap, handler):
    """Each region of RAM once, in the order of the memory file, which has no gap; page_size in bytes under both names."""
    save(mayfly, snap, "cycle 4M", mem_mib=5000)
    handler = handler()
    load_from(mayfly, snap, handler)
    low, high = handler.regions
    assert all(set(r) == {"base_host_virt_addr", "size", "offset", "page_size", "page_size_kib"} for r in (low, high))
    assert (low["offset"], low["size"]) == (0, 3072 * MIB) and (high["offset"], high["size"]) == (3072 * MIB, 1928 * MIB)
    assert {r[key] for r in (low, high) for key in ("page_size", "page_size_kib")} == {PAGE}


def test_command_line(mayfly, snap, handler):
    save(mayfly, snap, "cycle 4M; print bye")
    handler = handler(64 * 1024)
    vm = mayfly.start(args=["--no-api", "--load-snapshot", str(snap.state), "--memory", f"uffd:{handler.path}"], stdin=subprocess.PIPE)
    vm.send(b"q")
    assert "bye" in vm.wait().out and handler.faults


def ram(snapshot):
    return snapshot.memory.read_bytes()[:-PAGE]


@pytest.mark.parametrize("track", [False, True], ids=["untracked", "tracked"])
def test_snapshot_of_it(mayfly, snap, handler, tmp_path, track):
    """Full: with what was never brought, too. Diff: without that."""
    save(mayfly, snap, "cycle 4M; print bye", mem_mib=32)
    handler = handler(64 * 1024)
    vm, api = load_from(mayfly, snap, handler, resume_vm=False, track_dirty_pages=track)
    diff, full = Snapshot(tmp_path, "diff"), Snapshot(tmp_path, "full")
    create(api, diff, "Diff")
    assert diff.memory.stat().st_blocks * 512 < 2 * MIB  # the page with the generation ID, and what the handler brought with it
    create(api, full)
    old, new = ram(snap), ram(full)
    assert [at for at in range(0, len(old), PAGE) if old[at:at + PAGE] != new[at:at + PAGE]] == [0xe0000]
    end(vm)
    vm, _ = load(mayfly, full)
    vm.send(b"q")
    assert "bye" in vm.wait().out


def test_handler_that_dies(mayfly, snap, handler):
    """The guest waits for its pages instead of finding zeros, and SIGTERM ends it."""
    save(mayfly, snap, "cycle 4M; print bye")
    handler = handler()
    vm, api = load_from(mayfly, snap, handler, resume_vm=False)
    handler.dies()
    api.resume()
    vm.send(b"a")
    assert api.instance()["state"] == "Running"
    vm.signal(signal.SIGTERM)
    outcome = vm.wait()
    assert outcome.code == 128 + signal.SIGTERM and "round" not in outcome.out


def test_no_handler(mayfly, snap, tmp_path):
    """One sentence, and the next load works."""
    save(mayfly, snap, "cycle 4M; print bye")
    for path, because in [(tmp_path / "nobody", "No such file"), (snap.memory, "Connection refused"), (tmp_path / ("x" * 120), "too long")]:
        message = refused(mayfly, snap, mem_file_path=None, **backend(path))
        assert "mem_backend.backend_path" in message and because in message and "page-fault handler" in message
    outcome = mayfly.run(args=["--no-api", "--load-snapshot", str(snap.state), "--memory", f"uffd:{tmp_path}/nobody"])
    assert outcome.code == BAD_CONFIG and "page-fault handler" in outcome.err
