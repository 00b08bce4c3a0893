"""All attacks against all views of one model; rows as they are measured.

Every number is measured in the run that prints it, from one seed.  A row's `control` is the
same attack on the same text where nothing is keyed and the attacker has the base: an attack
that fails there has shown nothing anywhere.
"""

import hashlib
import math
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass

import msgspec
import torch
from torch import Tensor

from ee.attacks.anchors import known_plaintext
from ee.attacks.audit import INVARIANT, PERMUTED, leak_audit, share_audit
from ee.attacks.base import Base
from ee.attacks.causal import train_causal
from ee.attacks.fingerprint import attention_logits
from ee.attacks.frequency import substitution
from ee.attacks.gradient import gradient_span, query_gradient
from ee.attacks.inverter import trained_inverter
from ee.attacks.keying import Observed
from ee.attacks.score import Finding
from ee.attacks.search import UNKNOWN
from ee.attacks.share import classifier
from ee.attacks.table import table_matching
from ee.attacks.view import Bases, BodyView, KeyedView, PlainView, ShareView, View
from ee.attacks.vocabulary import Text, inner_products, nearest_rows, sorted_rows
from ee.attacks.weights import match_blocks, weight_matching
from ee.smode.arithmetic import Gaussian, Ring
from node.attack.material import Texts, perturbed, read_minilm, read_texts, shuffled

DISTANCE = 0.3
"""Of the perturbed base; where ee.md's toy stem stopped falling to matching."""


BATCH = 6
"""Texts of the batch whose gradient is read: fewer tokens than either body is wide."""


class Size(msgspec.Struct, frozen=True):
    """How much of everything."""

    words: int = 1024
    tokens: int = 10
    steps: int = 700
    searched: int = 6
    two_way_choices: int = 128
    two_way_searched: int = 4
    many: int = 1500
    inverter_steps: int = 300
    summed: int = 200


QUICK = Size(
    words=512, tokens=8, steps=150, searched=3, two_way_choices=48, two_way_searched=2,
    many=400, inverter_steps=100,
)  # fmt: skip


class Row(msgspec.Struct, frozen=True):
    """One cell of the table."""

    attack: str
    model: str
    base: str
    mode: str
    value: float
    chance: float
    control: float
    trials: int
    measure: str
    detail: dict[str, float | None]
    """None: never, where a number was looked for and not reached."""


@dataclass(frozen=True)
class Subject:
    """One model with its text, in its own token numbers."""

    name: str
    public: Base
    bases: tuple[Bases, ...]
    victim_ids: Tensor
    public_ids: Tensor
    injury: Tensor
    text: Text


Attack = Callable[[View, "Bench"], Finding | None]
Say = Callable[[str], None]


@dataclass(frozen=True)
class Bench:
    """What an attack function is given beside the view."""

    subject: Subject
    size: Size
    seed: int

    def draw(self, label: str) -> torch.Generator:
        digest = hashlib.sha256(f"{self.seed}/{label}".encode()).digest()
        return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))

    def searched(self, view: View) -> tuple[Tensor, Text]:
        """Texts for a search, as many as are affordable, and what is tried."""
        own, text = self.subject, self.subject.text
        if view.attacker.causal or view.depth == 0:
            return own.victim_ids[: self.size.searched], text
        ids = own.victim_ids[: self.size.two_way_searched]
        # A two-way search is dear: the attacker is given a short list with the truth on it.
        present = text.unknown(ids).unique()
        others = text.candidates[~torch.isin(text.candidates, present)]
        order = torch.randperm(len(others), generator=self.draw("choices"))
        room = max(0, self.size.two_way_choices - len(present))
        short = torch.cat([present, others[order[:room]]])
        return ids, Text(text.template, short, text.filler)


def _sorted_rows(view: View, bench: Bench) -> Finding:
    ids, text = bench.searched(view)
    return sorted_rows(view.attacker, view.observed(ids), ids, text)


def _inner_products(view: View, bench: Bench) -> Finding:
    ids, text = bench.searched(view)
    return inner_products(view.attacker, view.observed(ids), ids, text)


def _attention_logits(view: View, bench: Bench) -> Finding:
    ids = bench.subject.victim_ids[:100]
    seen = view.observed(ids)
    return attention_logits(view.attacker, seen, ids, bench.subject.text)


def _weight_matching(view: View, bench: Bench) -> Finding:
    ids, text = bench.searched(view)
    seen = view.observed(ids)
    if isinstance(view, BodyView):
        return weight_matching(view.attacker, seen, ids, text, view.body)
    # No key to take off in S-mode: the matrices are public as they are.
    return nearest_rows(view.attacker, seen, ids, text)


def _table_matching(view: View, bench: Bench) -> Finding | None:
    if view.depth:
        return None
    words = bench.subject.text.candidates
    order = torch.randperm(len(words), generator=bench.draw("table"))
    given = view.hide(view.victim.table[words[order]])
    return table_matching(view.attacker.table[words], given, order)


