"""Configurations, disks and command lines that cannot work: one line that names the field and what is accepted, and the right code."""

import copy
import json
import os
import re
import threading

import pytest

from harness import BAD_ARGUMENTS, BAD_CONFIG, drive, machine, sparse
from images import reset_elf

BUCKET = {"size": 1000, "one_time_burst": 10, "refill_time": 100}
# Works on root's files although root may read everything otherwise: the sandbox of `as a normal user`.
NO_OVERRIDE = ("setpriv", "--bounding-set=-dac_override,-dac_read_search", "--")


def says(outcome, code, *patterns):
    """One line on standard error with all the patterns in it, nothing on standard output, that exit code."""
    lines = outcome.lines()
    assert len(lines) == 1 and lines[0].isprintable(), f"not one plain line: {outcome.err!r}"
    for pattern in patterns:
        assert re.search(pattern, lines[0]), f"no {pattern!r} in: {lines[0]}"
    assert outcome.code == code, f"exit status {outcome.code}: {lines[0]}"
    assert outcome.out == ""
    assert len(lines[0]) < 500


@pytest.fixture
def full(tmp_path, scratch):
    """A configuration that uses every key and works: the tests below each spoil one thing."""
    (tmp_path / "kernel").write_bytes(reset_elf())
    (tmp_path / "initrd").write_bytes(b"\0" * 5000)
    config = machine(
        tmp_path / "kernel", boot_args="console=ttyS0", initrd=tmp_path / "initrd",
        drives=[
            drive("root", scratch, is_root_device=True, is_read_only=True, partuuid="0eaa91a0-01", cache_type="Writeback",
                  io_engine="Sync", rate_limiter={"bandwidth": BUCKET, "ops": BUCKET}),
            drive("data", sparse(tmp_path / "data.img", 1 << 20)),
        ],
        logger={"log_path": str(tmp_path / "log"), "level": "Info", "show_level": True, "show_log_origin": True, "module": "vmm"},
        metrics={"metrics_path": str(tmp_path / "metrics")},
        serial={"serial_out_path": str(tmp_path / "console"), "rate_limiter": BUCKET},
    )
    config["machine-config"].update(smt=False, track_dirty_pages=False, huge_pages="None", cpu_template="None")
    return json.loads(json.dumps(config))  # four buckets, not one four times


def spoil(config, path, value):
    """A copy of config with value at path (a tuple of keys and indices)."""
    spoilt = copy.deepcopy(config)
    target = spoilt
    for key in path[:-1]:
        target = target[key]
    target[path[-1]] = value
    return spoilt


def name_of(path):
    """As error messages write it: drives[0].rate_limiter.ops.size"""
    return re.sub(r"\.\[", "[", ".".join(f"[{key}]" if isinstance(key, int) else key for key in path))


def test_full_configuration_works(mayfly, full):
    outcome = mayfly.run(full)
    assert (outcome.code, outcome.out, outcome.err) == (0, "", "")


def test_unspoilt_defaults_work(mayfly, full):
    minimal = {"boot-source": {"kernel_image_path": full["boot-source"]["kernel_image_path"]}, "drives": []}
    outcome = mayfly.run(minimal)
    assert (outcome.code, outcome.err) == (0, "")


# ---- wrong types, for every key ----

