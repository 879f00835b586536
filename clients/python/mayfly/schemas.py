"""What requests and answers of the API hold: one TypedDict for each object of api-server/openapi.yaml, of the same name."""

from __future__ import annotations

from typing import Any, Dict, List, Optional, TypedDict, Union

# Types are spelled so that Python 3.9 can evaluate them, too.


# ---- what is sent ----

class TokenBucket(TypedDict, total=False):
    size: int
    one_time_burst: int
    refill_time: int


class RateLimiter(TypedDict, total=False):
    bandwidth: TokenBucket
    ops: TokenBucket


class BootSource(TypedDict, total=False):
    kernel_image_path: str
    initrd_path: str
    boot_args: str


class MachineConfig(TypedDict, total=False):
    vcpu_count: int
    mem_size_mib: int
    smt: bool
    cpu_template: str
    track_dirty_pages: bool
    huge_pages: str


class MachineConfigUpdate(TypedDict, total=False):
    vcpu_count: int
    mem_size_mib: int
    smt: bool
    cpu_template: str
    track_dirty_pages: bool
    huge_pages: str


class CpuidRegister(TypedDict, total=False):
    register: str
    bitmap: str


class CpuidLeaf(TypedDict, total=False):
    leaf: str
    subleaf: str
    flags: int
    modifiers: List[CpuidRegister]


class Msr(TypedDict, total=False):
    addr: str
    bitmap: str


class CpuConfig(TypedDict, total=False):
    kvm_capabilities: List[str]
    cpuid_modifiers: List[CpuidLeaf]
    msr_modifiers: List[Msr]


class Drive(TypedDict, total=False):
    drive_id: str
    path_on_host: str
    overlay_path: str
    is_root_device: bool
    is_read_only: bool
    partuuid: str
    cache_type: str
    io_engine: str
    rate_limiter: RateLimiter
    socket: None


class DriveUpdate(TypedDict, total=False):
    drive_id: str
    path_on_host: str
    rate_limiter: RateLimiter


class EgressRule(TypedDict, total=False):
    cidr: str
    protocol: str
    port: Union[int, str]


class Egress(TypedDict, total=False):
    anti_spoof: bool
    addresses: List[str]
    block_link_local: bool
    default: str
    allow: List[EgressRule]


class NetworkInterface(TypedDict, total=False):
    iface_id: str
    host_dev_name: str
    guest_mac: str
    mtu: int
    rx_rate_limiter: RateLimiter
    tx_rate_limiter: RateLimiter
    egress: Egress


class NetworkInterfaceUpdate(TypedDict, total=False):
    iface_id: str
    rx_rate_limiter: RateLimiter
    tx_rate_limiter: RateLimiter
    egress: Egress


class Vsock(TypedDict, total=False):
    guest_cid: int
    uds_path: str
    vsock_id: str


MmdsData = Dict[str, Any]


class MmdsConfig(TypedDict, total=False):
    network_interfaces: List[str]
    version: str
    ipv4_address: str
    imds_compat: bool


class Logger(TypedDict, total=False):
    log_path: str
    level: str
    show_level: bool
    show_log_origin: bool
    module: str


class Metrics(TypedDict, total=False):
    metrics_path: str
    emit_id: bool
    properties: Dict[str, str]


class Serial(TypedDict, total=False):
    serial_out_path: str
    serial_socket_path: str
    rate_limiter: TokenBucket


class VmState(TypedDict, total=False):
    state: str


class Action(TypedDict, total=False):
    action_type: str


class SnapshotCreate(TypedDict, total=False):
    snapshot_path: str
    mem_file_path: str
    snapshot_type: str
    background: bool
    version: None


class MemoryBackend(TypedDict, total=False):
    backend_type: str
    backend_path: str


class NetworkOverride(TypedDict, total=False):
    iface_id: str
    host_dev_name: str
    guest_mac: str
    rx_rate_limiter: RateLimiter
    tx_rate_limiter: RateLimiter
    egress: Egress


class DriveOverride(TypedDict, total=False):
    drive_id: str
    path_on_host: str
    overlay_path: str
    rate_limiter: RateLimiter


class VsockOverride(TypedDict, total=False):
    uds_path: str
    guest_cid: int


class SerialOverride(TypedDict, total=False):
    serial_out_path: str
    serial_socket_path: str
    rate_limiter: TokenBucket


class Overrides(TypedDict, total=False):
    """What may be different in whoever goes on from a microVM: in a load, in a copy, and in --override."""
    network_overrides: List[NetworkOverride]
    drive_overrides: List[DriveOverride]
    vsock_override: VsockOverride
    serial_override: SerialOverride
    mmds: MmdsData
    track_dirty_pages: bool
    clock_realtime: bool


class SnapshotLoad(Overrides, total=False):
    snapshot_path: str
    mem_backend: MemoryBackend
    mem_file_path: str
    resume_vm: bool
    enable_diff_snapshots: bool
    record_working_set: bool
    huge_pages: str


class Copy(Overrides, total=False):
    """One copy of PUT /fork."""
    id: str
    api_sock: str
    resume_vm: bool


class Fork(TypedDict, total=False):
    copies: List[Copy]


# ---- what comes back ----

class Vcpu(TypedDict, total=False):
    index: int
    state: str


class Jail(TypedDict, total=False):
    no_new_privs: bool
    dumpable: bool
    core_limit: int
    capabilities: str
    landlock: Optional[int]
    seccomp: str


class Instance(TypedDict, total=False):
    id: str
    state: str
    vmm_version: str
    mayfly_version: str
    app_name: str
    uptime_us: int
    vcpus: List[Vcpu]
    last_stop: Optional[str]
    jail: Jail


class Version(TypedDict, total=False):
    firecracker_version: str
    mayfly_version: str


class Sent(TypedDict, total=False):
    rounds: int
    bytes: int
    downtime_us: int


class ForkedCopy(TypedDict, total=False):
    id: str
    pid: int
    api_sock: str


class Forked(TypedDict, total=False):
    copies: List[ForkedCopy]


class Event(TypedDict, total=False):
    """Every event has these; further fields depend on the event: read them with event.get()."""
    event: str
    seq: int
    uptime_us: int


Config = TypedDict("Config", {
    "boot-source": Optional[BootSource],
    "machine-config": MachineConfig,
    "cpu-config": Optional[CpuConfig],
    "drives": List[Drive],
    "network-interfaces": List[NetworkInterface],
    "vsock": Optional[Vsock],
    "mmds-config": Optional[MmdsConfig],
    "logger": Optional[Logger],
    "metrics": Optional[Metrics],
    "serial": Optional[Serial],
    "balloon": None,
    "entropy": None,
    "memory-hotplug": None,
    "pmem": List[Any],
}, total=False)
