"""Images of mayfly-image as Linux sees them: booted from, both formats, with all that layers and attributes mean."""

import hashlib
import random
import re
import shutil
from pathlib import Path

import pytest

from harness import artifact, drive, machine
from image_tool import built
from linux_guest import UP, console
from oci_layout import FIFO, Layout, config, device, directory, entry, hard_link, layer, pack, symlink

pytestmark = pytest.mark.linux

# CAP_CHOWN, effective: version 2 of what setcap writes.
CHOWN = bytes.fromhex("0100000201000000000000000000000000000000")

SCRIPT = r"""#!/bin/sh
export PATH=/bin
mount -t proc none /proc; mount -t tmpfs none /run
echo "root=$(awk '$2 == "/" { print $3 }' /proc/mounts)"
echo "names=$(ls / | tr '\n' ' ')"
echo "d=$(ls /d | tr '\n' ' ')"
echo "sum=$(sha256sum </d/big | cut -d' ' -f1)"
echo "many=$(cat /many/* | sha256sum | cut -d' ' -f1)"
echo "modes=$(stat -c '%n:%A:%u:%g:%Y' /suid /mine /fifo /bin/sh /tmp | tr '\n' ' ')"
echo "links=$(stat -c %h /d/big) $(readlink /bin/sh) $(readlink /out)"
echo "inode=$([ /d/big -ef /hard ] && echo same)"
echo "null=$(stat -c %t:%T /null) $(echo x >/null && cat /null | wc -c)"
echo "sparse=$(stat -c %s /sparse) $(tail -c 4 /sparse) $(head -c 100000 /sparse | tr -d '\0' | wc -c)"
echo "config=$(tr '\0' '|' </.mayfly/config)"
echo x >/run/file; chown 5 /run/file
as_user() { start-stop-daemon -S -c user:user -x "$1" -- "$2" "$3"; }
as_user /plain/chown 1000 /run/file; echo "plain=$(stat -c %u /run/file)"
as_user /cap/chown 1000 /run/file; echo "cap=$(stat -c %u /run/file)"
echo "write=$(echo x 2>/dev/null >/new && echo possible || echo refused)"
sync; reboot -f
"""


def layers(busybox):
    tool = busybox.read_bytes()
    sparse = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": "sparse", "GNU.sparse.realsize": "5000004"}
    yield pack(layer(directory("bin"), entry("bin/busybox", tool, mode=0o755), *(directory(name) for name in ("dev", "proc", "run", "d", "many", "cap", "plain")),
                     directory("tmp", mode=0o1777), *(symlink(f"bin/{name}", "busybox") for name in (
                         "sh", "mount", "awk", "ls", "tr", "sha256sum", "cut", "cat", "stat", "readlink", "wc", "tail", "head", "chown",
                         "start-stop-daemon", "reboot", "sync")), entry("d/lower"), entry("gone", "gone"), entry("d/both", "lower"),
                     entry("etc/passwd", "root:x:0:0::/:/bin/sh\nuser:x:1000:1000::/:/bin/sh\n"), entry("etc/group", "user:x:1000:\n")), "zstd")
    yield pack(layer(entry(".wh.gone"), entry("d/.wh..wh..opq"), entry("d/both", "upper"), entry("d/big", random.Random(1).randbytes(1_000_001)),
                     hard_link("hard", "d/big"), *(entry(f"many/{i:05}", b"%d\n" % i * (i % 977)) for i in range(500))))
    yield pack(layer(entry("suid", tool, mode=0o4755), entry("mine", "x", mode=0o640, uid=1234, gid=4321), entry("fifo", kind=FIFO, mode=0o600),
                     symlink("out", "/../../etc"), device("null", 1, 3, mode=0o666), entry("plain/chown", tool, mode=0o755),
                     entry("cap/chown", tool, mode=0o755, pax={"SCHILY.xattr.security.capability": CHOWN}), entry("init", SCRIPT, mode=0o755),
                     entry("sparse", b"1\n5000000\n4\n".ljust(512, b"\0") + b"tail", pax=sparse)), "plain")


def said(text, name):
    match = re.search(rf"^{name}=(.*?)\r?$", text, re.M)
    assert match, f"no {name}= in\n{text[-4000:]}"
    return match.group(1).strip()


@pytest.mark.parametrize("form", ["erofs", "ext4"])
def test_boot(release, tmp_path, form):
    """The kernel mounts it as its root, and every file is as the layers say; the capability of a file counts."""
    busybox = Path(shutil.which("busybox"))
    layout = Layout(tmp_path / "layout")
    layout.add(list(layers(busybox)), config(Cmd=["/init"], Env=["A=b c"])).write()
    built(layout.path, tmp_path / "image", *(["--ext4"] if form == "ext4" else []))
    root = drive("root", tmp_path / "image", is_root_device=True, is_read_only=True)
    outcome = release.run(machine(artifact(UP), f"console=ttyS0 reboot=k panic=-1 quiet rootfstype={form} ro init=/init", drives=[root], vcpus=1))
    text = console(outcome)
    assert said(text, "root") == form
    assert said(text, "names").split() == sorted(["bin", "cap", "d", "dev", "etc", "fifo", "hard", "init", "many", "mine", "null", "out", "plain", "proc",
                                                  "run", "sparse", "suid", "tmp"] + ["lost+found"] * (form == "ext4"))
    assert said(text, "d") == "big both"
    assert said(text, "sum") == hashlib.sha256(random.Random(1).randbytes(1_000_001)).hexdigest()
    assert said(text, "many") == hashlib.sha256(b"".join(b"%d\n" % i * (i % 977) for i in range(500))).hexdigest()
    assert said(text, "modes").split() == [
        "/suid:-rwsr-xr-x:0:0:1000000000", "/mine:-rw-r-----:1234:4321:1000000000", "/fifo:prw-------:0:0:1000000000",
        "/bin/sh:lrwxrwxrwx:0:0:1000000000", "/tmp:drwxrwxrwt:0:0:1000000000"]
    assert said(text, "links") == "2 busybox /../../etc" and said(text, "inode") == "same"
    assert said(text, "null") == "1:3 0" and said(text, "sparse") == "5000004 tail 0"
    assert said(text, "config") == "cmd=/init|env=A=b c|"
    assert said(text, "plain") == "5" and said(text, "cap") == "1000"
    assert said(text, "write") == "refused"
