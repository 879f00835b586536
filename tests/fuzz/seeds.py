#!/usr/bin/python3
"""
seeds.py FOLDER: programs by hand that get targets to where chance takes long, into FOLDER/TARGET; `run --merge` then keeps what counts.

The bytes are what driver.c and the fuzz_*.c read: here they have names.
"""

import os
import sys

# driver.c: enum op
NOTIFY, TURN, REQUEST, HOST, DESC, OFFER, AVAIL, WRITE, FILL, RACE = range(10)
TIME, RESET, SET_UP = 13, 14, 15


def turns(n=3):
    return bytes([TURN, n])


def le(value, size):
    return value.to_bytes(size, "little")


# ---- vsock: packets of the guest, a program on the host ----

RX = bytes([HOST, 5 | 7 << 3])  # eight receive buffers
OPEN, CLOSE, HEAR, ACCEPT = bytes([HOST, 0]), bytes([HOST, 4]), bytes([HOST, 3, 255]), bytes([HOST, 1])
DIALLED = 0x80  # the port of the first connection from the host


def packet(op, src=1, dst=DIALLED, data=b"", flags=b""):
    payload = bytes([len(data)]) if data else b""
    return bytes([REQUEST, 1, 0, op | (0x10 if data else 0) | 4 << 5, src, dst]) + payload + flags + data + bytes([5, 0])


def large(src=1, dst=DIALLED, length=0x7fff, alloc=1 << 16):
    """A data packet whose payload is a buffer of its own."""
    return (bytes([REQUEST, 1, 1, 8, src, dst, 5, 1]) + le(length, 4) + bytes([52]) + le(0, 4) + le(alloc, 4) + bytes([5, 0, 6, 0]) +
            le(length, 2))


def say(data):
    return bytes([HOST, 2, 0x40 | len(data)]) + data


CONNECTED = b"\0" + RX + RX + OPEN + turns() + bytes([HOST, 2, 1]) + turns() + packet(2) + turns()  # request, OK
GUEST_CONNECTED = b"\0" + RX + RX + packet(1, 5, 1) + turns() + ACCEPT + turns()
VSOCK = {
    "host-connects": CONNECTED + packet(5, data=b"hello") + HEAR + say(b"world") + turns() + packet(6) + packet(7) + CLOSE + turns() + RX + turns(),
    "guest-connects": GUEST_CONNECTED + packet(5, 5, 1, b"hello") + HEAR + say(b"world") + turns() + packet(4, 5, 1, flags=b"\3") + turns(),
    "slow-host": CONNECTED + large() * 9 + HEAR * 4 + turns() + large() * 3 + HEAR * 9 + turns() + packet(4, flags=b"\2") + HEAR * 20 + turns(),
    "slow-host-dies": CONNECTED + large() * 12 + CLOSE + turns(),
    "no-credit": CONNECTED + bytes([HOST, 2, 0xff, 255]) * 4 + turns() * 3 + packet(6) + RX * 4 + turns() * 3 + packet(7),
    "half-close": CONNECTED + packet(4, flags=b"\1") + say(b"x") + turns() + bytes([HOST, 6 | 1 << 6]) + turns() + packet(4, flags=b"\3"),
    "beyond-credit": CONNECTED + large() * 20,
    "refused": b"\0" + RX + packet(1, 5, 3) + turns() + packet(5, 6, 3, b"?") + packet(1, 5, 1) * 2 + packet(1, 7, 2) * 4 + turns() + RX,
    "waits": b"\0" + RX + OPEN + turns() + bytes([HOST, 2, 0x21]) + turns() + packet(3) + turns() + bytes([HOST, 0x87]) * 3 + turns() + packet(2),
    "paused": CONNECTED + bytes([HOST, 7]) + say(b"x") + bytes([HOST, 0xff, HOST, 0x47]) + turns() + bytes([HOST, 0x85]) + turns(),
    "silence": b"\0" + OPEN + turns() + bytes([HOST, 0xef]) * 4 + turns() + packet(1, 5, 1) + bytes([HOST, 0xef]) * 3 + turns(),
}

