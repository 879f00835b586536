"""Firecracker's docs/getting-started.md, line by line, with nothing but the program swapped."""

import re
import shutil
import subprocess

import pytest

import contract
from harness import PATIENCE, artifact
from linux_guest import SMP

# The shell commands of "Starting Firecracker" from the log file on, as the page has them; ${TAP_DEV} is made by the test.
CONFIGURE = r"""
set -eu
LOGFILE="./firecracker.log"

# Set log file
curl -X PUT --unix-socket "${API_SOCKET}" \
    --data "{
        \"log_path\": \"${LOGFILE}\",
        \"level\": \"Debug\",
        \"show_level\": true,
        \"show_log_origin\": true
    }" \
    "http://localhost/logger"

KERNEL="./$(ls vmlinux* | tail -1)"
KERNEL_BOOT_ARGS="console=ttyS0 reboot=k panic=1"

ARCH=$(uname -m)

if [ ${ARCH} = "aarch64" ]; then
    KERNEL_BOOT_ARGS="keep_bootcon ${KERNEL_BOOT_ARGS}"
fi

# Set boot source
curl -X PUT --unix-socket "${API_SOCKET}" \
    --data "{
        \"kernel_image_path\": \"${KERNEL}\",
        \"boot_args\": \"${KERNEL_BOOT_ARGS}\"
    }" \
    "http://localhost/boot-source"

ROOTFS="./$(ls *.ext4 | tail -1)"

# Set rootfs
curl -X PUT --unix-socket "${API_SOCKET}" \
    --data "{
        \"drive_id\": \"rootfs\",
        \"path_on_host\": \"${ROOTFS}\",
        \"is_root_device\": true,
        \"is_read_only\": false
    }" \
    "http://localhost/drives/rootfs"

FC_MAC="06:00:AC:10:00:02"

# Set network interface
curl -X PUT --unix-socket "${API_SOCKET}" \
    --data "{
        \"iface_id\": \"net1\",
        \"guest_mac\": \"$FC_MAC\",
        \"host_dev_name\": \"$TAP_DEV\"
    }" \
    "http://localhost/network-interfaces/net1"
"""

START = r"""
# Start microVM
curl -X PUT --unix-socket "${API_SOCKET}" \
    --data "{
        \"action_type\": \"InstanceStart\"
    }" \
    "http://localhost/actions"
"""


def shell(script, directory, api_sock):
    """Run the page's commands where it would have run them; every answer must be 204, which prints nothing."""
    env = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "API_SOCKET": str(api_sock), "TAP_DEV": "tap0"}
    done = subprocess.run(["bash", "-c", script.replace("curl ", "curl -sS ")], cwd=directory, env=env, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", ""), done


@pytest.fixture
def files(mayfly):
    """What the page downloads: a kernel and a root file system that may be written."""
    (mayfly.directory / "vmlinux-6.1").symlink_to(artifact(SMP))
    shutil.copy(artifact("images/rootfs.ext4"), mayfly.directory / "ubuntu-24.04.ext4")
    return mayfly.directory


def is_configured(api):
    assert api.get("/boot-source") == {"kernel_image_path": "./vmlinux-6.1", "boot_args": "console=ttyS0 reboot=k panic=1", "initrd_path": None}
    assert contract.covers(api.drive("rootfs"), {"path_on_host": "./ubuntu-24.04.ext4", "is_root_device": True})
    assert api.network_interface("net1")["guest_mac"] == "06:00:ac:10:00:02"
    assert contract.covers(api.logger(), {"level": "Debug", "log_path": "./firecracker.log", "show_level": True, "show_log_origin": True})


def test_configure(mayfly, files):
    """Everything up to InstanceStart."""
    _, api = mayfly.start_api()
    shell(CONFIGURE, files, api.api_sock)
    is_configured(api)
    log = (files / "firecracker.log").read_text()
    assert re.search(r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9} \[anonymous-instance:\w+:\w+:.+\] .*/boot-source", log, re.M), log


def test_pci_is_named_as_what_is_different(mayfly):
    """The page's one option that is refused: it has to go, and the message says why."""
    outcome = mayfly.run(args=["--api-sock", "x.socket", "--enable-pci"], cwd=mayfly.directory)
    assert outcome.code != 0 and "--enable-pci" in outcome.err and "by design" in outcome.err


def test_config_file_and_api(mayfly):
    """“Configuring the microVM without sending API requests”: the file starts it, the socket answers afterwards."""
    guest = {"boot-source": {"kernel_image_path": str(artifact("tests/guest/guest.elf")), "boot_args": "console=ttyS0 mayfly.test='print READY; idle'"},
             "drives": []}
    running, api = mayfly.start_api(["--config-file", str(mayfly.config_file(guest))])
    running.expect(b"READY")
    assert api.instance()["state"] == "Running"
    answer = api.request("PUT", "/boot-source", {"kernel_image_path": "x"})
    assert answer.status == 400 and "after starting" in answer.fault_message()
    api.pause()
    assert api.instance()["state"] == "Paused"


@pytest.mark.linux
def test_whole_page(mayfly, files):
    """From nothing to a Linux guest that is reachable over its TAP, and whose `reboot` ends the process."""
    # A network of its own: the TAP's name is the page's, and must not meet another.
    ready = ("ip tuntap add dev tap0 mode tap && ip addr add 172.16.0.1/30 dev tap0 && ip link set dev tap0 up && "
             'exec "$0" "$@"')
    running, api = mayfly.start_api(wrapper=["unshare", "--net", "bash", "-c", ready], stdin=subprocess.PIPE)
    shell(CONFIGURE, files, api.api_sock)
    is_configured(api)
    shell(START, files, api.api_sock)
    running.expect(rb"mayfly-init: Linux")
    running.expect(rb"[#$] ?(\x1b\[6n)?$")
    # What fcnet-setup.sh in the page's image does: the address is in the MAC.
    running.send(b"ip addr add 172.16.0.2/30 dev eth0 && ip link set eth0 up && echo u''p\n")
    running.expect(rb"\nup\r?\n")
    net = ["nsenter", f"--net=/proc/{running.pid}/ns/net"]
    done = subprocess.run([*net, "ping", "-c", "3", "-w", str(PATIENCE), "172.16.0.2"], capture_output=True, text=True, timeout=2 * PATIENCE, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    running.send(b"reboot -f\n")
    assert running.wait().code == 0
