"""What a kubelet does for its pods: asks containerd's CRI plugin by gRPC, in the words of cri.proto."""

import importlib.util
import json
import re
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path

import grpc

from engines import IMAGE, Containerd
from harness import PATIENCE

HERE = Path(__file__).parent
# What a kubelet says for every container.
MASKED = ["/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug", "/proc/scsi",
          "/sys/firmware", "/sys/devices/virtual/powercap"]
READ_ONLY = ["/proc/asound", "/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]
OWN_PROCESSES = {"pid": 1}  # a kubelet's default, though not the protocol's
NETWORK = {"cniVersion": "1.0.0", "name": "pods", "plugins": [{
    "type": "bridge", "bridge": "pods0", "isGateway": True,
    "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.77.7.0/24"}]], "routes": [{"dst": "0.0.0.0/0"}]}}]}


def _messages(directory):
    """cri.proto as a Python module."""
    subprocess.run(["protoc", f"--proto_path={HERE}", f"--python_out={directory}", "cri.proto"], check=True, timeout=PATIENCE)
    spec = importlib.util.spec_from_file_location("cri_pb2", Path(directory) / "cri_pb2.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Kubelet(Containerd):
    """containerd with its CRI plugin, the runtime as class `mayfly`, and a bridge for pods; networks is a folder for its configuration."""

    def __init__(self, directory, runtime, networks):
        (Path(networks) / "pods.conflist").write_text(json.dumps(NETWORK))
        self.messages = _messages(networks)
        super().__init__(directory, disabled=(), settings=f"""
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{IMAGE}"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "{networks}"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    default_runtime_name = "mayfly"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.mayfly]
    runtime_type = "io.containerd.runc.v2"
    pod_annotations = ["org.mayfly.*"]
    container_annotations = ["org.mayfly.*"]
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.mayfly.options]
      BinaryName = "{runtime}"
""")
        self.channel = grpc.insecure_channel(f"unix:{self.socket}")

    def command(self, *words):
        return super().command("--namespace", "k8s.io", *words)

    def call(self, method, **fields):
        """One call of the RuntimeService; what is refused is a grpc.RpcError."""
        request, answer = (getattr(self.messages, method + kind) for kind in ("Request", "Response"))
        ask = self.channel.unary_unary(f"/runtime.v1.RuntimeService/{method}", request.SerializeToString, answer.FromString)
        return ask(request(**fields), timeout=4 * PATIENCE)

    @contextmanager
    def pod(self, name, **options):
        """A Pod, which is stopped and removed at the end."""
        pod = Pod(self, name, **options)
        try:
            yield pod
        finally:
            self.call("StopPodSandbox", pod_sandbox_id=pod.id)
            self.call("RemovePodSandbox", pod_sandbox_id=pod.id)

    def close(self):
        self.channel.close()
        super().close()


class Pod:
    """One pod and its containers, which are known by their ids."""

    def __init__(self, kubelet, name, sysctls=None, annotations=None, namespaces=None):
        self.kubelet = kubelet
        self.logs = kubelet.directory / "logs" / name
        self.logs.mkdir(parents=True)
        self.config = {"metadata": {"name": name, "uid": f"uid-{name}", "namespace": "default"}, "hostname": name, "log_directory": str(self.logs),
                       "dns_config": {"servers": ["10.77.7.1"], "searches": ["default.svc.cluster.local"]}, "annotations": annotations or {},
                       "linux": {"cgroup_parent": "/kubepods", "sysctls": sysctls or {},
                                 "security_context": {"namespace_options": {**OWN_PROCESSES, **(namespaces or {})}}}}
        self.id = kubelet.call("RunPodSandbox", config=self.config, runtime_handler="mayfly").pod_sandbox_id
        self.address = kubelet.call("PodSandboxStatus", pod_sandbox_id=self.id).status.network.ip

    def create(self, name, *command, memory=96 << 20, mounts=()):
        """A container that was created; mounts are (path inside, path of the host, read-only)."""
        security = {"namespace_options": OWN_PROCESSES, "masked_paths": MASKED, "readonly_paths": READ_ONLY}
        config = {"metadata": {"name": name}, "image": {"image": IMAGE}, "command": command, "envs": [{"key": "A", "value": b"b"}], "log_path": f"{name}.log",
                  "mounts": [{"container_path": inside, "host_path": str(path), "readonly": read_only} for inside, path, read_only in mounts],
                  "linux": {"resources": {"cpu_period": 100000, "cpu_quota": 100000, "memory_limit_in_bytes": memory}, "security_context": security}}
        return self.kubelet.call("CreateContainer", pod_sandbox_id=self.id, config=config, sandbox_config=self.config).container_id

    def run(self, name, *command, **options):
        """A container that was started, too."""
        container = self.create(name, *command, **options)
        self.kubelet.call("StartContainer", container_id=container)
        return container

    def status(self, container):
        return self.kubelet.call("ContainerStatus", container_id=container).status

    def wait(self, container):
        """Its exit status, once it has one."""
        deadline = time.monotonic() + 2 * PATIENCE
        while self.status(container).state != self.kubelet.messages.ContainerStatusResponse.EXITED:
            assert time.monotonic() < deadline, self.status(container)
            time.sleep(0.2)
        return self.status(container).exit_code

    def log(self, name):
        """What it wrote to both streams, without the log's own words before each line."""
        return re.sub(r"^\S+ std(?:out|err) F ", "", (self.logs / f"{name}.log").read_text(), flags=re.M)
