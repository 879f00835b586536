"""The virtual machine monitors that are compared: where each one is, and the command line that runs one microVM."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple, Optional

BOOT_ARGS = "console=ttyS0 quiet reboot=k panic=-1"
GUEST_MAC = "06:00:ac:10:00:02"


class Machine(NamedTuple):
    """One microVM: one vCPU, a kernel, a serial port on stdin and stdout, and perhaps a read-only root disk."""

    kernel: Path
    boot_args: str = BOOT_ARGS
    disk: Optional[Path] = None
    more_disks: tuple = ()  # others, not for a Linux guest's root; only where there is a configuration file
    tap: Optional[str] = None  # the name of a TAP
    vsock: Optional[Path] = None  # where the Unix socket in front of the guest's vsock is made
    api: Optional[Path] = None  # where the API's socket is made; None: no API
    mem_mib: int = 128
    resets: bool = False  # the guest asks the i8042 for a reset; where there is a choice, others do without that device
    virtio_1: bool = False  # the guest does not know the interface before virtio 1.0, which is QEMU's default on virtio-mmio
    clock: bool = False  # the kernel expects a CMOS clock


def output_of(*command):
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", timeout=20, check=False)
    return done.stdout + done.stderr


def shared_libraries(binary):
    """Paths of the libraries a dynamic program loads, its interpreter included; empty for a static one."""
    found = subprocess.run(["ldd", str(binary)], capture_output=True, text=True, check=False)
    if found.returncode:
        return []
    return sorted(set(re.findall(r"(/\S+) \(0x", found.stdout)))


class Monitor:
    """A program that runs microVMs. Subclasses say how."""

    boots_elf = True  # an uncompressed vmlinux, and so the test guest
    boots_tuned = False  # and Mayfly's own kernels, which have neither PCI nor ACPI
    linux_args = ""  # what its own documentation, or else experience, adds for the quickest boot of a general kernel

    def __init__(self, name, binary):
        self.name = name
        self.binary = Path(binary).resolve()

    def command(self, machine, folder, place=lambda path: path):
        """The arguments for one run. Files it needs are written to folder; place() maps a path to where it is at run time."""
        raise NotImplementedError

    def prefix(self, place):
        """How the program itself is started."""
        return [str(place(self.binary))]

    def size(self):
        return self.binary.stat().st_size

    def files(self):
        """What has to be in memory for a run that does not wait for a disk."""
        return [self.binary]


class Mayfly(Monitor):
    def __init__(self, binary):
        super().__init__(f"mayfly {self.version(binary)}", binary)

    @staticmethod
    def version(binary):
        said = output_of(str(binary), "--version")
        found = re.search(r"Mayfly v([\d.]+)", said) or re.search(r"(\d+\.\d+\S*)", said)
        return found.group(1) if found else "?"

    def config(self, machine, place):
        config = {
            "boot-source": {"kernel_image_path": str(place(machine.kernel)), "boot_args": machine.boot_args},
            "machine-config": {"vcpu_count": 1, "mem_size_mib": machine.mem_mib},
            "drives": [],
        }
        if machine.disk:
            config["drives"].append({
                "drive_id": "rootfs",
                "path_on_host": str(place(machine.disk)),
                "is_root_device": True,
                "is_read_only": True,
            })
        for i, disk in enumerate(machine.more_disks):
            config["drives"].append({"drive_id": f"disk{i}", "path_on_host": str(place(disk)), "is_root_device": False, "is_read_only": False})
        if machine.tap:
            config["network-interfaces"] = [{"iface_id": "net", "host_dev_name": machine.tap, "guest_mac": GUEST_MAC}]
        if machine.vsock:
            config["vsock"] = {"guest_cid": 3, "uds_path": str(machine.vsock)}
        return config

    def options(self):
        return []

    def api_command(self, *options):
        """A monitor without a configuration; options say where its API listens."""
        return [str(self.binary), *self.options(), *options]

    def api_calls(self, machine):
        """The PUT requests that describe a machine and start it, as (path, body)."""
        config = self.config(machine, lambda path: path)
        calls = [("/machine-config", config["machine-config"]), ("/boot-source", config["boot-source"])]
        calls += [(f"/drives/{drive['drive_id']}", drive) for drive in config["drives"]]
        return [*calls, ("/actions", {"action_type": "InstanceStart"})]

    def command(self, machine, folder, place=lambda path: path):
        path = Path(folder) / f"{self.name.split()[0]}-{machine.kernel.name}.json"
        path.write_text(json.dumps(self.config(machine, place), indent=2) + "\n", encoding="utf-8")
        api = ["--api-sock", str(machine.api)] if machine.api else ["--no-api"]
        return [*self.prefix(place), *api, *self.options(), "--config-file", str(place(path))]


class Firecracker(Mayfly):
    boots_tuned = True
    linux_args = "pci=off i8042.noaux i8042.nomux i8042.nopnp i8042.dumbkbd"

    def __init__(self, binary, seccomp=True):
        super().__init__(binary)
        self.number = tuple(int(n) for n in re.findall(r"\d+", self.version(binary))[:2])
        self.seccomp = seccomp
        self.name = f"firecracker {self.version(binary)}" + ("" if seccomp else ", no seccomp")

    def config(self, machine, place):
        config = super().config(machine, place)
        if self.number < (1, 0):
            config["machine-config"]["ht_enabled"] = False
            if "vsock" in config:
                config["vsock"]["vsock_id"] = "vsock"
        return config

    def options(self):
        if self.seccomp:
            return []
        return ["--no-seccomp"] if self.number >= (1, 0) else ["--seccomp-level", "0"]


class Qemu(Monitor):
    """QEMU's microvm, with all that a Linux guest can do without switched off."""

    boots_tuned = True
    linux_args = "pci=off"

    def __init__(self, binary, aio=None, iothread=False):
        """aio: how it reads disks, None for its default; iothread: whether on a thread of their own."""
        found = re.search(r"version (\d+\.\d+\.\d+)", output_of(str(binary), "--version"))
        how = (f", {aio}" if aio else "") + (", iothread" if iothread else "")
        super().__init__(f"qemu microvm {found.group(1) if found else '?'}{how}", binary)
        self.aio, self.iothread = aio, iothread
        share = Path("/usr/share/qemu")
        self.firmware = [p for p in (share / "qboot.rom", share / "bios-microvm.bin", share / "pvh.bin", share / "linuxboot_dma.bin") if p.exists()]
        self.libraries = [Path(p) for p in shared_libraries(self.binary)]

    def prefix(self, place):
        if place(self.binary) == self.binary:
            return [str(self.binary)]
        # Copied elsewhere: its libraries and firmware lie beside it.
        loader = next(p for p in self.libraries if p.name.startswith("ld-linux"))
        folder = str(Path(place(loader)).parent)
        return [str(place(loader)), "--library-path", folder, str(place(self.binary)), "-L", folder]

    def command(self, machine, folder, place=lambda path: path):
        # Without ACPI its tables need not be made and read (22 M instructions fewer); a general kernel without a clock
        # to read waits a second for it.
        rtc = "on" if machine.clock else "off"
        command = [
            *self.prefix(place),
            "-M", f"microvm,x-option-roms=off,pit=off,pic=off,rtc={rtc},isa-serial=on,auto-kernel-cmdline=on,acpi=off",
            # Some nested hosts let nobody write the MSR behind this feature.
            "-accel", "kvm", "-cpu", "host,-arch-capabilities", "-m", str(machine.mem_mib),
            "-nodefaults", "-no-user-config", "-nographic", "-serial", "stdio", "-no-reboot",
            "-kernel", str(place(machine.kernel)),
        ]  # fmt: skip
        if machine.resets:
            command += ["-device", "i8042"]
        boot_args = machine.boot_args
        if machine.disk:
            how = f",aio={self.aio}" if self.aio else ""
            command += ["-drive", f"if=none,id=disk,file={place(machine.disk)},format=raw,readonly=on{how}"]
            command += ["-object", "iothread,id=io"] if self.iothread else []
            command += ["-device", "virtio-blk-device,drive=disk" + (",iothread=io" if self.iothread else "")]
            boot_args += " root=/dev/vda ro"
        if machine.virtio_1:
            command += ["-global", "virtio-mmio.force-legacy=false"]
        if machine.tap:
            command += ["-netdev", f"tap,id=net,ifname={machine.tap},script=no,downscript=no,vhost=off"]
            command += ["-device", f"virtio-net-device,netdev=net,mac={GUEST_MAC}"]
        return [*command, "-append", boot_args]

    def size(self):
        return super().size() + sum(p.resolve().stat().st_size for p in self.libraries + self.firmware)

    def files(self):
        return [self.binary, *self.libraries, *self.firmware]


