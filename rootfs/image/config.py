"""An OCI image's configuration: checked, and written as the guest's agent reads it (/.mayfly/config)."""

from __future__ import annotations

import json
from typing import Any

from .limits import CONFIG_BYTES, ImageError, show


def parse_json(data: bytes, what: str) -> dict[str, Any] | list[Any]:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        why = "nested too deeply" if isinstance(error, RecursionError) else show(str(error))
        raise ImageError(f"{what} is not valid JSON: {why}") from None
    if not isinstance(value, (dict, list)):
        raise ImageError(f"{what} is JSON, but neither an object nor an array")
    return value


def json_object(data: bytes, what: str) -> dict[str, Any]:
    value = parse_json(data, what)
    if not isinstance(value, dict):
        raise ImageError(f"{what} is an array; an object is expected")
    return value


def string(value: Any, what: str) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        raise ImageError(f"{what} is no string")
    return value


def strings(value: Any, what: str) -> list[str]:
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise ImageError(f"{what} is no list of strings")
    return value


def mapping(value: Any, what: str) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ImageError(f"{what} is no object")
    return value


def fields(config: dict[str, Any]) -> list[tuple[str, str]]:
    """What a container of this image runs, as the pairs of /.mayfly/config."""
    run = mapping(config.get("config"), "the image's 'config'")
    pairs = [("entrypoint", word) for word in strings(run.get("Entrypoint"), "the image's Entrypoint")]
    pairs += [("cmd", word) for word in strings(run.get("Cmd"), "the image's Cmd")]
    for variable in strings(run.get("Env"), "the image's Env"):
        if "=" not in variable[1:]:
            raise ImageError(f"the image's Env has {show(variable)}, which is no NAME=VALUE")
        pairs.append(("env", variable))
    for key, name in (("cwd", "WorkingDir"), ("user", "User"), ("stop_signal", "StopSignal")):
        if value := string(run.get(name), f"the image's {name}"):
            pairs.append((key, value))
    pairs += [("exposed", port) for port in sorted(mapping(run.get("ExposedPorts"), "the image's ExposedPorts"))]
    pairs += [("volume", path) for path in sorted(mapping(run.get("Volumes"), "the image's Volumes"))]
    labels = mapping(run.get("Labels"), "the image's Labels")
    pairs += [("label", f"{name}={string(labels[name], 'a label of the image')}") for name in sorted(labels)]
    return pairs


def encode(pairs: list[tuple[str, str]]) -> bytes:
    try:
        text = b"".join(f"{key}={value}".encode() + b"\0" for key, value in pairs)
    except UnicodeEncodeError:
        raise ImageError("the image's configuration has half a UTF-16 pair in it, which is no character") from None
    if text.count(b"\0") != len(pairs):
        raise ImageError("the image's configuration has a zero byte in it, which no argument or variable can have")
    if len(text) > CONFIG_BYTES:
        raise ImageError(f"the image's configuration has {len(text)} bytes; {CONFIG_BYTES} are the most")
    return text


def decode(text: bytes) -> list[tuple[str, str]]:
    pairs = [item.decode("utf-8", "replace").partition("=") for item in text.split(b"\0")[:-1]]
    return [(key, value) for key, _, value in pairs]
