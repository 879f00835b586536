"""CPU templates: what a guest's CPUID says of a changed bit, and what is said when the host cannot do it."""

import re

import pytest

from harness import BAD_CONFIG, PATIENCE, artifact, machine
from linux_guest import UP, said
from linux_guest import run as run_linux

STEPPING = 0b1010
CX16 = 1 << 13
APIC_ID = 0xff << 24
# Leaf 1: the stepping set, CMPXCHG16B hidden, and an APIC id that is not the template's to say.
TEMPLATE = {
    "cpuid_modifiers": [{
        "leaf": "0x1", "subleaf": "0b0", "flags": 0,
        "modifiers": [{"register": "eax", "bitmap": f"0b{STEPPING:04b}"}, {"register": "ecx", "bitmap": "0b0x_xxxx_xxxx_xxxx"},
                      {"register": "ebx", "bitmap": "0b" + "1" * 8 + "x" * 24}],
    }],
    "kvm_capabilities": ["!11", "0", "121"],  # 121: KVM_CAP_SPLIT_IRQCHIP, without which nothing starts; 0 is KVM_CAP_IRQCHIP
}


def configure(template=None, script="cpuid 1 0; cpuid 0 0", **machine_config):
    config = machine(artifact("tests/guest/guest.elf"), f"console=ttyS0 mayfly.test='{script}'", mem_mib=32)
    config["machine-config"].update(machine_config)
    if template is not None:
        config["cpu-config"] = template
    return config


def cpuid(text, leaf):
    """{register: value} as the guest printed it."""
    match = re.search(rf"^cpuid {leaf:#x} 0x0: (.*)$", text.replace("\r", ""), re.M)
    assert match, text
    return {name: int(value, 16) for name, value in (pair.split("=") for pair in match.group(1).split())}


def seen(vmm, config, leaf=1):
    outcome = vmm.run(config)
    assert outcome.code == 0, outcome.out + outcome.err
    return cpuid(outcome.out, leaf)


def is_changed(got, before):
    assert before["ecx"] & CX16 and before["eax"] & 0xf != STEPPING  # else there would be nothing to see
    assert got["eax"] == before["eax"] & ~0xf | STEPPING
    assert got["ecx"] == before["ecx"] & ~CX16
    assert got["ebx"] == before["ebx"] and not got["ebx"] & APIC_ID
    assert got["edx"] == before["edx"]


def test_guest_sees_it(mayfly):
    is_changed(seen(mayfly, configure(TEMPLATE)), seen(mayfly, configure()))


def test_file_of_its_own(release):
    path = release.config_file(TEMPLATE, "template.json")
    is_changed(seen(release, configure(str(path))), seen(release, configure()))


def test_by_api(mayfly):
    """Put, replaced, shown, and what GET /vm/config answers taken as a file: the same guest."""
    before = seen(mayfly, configure())
    running, api = mayfly.start_api()
    config = configure()
    assert api.request("GET", "/cpu-config").status == 404
    api.put_cpu_config({"msr_modifiers": [{"addr": "0xdeadbeef", "bitmap": "0b1"}]})
    api.put_cpu_config(TEMPLATE)
    assert api.cpu_config()["kvm_capabilities"] == TEMPLATE["kvm_capabilities"]
    api.put_boot_source(config["boot-source"])
    api.put_machine_config(config["machine-config"])
    whole = api.get("/vm/config")
    assert whole["cpu-config"] == api.cpu_config() and "cpu_template" not in whole["machine-config"]
    api.start()
    running.expect(rb"guest: 2 steps, 0 failed")
    outcome = running.wait(PATIENCE)
    is_changed(cpuid(outcome.out, 1), before)
    is_changed(seen(mayfly, whole), before)


def test_not_after_boot(release):
    _, api = release.start_api()
    config = configure(script="print READY; idle")
    api.put_boot_source(config["boot-source"])
    api.start()
    answer = api.request("PUT", "/cpu-config", TEMPLATE)
    assert answer.status == 400 and "after starting" in answer.fault_message()


def test_the_last_template_counts(release):
    """As in Firecracker: a custom one and one by name take each other's place."""
    _, api = release.start_api()
    plain = {"vcpu_count": 1, "mem_size_mib": 32}
    api.put_machine_config({**plain, "cpu_template": "T2"})
    api.put_cpu_config(TEMPLATE)
    assert "cpu_template" not in api.machine_config() and api.request("GET", "/cpu-config").status == 200
    api.put_machine_config(plain)
    api.patch_machine_config({"smt": True})
    assert api.request("GET", "/cpu-config").status == 200
    api.patch_machine_config({"cpu_template": "T2CL"})
    assert api.machine_config()["cpu_template"] == "T2CL" and api.request("GET", "/cpu-config").status == 404
    api.patch_machine_config({"mem_size_mib": 64})
    assert api.machine_config()["cpu_template"] == "T2CL"
    api.put_cpu_config({})
    assert "cpu_template" not in api.machine_config()
    api.patch_machine_config({"cpu_template": "None"})
    assert api.request("GET", "/cpu-config").status == 404