class Kvmtool(Monitor):
    """lkvm takes a bzImage only."""

    boots_elf = False

    def __init__(self, binary):
        found = re.search(r"(\d+\.\S+)", output_of(str(binary), "version"))
        super().__init__(f"kvmtool {found.group(1) if found else ''}".strip(), binary)
        self.libraries = [Path(p) for p in shared_libraries(self.binary)]

    def command(self, machine, folder, place=lambda path: path):
        command = [*self.prefix(place), "run", "--kernel", str(place(machine.kernel)), "--cpus", "1", "--mem", str(machine.mem_mib)]
        command += ["--network", "mode=none", "--console", "serial"]
        boot_args = machine.boot_args
        if machine.disk:
            command += ["--disk", f"{place(machine.disk)},ro"]
            boot_args += " root=/dev/vda ro"
        return [*command, "--params", boot_args]

    def files(self):
        return [self.binary, *self.libraries]


class CloudHypervisor(Monitor):
    def __init__(self, binary):
        found = re.search(r"v?(\d+\.\S+)", output_of(str(binary), "--version"))
        super().__init__(f"cloud-hypervisor {found.group(1) if found else ''}".strip(), binary)

    def command(self, machine, folder, place=lambda path: path):
        command = [*self.prefix(place), "--kernel", str(place(machine.kernel)), "--cpus", "boot=1"]
        command += ["--memory", f"size={machine.mem_mib}M", "--serial", "tty", "--console", "off"]
        boot_args = machine.boot_args
        if machine.disk:
            command += ["--disk", f"path={place(machine.disk)},readonly=on"]
            boot_args += " root=/dev/vda ro"
        return [*command, "--cmdline", boot_args]


class Floor(Monitor):
    """tests/bench/floor.c: no monitor, only the KVM calls that each of them makes."""

    def __init__(self, binary):
        super().__init__("bare KVM calls", binary)

    def command(self, machine, folder, place=lambda path: path):
        return self.prefix(place)


def find_monitors(build):
    """Mayfly first, then the peers that are there. A path that was given and does not work is an error."""
    found = [Mayfly(build / "mayfly")]
    given = (("FIRECRACKER", Firecracker), ("KVMTOOL", Kvmtool), ("CLOUD_HYPERVISOR", CloudHypervisor))
    for variable, kind in given:
        path = os.environ.get(variable)
        if not path:
            continue
        if not os.access(path, os.X_OK):
            raise FileNotFoundError(f"{variable}={path}: no such program")
        found.append(kind(path))
        if kind is Firecracker:
            found.append(Firecracker(path, seccomp=False))
    qemu = shutil.which(os.environ.get("QEMU", "qemu-system-x86_64"))
    if not qemu:
        raise FileNotFoundError("qemu-system-x86_64 is missing (Debian package: qemu-system-x86); `make deps` installs it")
    found.append(Qemu(qemu))
    return found
