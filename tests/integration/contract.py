"""What api-server/openapi.yaml says, in a form that tests can ask: operations, fields, values to accept and to refuse."""

import copy
from pathlib import Path
from typing import Any, NamedTuple

import jsonschema
import yaml

PATH = Path(__file__).resolve().parents[2] / "api-server/openapi.yaml"
METHODS = ("get", "put", "patch", "delete")
INT64_MAX = 2**63 - 1

# One value of each JSON type.
SAMPLES = {"string": "text", "integer": 7, "number": 0.5, "boolean": True, "array": [], "object": {}}


def _inline(node, document):
    """The node with every reference replaced by what it refers to."""
    if isinstance(node, list):
        return [_inline(item, document) for item in node]
    if not isinstance(node, dict):
        return node
    if "$ref" in node:
        target = document
        for step in node["$ref"].removeprefix("#/").split("/"):
            target = target[step]
        return _inline(target, document)
    return {key: _inline(value, document) for key, value in node.items()}


def load():
    document = yaml.safe_load(PATH.read_text())
    return _inline(document, document)


class Operation(NamedTuple):
    method: str  # in capitals
    path: str
    spec: dict[str, Any]
    parameters: list[dict[str, Any]]

    def __str__(self):
        return f"{self.method} {self.path}"

    @property
    def when(self):
        return self.spec["x-mayfly-when"]

    @property
    def refused(self):
        return self.spec.get("x-mayfly-refused")

    @property
    def body(self):
        """The schema of the request's body, or None."""
        return self.spec["requestBody"]["content"]["application/json"]["schema"] if "requestBody" in self.spec else None

    def example(self):
        """A body to send: the least that must be accepted, or None."""
        if self.body:
            return least(self.body)
        return self.spec.get("x-mayfly-example")

    def url(self, body=None):
        """The path with ids filled in: those of the body where it has some that fit there, the example's otherwise."""
        url = self.path
        for parameter in self.parameters:
            name, schema = parameter["name"], parameter["schema"]
            value = body.get(name) if isinstance(body, dict) else None
            if not isinstance(value, str) or not accepts(schema, value):
                value = schema["x-mayfly-example"]
            url = url.replace(f"{{{name}}}", value)
        return url

    def answer(self, status):
        """(content type, schema) of an answer's body, or None where there is none."""
        content = self.spec["responses"][str(status)].get("content")
        return next(iter((kind, entry["schema"]) for kind, entry in content.items())) if content else None


DOCUMENT = load()
OPERATIONS = [
    Operation(method.upper(), path, item[method], item.get("parameters", []))
    for path, item in DOCUMENT["paths"].items() for method in METHODS if method in item
]
FAULT = DOCUMENT["components"]["schemas"]["Fault"]


def operation(method, path):
    return next(o for o in OPERATIONS if (o.method, o.path) == (method, path))


# ---- schemas ----

