#!/usr/bin/python3
"""Loads handler.py beside it, waits on vsock, answers the one request that each clone gets."""

import os
import random
import socket
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
sys.dont_write_bytecode = True

import handler  # noqa: E402 (found by the line above)

PORT = 8000


def reseed():
    """Every clone begins with the same numbers otherwise. The kernel's own (os.urandom) differ in each without our doing."""
    random.seed()
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed()
    if "ssl" in sys.modules:
        sys.modules["ssl"].RAND_add(os.urandom(32), 32.0)


def answer(connection):
    with connection.makefile("rwb") as stream:
        words = stream.readline(4096).split()
        if len(words) != 4:
            return
        method, path, length, ns = words[0].decode(), words[1].decode(), int(words[2]), int(words[3])
        body = stream.read(length)
        time.clock_settime_ns(time.CLOCK_REALTIME, ns)  # a clone's clock stands where its original was paused
        begin = time.process_time_ns()
        if method == "WARM":
            result = b""
        else:
            reseed()
            try:
                result, status = handler.handle(method, path, body), 200
            except Exception as error:  # pylint: disable=broad-except
                result, status = f"{type(error).__name__}: {error}\n", 500
        data = result.encode() if isinstance(result, str) else result
        used = (time.process_time_ns() - begin) // 1000
        stream.write(b"%d text/plain %d %d\n" % (200 if method == "WARM" else status, len(data), used) + data)


def main():
    if hasattr(handler, "warm"):
        handler.warm()
    listener = socket.socket(socket.AF_VSOCK)
    listener.bind((socket.VMADDR_CID_ANY, PORT))
    listener.listen()
    while True:
        connection, _ = listener.accept()
        with connection:
            answer(connection)


main()