# ---- net: one byte says what kind of interface, and with what ----

TAP, DATAGRAM, PACKET, STREAM, POLICY, MMDS, RATES = 0, 1, 2, 3, 4, 8, 16
BUFFERS = b"".join(bytes([REQUEST, 0, 0x09, 10 + i, 0]) + le(4096, 2) for i in range(8))


def transport(dest=80, flags=2):
    return le(1234, 2) + (b"\1" if dest == 80 else b"\0" + le(dest, 2)) + le(7, 2) + le(0, 2) + b"\0" + bytes([flags]) + le(512, 2)


def ipv4(source=0, target=2, protocol=0, dest=80, length=20 + 20):
    return bytes([0, protocol]) + le(length, 2) + bytes([source, target]) + transport(dest)


def ipv6(protocol=0, extension=0):
    return bytes([1, protocol | 0xf0 | (8 if extension else 0), extension]) + bytes(range(17)) + bytes([0x20, 1] + [0] * 14) + transport()


def send(frame, text=b"", vnet=b"\0"):
    return bytes([REQUEST, 1, 0]) + vnet + frame + bytes([len(text)]) + text + bytes([20, 0])


def arrives(frame, length, how):
    return bytes([HOST, 0, how]) + le(length, 2) + frame + turns()


FRAMES = [ipv4(), ipv4(1), ipv4(0, 1), ipv4(0, 3), ipv4(0, 6, 1, 53), ipv4(0, 2, 2), b"\2\1\0\6", b"\2\1\1\6", b"\3" + bytes([0]) + ipv4()[1:], ipv6(),
          ipv6(1), ipv6(3), ipv6(5, 1), ipv6(5, 6)]
NET = {f"kind-{kind}": bytes([kind, 0]) + BUFFERS + b"".join(send(f, b"text") for f in FRAMES) +
       arrives(ipv4(), 60, 2 if kind == STREAM else 4 if kind == TAP else 0) * 3 + arrives(ipv6(), 3000, 2 if kind == STREAM else 4) + turns()
       for kind in (TAP, DATAGRAM, PACKET, STREAM)}
NET |= {f"policy-{flags}": bytes([PACKET | POLICY, flags, 0]) + b"".join(send(f, b"text" * 8) for f in FRAMES) for flags in (1, 2, 4, 9, 15)}
NET["stream-in-pieces"] = bytes([STREAM, 0]) + BUFFERS + (bytes([HOST, 4 | 6 << 3]) + b"\0\0\0\x64" + b"x" * 48 + turns()) * 4
FULL = bytes([REQUEST, 1, 1, 0]) + ipv4() + bytes([0, 20, 0, 30, 0]) + le(0x3000, 2)
NET |= {f"full-{kind}": bytes([kind | 64, 0]) + (FULL * 8 + bytes([HOST, 3]) + turns()) * 3 + bytes([HOST, 0xff]) + FULL for kind in range(4)}
NET["offloads"] = bytes([TAP, 0]) + b"".join(send(ipv4(), b"x" * 99, bytes([1 | gso << 3]) + le(50, 2)) for gso in range(6))

# ---- mmds: words are numbered from 1 (fuzz_mmds.c) ----

HANDSHAKE, TAKE = b"\7", bytes([2, 0x0f])


def http(*words, flags=0x18):
    return bytes([0, flags, 1, *words, 0]) + TAKE


METADATA = {
    "get": HANDSHAKE + http(1, 2, 4, 5) + http(1, 3, 4, 9, 5) + http(1, 4, 16, 5),
    "token": HANDSHAKE + http(6, 7, 5) + bytes([5 | 64]) + http(1, 2, 4, 8, *b"abc\r\n", 5) + http(6, 7, 15, 5),
    "methods": HANDSHAKE + http(18) + http(19) + http(6, 10, 11, 5, 12) + http(6, 13, 7, 10, 11, 5, 12) + http(6, 14, 5),
    "imds": HANDSHAKE + bytes([5 | 128]) + http(1, 2, 4, 5) + http(1, 17, 4, 5) + http(1, 20, 4, 5),
    "closes": HANDSHAKE + http(1, 2, 4, 16, 5) + bytes([0, 0x11, 0]) + TAKE + bytes([4 | 64, 9]) + TAKE,
    "stalls": HANDSHAKE + bytes([0, 0x18, 3, 1, 0, 1, 4, 5, 0]) + bytes([4 | 64, 2]) * 6 + TAKE,
}