def _plain(schema):
    """OpenAPI 3.0's schema as JSON Schema: `nullable` becomes an alternative, and so does null where a field is optional."""
    if isinstance(schema, list):
        return [_plain(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    plain = {key: _plain(value) for key, value in schema.items() if key not in ("properties", "nullable", "default") and not key.startswith("x-")}
    if "properties" in schema:
        required = schema.get("required", ())
        plain["properties"] = {name: _plain(field if name in required else {**field, "nullable": True})
                               for name, field in schema["properties"].items()}
    return {"anyOf": [{"type": "null"}, plain]} if schema.get("nullable") else plain


def check(schema, value):
    """Raises jsonschema.ValidationError unless value is what the schema says."""
    jsonschema.Draft4Validator(_plain(schema)).validate(value)


def accepts(schema, value):
    return jsonschema.Draft4Validator(_plain(schema)).is_valid(value)


def covers(got, written):
    """Whether what is read has all that was written; null, false and 0 may be left out, and more may be there."""
    if isinstance(written, dict):
        return isinstance(got or {}, dict) and all(covers((got or {}).get(name), value) for name, value in written.items())
    if isinstance(written, list):
        return isinstance(got, list) and len(got) == len(written) and all(map(covers, got, written))
    return got == written and isinstance(got, bool) == isinstance(written, bool) or (got is None and not written)


def alternatives(schema):
    """Fields of which an object has exactly one."""
    return [one["required"][0] for one in schema.get("oneOf", []) if "required" in one]


def least(schema, but=()):
    """An object with its required fields only, each with its example; the example of anything else. but: alternatives not to take."""
    if not schema.get("properties") or ("required" not in schema and "x-mayfly-example" in schema):
        return copy.deepcopy(schema["x-mayfly-example"])
    chosen = [name for name in alternatives(schema) if name not in but][:1]
    return {name: least(schema["properties"][name]) for name in [*schema.get("required", []), *chosen]}


def most(schema):
    """An object with all of its fields; the first of alternatives."""
    if not schema.get("properties"):
        return copy.deepcopy(schema["x-mayfly-example"])
    others = alternatives(schema)[1:]
    return {name: most(field) for name, field in schema["properties"].items() if name not in others}


# ---- fields ----

class Field(NamedTuple):
    place: tuple  # names, and 0 for the first element of a list
    schema: dict[str, Any]
    required: bool

    @property
    def name(self):
        """Its own name; that of the list for an element."""
        return next(step for step in reversed(self.place) if isinstance(step, str))

    def __str__(self):
        return ".".join(str(step) for step in self.place)


def fields(schema, place=()):
    """Every field of an object, those of objects and lists within it after it."""
    for name, field in schema.get("properties", {}).items():
        here = (*place, name)
        yield Field(here, field, name in schema.get("required", ()) or alternatives(schema) == [name])
        yield from fields(field, here)
        if field.get("type") == "array":
            item = field["items"]
            if item.get("type") != "object":
                yield Field((*here, 0), item, False)
            yield from fields(item, (*here, 0))


def objects(schema, place=()):
    """(place, schema) of every object with listed fields: the body itself and those within it."""
    if schema.get("properties"):
        yield place, schema
    for name, field in schema.get("properties", {}).items():
        yield from objects(field, (*place, name))
        if field.get("type") == "array":
            yield from objects(field["items"], (*place, name, 0))


def body_with(schema, place, value):
    """The least body that has value at place."""
    if not place:
        return value
    step, rest = place[0], place[1:]
    if step == 0:
        return [body_with(schema["items"], rest, value)]
    field = schema["properties"][step]
    beside = {name: given for name, given in field.get("x-mayfly-with", {}).items() if name in schema["properties"]}
    inner = body_with(field, rest, value)
    one_of = alternatives(schema)
    but = [step] if inner is None else one_of if step in one_of else ()
    return {**least(schema, but), **beside, step: inner}


def at(value, place):
    for step in place:
        value = value[step]
    return value


def accepted_values(schema):
    """(value, whether it must come back as it was written)."""
    again = [schema["x-mayfly-example"]] if "x-mayfly-example" in schema else []
    also = list(schema.get("x-mayfly-also", []))
    if schema.get("type") == "boolean":
        again = [True, False]
    again += [v for v in schema.get("enum", []) if v not in again and v not in also]
    if schema.get("type") == "integer":
        also += [schema[limit] for limit in ("minimum", "maximum") if limit in schema]
    if "minLength" in schema and schema.get("pattern", "").startswith("^[A-Za-z0-9"):  # an id of its own, not the name of something
        also.append("a" * schema["maxLength"])
    return [(v, True) for v in again] + [(v, False) for v in also]


def refused_values(field):
    """Values that must be answered 400: wrong types, beyond the limits, and those the contract lists."""
    schema = field.schema
    kinds = [one["type"] for one in schema.get("oneOf", [schema])]
    values = [value for other, value in SAMPLES.items() if other not in kinds]
    if field.required:
        values.append(None)
    if "minimum" in schema:
        values.append(schema["minimum"] - 1)
    if "maximum" in schema:
        values.append(schema["maximum"] + 1)
    if "maxLength" in schema:
        values.append("a" * (schema["maxLength"] + 1))
    if "enum" in schema:
        values.append("no-such-value")
    if "maxItems" in schema:
        values.append(schema["x-mayfly-example"] * (schema["maxItems"] + 1))
    return values + list(schema.get("x-mayfly-invalid", []))


def is_beyond_json(value):
    """An integer that the parser refuses before it knows which field it is for."""
    return isinstance(value, int) and value > INT64_MAX
