"""The API against its contract: every operation, every field, every limit of api-server/openapi.yaml, accepted and refused."""

import contextlib
import json
import os
import re
import subprocess

import pytest

import contract
from api_machines import GUEST_ARGS, boot, bring, is_fault, listen, prepare, save, snapshot
from contract import OPERATIONS, operation
from harness import ROOT, Vmm, copies_of
from page_handler import PageHandler

SERVED = [o for o in OPERATIONS if not o.refused]
TAKING = [o for o in SERVED if o.body]
READING = [o for o in SERVED if o.method == "GET" and o.path not in ("/events", "/metrics")]


def of(operations):
    return pytest.mark.parametrize("op", operations, ids=str)


def of_fields(operations, wanted=lambda field: True):
    return pytest.mark.parametrize("op,field", [pytest.param(o, f, id=f"{o} {f}") for o in operations for f in contract.fields(o.body) if wanted(f)])


@pytest.fixture(scope="module", params=["release", "debug"])
def binary(request):
    return request.param


@contextlib.contextmanager
def vmm_for(binary, directory):
    """One of the two programs, in a directory with the files of the examples; what it was started for ends with the block."""
    prepare(directory)
    vmm = Vmm(binary, directory)
    try:
        yield vmm
    finally:
        vmm.close()


def kept(running, api):
    """The process is there for many tests, and after them still."""
    yield api
    assert running.process.poll() is None, running.said()


@pytest.fixture(scope="module")
def idle(binary, tmp_path_factory):
    """A process that has not booted, for requests that must change nothing."""
    with vmm_for(binary, tmp_path_factory.mktemp("idle")) as vmm:
        running, api = vmm.start_api()
        api.put_drive("rootfs", {"path_on_host": "disk.img", "is_root_device": False})
        api.put_network_interface("eth0", {"host_dev_name": "unix:passt.socket"})
        yield from kept(running, api)


@pytest.fixture(scope="module")
def booted(binary, tmp_path_factory):
    """A microVM that runs the test guest, for requests that must change nothing."""
    with vmm_for(binary, tmp_path_factory.mktemp("booted")) as vmm:
        yield from kept(*boot(vmm, args=["--allow-path", "other.img"]))


@pytest.fixture(scope="module")
def networked(binary, tmp_path_factory):
    """The same with a network interface."""
    with vmm_for(binary, tmp_path_factory.mktemp("networked")) as vmm:
        yield from kept(*boot(vmm, net=True))


@pytest.fixture
def fresh(binary, tmp_path):
    """A new process for each test."""
    with vmm_for(binary, tmp_path) as vmm:
        yield vmm.start_api()[1]


@pytest.fixture(scope="module")
def paused(binary, tmp_path_factory):
    """A paused microVM that may write snapshots."""
    with vmm_for(binary, tmp_path_factory.mktemp("paused")) as vmm:
        running, api = boot(vmm, args=["--allow-path", "."])
        running.expect(b"READY")
        api.pause()
        yield from kept(running, api)


@pytest.fixture
def forkable(binary, saved, tmp_path):
    """A paused microVM that may be copied, with one of each device that copies can have."""
    with vmm_for(binary, tmp_path) as vmm:
        running, api = vmm.start_api(["--allow-fork", "--allow-path", "."])
        bring(saved, tmp_path)
        api.put_machine_config({"vcpu_count": 1, "mem_size_mib": 32})
        api.put_boot_source({"kernel_image_path": "vmlinux", "boot_args": GUEST_ARGS})
        api.put_drive("rootfs", {"path_on_host": "disk.img", "is_root_device": False, "is_read_only": True})
        api.put_network_interface("eth0", {"host_dev_name": "unix:passt.socket"})
        api.start()
        running.expect(b"READY")
        api.pause()
        yield from kept(running, api)
        for pid in copies_of(running.pid):
            with contextlib.suppress(ProcessLookupError):  # it has ended by itself
                os.kill(pid, 9)