STRING, BOOL, UINT, OBJECT, LIST, CHOICE = "needs .*(path|text|letters)", "true or false", r"a whole number|an integer|number", "an object", "a list", "one of|\""
BUCKET_KEYS = [(("size",), UINT), (("one_time_burst",), UINT), (("refill_time",), UINT)]
KEYS = [
    (("boot-source",), OBJECT), (("boot-source", "kernel_image_path"), STRING), (("boot-source", "initrd_path"), STRING),
    (("boot-source", "boot_args"), STRING),
    (("machine-config",), OBJECT), (("machine-config", "vcpu_count"), UINT), (("machine-config", "mem_size_mib"), UINT),
    (("machine-config", "smt"), BOOL), (("machine-config", "track_dirty_pages"), BOOL), (("machine-config", "huge_pages"), CHOICE),
    (("machine-config", "cpu_template"), CHOICE),
    (("drives",), LIST), (("drives", 0), OBJECT), (("drives", 0, "drive_id"), STRING), (("drives", 0, "path_on_host"), STRING),
    (("drives", 0, "partuuid"), STRING), (("drives", 0, "is_root_device"), BOOL), (("drives", 0, "is_read_only"), BOOL),
    (("drives", 0, "cache_type"), CHOICE), (("drives", 0, "io_engine"), CHOICE),
    (("drives", 0, "rate_limiter"), OBJECT), (("drives", 0, "rate_limiter", "bandwidth"), OBJECT),
    (("drives", 0, "rate_limiter", "ops"), OBJECT), *((("drives", 0, "rate_limiter", "ops") + k, t) for k, t in BUCKET_KEYS),
    (("logger",), OBJECT), (("logger", "log_path"), STRING), (("logger", "level"), CHOICE), (("logger", "show_level"), BOOL),
    (("logger", "show_log_origin"), BOOL), (("logger", "module"), STRING),
    (("metrics",), OBJECT), (("metrics", "metrics_path"), STRING),
    (("serial",), OBJECT), (("serial", "serial_out_path"), STRING), (("serial", "rate_limiter"), OBJECT),
    *((("serial", "rate_limiter") + k, t) for k, t in BUCKET_KEYS),
]
VALUES = {"string": "two", "number": 7, "negative": -1, "real": 1.5, "true": True, "list": [1], "object": {"a": 1}}
FITS = {STRING: {"string"}, BOOL: {"true"}, UINT: {"number"}, OBJECT: set(), LIST: set(), CHOICE: set()}


@pytest.mark.parametrize("path,accepted", KEYS, ids=[name_of(k[0]) for k in KEYS])
def test_wrong_type(mayfly, full, path, accepted):
    for kind in VALUES.keys() - FITS[accepted]:
        value = VALUES[kind]
        if accepted == OBJECT and kind == "object" or accepted == LIST and kind == "list":
            continue  # the right type with wrong content: a case of its own
        says(mayfly.run(spoil(full, path, value)), BAD_CONFIG, re.escape(name_of(path)), accepted)


@pytest.mark.parametrize("path", [p for p, t in KEYS if t == OBJECT] + [()], ids=lambda p: name_of(p) or "top")
def test_unknown_key(mayfly, full, path):
    says(mayfly.run(spoil(full, (*path, "colour"), "red")), BAD_CONFIG, "colour", re.escape(name_of(path)))


@pytest.mark.parametrize("path", [
    ("drives", 0, "drive_id"), ("drives", 0, "path_on_host"), ("drives", 0, "is_root_device"), ("machine-config", "vcpu_count"),
    ("machine-config", "mem_size_mib"), ("metrics", "metrics_path"), ("serial", "rate_limiter", "size"),
    ("serial", "rate_limiter", "refill_time"),
], ids=name_of)
def test_missing_key(mayfly, full, path):
    target = full
    for key in path[:-1]:
        target = target[key]
    del target[path[-1]]
    says(mayfly.run(full), BAD_CONFIG, re.escape(name_of(path)))


# ---- values ----

# What no JSON reader holds as an integer is refused where it stands.
TOO_LARGE = r"config\.json:1:\d+: .*too large.*up to 9223372036854775807"

@pytest.mark.parametrize("value", ["", "none", "Fast\n", "x" * 5000])
@pytest.mark.parametrize("path,accepted", [
    (("machine-config", "huge_pages"), "None.*Transparent.*2M"), (("machine-config", "cpu_template"), "None"),
    (("drives", 0, "cache_type"), "Unsafe.*Writeback"), (("drives", 0, "io_engine"), "Sync.*Async"),
    (("logger", "level"), "Off.*Error.*Warn.*Info.*Debug"),
], ids=lambda v: name_of(v) if isinstance(v, tuple) else "")
def test_bad_choice(mayfly, full, path, accepted, value):
    says(mayfly.run(spoil(full, path, value)), BAD_CONFIG, re.escape(name_of(path)), accepted)


@pytest.mark.parametrize("value", [0, 33, 255, 2**32 + 1, 2**63, 2**64, 10**30])
def test_bad_vcpu_count(mayfly, full, value):
    says(mayfly.run(spoil(full, ("machine-config", "vcpu_count"), value)), BAD_CONFIG, TOO_LARGE if value >= 2**63 else r"machine-config\.vcpu_count: .*\b1\b.*\b32\b")


@pytest.mark.parametrize("mib", [0, 10 << 20, (4 << 20) + 1, 2**44, 2**63, 2**64])
def test_bad_memory_size(mayfly, full, mib):
    says(mayfly.run(spoil(full, ("machine-config", "mem_size_mib"), mib)), BAD_CONFIG, TOO_LARGE if mib >= 2**63 else r"machine-config\.mem_size_mib: .*\b1\b.*\b4194304\b")


