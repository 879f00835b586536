"""What platforms hand over instead of paths: a listening socket, and a descriptor that says when the API answers."""

import os
import select
import socket
import time

import pytest

from harness import BAD_CONFIG, PATIENCE
from mayfly import Api


@pytest.fixture
def listener(tmp_path):
    with socket.socket(socket.AF_UNIX) as s:
        s.bind(str(tmp_path / "api.socket"))
        s.listen()
        yield s


def test_inherited_socket(mayfly, listener):
    """Clients may connect before there is a process; the path stays, since it is not ours."""
    api = Api(listener.getsockname(), PATIENCE)
    running = mayfly.start(args=["--api-fd", listener.fileno()], pass_fds=[listener.fileno()])
    assert api.get("/")["state"] == "Not started"
    api.hang_up()
    running.signal(15)
    assert running.wait().code == 128 + 15
    assert os.path.exists(listener.getsockname())


def test_ready_gets_one_byte_and_is_closed(mayfly, listener):
    ready, tell = os.pipe()
    running = mayfly.start(args=["--api-fd", listener.fileno(), "--ready-fd", tell], pass_fds=[listener.fileno(), tell])
    os.close(tell)
    assert select.select([ready], [], [], PATIENCE)[0]
    assert os.read(ready, 10) == b"\n"
    assert os.read(ready, 10) == b""
    os.close(ready)
    running.signal(15)
    running.wait()


def not_a_socket(_):
    return os.open("/dev/null", os.O_RDWR)


def not_listening(_):
    return socket.socket(socket.AF_UNIX).detach()


def internet(_):
    s = socket.socket(socket.AF_INET)
    s.bind(("127.0.0.1", 0))
    s.listen()
    return s.detach()


def datagrams(_):
    return socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).detach()


@pytest.mark.parametrize("make", [not_a_socket, not_listening, internet, datagrams])
def test_descriptors_of_another_kind(mayfly, make):
    fd = make(None)
    outcome = mayfly.run(args=["--api-fd", fd], pass_fds=[fd])
    os.close(fd)
    assert outcome.code == BAD_CONFIG and f"--api-fd: {fd}" in outcome.err


def test_descriptors_that_are_not_open(mayfly, tmp_path):
    outcome = mayfly.run(args=["--api-fd", 999])
    assert outcome.code == BAD_CONFIG and "--api-fd: 999: Bad file descriptor" in outcome.err
    outcome = mayfly.run(args=["--api-sock", tmp_path / "s", "--ready-fd", 999])
    assert outcome.code == BAD_CONFIG and "--ready-fd: 999: Bad file descriptor" in outcome.err
    assert not (tmp_path / "s").exists()


def test_a_path_that_is_taken(mayfly, listener):
    outcome = mayfly.run(args=["--api-sock", listener.getsockname()])
    assert outcome.code == BAD_CONFIG and "there is something already" in outcome.err
    assert os.path.exists(listener.getsockname())


def test_start_time_of_a_jailer_is_counted(mayfly):
    started = int(time.monotonic() * 1e6) - 5_000_000
    _, api = mayfly.start_api(["--start-time-us", started, "--start-time-cpu-us", 0, "--parent-cpu-time-us", 7_000_000])
    lines = dict(line.rsplit(" ", 1) for line in api.request("GET", "/metrics").body.decode().splitlines() if line[0] != "#")
    assert 5_000_000 <= int(lines["mayfly_api_server_process_startup_time_us"]) < 5_000_000 + PATIENCE * 1e6
    assert 7_000_000 <= int(lines["mayfly_api_server_process_startup_time_cpu_us"]) < 12_000_000
