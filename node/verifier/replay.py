"""Replay a receipt, or one layer of it, and say what differs (docs/verify.md §5).

Three ways out, and they are kept apart.  A verdict without a fault: every replayed layer
has exactly the root the host signed.  A verdict with a fault: the host's signed words
contradict the model it named.  An exception: what was handed in does not belong together,
which says nothing about the host.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ee import integer
from ee.integer import (
    Header,
    IntegerModelError,
    Layer,
    RowArray,
    Slice,
)
from protocol.audit import Entry, Fault
from protocol.boundary import boundary_root
from protocol.errors import VerificationError
from protocol.receipt import BatchProof, Receipt, open_receipt

Told = Callable[[int, int], None]
"""Hears how many layers of how many are replayed."""


def silent(_done: int, _layers: int) -> None:
    """Where nobody looks."""


@dataclass(frozen=True)
class Model:
    """Layers of a released trunk: all of them, or one."""

    header: Header
    roots: tuple[bytes, ...]
    """Root of every layer of the trunk, whether it is here or not."""
    first: int
    layers: tuple[Layer, ...]

    @classmethod
    def read(cls, data: bytes) -> "Model":
        """From the bytes of a trunk or of a slice; the root is computed, not believed."""
        if data.startswith(integer.SLICE_MAGIC):
            part = integer.decode_slice(data)
            return cls(part.header, part.layer_roots, part.index, (part.layer,))
        trunk = integer.decode(data)
        roots = tuple(integer.layer_root(layer) for layer in trunk.layers)
        return cls(trunk.header, roots, 0, trunk.layers)

    @property
    def root(self) -> bytes:
        """The model root."""
        return integer.root_over_layers(self.header, self.roots)

    def cut(self, index: int) -> Slice:
        """Layer `index`, which must be here, tied to the same root."""
        return Slice(self.header, index, self.roots, self.layers[index - self.first])


@dataclass(frozen=True)
class Opened:
    """Rows a host committed to: at which boundary, under which salt, packed."""

    boundary: int
    salt: bytes
    rows: bytes


@dataclass(frozen=True)
class Verdict:
    """What the replay of `count` layers from `first` on found."""

    receipt: Receipt
    first: int
    count: int
    fault: Fault | None
    before: bytes = b""
    """Packed rows the first wrong layer was given; empty where no layer is wrong."""


def audit(
    model: Model,
    sealed: bytes,
    batch: bytes,
    proof: BatchProof,
    opened: Opened,
    committed: Opened | None = None,
    *,
    told: Told = silent,
) -> Verdict:
    """Check a sealed receipt of the anchored `batch` from the rows at one boundary.

    `committed` are the host's rows after the layer in doubt; with them a fault names the
    number.  Raises `ProtocolError` or `IntegerModelError` where nothing can be said.
    """
    proof.verify(batch, sealed)
    receipt = open_receipt(sealed)
    if model.root != receipt.model_root:
        raise VerificationError(
            "model root", receipt.model_root.hex(), model.root.hex()
        )
    _require_rows(receipt, opened)
    first = opened.boundary
    misfit = _misfit(model, receipt)
    if misfit:
        return Verdict(receipt, first, 0, Fault("shape", 0))
    layers = model.layers[first - model.first :] if first >= model.first else ()
    if not layers:
        raise VerificationError(
            "boundary of the rows", f"at a layer of the model from {model.first}", first
        )
    try:
        rows = integer.unpack_rows(opened.rows, receipt.order.shape)
    except IntegerModelError:
        # Numbers no layer can put out, under a root the host or the requester signed.
        fault = Fault("layer", first - 1) if first else Fault("shape", 0)
        return Verdict(receipt, first, 0, fault)
    for done, layer in enumerate(layers):
        told(done, len(layers))
        before, rows = rows, model.header.replay(layer, rows)
        packed, after = integer.pack_rows(rows), first + done + 1
        root = boundary_root(packed, receipt.order.shape, after, opened.salt)
        if root != receipt.roots[after]:
            entry = _difference(receipt, rows, after, committed)
            fault = Fault("layer", after - 1, entry)
            return Verdict(receipt, first, done + 1, fault, integer.pack_rows(before))
    return Verdict(receipt, first, len(layers), None)


def _require_rows(receipt: Receipt, opened: Opened) -> None:
    if not 0 <= opened.boundary <= receipt.layers:
        raise VerificationError(
            "boundary of the rows", f"0 to {receipt.layers}", opened.boundary
        )
    shape = receipt.order.shape
    found = boundary_root(opened.rows, shape, opened.boundary, opened.salt)
    expected = receipt.roots[opened.boundary]
    if found != expected:
        raise VerificationError(
            f"root of the rows at boundary {opened.boundary}",
            expected.hex(),
            found.hex(),
        )


def _misfit(model: Model, receipt: Receipt) -> bool:
    """Does the receipt speak of rows or layers this model does not have?"""
    config, (_, tokens, width) = model.header.config, receipt.order.shape
    return (
        width != config.width
        or tokens > config.tokens
        or receipt.layers != config.layers
    )


def _difference(
    receipt: Receipt, computed: RowArray, after: int, committed: Opened | None
) -> Entry | None:
    if committed is None or committed.boundary != after:
        return None
    _require_rows(receipt, committed)
    return first_difference(committed.rows, computed, 0)


def first_difference(shown: bytes, computed: RowArray, case: int) -> Entry | None:
    """Where packed rows first differ from computed ones, which begin with `case`.

    Byte by byte: three bytes may stand for a number that no row holds (-2^23), and whoever
    commits it is to be named for it.  None where there are not as many bytes as entries need.
    """
    own = np.frombuffer(integer.pack_rows(computed), np.uint8)
    if len(shown) != len(own):
        return None
    shape = (*computed.shape, integer.ENTRY_BYTES)
    told = np.frombuffer(shown, np.uint8).reshape(shape)
    places = np.argwhere((told != own.reshape(shape)).any(axis=-1))
    first, token, column = (int(axis) for axis in places[0])
    return Entry(
        case + first,
        token,
        column,
        committed=int.from_bytes(
            told[first, token, column].tobytes(), "little", signed=True
        ),
        computed=int(computed[first, token, column]),
        differing=len(places),
    )