def test_memory_too_small_for_the_kernel(mayfly, full):
    says(mayfly.run(spoil(full, ("machine-config", "mem_size_mib"), 1)), BAD_CONFIG, r"boot-source\.kernel_image_path|machine-config\.mem_size_mib")


def test_odd_memory_for_huge_pages(mayfly, full):
    full["machine-config"].update(mem_size_mib=129, huge_pages="2M")
    says(mayfly.run(full), BAD_CONFIG, r"machine-config\.mem_size_mib", "even")


@pytest.mark.parametrize("path", [
    ("boot-source", "kernel_image_path"), ("boot-source", "initrd_path"), ("boot-source", "boot_args"), ("drives", 0, "drive_id"),
    ("drives", 0, "path_on_host"), ("drives", 0, "partuuid"), ("drives", 0, "cache_type"), ("logger", "log_path"), ("logger", "level"),
    ("logger", "module"), ("metrics", "metrics_path"), ("serial", "serial_out_path"), ("machine-config", "cpu_template"),
], ids=name_of)
def test_nul_in_a_string(mayfly, full, path):
    value = full
    for key in path:
        value = value[key]
    says(mayfly.run(spoil(full, path, value + "\0tail")), BAD_CONFIG, re.escape(name_of(path)), "NUL|letters|printable|one of|None")


def test_nul_in_a_key(mayfly, full):
    says(mayfly.run(spoil(full, ("drives", 0, "drive_id\0x"), "a")), BAD_CONFIG, "NUL|drive_id|u0000|x00")


@pytest.mark.parametrize("path", [("boot-source", "kernel_image_path"), ("drives", 0, "path_on_host"), ("serial", "serial_out_path"),
                                  ("boot-source", "boot_args"), ("drives", 0, "drive_id"), ("logger", "log_path")], ids=name_of)
@pytest.mark.parametrize("value", ["", "/" + "a" * 5000, "/" + "\n\x1b[2J" * 3], ids=["empty", "long", "control"])
def test_strange_strings(mayfly, full, path, value):
    if path[-1] == "boot_args" and not value:
        return test_unspoilt_defaults_work(mayfly, full)  # no words for the kernel is a fine wish
    if path in (("serial", "serial_out_path"), ("logger", "log_path")) and "\n" in value:
        value += "/nowhere/x"  # such a file could be made: it must be one that cannot
    return says(mayfly.run(spoil(full, path, value)), BAD_CONFIG, r"drives\[" if path[0] == "drives" else re.escape(name_of(path)) if path[0] != "logger" else "log_path")


@pytest.mark.parametrize("value", ["a/b", "a b", "ä", "a.b", "x" * 64])
def test_bad_drive_id(mayfly, full, value):
    says(mayfly.run(spoil(full, ("drives", 0, "drive_id"), value)), BAD_CONFIG, r"drives\[0\]\.drive_id", "letters|63")


def test_duplicate_drive_id(mayfly, full):
    says(mayfly.run(spoil(full, ("drives", 1, "drive_id"), "root")), BAD_CONFIG, r"drives\[1\]\.drive_id", '"root"')


def test_two_root_devices(mayfly, full):
    says(mayfly.run(spoil(full, ("drives", 1, "is_root_device"), True)), BAD_CONFIG, r"drives\[1\]\.is_root_device", "false")


def test_too_many_drives(mayfly, full):
    full["drives"] = [drive(f"d{n}", full["drives"][1]["path_on_host"]) for n in range(17)]
    says(mayfly.run(full), BAD_CONFIG, "drives", "at most 16")


def test_as_many_drives_as_allowed(mayfly, full):
    full["drives"] = [drive(f"d{n}", full["drives"][1]["path_on_host"]) for n in range(16)]
    assert mayfly.run(full).code == 0


def test_boot_args_that_do_not_fit(mayfly, full):
    # Room for itself, but not for what the machine adds to it.
    says(mayfly.run(spoil(full, ("boot-source", "boot_args"), "x" * 2040)), BAD_CONFIG, r"boot-source\.boot_args", "2047|bytes")


# ---- the file itself ----

