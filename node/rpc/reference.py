"""`python -m node.rpc.reference > docs/rpc.md`: the reference page, made from the schema.

With `--schema` it prints the same as JSON Schema, for programs.  A test compares the page with
what this prints, so it cannot fall behind the code.
"""

import json
import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from node.rpc import codes, wire
from node.rpc.method import Method, description, schema_of
from node.rpc.methods import METHODS

_WIDTH = 88
_INTRO = f"""\
# Admin interface

Made from `node/rpc/methods` by `python -m node.rpc.reference`; a test holds it current.

The daemon answers JSON-RPC 2.0 on the unix socket `rpc.sock` in its home, one JSON object a
line both ways. There is no password: whoever may enter the folder (mode 0700) may do anything
here, and nobody else may do anything. `rexis <noun> <verb> --json` prints results unchanged.

    $ printf '{{"jsonrpc":"2.0","id":1,"method":"status.get"}}\\n' | nc -U -N ~/.rexis/rpc.sock

- Parameters go by name. Unknown ones are refused.
- A result is always an object, and its fields are always there. New fields may come; none goes
  away without notice.
- Requests on one connection are answered in their order; several connections do not wait for
  one another. Batches are refused.
- A request has at most {wire.REQUEST_LIMIT_BYTES >> 20} MiB, an answer at most {wire.ANSWER_LIMIT_BYTES >> 20} MiB.
- What was asked for goes on when the connection ends.
- The examples are folded for reading; on the socket each is one line.
"""


def page() -> str:
    """The whole of docs/rpc.md."""
    parts = [_INTRO, *_contents(), "", *_errors()]
    for method in METHODS.values():
        parts += ["", *_method(method)]
    return "\n".join(parts) + "\n"


def json_schema() -> dict[str, Any]:
    """Every method's params and result as JSON Schema."""
    return {
        name: {
            "description": method.about,
            "params": schema_of(method.params),
            "result": schema_of(method.result),
        }
        for name, method in METHODS.items()
    }


def _contents() -> Iterator[str]:
    nouns: dict[str, list[str]] = {}
    for name in METHODS:
        nouns.setdefault(name.split(".")[0], []).append(
            f"[{name.split('.')[1]}](#{name.replace('.', '')})"
        )
    yield "## Methods\n"
    for noun, verbs in nouns.items():
        yield f"- {noun}: {', '.join(verbs)}"


def _errors() -> Iterator[str]:
    yield "## Errors\n"
    yield "An error has `code`, `message` (one line) and `data.hint` (what to do, may be empty).\n"
    yield "| code | meaning |\n|---|---|"
    for code, meaning in codes.MEANING.items():
        yield f"| {code} | {meaning} |"


def _method(method: Method) -> Iterator[str]:
    yield f"### {method.name}\n"
    yield f"{method.about}\n"
    yield from _params(schema_of(method.params))
    yield from _result(schema_of(method.result))
    example = method.example
    request = {"jsonrpc": "2.0", "id": 1, "method": method.name}
    if example["params"]:
        request["params"] = example["params"]
    yield "```json"
    yield _folded(request)
    yield _folded({"jsonrpc": "2.0", "id": 1, "result": example["result"]})
    yield "```"


def _params(schema: Mapping[str, Any]) -> Iterator[str]:
    if not schema["properties"]:
        yield "No parameters.\n"
        return
    required = schema.get("required", ())
    yield "| parameter | type | |\n|---|---|---|"
    for name, one in schema["properties"].items():
        words = [description(one)]
        if name not in required and one.get("default") is not None:
            words.append(f"default {json.dumps(one['default'])}")
        optional = "" if name in required else ", optional"
        kind = _kind(one, schema["$defs"]).removesuffix(" or null")
        yield f"| `{name}` | {kind}{optional} | {'; '.join(filter(None, words))} |"
    yield ""


def _result(schema: Mapping[str, Any]) -> Iterator[str]:
    rows = list(_fields(schema, schema["$defs"], ""))
    yield "| result | type | |\n|---|---|---|"
    for path, kind, words in rows:
        yield f"| `{path}` | {kind} | {words} |"
    yield ""


def _fields(
    schema: Mapping[str, Any], definitions: Mapping[str, Any], prefix: str
) -> Iterator[tuple[str, str, str]]:
    """Each field of a result, with those of the objects inside it below it."""
    for name, one in schema["properties"].items():
        path = prefix + name
        yield path, _kind(one, definitions), description(one)
        inside, mark = _inside(one)
        if inside is not None:
            yield from _fields(definitions[inside], definitions, f"{path}{mark}.")


def _inside(schema: Mapping[str, Any]) -> tuple[str | None, str]:
    """The definition a field refers to, and whether through a list."""
    for one in (schema, *schema.get("anyOf", ())):
        for part, mark in ((one, ""), (one.get("items", {}), "[]")):
            if "$ref" in part:
                return str(part["$ref"]).rsplit("/", 1)[-1], mark
    return None, ""


def _folded(value: Any, indent: int = 0) -> str:
    """JSON that stays on one line where it fits, for people; the socket carries one line."""
    flat = json.dumps(value)
    if len(flat) + indent <= _WIDTH or not value or not isinstance(value, dict | list):
        return flat
    inner = " " * (indent + 2)
    if isinstance(value, dict):
        items = [
            f"{json.dumps(key)}: {_folded(item, indent + 2)}"
            for key, item in value.items()
        ]
        opening, closing = "{", "}"
    else:
        items = [_folded(item, indent + 2) for item in value]
        if not any(isinstance(item, dict | list) for item in value):
            filled = textwrap.fill(
                ", ".join(items),
                _WIDTH - indent - 2,
                break_long_words=False,
                break_on_hyphens=False,
            )
            return f"[\n{textwrap.indent(filled, inner)}\n{' ' * indent}]"
        opening, closing = "[", "]"
    joined = f",\n{inner}".join(items)
    return f"{opening}\n{inner}{joined}\n{' ' * indent}{closing}"


def _kind(schema: Mapping[str, Any], definitions: Mapping[str, Any]) -> str:
    if "anyOf" in schema:
        return " or ".join(_kind(one, definitions) for one in schema["anyOf"])
    if "$ref" in schema:
        return "object"
    if "enum" in schema:
        return " or ".join(f"`{json.dumps(one)}`" for one in schema["enum"])
    if "const" in schema:
        return f"`{json.dumps(schema['const'])}`"
    kind = str(schema.get("type", "any"))
    if kind == "array":
        return f"list of {_kind(schema['items'], definitions)}"
    return kind


def main(arguments: Sequence[str]) -> None:
    """Print the page, or with `--schema` the JSON Schema."""
    if arguments == ["--schema"]:
        sys.stdout.write(json.dumps(json_schema(), indent=1) + "\n")
    else:
        sys.stdout.write(page())


if __name__ == "__main__":
    main(sys.argv[1:])