@pytest.fixture(scope="module")
def saved(binary, tmp_path_factory):
    """The directory with a snapshot of a microVM that has ended."""
    with vmm_for(binary, tmp_path_factory.mktemp("saved")) as vmm:
        save(vmm)
        yield vmm.directory


@pytest.fixture(scope="module")
def empty(binary, saved, tmp_path_factory):
    """A process that nobody has configured, beside a snapshot, for requests that must change nothing."""
    with vmm_for(binary, tmp_path_factory.mktemp("empty")) as vmm:
        bring(saved, vmm.directory)
        yield from kept(*vmm.start_api())


@pytest.fixture
def loaders(binary, saved, tmp_path):
    """New processes beside a snapshot: (process, API) one after the other, each ended when the next is asked for."""
    def start(vmm):
        while True:
            running, api = vmm.start_api()
            yield running, api
            assert running.process.poll() is None, running.said()
            running.signal(15)
            running.wait()
    with vmm_for(binary, tmp_path) as vmm:
        bring(saved, tmp_path)
        yield start(vmm)


@pytest.fixture
def loader(loaders):
    return next(loaders)[1]


@pytest.fixture
def serving(request, op, binary):  # binary: which the fixtures below need
    """A process in the state in which the operation is allowed."""
    if op.path == "/fork":
        return request.getfixturevalue("forkable")
    if op.path.startswith("/snapshot"):
        return request.getfixturevalue("empty" if op.when == "pre-boot" else "paused")
    if op.when != "post-boot":
        return request.getfixturevalue("idle")
    return request.getfixturevalue("networked" if op.path.startswith("/network") else "booted")


@pytest.fixture
def able(request, op, binary):
    """A process in which a PUT can succeed once."""
    return request.getfixturevalue({"/snapshot/create": "paused", "/snapshot/load": "loader", "/fork": "forkable"}.get(op.path, "fresh"))


# ---- the contract itself ----

def test_contract_is_complete():
    """Every field says what it is, how it compares with Firecracker's, and has a value to try."""
    for op in OPERATIONS:
        assert op.when in ("pre-boot", "post-boot", "any"), op
        assert op.spec["x-firecracker"] in ("same", "better", "added", "refused"), op
        for field in contract.fields(op.body) if op.body else ():
            assert field.schema.get("description"), (str(op), str(field))
            if field.place[-1] != 0:
                assert field.schema.get("x-firecracker") in ("same", "better", "added", "refused"), (str(op), str(field))
            assert field.schema.get("properties") or "x-mayfly-example" in field.schema, (str(op), str(field))