GOOD = '{"boot-source": {"kernel_image_path": "/k"}}'
FILES = {
    "empty": b"", "blank": b" \n\t", "truncated": GOOD[:-3].encode(), "trailing garbage": GOOD.encode() + b"x",
    "two documents": GOOD.encode() * 2, "nesting": b"[" * (1 << 20), "nested objects": b'{"a":' * (1 << 17),
    "not UTF-8": GOOD.replace("/k", "/\udcff").encode(errors="surrogateescape"), "UTF-16": GOOD.encode("utf-16"), "NUL bytes": bytes(100),
    "overlong UTF-8": b'{"boot-source": {"kernel_image_path": "/\xc0\xaf"}}', "lone surrogate": b'{"a": "\\ud800"}',
    "a list": b"[]", "a number": b"7", "null": b"null", "a string": b'"boot-source"', "binary": bytes(range(256)) * 64,
    "key twice": GOOD[:-1].encode() + b', "boot-source": {}}', "key twice below": b'{"boot-source": {"boot_args": "a", "boot_args": "b"}}',
    "single quotes": GOOD.replace('"', "'").encode(), "comment": b"// hi\n" + GOOD.encode(), "NaN": b'{"machine-config": {"vcpu_count": NaN}}',
    "control in string": b'{"a": "x\ny"}', "large number": b'{"machine-config": {"vcpu_count": ' + b"9" * 5000 + b"}}",
    "real overflow": b'{"machine-config": {"vcpu_count": 1e999}}', "too large": b" " * (8 << 20),
}


@pytest.mark.parametrize("name", FILES)
def test_bad_file(mayfly, name):
    says(mayfly.run(FILES[name]), BAD_CONFIG, r"/con|boot-source|machine-config|too large|KiB")  # a long path loses its end


def test_config_missing(mayfly, tmp_path):
    outcome = mayfly.run(args=["--no-api", "--config-file", tmp_path / "none.json"])
    says(outcome, BAD_CONFIG, r"none\.json", "No such file")


def test_config_is_a_directory(mayfly, tmp_path):
    says(mayfly.run(args=["--no-api", "--config-file", tmp_path]), BAD_CONFIG, re.escape(tmp_path.name), "[Ii]s a directory")


def test_config_unreadable(mayfly, full):
    path = mayfly.config_file(full)
    path.chmod(0)
    outcome = mayfly.run(args=["--no-api", "--config-file", path], wrapper=NO_OVERRIDE)
    says(outcome, BAD_CONFIG, r"config\.json", "Permission denied")


# ---- disks ----

def bad_disk(mayfly, full, path, *patterns, **start):
    says(mayfly.run(spoil(full, ("drives", 1, "path_on_host"), str(path)), **start), BAD_CONFIG, r"drives\[(1|data)\]\.path_on_host", *patterns)


def test_disk_missing(mayfly, full, tmp_path):
    bad_disk(mayfly, full, tmp_path / "none", "No such file", "needs")


def test_disk_is_a_directory(mayfly, full, tmp_path):
    bad_disk(mayfly, full, tmp_path, "[Ii]s a directory", "regular file or block device")


@pytest.mark.parametrize("read_only", [False, True])
def test_disk_is_a_fifo(mayfly, full, tmp_path, read_only):
    os.mkfifo(tmp_path / "fifo")
    full["drives"][1]["is_read_only"] = read_only
    bad_disk(mayfly, full, tmp_path / "fifo", "regular file or block device")


@pytest.mark.parametrize("path", ["/dev/null", "/dev/tty", "/dev/kvm"])
def test_disk_is_a_character_device(mayfly, full, path):
    bad_disk(mayfly, full, path, "regular file or block device")


def test_disk_below_a_file(mayfly, full, scratch):
    bad_disk(mayfly, full, scratch / "x", "Not a directory", "needs")


def test_disk_symlink_loop(mayfly, full, tmp_path):
    os.symlink(tmp_path / "loop", tmp_path / "loop")
    bad_disk(mayfly, full, tmp_path / "loop", "[Ss]ymbolic link")


def test_disk_unreadable(mayfly, full, tmp_path):
    sparse(tmp_path / "secret", 4096).chmod(0)
    bad_disk(mayfly, full, tmp_path / "secret", "Permission denied", "needs to be readable and writable", wrapper=NO_OVERRIDE)


def test_disk_not_writable(mayfly, full, tmp_path):
    sparse(tmp_path / "locked", 4096).chmod(0o400)
    bad_disk(mayfly, full, tmp_path / "locked", "Permission denied", "is_read_only", wrapper=NO_OVERRIDE)