# ---- api: a request of api_requests.h with something put into it ----


def put(which, text=b""):
    return bytes([0, which, len(text)]) + text


LIMITER = b'"bandwidth":{"size":10,"one_time_burst":5,"refill_time":7},"ops":{"size":1,"refill_time":2}'
EGRESS = (b',"addresses":["10.0.0.2","fd00::2"],"block_link_local":true,"default":"deny","allow":[{"cidr":"10.0.0.0/8","protocol":"tcp",'
          b'"ports":"80-90"},{"cidr":"::/0","protocol":"udp","ports":"53"},{"cidr":"1.2.3.4"}]')
API = {
    "drives": put(0) + put(1, b',"cache_type":"Writeback","io_engine":"Async","partuuid":"0eaa91a0-01"') + put(1, b',"rate_limiter":{' + LIMITER + b"}") +
    b"".join(put(n) for n in (20, 25, 27)) + put(2, b',"rate_limiter":{' + LIMITER + b"}") + put(3) + put(23) + bytes([6 | 16 << 3]) + put(24) + put(22),
    "nets": put(4, b',"mtu":1400,"tx_rate_limiter":{' + LIMITER + b"}") + put(5, EGRESS) + put(16) + put(16, b',"ipv4_address":"169.254.170.2"') + put(20) +
    put(6) + put(7, b'"default":"allow"') + put(7, EGRESS[1:]) + put(25),
    "others": put(8, b',"vsock_id":"x"') + put(9, b',"smt":true,"track_dirty_pages":true,"huge_pages":"Transparent"') + put(10, b'"cpu_template":"T2"') +
    put(13, b',"initrd_path":"/i"') + put(14) + put(15) + put(17, b',"show_level":true,"show_log_origin":true,"module":"m"') + put(18) +
    put(19, b',"rate_limiter":{"size":9,"refill_time":9}') + put(26) + put(21) + put(25),
    "cpu": put(11) + put(12) + put(25) + bytes([6]),
    "taken-back": put(0) + put(4) + put(5) + put(16) + put(8) + b"".join(put(n) for n in (28, 29, 30, 31, 33, 32, 34, 25)),
    "pipelined": bytes([3]) + le(60, 2) + b"GET / HTTP/1.1\r\n\r\nGET /version HTTP/1.1\r\nConnection: close\r\n\r\n"[:60] + bytes([4 | 3 << 3, 5, 3, 0, 0]),
    "expect": bytes([3]) + le(73, 2) + b"PUT /mmds HTTP/1.1\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n{}".ljust(73) + bytes([0x1c, 5]),
    "late": bytes([3]) + le(9, 2) + b"PUT /mmds" + bytes([4, 7, 60, 4, 5]),
    "stream": bytes([3]) + le(28, 2) + b"GET /events HTTP/1.1\r\n\r\n    " + bytes([0x1c]) + put(9) * 3 + bytes([6, 0x46]) + bytes([0x1c, 5, 0x85, 0x1c]),
}

# ---- state: a snapshot is what happens on the host's side; its edits are an offset, 2^n and the bytes ----

SNAPSHOT = bytes([HOST, 0, 0])
PORTS = bytes([HOST, 1, 0, 0x41]) * 3 + bytes([HOST, 1, 1, 15]) + bytes([HOST, 1, 8 | 4, 0x60])


def edited(at, *values):
    return bytes([HOST, 0, 1]) + le(at, 2) + bytes([len(values).bit_length() - 1, *values])


