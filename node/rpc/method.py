"""What a method of the admin interface is; `node.rpc.methods` has them all."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

import msgspec


@dataclass(frozen=True)
class Method:
    """One method: what it is asked, what it answers, what it is for."""

    name: str
    params: type[msgspec.Struct]
    result: type[msgspec.Struct]
    about: str

    @property
    def example(self) -> Mapping[str, Any]:
        """`params` and `result` of one call."""
        return _examples()[self.name]

    def described(self, field: str) -> str:
        """What a parameter takes, for the hint of a refusal; empty if there is none."""
        properties = schema_of(self.params)["properties"]
        return description(properties.get(field, {}))


def schema_of(struct: type[msgspec.Struct]) -> dict[str, Any]:
    """The JSON Schema of one Struct, with its definitions beside it under `$defs`."""
    (top,), definitions = msgspec.json.schema_components([struct])
    name = top["$ref"].rsplit("/", 1)[-1]
    found = definitions.pop(name)
    return {**found, "$defs": definitions}


def description(schema: Mapping[str, Any]) -> str:
    """The words of a property; those of an optional one stand on its first kind."""
    for one in (schema, *schema.get("anyOf", ())):
        if text := one.get("description"):
            return str(text)
    return ""


@cache
def _examples() -> Mapping[str, Mapping[str, Any]]:
    path = resources.files("node.rpc") / "examples.json"
    found: dict[str, Mapping[str, Any]] = json.loads(path.read_text())
    return found