def test_disk_vanishes_between_config_and_open(mayfly, full, tmp_path):
    """The configuration comes through a FIFO: when mayfly has opened it the disk is removed, then the text is written."""
    fifo, disk = tmp_path / "config.fifo", sparse(tmp_path / "brief.img", 4096)
    os.mkfifo(fifo)
    text = json.dumps(spoil(full, ("drives", 1, "path_on_host"), str(disk)))

    def serve():
        with open(fifo, "w") as f:
            disk.unlink()
            f.write(text)

    server = threading.Thread(target=serve, daemon=True)
    server.start()
    outcome = mayfly.run(args=["--no-api", "--config-file", fifo])
    server.join(5)
    says(outcome, BAD_CONFIG, r"drives\[(1|data)\]\.path_on_host", "No such file", "needs")


@pytest.mark.parametrize("section,field", [("logger", "log_path"), ("metrics", "metrics_path"), ("serial", "serial_out_path")])
@pytest.mark.parametrize("where", ["directory", "missing directory"])
def test_output_that_cannot_be_opened(mayfly, full, tmp_path, section, field, where):
    path = tmp_path if where == "directory" else tmp_path / "none" / "file"
    says(mayfly.run(spoil(full, (section, field), str(path))), BAD_CONFIG, field, "irectory", "needs")


# ---- command lines ----

@pytest.mark.parametrize("args,patterns", [
    (["--colour"], ["--colour"]),
    (["--config-fil", "x"], ["--config-fil"]),
    (["--config-file"], ["--config-file"]),
    (["--no-api"], ["--config-file"]),
    (["--no-api", "--config-file", "a", "--config-file", "b"], ["--config-file", "twice|more than once|already"]),
    (["stray"], ["stray"]),
    (["-x"], ["-x"]),
    (["--no-api=yes"], ["--no-api"]),
    (["--api-sock", "/s", "--api-fd", "3"], ["--api-fd", "--api-sock"]),
    (["--no-api", "--config-file", "/c", "--ready-fd", "3"], ["--no-api", "--ready-fd"]),
    (["--id", "a b", "--no-api", "--config-file", "/c"], ["--id", "letters|alphanumeric|A-Z"]),
    (["--id", "x" * 65, "--no-api", "--config-file", "/c"], ["--id", "6[34]"]),
    (["--id", "", "--no-api", "--config-file", "/c"], ["--id"]),
    (["--level", "loud", "--no-api", "--config-file", "/c"], ["--level", "Error.*Info|Info.*Error"]),
    (["--id", "\x1b[2J\n", "--no-api", "--config-file", "/c"], ["--id"]),
    (["\x1b]0;x\x07\n"], []),
], ids=lambda v: " ".join(v).encode("unicode_escape").decode()[:40] if isinstance(v, list) else None)
def test_bad_command_line(mayfly, args, patterns):
    says(mayfly.run(args=args), BAD_ARGUMENTS, *patterns)


@pytest.mark.parametrize("args,pattern", [(["--version"], r"^firecracker v\d+\.\d+\.\d+ api \(mayfly v\d+\.\d+\.\d+\)\n$"), (["--help"], "--config-file")], ids=["--version", "--help"])
def test_good_command_line(mayfly, args, pattern):
    outcome = mayfly.run(args=args)
    assert outcome.code == 0 and outcome.err == "" and re.search(pattern, outcome.out, re.I), outcome


def test_no_descriptors_to_spare(mayfly, full):
    """A process limit that is too low is the host's fault, and said in one line as well."""
    outcome = mayfly.run(full, wrapper=("prlimit", "--nofile=6", "--"))
    assert outcome.code in (BAD_CONFIG, 154) and len(outcome.lines()) == 1 and "descriptors" in outcome.err.replace("open files", "descriptors"), outcome


@pytest.mark.parametrize("content,pattern", [(None, "No such file"), ("[1]", "not an object"), ("{", "1:1"), ('{"a":"' + "x" * 60000 + '"}', "51200")],
                         ids=["none", "list", "broken", "large"])
def test_bad_metadata(mayfly, tmp_path, content, pattern):
    path = tmp_path / "metadata.json"
    if content is not None:
        path.write_text(content)
    outcome = mayfly.run(args=["--api-sock", tmp_path / "s", "--metadata", path])
    says(outcome, BAD_CONFIG, "--metadata|mmds", pattern)
    assert not (tmp_path / "s").exists()