STATE = {f"{name}-{how}": bytes([kind | how]) + b"\0" + work + SNAPSHOT + work + turns() + PORTS + bytes([HOST, 3]) + SNAPSHOT + bytes([HOST, 0x1e]) + turns() +
         SNAPSHOT + work + turns() + b"".join(edited(at, 255) + work for at in range(16, 700, 24))
         for kind, name, work in ((0, "block", bytes([REQUEST, 0, 0, 0, 1, 10, 0, NOTIFY, 0])), (1, "net", BUFFERS + bytes([REQUEST, 1, 0]) + b"x" * 90),
                                  (2, "vsock", bytes([REQUEST, 1, 0, 1, 5, 1, 3, 0, NOTIFY, 1])))
         for how in (0, 0x40 // 3 * 3, 0x81 // 3 * 3)}


# ---- agent: a first byte says which of its parts ----


def agent_frame(kind, payload, pieces=b"\x3f"):
    data, out = le(len(payload), 4) + bytes([kind, 0, 0, 0]) + payload, b""
    for at in range(0, len(data), 8):
        out += pieces + data[at:at + 8]
    return out


def agent_request(text, config=b"", passwd=b"", group=b"", main=0):
    """The image's files, each behind its length, and the frame of a request."""
    files = b"".join(bytes([len(data)]) + data for data in (config, passwd, group))
    text = b"version=1\0" + text + b"end=1\0"
    return bytes([1, main]) + files + le(len(text), 4) + bytes([1, 0, 0, 0]) + text


def tar_header(kind, name=b"name", size=0):
    return (name.ljust(100, b"\0") + b"0000644\0" + b"0001750\0" * 2 + b"%011o\0" % size + b"14632104735\0" + bytes(8) + kind + b"link".ljust(100, b"\0") +
            b"ustar\x0000").ljust(512, b"\0")


CONFIG = b"entrypoint=/bin/sh\0cmd=-c\0cmd=x\0env=A=b\0cwd=/w\0user=ann:wheel\0stop_signal=SIGRTMIN+3\0"
PASSWD, GROUP = b"root:x:0:0:r:/root:/bin/sh\nann:x:7:8:a:/home/ann:/bin/sh\n", b"wheel:x:10:root,ann\nann:x:8:\n"
AGENT = {
    "frames": bytes([0]) + agent_frame(2, b"ok=1\0pid=77\0") + agent_frame(4, b"out") + agent_frame(5, b"") + agent_frame(8, b"code=3\0"),
    "large": bytes([0]) + agent_frame(9, b"x" * 700) + agent_frame(1, b"end=1\0"),
    "main": agent_request(b"op=main\0", CONFIG, PASSWD, GROUP, 1),
    "exec": agent_request(b"op=exec\0arg=a\0arg=b\0env=C=d\0env=PATH=/x\0cwd=/\0user=ann\0group=wheel\0group=5\0tty=1\0rows=4\0cols=5\0", CONFIG, PASSWD, GROUP),
    "rights": agent_request(b"op=exec\0arg=a\0caps=CAP_KILL,CHOWN\0ambient=all\0no_new_privs=1\0rlimit=nofile=1:unlimited\0rlimit=RLIMIT_CORE=0:0\0umask=027\0"
                            b"oom_score_adj=-5\0user=7:8\0", b"stop_signal=15\0", PASSWD, GROUP),
    "entrypoint": agent_request(b"op=main\0entrypoint=\0arg=x\0detach=1\0readonly=1\0", b"stop_signal=TERM\0cmd=y\0", main=1),
    "tar": bytes([2, 0]) + tar_header(b"0", size=5) + b"\1",
    "pax": bytes([2, 1, 31]) + b"12 path=abcd\n11 size=99\n8 uid=5\n"[:31] + bytes([0, 1, 2]) + b"kk" + bytes([2, 0]) + tar_header(b"2", b"x" * 100) + b"\1",
}


def main():
    for target, seeds in {"agent": AGENT, "vsock": VSOCK, "net": NET, "mmds": METADATA, "api": API, "state": STATE}.items():
        folder = os.path.join(sys.argv[1], target)
        os.makedirs(folder, exist_ok=True)
        for name, data in seeds.items():
            with open(os.path.join(folder, "seed-" + name), "wb") as f:
                f.write(data)


if __name__ == "__main__":
    main()
