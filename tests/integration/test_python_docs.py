"""The programs of docs/python.md run as they stand: natively with the test guest in the place of Linux, and with Linux where that boots."""

import os
import re
import subprocess
import sys

import pytest

from harness import BUILD, PATIENCE, ROOT, artifact

PROGRAMS = re.findall(r"^<!-- runs: (\w+) -->\n```python\n(.*?)^```$", (ROOT / "docs/python.md").read_text(), re.M | re.S)
GUEST = "tests/guest/guest.elf"
HAS_AGENT = (ROOT / "rootfs/init/agent.h").exists()


def programs(*places):
    return [program for place, program in PROGRAMS if place in places]


def run(program, folder):
    (folder / "build").symlink_to(BUILD)
    result = subprocess.run([sys.executable, "-W", "ignore::ResourceWarning", "-c", program], cwd=folder, capture_output=True, text=True, timeout=4 * PATIENCE, check=False,
                            env={**os.environ, "PYTHONPATH": str(ROOT / "clients/python"), "PYTHONDONTWRITEBYTECODE": "1"})
    assert result.returncode == 0, f"{program}\n{result.stdout}\n{result.stderr}"


def test_every_program_is_run():
    text = (ROOT / "docs/python.md").read_text()
    assert len(PROGRAMS) == text.count("```python") > 4 and {place for place, _ in PROGRAMS} == {"native", "linux", "agent"}


@pytest.mark.parametrize("program", programs("native"))
def test_native(program, tmp_path):
    """The guest waits instead of running Linux."""
    wait = '''"boot_args": "console=ttyS0 mayfly.test='wait x'"}'''
    program = program.replace('"kernel_image_path": "build/kernel/vmlinux-up"}', f'"kernel_image_path": "{artifact(GUEST)}", {wait}')
    program = program.replace('"kernel_image_path": "/vmlinux"}', f'"kernel_image_path": "/vmlinux", {wait}').replace("build/kernel/vmlinux-up", str(artifact(GUEST)))
    run(program, tmp_path)


@pytest.mark.linux
@pytest.mark.parametrize("program", programs("linux", *(["agent"] if HAS_AGENT else [])))
def test_linux(program, tmp_path):
    run(program, tmp_path)
