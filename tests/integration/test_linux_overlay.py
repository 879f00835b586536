"""Linux with its root on an overlay: what it synced is there after a kill and after a shutdown, the file system is whole, the base untouched."""

import hashlib
import re
import subprocess

import pytest

from harness import PATIENCE, artifact
from linux_guest import SMP, UP, configure, healthy, said
from overlay_file import merged

pytestmark = pytest.mark.linux

WRITE = """
mkdir /overlay-test
for i in 1 2 3 4; do head -c 150000 /dev/urandom >/overlay-test/$i & done; wait
echo gone >/overlay-test/gone
sync
rm /overlay-test/gone
sync
echo "sum=$(cat /overlay-test/? | md5sum)"
echo READY
dd if=/dev/zero of=/overlay-test/unsynced bs=4k count=50
read forever
"""

CHECK = """
echo "sum=$(cat /overlay-test/? | md5sum)"
[ -e /overlay-test/gone ] || echo removed=yes
rm -rf /overlay-test
sync
mount -o remount,ro / && echo clean=yes
"""


def on_overlay(vmm, script, delta, cache, **options):
    config = configure(vmm, script, root="images/rootfs.ext4", **options)
    config["drives"][0].update(is_read_only=False, overlay_path=str(delta), cache_type=cache)
    return config


@pytest.mark.parametrize("binary,kernel,cache", [("release", SMP, "Writeback"), ("debug", UP, "Unsafe")], ids=["release-smp-Writeback", "debug-up-Unsafe"])
def test_root(request, tmp_path, binary, kernel, cache):
    vmm = request.getfixturevalue(binary)
    base, delta = artifact("images/rootfs.ext4"), tmp_path / "delta"
    before = hashlib.sha256(base.read_bytes()).digest()
    vm = vmm.start(on_overlay(vmm, WRITE, delta, cache, kernel=kernel), stdin=subprocess.PIPE)
    written = vm.expect(rb"sum=(\w+) .*READY", timeout=2 * PATIENCE).group(1).decode()
    vm.signal(9)
    vm.wait()
    text = healthy(vmm.run(on_overlay(vmm, CHECK, delta, cache, kernel=kernel)))
    assert said(text, "sum").split()[0] == written
    assert said(text, "removed") == said(text, "clean") == "yes"
    assert re.search(r"EXT4-fs \(vda\): (recovery complete|mounted filesystem)", text), text[-3000:]
    image, own = merged(base, delta)
    assert own > 1200
    (tmp_path / "merged").write_bytes(image)
    subprocess.run(["/usr/sbin/e2fsck", "-fn", tmp_path / "merged"], check=True, timeout=PATIENCE, stdout=subprocess.DEVNULL)
    assert hashlib.sha256(base.read_bytes()).digest() == before
