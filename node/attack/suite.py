"""All attacks against all views of one model; rows as they are measured.

Every number is measured in the run that prints it, from one seed.  A row's `control` is the
same attack on the same text where nothing is keyed and the attacker has the base: an attack
that fails there has shown nothing anywhere.
"""

import hashlib
import math
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ee.attacks.anchors import known_plaintext
from ee.attacks.audit import INVARIANT, PERMUTED, leak_audit, share_audit
from ee.attacks.base import Base
from ee.attacks.fingerprint import attention_logits
from ee.attacks.frequency import substitution
from ee.attacks.gradient import gradient_span, query_gradient
from ee.attacks.inverter import trained_inverter
from ee.attacks.keying import KeyedBody, Observed
from ee.attacks.score import Finding
from ee.attacks.search import UNKNOWN
from ee.attacks.share import classifier
from ee.attacks.table import table_matching
from ee.attacks.view import BodyView, KeyedView, PlainView, ShareView, View
from ee.attacks.vocabulary import Text, inner_products, nearest_rows, sorted_rows
from ee.attacks.weights import key_found, match_blocks, weight_matching
from ee.smode.arithmetic import Gaussian, Ring
from node.attack.material import perturbed
from node.attack.rows import Kept, Row
from node.attack.subjects import Say, Size, Subject

DISTANCES = (0.03, 0.1, 0.3, 0.5, 1.0)
"""At which weight matching alone is tried as well, to see where it stops."""
CHOSEN_FROM = 100
"""Texts among which those to search for are chosen."""

BATCH = 6
"""Texts of the batch whose gradient is read: fewer tokens than either body is wide."""


Attack = Callable[[View, "Bench"], Finding | None]


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
            return varied(own.victim_ids[:CHOSEN_FROM], self.size.searched), text
        ids = varied(own.victim_ids[:CHOSEN_FROM], self.size.two_way_searched)
        # A two-way search is dear: the attacker is given a short list with the truth on it.
        present = text.unknown(ids).unique()
        others = text.candidates[~torch.isin(text.candidates, present)]
        order = torch.randperm(len(others), generator=self.draw("choices"))
        room = max(0, self.size.two_way_choices - len(present))
        short = torch.cat([present, others[order[:room]]])
        return ids, replace(text, candidates=short)


def varied(ids: Tensor, count: int) -> Tensor:
    """`count` of the texts that have many different words: a value is a mean over words.

    Greedy, by the texts alone: which are chosen does not depend on what an attack finds.
    """
    left, held, chosen = list(range(len(ids))), set[int](), []
    for _ in range(min(count, len(ids))):
        best = max(left, key=lambda one: len(set(ids[one].tolist()) - held))
        left.remove(best)
        held |= set(ids[best].tolist())
        chosen.append(best)
    return ids[chosen]


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
        found = weight_matching(view.attacker, seen, ids, text, view.body)
        if isinstance(view, KeyedView) and view.attacker is view.victim:
            return replace(found, detail=found.detail | _by_distance(view, bench))
        return found
    # No key to take off in S-mode: the matrices are public as they are.
    return nearest_rows(view.attacker, seen, ids, text)


def _by_distance(view: KeyedView, bench: Bench) -> dict[str, float]:
    """How much of the key weights alone give away once the victim's have moved so far."""
    detail = {}
    for distance in DISTANCES:
        moved = Base(perturbed(view.victim, bench.seed, distance))
        key = hashlib.sha256(f"{bench.seed}/{distance}".encode()).digest()
        body = KeyedBody(moved, view.depth, key)
        matched = match_blocks(view.attacker.block(view.depth), body.block)
        for name, value in key_found(matched, body).items():
            detail[f"{name}_at_{distance}"] = value
    return detail


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


def _frequency(view: View, bench: Bench) -> Finding | None:
    if view.depth:
        return None  # behind a block no two rows are equal: there is nothing to count
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
    train = own.public_ids[: bench.size.public]
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


def run(
    bench: Bench,
    say: Say,
    only: Collection[int] = (),
    kept: Kept | None = None,
) -> Iterator[Row]:
    """Rows of one model, attack by attack in the order of the table.

    `only`: numbers of the attacks to run; empty for all.  `kept`: where finished attacks are
    read from and written to.
    """
    views = list(_views(bench.subject, bench.seed))
    asked = [one for one in ATTACKS if not only or int(one.split()[0]) in only]
    for number, attack in enumerate(asked, 1):
        found = kept.found(attack) if kept else None
        if found is None:
            say(f"attack {number} of {len(asked)}: {attack}")
            found = list(_rows(bench, attack, views, say))
            if kept:
                kept.keep(attack, found)
        yield from found


def _rows(
    bench: Bench, attack: str, views: list[tuple[str, View]], say: Say
) -> Iterator[Row]:
    """One attack on every view it is made for."""
    own, (measure, act) = bench.subject, ATTACKS[attack]
    controls: dict[int, float] = {}
    for name, view in views:
        say(f"{attack}, {name} base, {view.mode}")
        found = act(view, bench)
        if found is None:
            continue
        if view.depth not in controls:
            plain = act(PlainView(own.public, own.public, view.depth), bench)
            controls[view.depth] = float("nan") if plain is None else plain.value
        control = controls[view.depth]
        yield _row(own.name, attack, name, view.mode, measure, found, control)
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