def _known_plaintext(view: View, bench: Bench) -> Finding:
    own = bench.subject
    if view.depth == 0:
        words = own.text.candidates
        plain, theirs = (b.rows_at(words, 1) for b in (view.attacker, view.victim))
        if view.normed:
            plain = view.attacker.block(0).enter(plain)
            theirs = view.victim.block(0).enter(theirs)
    else:
        # Rows of whole texts: which of these is it?  Alike texts would be alike rows.
        ids = own.victim_ids[:1024, :-1].unique(dim=0)
        plain = view.plain_rows(view.attacker, ids)[:, -1]
        theirs = view.plain_rows(view.victim, ids)[:, -1]
    return known_plaintext(plain, view.hide(theirs), bench.draw("anchors"))


def _frequency(view: View, bench: Bench) -> Finding:
    own = bench.subject
    ids = own.victim_ids[: bench.size.many]
    seen = view.observed(ids).rows
    columns = own.text.template == UNKNOWN
    return substitution(
        seen[:, columns], ids[:, columns], own.public_ids[:, columns],
        positional=not view.attacker.causal,
    )  # fmt: skip


def _inverter(view: View, bench: Bench) -> Finding:
    own = bench.subject
    train = own.public_ids[:4000]
    ids = own.victim_ids[:200]
    return trained_inverter(
        view.plain_rows(view.attacker, train), train, view.imitate,
        view.observed(ids).rows, ids, seed=bench.seed, steps=bench.size.inverter_steps,
    )  # fmt: skip


def _gradient(view: View, bench: Bench) -> Finding | None:
    if view.depth:
        return None
    own = bench.subject
    ids = own.victim_ids[:BATCH]
    if isinstance(view, BodyView):
        rows = view.victim.rows(ids, 0)
        pull = torch.randn(rows.shape, generator=bench.draw("pull"))
        gradient = query_gradient(view.body.trunk, view.hide(rows), view.hide(pull))
        residual = torch.eye(view.attacker.width, dtype=torch.float64)
        if not isinstance(view, PlainView):
            residual = match_blocks(view.attacker.block(0), view.block).residual
    else:
        # One host has no gradient of a weight; the row space of one is that of its inputs.
        gradient = view.observed(ids).rows.flatten(0, 1)
        residual = torch.eye(view.attacker.width, dtype=torch.float64)
    return gradient_span(view.attacker, gradient, ids, own.text, residual)


def _summed_gradient(own: Subject, bench: Bench) -> Finding:
    """What an aggregator has: the canonical sum over more tokens than dimensions."""
    ids = own.victim_ids[: bench.size.summed]
    rows = own.public.rows(ids, 0)
    pull = torch.randn(rows.shape, generator=bench.draw("pull"))
    gradient = query_gradient(own.public.model, rows, pull)
    eye = torch.eye(own.public.width, dtype=torch.float64)
    return gradient_span(own.public, gradient, ids[:BATCH], own.text, eye)


def _classifier(view: View, bench: Bench) -> Finding | None:
    if isinstance(view, KeyedView):
        return None
    own = bench.subject
    count = bench.size.many
    half = torch.cat([(own.injury[:count] == side).nonzero()[:, 0] for side in (0, 1)])
    least = int(torch.bincount(own.injury[:count]).min())
    side = own.injury[half]
    pick = torch.cat([half[side == 0][:least], half[side == 1][:least]])
    pick = pick[torch.randperm(len(pick), generator=bench.draw("labels"))]
    leak = view.arithmetic.leak_bits if isinstance(view, ShareView) else float("inf")
    rows = view.observed(own.victim_ids[pick]).rows
    return classifier(rows, own.injury[pick], leak_bits=leak, seed=bench.seed)


def _audit(view: View, bench: Bench) -> Finding:
    ids = bench.subject.victim_ids[:8]
    rows = view.plain_rows(view.victim, ids)
    plain = Observed(rows, view.victim.block(view.depth), view.depth, view.normed)
    if isinstance(view, ShareView):
        return share_audit(plain, view.observed(ids))
    listed = INVARIANT if view.attacker.causal else INVARIANT | PERMUTED
    return leak_audit(plain, view.observed(ids), listed)


ATTACKS: dict[str, tuple[str, Attack]] = {
    "1 sorted rows": ("tokens recovered", _sorted_rows),
    "1 inner products": ("tokens recovered", _inner_products),
    "2 attention logits": ("tokens recovered", _attention_logits),
    "3 weight matching": ("tokens recovered", _weight_matching),
    "4 table matching": ("table rows identified", _table_matching),
    "5 known plaintext": ("rows recovered, 32 anchors", _known_plaintext),
    "6 frequency": ("tokens recovered", _frequency),
    "7 trained inverter": ("tokens recovered", _inverter),
    "8 gradient span": ("tokens of the batch", _gradient),
    "9 share classifier": ("accuracy", _classifier),
    "10 leak audit": ("hidden quantities equal", _audit),
}
SUMMED = "8 gradient span"


