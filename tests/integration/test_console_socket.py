"""The serial console on a Unix socket: output is kept, terminals attach and leave. (Slow ones: tests/unit/test_console_socket.c.)"""

import pytest

from harness import BAD_CONFIG, artifact, machine
from mayfly import connect


class Console:
    """The socket's path, and all that was attached to it."""

    def __init__(self, path):
        self.path, self.streams = path, []

    def connect(self):
        self.streams.append(connect(self.path))
        return self.streams[-1]

    def attach(self, running, marker):
        """Attach once the socket is there, and read up to marker."""
        running.wait_file(self.path)
        stream = self.connect()
        return stream, read_until(stream, marker)


@pytest.fixture
def console(tmp_path):
    made = Console(tmp_path / "console.socket")
    yield made
    for stream in made.streams:
        stream.close()


def config(script, path, **serial):
    return machine(artifact("tests/guest/guest.elf"), f"console=ttyS0 mayfly.test='{script}'",
                   serial={"serial_socket_path": str(path), **serial})


def read_until(stream, marker):
    data = b""
    while marker not in data:
        more = stream.recv(65536)
        assert more, f"ended after {data[-200:]!r}"
        data += more
    return data


def test_output_is_kept_for_who_comes_late(mayfly, console):
    running = mayfly.start(config("print one; wait a; print two; wait b; print three", console.path))
    first, data = console.attach(running, b"one\n")
    first.sendall(b"a")
    data += read_until(first, b"two\n")
    first.close()
    # Whoever comes later sees all of it, and types on.
    second, again = console.attach(running, b"two\n")
    assert again == data
    third = console.connect()
    assert read_until(third, b"two\n") == data
    second.sendall(b"b")
    assert read_until(second, b"three\n") == read_until(third, b"three\n")
    outcome = running.wait()
    assert outcome.code == 0 and outcome.out == ""
    assert not console.path.exists()


def test_file_and_socket_get_the_same(mayfly, console, tmp_path):
    out = tmp_path / "console.log"
    running = mayfly.start(config("print one; wait a; print two", console.path, serial_out_path=str(out)))
    stream, data = console.attach(running, b"one\n")
    stream.sendall(b"a")
    while more := stream.recv(65536):
        data += more
    assert running.wait().code == 0
    assert b"two\n" in data and out.read_bytes() == data


def test_input_that_the_guest_does_not_take_waits(mayfly, console):
    """More than UART and console hold; the rest stays with the sender, and all of it arrives in order."""
    running = mayfly.start(config("print on; wait z; print end", console.path))
    stream, _ = console.attach(running, b"on\n")
    stream.sendall(b"y" * 30_000 + b"z")
    read_until(stream, b"end\n")
    assert running.wait().code == 0


def test_a_fifth_terminal_is_turned_away(mayfly, console):
    running = mayfly.start(config("print on; wait z", console.path))
    streams = [console.attach(running, b"on\n")[0] for _ in range(4)]
    fifth = console.connect()
    assert fifth.recv(1) == b""
    streams.pop().close()
    # One has left: there is room, as soon as that is noticed.
    for _ in range(1000):
        sixth = console.connect()
        if sixth.recv(1):
            break
        sixth.close()
    else:
        pytest.fail("no room after one has left")
    sixth.sendall(b"z")
    assert running.wait().code == 0


@pytest.mark.parametrize("make", ["file", "long"])
def test_a_path_that_cannot_be_used(mayfly, console, tmp_path, make):
    if make == "file":
        console.path.write_text("precious")
    path = console.path if make == "file" else tmp_path / ("x" * 108)
    outcome = mayfly.run(config("print on", path))
    assert outcome.code == BAD_CONFIG
    assert "serial.serial_socket_path: " in outcome.err
    if make == "file":
        assert console.path.read_text() == "precious"