@pytest.mark.parametrize("template,sentence", [
    ({"cpuid_modifiers": [{"leaf": "0x7", "subleaf": "0x99", "flags": 1, "modifiers": [{"register": "ecx", "bitmap": "0b1"}]}]},
     "cpu-config: CPUID leaf 0x7, subleaf 0x99, register ecx: KVM offers no such leaf on this host"),
    ({"msr_modifiers": [{"addr": "0xdeadbeef", "bitmap": "0b1"}]}, "cpu-config: MSR 0xdeadbeef: this host's KVM does not know it"),
    # MTRR default type: its reserved bits are refused by every KVM.
    ({"msr_modifiers": [{"addr": "0x2ff", "bitmap": "0b1" + "x" * 63}]}, "cpu-config: MSR 0x2ff: this host's KVM does not take the value 0x8"),
    ({"kvm_capabilities": ["1000000"]}, "cpu-config.kvm_capabilities[0]: this host's KVM lacks capability 1000000"),
], ids=["leaf", "msr", "msr-value", "capability"])
def test_host_cannot(mayfly, template, sentence):
    outcome = mayfly.run(configure(template))
    assert outcome.code == BAD_CONFIG and len(outcome.lines()) == 1, outcome.err
    assert sentence in outcome.err


def test_start_again_without(release):
    """A start that a template made fail leaves nothing of it behind."""
    before = seen(release, configure())
    running, api = release.start_api()
    config = configure()
    api.put_boot_source(config["boot-source"])
    api.put_machine_config(config["machine-config"])
    api.put_cpu_config({**TEMPLATE, "msr_modifiers": [{"addr": "0xdeadbeef", "bitmap": "0b1"}]})
    answer = api.request("PUT", "/actions", {"action_type": "InstanceStart"})
    assert answer.status == 400 and "MSR 0xdeadbeef" in answer.fault_message()
    api.put_cpu_config({})
    api.start()
    assert cpuid(running.wait(PATIENCE).out, 1) == before


@pytest.mark.parametrize("name", ["C3", "T2", "T2S", "T2CL", "T2A"])
def test_by_name(mayfly, name):
    """Either this host's processor is one that the template is for, and the guest sees another, or a sentence says what it is."""
    config = configure(cpu_template=name)
    vendor = seen(mayfly, configure(), leaf=0)
    is_amd = vendor["ebx"] == int.from_bytes(b"Auth", "little")
    outcome = mayfly.run(config)
    if is_amd != (name == "T2A"):
        assert outcome.code == BAD_CONFIG
    if outcome.code == BAD_CONFIG:
        assert f'machine-config.cpu_template: "{name}" is for ' in outcome.err and "this host's processor is " in outcome.err
        assert ("AuthenticAMD" in outcome.err) == is_amd
    else:
        assert outcome.code == 0
        assert cpuid(outcome.out, 1)["eax"] & 0x0fff0fff in (0x306e4, 0x306f2)


LOOK = """
echo "flags=$(sed -n 's/^flags.*: //p' /proc/cpuinfo)"
echo "stepping=$(sed -n 's/^stepping.*: //p' /proc/cpuinfo)"
"""


@pytest.mark.linux
def test_linux_sees_it(release):
    """The flags of /proc/cpuinfo, with and without a template: what is masked is gone, and nothing else."""
    masked = {"movbe", "popcnt"}  # leaf 1, ECX, bits 22 and 23
    template = {"cpuid_modifiers": [{"leaf": "0x1", "subleaf": "0x0", "flags": 0, "modifiers": [
        {"register": "ecx", "bitmap": "0b00" + "x" * 22}, {"register": "eax", "bitmap": "0b1101"}]}]}
    before = run_linux(release, LOOK, kernel=UP)
    after = run_linux(release, LOOK, kernel=UP, **{"cpu-config": template})
    had, has = set(said(before, "flags").split()), set(said(after, "flags").split())
    assert masked <= had and has == had - masked
    assert int(said(after, "stepping")) == 0b1101 != int(said(before, "stepping"))