MODELS = ("minilm", "causal")


def run(
    size: Size,
    seed: int,
    say: Say,
    model: str | None = None,
    only: Collection[int] = (),
) -> Iterator[Row]:
    """Rows of both models, or of the one named, in the order of the table.

    `only`: numbers of the attacks to run; empty for all.
    """
    say("reading MiniLM and the text")
    texts = read_texts(size.words, size.tokens, seed)
    if model in {None, "minilm"}:
        bench = Bench(_minilm(texts, seed), size, seed)
        yield from attack_subject(bench, say, only)
    if model in {None, "causal"}:
        bench = Bench(_causal(texts, size, seed, say), size, seed)
        yield from attack_subject(bench, say, only)


def attack_subject(bench: Bench, say: Say, only: Collection[int] = ()) -> Iterator[Row]:
    """All rows of one model."""
    own = bench.subject
    views = list(_views(own, bench.seed))
    for attack, (measure, act) in ATTACKS.items():
        if only and int(attack.split()[0]) not in only:
            continue
        controls: dict[int, float] = {}
        for name, view in views:
            say(f"{own.name}: {attack}, {name} base, {view.mode}")
            found = act(view, bench)
            if found is None:
                continue
            if view.depth not in controls:
                plain = act(PlainView(own.public, own.public, view.depth), bench)
                controls[view.depth] = float("nan") if plain is None else plain.value
            yield _row(
                own.name, attack, name, view.mode, measure, found, controls[view.depth]
            )
        if attack == SUMMED:
            found = _summed_gradient(own, bench)
            yield _row(own.name, attack, "public", "sum", measure, found, controls[0])


def _row(
    model: str,
    attack: str,
    base: str,
    mode: str,
    measure: str,
    found: Finding,
    control: float,
) -> Row:
    detail = {n: v if math.isfinite(v) else None for n, v in found.detail.items()}
    return Row(
        attack, model, base, mode, found.value, found.chance, control,
        found.trials, measure, detail,
    )  # fmt: skip


def _views(own: Subject, seed: int) -> Iterator[tuple[str, View]]:
    for number, bases in enumerate(own.bases):
        for depth in (0, 1):
            key = hashlib.sha256(
                f"attack-key/{seed}/{number}/{depth}".encode()
            ).digest()
            yield bases.name, KeyedView(bases.attacker, bases.victim, depth, key)
    for arithmetic in (Gaussian(10), Ring()):
        pad = hashlib.sha256(f"attack-pad/{seed}/{arithmetic.name}".encode()).digest()
        yield "public", ShareView(own.public, arithmetic, pad)


def _minilm(texts: Texts, seed: int) -> Subject:
    base = Base(read_minilm())
    stop = torch.full((len(texts.ids), 1), texts.stop)
    ids = torch.cat([texts.ids[:, :-1], stop], dim=1)
    template = torch.full((ids.shape[1],), UNKNOWN)
    template[0], template[-1] = texts.start, texts.stop
    private, moved = shuffled(base, seed), perturbed(base, seed, DISTANCE)
    bases = (
        Bases("public", base, base),
        Bases("perturbed", base, Base(moved)),
        Bases("private", base, Base(private)),
    )
    text = Text(template, texts.words, texts.filler)
    return _subject("minilm", bases, ids, texts, text)


def _causal(texts: Texts, size: Size, seed: int, say: Say) -> Subject:
    ids = texts.small(texts.ids)
    corpus = ids[len(ids) // 4 :]
    half = len(corpus) // 2
    bodies: list[Base] = []
    for number, part in enumerate((corpus[:half], corpus[half:])):
        body, loss = train_causal(
            part, len(texts.words) + 1, seed=seed + number, steps=size.steps,
            progress=lambda step, loss: say(f"training a causal model: {step}, {loss:.2f}"),
        )  # fmt: skip
        say(f"causal model {number + 1}: {loss:.2f} nats a token")
        bodies.append(body)
    moved = Base(perturbed(bodies[0], seed, DISTANCE))
    bases = (
        Bases("public", bodies[0], bodies[0]),
        Bases("perturbed", bodies[0], moved),
        Bases("private", bodies[1], bodies[0]),
    )
    template = torch.full((ids.shape[1],), UNKNOWN)
    template[0] = 0
    candidates = torch.arange(1, len(texts.words) + 1)
    return _subject("causal", bases, ids, texts, Text(template, candidates, 0))


def _subject(
    name: str, bases: tuple[Bases, ...], ids: Tensor, texts: Texts, text: Text
) -> Subject:
    quarter = len(ids) // 4
    return Subject(
        name, bases[0].attacker, bases, ids[:quarter], ids[quarter:],
        texts.injury[:quarter], text,
    )  # fmt: skip
