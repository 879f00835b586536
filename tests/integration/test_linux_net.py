"""Linux on virtio-net: offloads as ethtool sees them, ping, TCP both ways at two MTUs, and large transfers with checksums."""

import os
import re
import subprocess
import sys

import pytest

from linux_guest import SMP, UP, configure, healthy, said
from harness import PATIENCE

pytestmark = pytest.mark.linux

HOST, GUEST = "10.9.0.1", "10.9.0.2"
MIB = 1 << 20
# Bytes each way; in the lab's emulated machine 1 GiB would take a quarter of an hour.
TRANSFER_MIB = int(os.environ.get("MAYFLY_TRANSFER_MIB", "16"))

# Runs on both sides: sends or takes n MiB whose every 8 bytes differ, and prints the digest.
TRANSFER = """
import hashlib, socket, struct, sys
what, host, port, n = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]) << 20
digest, block, total = hashlib.sha256(), hashlib.shake_128(b"mayfly").digest(1 << 16), 0
if what.startswith("listen"):
    server = socket.create_server((host, port)); print("ready", flush=True); s = server.accept()[0]
else:
    s = socket.create_connection((host, port), 30)
if what.endswith("send"):
    while total < n:
        data = struct.pack("<Q", total) + block
        digest.update(data); s.sendall(data); total += len(data)
    s.shutdown(socket.SHUT_WR); s.recv(1)
else:
    while data := s.recv(1 << 20):
        digest.update(data); total += len(data)
    s.sendall(b"x")
print("digest", total, digest.hexdigest(), flush=True)
"""


def net(mtu=0):
    interface = {"iface_id": "eth0", "host_dev_name": "tap0", "guest_mac": "06:00:ac:10:00:02"}
    return {"network-interfaces": [{**interface, **({"mtu": mtu} if mtu else {})}]}


def boot(vmm, namespace, script, mtu=1500, kernel=SMP):
    config = configure(vmm, f"ip link set eth0 up; ip address add {GUEST}/24 dev eth0\n{script}", kernel=kernel, root="images/debian.ext4",
                       **net(mtu if mtu != 1500 else 0))
    return healthy(vmm.run(config, timeout=10 * PATIENCE, wrapper=namespace.enter))


@pytest.mark.parametrize("binary,kernel", [("release", SMP), ("debug", UP)], ids=["release-smp", "debug-up"])
def test_ping_and_offloads(request, namespace, binary, kernel):
    namespace.tap()
    text = boot(request.getfixturevalue(binary), namespace, f"""
    ping -c 5 -i 0.2 -W 5 {HOST}; echo "ping=$?"
    ping -c 3 -i 0.2 -W 5 -s 60000 {HOST}; echo "large=$?"
    echo "mac=$(cat /sys/class/net/eth0/address)"
    ethtool -k eth0
    """, kernel=kernel)
    assert said(text, "ping") == "0" and said(text, "large") == "0"
    assert said(text, "mac") == "06:00:ac:10:00:02"
    for feature in ("rx-checksumming", "tx-checksumming", "tcp-segmentation-offload", "tx-tcp6-segmentation", "tx-tcp-ecn-segmentation"):
        assert re.search(rf"^\s*{feature}: on", text, re.M), f"{feature}\n{text}"


@pytest.mark.parametrize("mtu", [1500, 9000])
def test_iperf(release, namespace, processes, mtu):
    namespace.tap(mtu=mtu)
    processes.append(namespace.start("iperf3", "-s", "-B", HOST, "--forceflush", stdout=subprocess.PIPE, stdin=subprocess.DEVNULL))
    assert b"---" in processes[0].stdout.readline()
    text = boot(release, namespace, f"""
    echo "mtu=$(cat /sys/class/net/eth0/mtu)"
    for way in out in; do
        option=; [ $way = in ] && option=-R
        iperf3 -c {HOST} -t 3 -J $option >/tmp/$way; echo "$way=$?"
        echo "rate.$way=$(grep -A 6 sum_received /tmp/$way | grep bits_per_second | tr -dc 0-9.)"
    done
    """, mtu)
    assert said(text, "mtu") == str(mtu)
    for way in ("out", "in"):
        assert said(text, way) == "0"
        rate = float(said(text, f"rate.{way}"))
        print(f"iperf3, MTU {mtu}, {way}: {rate / 1e6:.0f} Mbit/s")
        assert rate > 1e6


def test_transfer_is_intact(release, namespace, processes, tmp_path):
    """Large transfers both ways, one after the other and then at the same time: what arrives is what was sent."""
    namespace.tap()
    program = tmp_path / "transfer.py"
    program.write_text(TRANSFER)
    for port, what in ((5001, "listen-recv"), (5002, "listen-send"), (5003, "listen-recv"), (5004, "listen-send")):
        processes.append(namespace.start(sys.executable, program, what, HOST, str(port), str(TRANSFER_MIB), stdout=subprocess.PIPE,
                                         stdin=subprocess.DEVNULL))
        assert processes[-1].stdout.readline() == b"ready\n"
    text = boot(release, namespace, f"""
    cat >/tmp/transfer.py <<'END'
{TRANSFER}
END
    go() {{ echo "digest.$1=$(python3 /tmp/transfer.py $2 {HOST} $1 {TRANSFER_MIB})"; }}
    go 5001 send; go 5002 recv
    go 5003 send & go 5004 recv; wait
    """)
    for port, process in zip((5001, 5002, 5003, 5004), processes):
        theirs = process.stdout.readline().decode().strip()
        assert theirs.startswith("digest ") and said(text, f"digest.{port}") == theirs
        assert int(theirs.split()[1]) >= TRANSFER_MIB * MIB