def test_page_for_users_is_up_to_date():
    done = subprocess.run([ROOT / "scripts/api-table", "--check"], capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@of(TAKING)
def test_contract_accepts_its_examples(op):
    contract.check(op.body, contract.least(op.body))
    contract.check(op.body, contract.most(op.body))


# ---- what must be accepted ----

def is_done(op, answer, what=""):
    """204 without a body, or where the contract has nothing else, 200 with one."""
    if "204" not in op.spec["responses"]:
        assert answer.status == 200, f"{what!r}: {answer.status} {answer.body}"
        contract.check(op.answer(200)[1], answer.json())
    else:
        assert (answer.status, answer.body) == (204, b""), f"{what!r}: {answer.status} {answer.body}"


def put_up(api, op):
    """What has to be there before the operation can succeed."""
    if op.path == "/mmds/config":
        api.put_network_interface("eth0", {"host_dev_name": "unix:passt.socket"})
    if (op.method, op.path) == ("PATCH", "/mmds"):
        api.put_mmds({"kept": 1})


def comes_back(api, op, body):
    """GET of the resource tells what was written, where there is one to GET."""
    if not any((o.method, o.path) == ("GET", op.path) for o in OPERATIONS):
        return
    answer = api.request("GET", op.url(body))
    assert answer.status == 200, answer.body
    contract.check(operation("GET", op.path).answer(200)[1], answer.json())
    assert contract.covers(answer.json(), body), f"{answer.body} after {body}"


@of_fields([o for o in TAKING if o.when != "post-boot" and o.path not in ("/actions", "/metrics", "/snapshot/load")])
def test_values_are_accepted_before_boot(fresh, op, field):
    put_up(fresh, op)
    for value, again in contract.accepted_values(field.schema):
        body = contract.body_with(op.body, field.place, value)
        answer = fresh.request(op.method, op.url(body), body)
        assert (answer.status, answer.body) == (204, b""), f"{value!r}: {answer.status} {answer.body}"
        if again:
            comes_back(fresh, op, body)
        if field.place[-1] in ("drive_id", "iface_id"):
            fresh.delete(op.url(body))


def test_logger_keeps_what_is_left_out(fresh):
    fresh.put_logger({"level": "Error", "show_level": True})
    fresh.put_logger({"show_log_origin": True})
    assert contract.covers(fresh.logger(), {"level": "Error", "show_level": True, "show_log_origin": True})


@of_fields([operation("PUT", "/metrics")])
def test_metrics_values_are_accepted(fresh, op, field):
    """They can be said once: there is a process for each."""
    body = contract.body_with(op.body, field.place, contract.accepted_values(field.schema)[0][0])
    answer = fresh.request(op.method, op.url(body), body)
    assert (answer.status, answer.body) == (204, b""), answer.body
    assert contract.covers(fresh.config()["metrics"], body)


@of([o for o in TAKING if o.method == "PUT" and o.path != "/actions"])
def test_all_fields_at_once(able, op):
    put_up(able, op)
    body = contract.most(op.body)
    is_done(op, able.request("PUT", op.url(body), body))
    if op.path != "/metrics":
        comes_back(able, op, body)
    contract.check(operation("GET", "/vm/config").answer(200)[1], able.config())


@of_fields([o for o in TAKING if o.method == "PUT"],
           lambda field: not field.required and field.place[-1] != 0 and (field.place[0] != "copies" or "vsock_override" not in field.place))  # the same
def test_null_is_as_good_as_absent(able, op, field):
    put_up(able, op)
    body = contract.body_with(op.body, field.place, None)
    is_done(op, able.request("PUT", op.url(body), body))


@of([o for o in TAKING if o.method == "PUT" and o.when == "pre-boot" and o.path not in ("/metrics", "/logger", "/snapshot/load")])
def test_put_replaces(fresh, op):
    """A second PUT forgets what only the first one said."""
    put_up(fresh, op)
    little, much = contract.least(op.body), contract.most(op.body)
    fresh.put(op.url(little), little)
    before = fresh.get(op.url(little))
    fresh.put(op.url(much), much)
    fresh.put(op.url(little), little)
    assert fresh.get(op.url(little)) == before


@of_fields([o for o in TAKING if o.when == "post-boot" and o.path != "/vm"],
           lambda field: not {"vsock_override", "overlay_path", "background"} & set(field.place))  # the same; or the next call has to wait
def test_values_are_accepted_after_boot(serving, op, field):
    for value, again in contract.accepted_values(field.schema):
        if field.place[-1] in ("drive_id", "iface_id") and value != field.schema["x-mayfly-example"]:
            continue  # there is only the one
        body = contract.body_with(op.body, field.place, value)
        answer = serving.request(op.method, op.url(body), body)
        is_done(op, answer, value)
        if again:
            comes_back(serving, op, body)


@of_fields([operation("PUT", "/snapshot/load")])
def test_values_are_accepted_in_a_load(loaders, tmp_path, op, field):
    """There is a process for each, and a page-fault handler for the memory that one brings."""
    for value, _ in contract.accepted_values(field.schema):
        if field.place[-1] in ("drive_id", "iface_id") and value != field.schema["x-mayfly-example"]:
            continue  # there is only the one
        body = contract.body_with(op.body, field.place, value)
        if value == "Uffd":
            body["mem_backend"]["backend_path"] = "handler.socket"
            PageHandler(tmp_path / "handler.socket", tmp_path / "memory.snapshot")
        _, api = next(loaders)
        answer = api.request(op.method, op.path, body)
        if value == "2M" and answer.status == 400:
            is_fault(answer, naming="free huge pages")  # which this host does not have
            continue
        assert (answer.status, answer.body) == (204, b""), f"{value!r}: {answer.status} {answer.body}"
        assert api.instance()["state"] == ("Running" if body.get("resume_vm") else "Paused")
        contract.check(operation("GET", "/vm/config").answer(200)[1], api.config())


def test_a_load_gives_anew_what_it_names(loader):
    """And nothing else; the stream says what came of it."""
    events = loader.events(timeout=20)
    load = operation("PUT", "/snapshot/load")
    loader.put(load.path, {**contract.most(load.body), "clock_realtime": False})
    config = loader.config()
    assert config["drives"][0]["path_on_host"] == "other.img" and config["drives"][0]["cache_type"] == "Unsafe"
    assert config["vsock"] == {**config["vsock"], "uds_path": "vsock.socket", "guest_cid": 3}
    assert config["serial"]["serial_out_path"] == "console.log"
    assert config["machine-config"]["track_dirty_pages"] is True and config["machine-config"]["mem_size_mib"] == 32
    assert loader.mmds() == contract.most(load.body)["mmds"]
    told = [next(events) for _ in range(2)]
    assert [event["event"] for event in told] == ["loaded", "resumed"]
    for event in told:
        contract.check(operation("GET", "/events").answer(200)[1], event)


def test_a_refused_load_leaves_the_metadata(binary, saved, tmp_path):
    """Neither those of the snapshot, nor of the request, nor too many of them."""
    load = operation("PUT", "/snapshot/load")
    with vmm_for(binary, tmp_path) as vmm:
        bring(saved, tmp_path)
        _, api = vmm.start_api(["--mmds-size-limit", "100"])
        api.put_mmds({"mine": 1})
        refuse(api, load, {**load.example(), "mmds": {"a": "x" * 100}}, "--mmds-size-limit")
        api.put(load.path, load.example())
        assert api.mmds() == {"saved": True}


def test_pause_and_resume(binary, tmp_path):
    with vmm_for(binary, tmp_path) as vmm:
        running, api = boot(vmm)
        running.expect(b"READY")
        for state, shown in [("Paused", "Paused"), ("Paused", "Paused"), ("Resumed", "Running"), ("Resumed", "Running")]:
            api.patch("/vm", {"state": state})
            assert api.instance()["state"] == shown
            contract.check(operation("GET", "/").answer(200)[1], api.instance())


def test_pause_follows_pause_at_once(binary, tmp_path):
    """However soon after a resume: each pause is answered, and once it is, no vCPU runs."""
    with vmm_for(binary, tmp_path) as vmm:
        running, api = boot(vmm, "console=ttyS0 mayfly.test='print READY; wait x; reset'")  # busy: exits all the time
        running.expect(b"READY")
        for _ in range(1000):
            api.pause()
            api.resume()
        assert api.instance()["state"] == "Running"


def test_actions(fresh, tmp_path):
    for action in ("FlushMetrics", "SendCtrlAltDel", "RenewGenerationId"):
        is_fault(fresh.request("PUT", "/actions", {"action_type": action}))
    fresh.put_metrics({"metrics_path": "mayfly.metrics"})
    fresh.put_boot_source({"kernel_image_path": "vmlinux", "boot_args": "console=ttyS0 mayfly.test='idle'"})
    fresh.start()
    before = (tmp_path / "mayfly.metrics").read_text()
    fresh.flush_metrics()
    new = (tmp_path / "mayfly.metrics").read_text().removeprefix(before)
    assert new.count("\n") == 1 and "vmm" in json.loads(new)
    fresh.send_ctrl_alt_del()  # the test guest has no driver for a keyboard; the log says so
    is_fault(fresh.request("PUT", "/actions", {"action_type": "InstanceStart"}))
    assert fresh.instance()["state"] == "Running"


# ---- what must be refused ----

def refuse(api, op, body, naming="", data=None):
    """The request is answered 400, and nothing has changed."""
    before = snapshot(api)
    message = is_fault(api.request(op.method, op.url(body), body if data is None else data), naming=naming)
    assert snapshot(api) == before
    return message


@of_fields(TAKING, lambda field: field.place[0] != "copies" or "vsock_override" not in field.place)  # a load's test has that
def test_invalid_values_are_refused(serving, op, field):
    for value in contract.refused_values(field):
        body = contract.body_with(op.body, field.place, value)
        try:
            refuse(serving, op, body, "" if contract.is_beyond_json(value) else field.name)
        except AssertionError as e:
            raise AssertionError(f"{json.dumps(body)[:300]}: {e}") from e


@of_fields(TAKING, lambda field: field.required)
def test_required_fields_are_missed(serving, op, field):
    *above, last = field.place
    body = contract.body_with(op.body, field.place, field.schema.get("x-mayfly-example", {}))
    del contract.at(body, above)[last]
    refuse(serving, op, body, last)


@of(TAKING)
def test_unknown_fields_are_refused(serving, op):
    for place, schema in contract.objects(op.body):
        if schema.get("additionalProperties", False) is False and not (op.path == "/fork" and "vsock_override" in place):
            refuse(serving, op, contract.body_with(op.body, place, {**contract.least(schema), "no_such_field": 1}), "no_such_field")


@of(TAKING)
def test_invalid_combinations_are_refused(serving, op):
    for case in op.body.get("x-mayfly-invalid", []):
        refuse(serving, op, case["body"], case["names"])


@of(TAKING)
@pytest.mark.parametrize("data", [b"{", b"{}}", b"[]", b"null", b"7", b'"text"', b"{'a': 1}", b'{"a": 1, "a": 1}', b"\xff\xfe", b"{\"a\": \"\xff\"}",
                                  b"[" * 1000 + b"]" * 1000, b'{"a":' * 1000 + b"1" + b"}" * 1000, b" ", b"\0", b"\xef\xbb\xbf{}"],
                         ids=lambda d: repr(d[:12]))
def test_other_bodies_are_refused(serving, op, data):
    refuse(serving, op, None, data=data)


@of(TAKING)
def test_no_body_is_refused(serving, op):
    assert refuse(serving, op, None) == f"Empty {op.method} request."


@of([o for o in READING if o.path != "/mmds"])
def test_get_with_a_body_is_refused(idle, op):
    assert is_fault(idle.request("GET", op.url(), b"{}")) == "GET request cannot have a body."


@of([o for o in SERVED if o.when == "pre-boot"])
def test_too_late(booted, op):
    body = op.example()
    message = refuse(booted, op, body)
    assert re.search(r"boot|start|running", message), message


@of([o for o in TAKING if o.when == "post-boot"])
def test_too_early(idle, op):
    message = refuse(idle, op, op.example())
    assert re.search(r"boot|start|running", message), message


@of([o for o in OPERATIONS if o.refused])
def test_what_is_left_out_says_so(idle, booted, op):
    wanted = {"not-yet": r"not yet|this version", "by-design": r"by design"}[op.refused]
    for api in (idle, booted):
        message = refuse(api, op, op.example())
        assert re.search(wanted, message), message


@pytest.mark.parametrize("path", ["/drives", "/network-interfaces"])
@pytest.mark.parametrize("id_", ["", "a%20b", "a.b", "caf%C3%A9", "a" * 64, "a" * 5000, "..", "%2e%2e", "a%00b"], ids=lambda i: i[:12])
def test_bad_ids_in_the_path(idle, path, id_):
    for method in ("PUT", "DELETE"):
        body = {"drive_id": id_, "iface_id": id_} if method == "PUT" else None
        answer = idle.request(method, f"{path}/{id_}", body)
        assert answer.status in (400, 404, 414), answer.status
        contract.check(contract.FAULT, answer.json())


@of([o for o in TAKING if o.parameters])
def test_id_in_path_and_body_must_be_the_same(serving, op):
    body = op.example()
    path = op.url(body) + "2"
    before = snapshot(serving)
    is_fault(serving.request(op.method, path, body), naming=path.rpartition("/")[2])
    assert snapshot(serving) == before


# ---- several resources ----

def test_lists_are_checked_against_each_other(fresh):
    fresh.put_drive("a", {"path_on_host": "disk.img", "is_root_device": True})
    is_fault(fresh.request("PUT", "/drives/b", {"drive_id": "b", "path_on_host": "other.img", "is_root_device": True}), naming="is_root_device")
    fresh.put_network_interface("a", {"host_dev_name": "unix:a", "guest_mac": "06:00:ac:10:00:02"})
    for fields, naming in [({"host_dev_name": "unix:a"}, "host_dev_name"), ({"host_dev_name": "unix:b", "guest_mac": "06:00:AC:10:00:02"}, "guest_mac")]:
        is_fault(fresh.request("PUT", "/network-interfaces/b", {"iface_id": "b", **fields}), naming=naming)
    assert [d["drive_id"] for d in fresh.drives()] == ["a"]
    assert [n["iface_id"] for n in fresh.network_interfaces()] == ["a"]


def test_sixteen_of_each(fresh):
    for n in range(16):
        fresh.put_drive(f"d{n}", {"path_on_host": "disk.img", "is_root_device": False})
        fresh.put_network_interface(f"n{n}", {"host_dev_name": f"unix:s{n}"})
    is_fault(fresh.request("PUT", "/drives/d16", {"drive_id": "d16", "path_on_host": "disk.img", "is_root_device": False}))
    is_fault(fresh.request("PUT", "/network-interfaces/n16", {"iface_id": "n16", "host_dev_name": "unix:s16"}))
    fresh.put_drive("d3", {"path_on_host": "other.img", "is_root_device": True})  # replaced, in its place
    assert [d["drive_id"] for d in fresh.drives()] == [f"d{n}" for n in range(16)]
    fresh.delete_drive("d7")
    fresh.delete_network_interface("n0")
    fresh.put_drive("d16", {"path_on_host": "disk.img", "is_root_device": False})
    assert [d["drive_id"] for d in fresh.drives()] == [f"d{n}" for n in range(17) if n != 7]
    assert [n["iface_id"] for n in fresh.network_interfaces()] == [f"n{n}" for n in range(1, 16)]
    contract.check(operation("GET", "/vm/config").answer(200)[1], fresh.config())


@of([o for o in OPERATIONS if o.method == "DELETE" and not o.refused])
def test_delete(fresh, op):
    put = operation("PUT", op.path)
    body = put.example()
    is_fault(fresh.request("DELETE", op.url(body)), 404)
    empty = snapshot(fresh)
    fresh.put(op.url(body), body)
    assert fresh.request("GET", op.url(body)).status == 200
    answer = fresh.request("DELETE", op.url(body))
    assert (answer.status, answer.body) == (204, b"")
    assert snapshot(fresh) == empty


def test_patch_of_machine_config_keeps_the_rest(fresh):
    fresh.put_machine_config({"vcpu_count": 4, "mem_size_mib": 256, "smt": True, "huge_pages": "Transparent"})
    fresh.patch_machine_config({"mem_size_mib": 512})
    assert fresh.machine_config() == {**fresh.machine_config(), "vcpu_count": 4, "mem_size_mib": 512, "smt": True, "huge_pages": "Transparent"}
    is_fault(fresh.request("PATCH", "/machine-config", {"vcpu_count": 3}), naming="vcpu_count")  # smt is true still
    is_fault(fresh.request("PATCH", "/machine-config", {"mem_size_mib": 511}), naming="mem_size_mib")
    assert fresh.machine_config()["vcpu_count"] == 4


def test_mmds_data(fresh):
    assert fresh.mmds() == {}
    is_fault(fresh.request("PATCH", "/mmds", {"a": 1}))
    fresh.put_mmds({"a": {"b": [1, 2.5, None, "x\u20ac"]}, "c": True})
    fresh.patch_mmds({"a": {"b": None, "d": {}}, "e": "f"})
    assert fresh.mmds() == {"a": {"d": {}}, "c": True, "e": "f"}
    fresh.put_mmds({})
    assert fresh.mmds() == {}


def test_mmds_data_is_bounded(fresh):
    """Merges add up; what they may add up to is the limit of a body."""
    fresh.put_mmds({"a": "x" * 40000})
    is_fault(fresh.request("PATCH", "/mmds", {"b": "x" * 40000}), 413)
    assert fresh.mmds() == {"a": "x" * 40000}


# ---- what is answered ----

@of(READING)
def test_unconfigured(fresh, op):
    answer = fresh.request("GET", op.url())
    if "404" in op.spec["responses"]:
        is_fault(answer, 404)
    else:
        assert answer.status == 200, answer.body
        contract.check(op.answer(200)[1], answer.json())


def test_configured(fresh):
    """Everything at once."""
    for put in sorted((o for o in TAKING if o.method == "PUT" and o.path not in ("/actions", "/fork") and not o.path.startswith("/snapshot")), key=lambda o: o.path.startswith("/mmds")):
        body = contract.most(put.body)
        fresh.put(put.url(body), body)
    for op in READING:
        answer = fresh.request("GET", op.url())
        assert answer.status == 200, answer.body
        assert answer.headers["content-type"] == "application/json"
        contract.check(op.answer(200)[1], answer.json())


@of(READING)
def test_after_boot(booted, op):
    answer = booted.request("GET", op.url())
    if "404" in op.spec["responses"] and op.path not in ("/boot-source", "/drives/{drive_id}"):
        is_fault(answer, 404)
    else:
        assert answer.status == 200, answer.body
        contract.check(op.answer(200)[1], answer.json())


def test_instance(idle, booted):
    before, after = idle.instance(), booted.instance()
    assert (before["state"], before["vcpus"]) == ("Not started", [])
    assert after["state"] == "Running" and after["vcpus"] == [{"index": 0, "state": "running"}]
    assert after["uptime_us"] < booted.instance()["uptime_us"]
    assert before["id"] == "anonymous-instance"
    assert before["jail"]["capabilities"] == "inherited" and after["jail"]["capabilities"] == "none"


def test_config_can_be_given_back(fresh, binary, tmp_path):
    """What /vm/config answers is a file for --config-file."""
    fresh.put_boot_source({"kernel_image_path": "vmlinux", "boot_args": "console=ttyS0 mayfly.test='print BACK'"})
    fresh.put_drive("rootfs", {"path_on_host": "disk.img", "is_root_device": False, "rate_limiter": {"ops": {"size": 10, "refill_time": 5}}})
    outcome = Vmm(binary, tmp_path).run(fresh.config(), cwd=tmp_path)
    assert outcome.code == 0 and "BACK" in outcome.out, outcome


SAMPLE = re.compile(r'^([a-zA-Z_:][a-zA-Z0-9_:]*)(\{[a-zA-Z_]\w*="(?:[^"\\\n]|\\[\\"n])*"(?:,[a-zA-Z_]\w*="(?:[^"\\\n]|\\[\\"n])*")*\})? ([0-9.eE+-]+|NaN|[+-]Inf)( -?\d+)?$')


def prometheus(api):
    """The samples of GET /metrics by name, checked against the text format 0.0.4."""
    answer = api.request("GET", "/metrics")
    assert answer.status == 200
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4"), answer.headers
    text, kinds, samples = answer.body.decode(), {}, {}
    assert text.endswith("\n")
    for line in text.splitlines():
        if line.startswith("# TYPE "):
            name, kind = line.split()[2:]
            assert name not in kinds and kind in ("counter", "gauge", "histogram", "summary", "untyped"), line
            kinds[name] = kind
        elif line and not line.startswith("#"):
            match = SAMPLE.match(line)
            assert match, line
            assert match[1] in kinds, f"{line}: no TYPE before it"
            assert (match[1], match[2]) not in samples, f"{line}: twice"
            samples[match[1], match[2]] = float(match[3])
    return samples


def test_prometheus(idle, booted):
    for api in (idle, booted):
        first, second = prometheus(api), prometheus(api)
        assert first and first.keys() == second.keys()
        assert all(second[name] >= first[name] for name in first if name[0].endswith("_total"))


def test_events(binary, tmp_path):
    with vmm_for(binary, tmp_path) as vmm:
        running, api = vmm.start_api()
        events = api.events(timeout=20)
        api.put_boot_source({"kernel_image_path": "vmlinux", "boot_args": "console=ttyS0 mayfly.test='status 7; wait x; reset'"})
        api.start()
        schema = operation("GET", "/events").answer(200)[1]
        first = next(events)
        contract.check(schema, first)
        api.pause()
        second = next(events)
        contract.check(schema, second)
        assert first != second
        running.signal(15)
        last = None
        for last in events:  # ends with the process
            contract.check(schema, last)
        assert last["event"] == "ended"
        running.wait()


def test_event_readers_that_do_not_read(binary, tmp_path):
    """They cost bounded memory, and nobody waits for them."""
    with vmm_for(binary, tmp_path) as vmm:
        running, api = boot(vmm)
        running.expect(b"READY")
        readers = [api.events() for _ in range(8)]
        is_fault(api.request("GET", "/events"), naming="8")
        for _ in range(2000):  # more than fits between two processes
            api.pause()
            api.resume()
        assert api.instance()["state"] == "Running"
        for reader in readers:
            reader.close()


# ---- paths and methods ----

@pytest.mark.parametrize("method", ["GET", "PUT", "PATCH", "DELETE", "POST", "OPTIONS", "TRACE"])
def test_other_methods_and_paths(idle, method):
    body = None if method in ("GET", "DELETE") else {}
    for path in ["/x", "/drives/rootfs/x", "/vm/x", "/mmds/x", "/snapshot", "/snapshot/x", "/hotplug", "//", "/%2e", "/DRIVES"]:
        answer = idle.request(method, path, body)
        assert answer.status in (400, 404), (path, answer.status)
        contract.check(contract.FAULT, answer.json())
    for item in contract.DOCUMENT["paths"]:
        if not any(o.path == item and o.method == method for o in OPERATIONS):
            op = next(o for o in OPERATIONS if o.path == item)
            answer = idle.request(method, op.url(), body)
            is_fault(answer)


def test_the_words_for_an_unknown_path(idle):
    assert is_fault(idle.request("GET", "/x")) == "Invalid request method and/or path: GET /x."
    assert is_fault(idle.request("PUT", "/x", {})) == "Invalid request method and/or path: PUT /x."


def test_listeners_are_not_needed_before_boot(fresh, tmp_path):
    """Files and sockets that come with boot may be made after the request that names them."""
    fresh.put_network_interface("eth0", {"host_dev_name": "unix:later.socket"})
    fresh.put_boot_source({"kernel_image_path": "vmlinux", "boot_args": "console=ttyS0 mayfly.test='idle'"})
    is_fault(fresh.request("PUT", "/actions", {"action_type": "InstanceStart"}))  # nobody listens: still not started …
    assert fresh.instance()["state"] == "Not started"
    listen(tmp_path / "later.socket")
    fresh.start()  # … and can be tried again
    assert fresh.instance()["state"] == "Running"
