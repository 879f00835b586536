"""A function in Python: counts words. /spin never ends, /eat takes memory."""

import collections
import os
import random


def handle(method, path, body):
    if path == "/spin":
        while True:
            pass
    if path == "/eat":
        return len(b"".join(bytes(1 << 20) for _ in range(1 << 20)))
    if path == "/raise":
        raise ValueError("as asked")
    if path == "/random":
        return f"{random.random()} {os.urandom(8).hex()}\n"
    words = collections.Counter(body.decode().split())
    return "".join(f"{count} {word}\n" for word, count in words.most_common())
