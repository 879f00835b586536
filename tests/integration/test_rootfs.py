"""The small guest images, built again by a user whose PATH has only what Debian gives a user."""

import subprocess

import pytest

from harness import ROOT, artifact


@pytest.mark.parametrize("name", ["rootfs.ext4", "rootfs.erofs", "initramfs.cpio"])
def test_built_again(tmp_path, name):
    """The same bytes, but for ext4: mke2fs notes when it was that the files were laid out."""
    env = {"PATH": "/usr/local/bin:/usr/bin:/bin", "BUILD": str(tmp_path)}
    subprocess.run([ROOT / "rootfs/build-image", name], env=env, check=True, timeout=60)
    again, before = tmp_path / "images" / name, artifact(f"images/{name}")
    assert again.stat().st_size == before.stat().st_size
    assert name == "rootfs.ext4" or again.read_bytes() == before.read_bytes()
