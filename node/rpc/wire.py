"""Bytes to requests and answers to bytes, without a socket.

One JSON object a line, both ways; a line ends with a newline and holds none.  Whatever the
bytes are, the outcome is a `Request` or a `Fault`: nothing here raises on what a stranger
sent.  A request without an id is a notification: it is carried out and never answered,
unless it cannot be read, in which case the id is unknown and the fault carries null.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from node.rpc import codes
from protocol.nesting import is_deeper

# The longest request carries a model file (protocol.runs), which grows when it is quoted
# inside JSON.
REQUEST_LIMIT_BYTES = 1 << 20
# The longest answers are event pages and lists; a client holds one in memory.
ANSWER_LIMIT_BYTES = 1 << 24
# The deepest request there is has three levels.
DEPTH_LIMIT = 32
_SHOWN_CHARS = 60
_PREFIX = "JSON is malformed: "

Id = Annotated[int, Meta(ge=-(2**53), le=2**53)] | Annotated[str, Meta(max_length=128)]
NO_ID = UNSET


class _Envelope(msgspec.Struct, forbid_unknown_fields=True):
    jsonrpc: Literal["2.0"]
    method: Annotated[str, Meta(max_length=128)]
    params: Any = UNSET
    id: Id | UnsetType | None = UNSET


@dataclass(frozen=True)
class Request:
    """A well-formed call; the method may still be unknown and the params wrong."""

    id: int | str | UnsetType | None
    method: str
    params: Mapping[str, Any]

    @property
    def wants_answer(self) -> bool:
        return self.id is not NO_ID


@dataclass(frozen=True)
class Fault:
    """Why there is no result, in the words the caller will read."""

    code: int
    message: str
    hint: str = ""
    id: int | str | None = None


class Lines:
    """Cut a stream into lines of at most `limit` bytes; holds no more than that."""

    def __init__(self, limit: int = REQUEST_LIMIT_BYTES) -> None:
        self._limit = limit
        self._rest = bytearray()

    def feed(self, data: bytes) -> Iterator[bytes | Fault]:
        """Complete lines, blank ones left out.

        A line that is too long is a `Fault`, and the stream is of no use after it: where
        the line would have ended is not known.
        """
        start = 0
        while (end := data.find(b"\n", start)) >= 0:
            line = bytes(self._rest) + data[start:end]
            self._rest.clear()
            start = end + 1
            if len(line) > self._limit:
                yield self._too_long()
                return
            if line.strip():
                yield line
        self._rest += data[start:]
        if len(self._rest) > self._limit:
            self._rest.clear()
            yield self._too_long()

    def _too_long(self) -> Fault:
        return Fault(
            codes.INVALID_REQUEST,
            f"request has more than {self._limit} bytes",
            "name a file instead of sending its content",
        )


def parse(line: bytes) -> Request | Fault:
    """One line as a request."""
    if is_deeper(line, DEPTH_LIMIT):
        return Fault(
            codes.PARSE_ERROR,
            f"request is nested more than {DEPTH_LIMIT} deep",
            "no method takes more than a list inside an object",
        )
    try:
        tree = msgspec.json.decode(line)
    except ValueError as error:
        return Fault(
            codes.PARSE_ERROR,
            f"request is not JSON: {_lower(str(error).removeprefix(_PREFIX))}",
            "send one JSON-RPC 2.0 object a line, in UTF-8",
        )
    if isinstance(tree, list):
        return Fault(
            codes.INVALID_REQUEST,
            f"request is a batch of {len(tree)}",
            "send one request a line; answers come in the same order",
        )
    if not isinstance(tree, dict):
        return Fault(codes.INVALID_REQUEST, f"request is {_shown(tree)}, not an object")
    try:
        envelope = msgspec.convert(tree, _Envelope)
    except msgspec.ValidationError as error:
        return Fault(
            codes.INVALID_REQUEST,
            f"not a JSON-RPC 2.0 request: {refusal(error, tree)}",
            'a request is {"jsonrpc": "2.0", "id": 1, "method": "status.get", "params": {}}',
            _id(tree),
        )
    if envelope.params is UNSET:
        return Request(envelope.id, envelope.method, {})
    if not isinstance(envelope.params, dict):
        return Fault(
            codes.INVALID_PARAMS,
            f"params is {_shown(envelope.params)}, not an object",
            "parameters go by name; docs/rpc.md lists them",
            _id(tree),
        )
    return Request(envelope.id, envelope.method, envelope.params)


def answer(request: Request, result: msgspec.Struct) -> bytes:
    """The line that carries a result; a `Fault`'s line where it would be too long."""
    line = _line({"jsonrpc": "2.0", "id": request.id, "result": result})
    if len(line) <= ANSWER_LIMIT_BYTES:
        return line
    too_long = Fault(
        codes.INTERNAL_ERROR,
        f"the answer has {len(line)} bytes, limit is {ANSWER_LIMIT_BYTES}",
        "ask for less at once",
    )
    return refuse(request.id, too_long)


def refuse(id_: int | str | UnsetType | None, fault: Fault) -> bytes:
    """The line that carries a fault."""
    error = {
        "code": fault.code,
        "message": fault.message,
        "data": {"hint": fault.hint},
    }
    return _line(
        {"jsonrpc": "2.0", "id": None if id_ is UNSET else id_, "error": error}
    )


def refusal(error: msgspec.ValidationError, tree: Any) -> str:
    """A complaint of msgspec's in our order: which value, what it is, what it should be."""
    said = re.fullmatch(r"(?s)(.*?)(?: - at `(.*)`)?", str(error))
    assert said is not None  # every text matches
    what, path = said[1], (said[2] or "$").removeprefix("$").removeprefix(".")
    what = _lower(what.replace("`", "")).removeprefix("object ")
    if what.startswith("invalid enum value"):
        what = "not one of the values allowed there"
    if not path:
        return what
    if "[...]" in path or "key in" in path:
        return f"{path}: {what}"
    return f"{path} is {_shown(_at(tree, path))}: {what}"


def _at(tree: Any, path: str) -> Any:
    for name, index in re.findall(r"([^.\[\]]+)|\[(\d+)\]", path):
        try:
            tree = tree[int(index)] if index else tree[name]
        except (KeyError, IndexError, TypeError):
            return None
    return tree


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return f"an object of {len(value)}"
    if isinstance(value, list):
        return f"a list of {len(value)}"
    text = msgspec.json.encode(value).decode()
    return text if len(text) <= _SHOWN_CHARS else text[:_SHOWN_CHARS] + "…"


def _id(tree: dict[str, Any]) -> int | str | None:
    """The caller's id, where it is one, so that even a bad request is answered by name."""
    try:
        return msgspec.convert(tree.get("id"), Id | None)
    except msgspec.ValidationError:
        return None


def _lower(text: str) -> str:
    return text[:1].lower() + text[1:].removesuffix(".")


def _line(tree: dict[str, Any]) -> bytes:
    return msgspec.json.encode(tree) + b"\n"
