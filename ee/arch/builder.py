"""Writes a layer plan block by block, so that an architecture's file is its names."""

from collections.abc import Sequence

from ee.arch.plan import STREAM, Blank, Linear, NormLayer, Plan, Public, Side
from ee.arch.sites import Attention, Hidden, Norm, Site, Stream


class Builder:
    """One trunk in the making."""

    def __init__(
        self, architecture: str, width: int, norm: Norm, *, transposed: bool = False
    ) -> None:
        """`transposed`: every projection is stored (inputs, outputs)."""
        self._architecture = architecture
        self._norm = norm
        self._transposed = transposed
        self._sites: dict[str, Site] = {STREAM.site: Stream(width, norm)}
        self._linears: list[Linear] = []
        self._norms: list[NormLayer] = []

    def norm(self, name: str) -> str:
        """A norm of the stream; its gain is folded unless the stream's group keeps it."""
        kept = self._norm is Norm.GAINED
        self._norms.append(NormLayer(name, self._norm is not Norm.RMS, kept))
        return name

    def attention(
        self,
        site: str,
        heads: Attention,
        into: Sequence[str],
        out: str,
        *,
        norm: str | None,
        bias: bool = True,
        out_bias: bool = True,
    ) -> None:
        """`into` names the projections of q, k and v, or the one matrix that holds them."""
        self._sites[site] = heads
        writes: list[tuple[Side, ...]] = [(Side(site, part),) for part in "qkv"]
        if len(into) == 1:
            writes = [tuple(Side(site, part) for part in "qkv")]
        for name, sides in zip(into, writes, strict=True):
            self._linear(name, STREAM, sides, bias, norm)
        self._linear(out, Side(site, "o"), (STREAM,), out_bias)

    def feed_forward(
        self,
        site: str,
        hidden: Hidden,
        into: Sequence[str],
        out: str,
        *,
        norm: str | None,
        bias: bool = True,
    ) -> None:
        """`into` names the projection into the activation, then the factor beside it."""
        self._sites[site] = hidden
        parts = ("act", "free") if hidden.gated else ("act",)
        for name, part in zip(into, parts, strict=True):
            self._linear(name, STREAM, (Side(site, part),), bias, norm)
        self._linear(out, Side(site, "down"), (STREAM,), bias)

    def _linear(
        self,
        name: str,
        reads: Side,
        writes: tuple[Side, ...],
        bias: bool,
        folds: str | None = None,
    ) -> None:
        linear = Linear(name, reads, writes, bias, folds, self._transposed)
        self._linears.append(linear)

    def plan(self, blanks: dict[str, tuple[int, ...]], *publics: Public) -> Plan:
        """The finished plan; `blanks` are tensors of the stock class that stay zero."""
        return Plan(
            architecture=self._architecture,
            sites=self._sites,
            linears=tuple(self._linears),
            norms=tuple(self._norms),
            blanks=tuple(Blank(name, shape) for name, shape in blanks.items()),
            publics=publics,
        )
