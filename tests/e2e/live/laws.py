"""What diaries of a federation must agree to, whoever was killed when (docs/protocol.md §5.6).

`broken` reads every member's diary and returns the laws it finds broken, in words.  The last
law is the strictest: from the first state on, every round is computed anew from the rounded
updates that the members recorded, and must give the very state that was certified.  An update
that was lost, counted twice, or summed in another form than recorded changes a bit of it.
"""

from collections import defaultdict
from dataclasses import dataclass, field

import msgpack
import numpy as np

from ee.outer import outer_step
from ee.spec import initial_state, size
from live import boundaries
from node.compute import state
from node.compute.rounds import FIRST_EXPONENT
from protocol.aggregate.ring import Ring, blocks, mean_factor
from protocol.certificate import Certificate, Kind, Proposal, Vote
from protocol.envelope import Envelope
from protocol.rounds.desk import RECORD_LIMIT_BYTES
from protocol.rounds.messages import (
    LIMIT_BYTES,
    Claim,
    Opening,
    PreKey,
    Release,
    Report,
    Reveal,
    Sketch,
    Survivors,
    Tags,
    Upload,
    Verdict,
    hear,
)
from protocol.rounds.policy import Cohort, Epoch
from protocol.rounds.prekeys import KEY, SEED, is_share
from protocol.rounds.recall import OpenRecord
from protocol.types import Digest
from protocol.wire import decode


@dataclass
class Diary:
    """One member's, read back."""

    name: str
    me: bytes = b""
    epoch: Epoch | None = None
    records: list[tuple[str, bytes]] = field(default_factory=list)
    said: list[bytes] = field(default_factory=list)
    """Envelopes of its own, in order, repetitions included."""
    certificates: list[Certificate] = field(default_factory=list)
    lives: int = 0
    killed: list[tuple[str, str]] = field(default_factory=list)


def read(folder, names, run):
    """The diaries of the members of one run."""
    found = {}
    for name in names:
        diary = found[name] = Diary(name)
        with (folder / f"{name}.diary").open("rb") as file:
            for kind, *rest in msgpack.Unpacker(file):
                _take(diary, kind, rest, bytes.fromhex(run))
    return found


def _take(diary, kind, rest, run):
    match kind:
        case "started":
            diary.lives += 1
        case "epoch":
            epoch = decode(rest[0], Epoch, limit_bytes=1 << 16)
            if epoch.run == run:
                diary.epoch, diary.me = epoch, rest[1]
        case "record" if rest[0] == run:
            diary.records.append((rest[1], rest[2]))
        case "said":
            envelope = decode(rest[0], Envelope, limit_bytes=LIMIT_BYTES)
            if envelope.sender == diary.me:
                diary.said.append(rest[0])
        case "finished":
            certificate = decode(rest[0], Certificate, limit_bytes=RECORD_LIMIT_BYTES)
            if certificate.slot.run == run:
                diary.certificates.append(certificate)
        case "killed":
            diary.killed.append((rest[0], rest[1]))


@dataclass
class Count:
    """What the diaries held, so that a test can see it was not nothing."""

    rounds: int = 0
    statements: int = 0
    repeated: int = 0
    shares: int = 0
    updates: int = 0
    recomputed: int = 0


def broken(folder, diaries, run, spec):
    """(laws found broken, what was counted)."""
    count = Count()
    heard = {
        name: [h for h in map(hear, dict.fromkeys(d.said)) if h.run.hex() == run]
        for name, d in diaries.items()
    }
    count.repeated = sum(len(d.said) - len(set(d.said)) for d in diaries.values())
    out = _one_statement_a_place(heard, count)
    out += _one_rounding(diaries, count)
    out += _one_use_of_a_prekey(diaries)
    out += _one_kind_of_share(diaries, heard, count)
    out += _one_history(diaries, count)
    out += _exact_sums(folder, diaries, spec, count)
    return out, count


def place(heard):
    """The table of docs/protocol.md §7.3, written a second time."""
    body, context = heard.body, heard.context
    match body:
        case Vote():
            return context, "vote", body.step, body.view
        case Proposal():
            return context, "proposal", body.view
        case PreKey():
            return body.epoch, "prekey", body.number
        case Upload() | Release() | Tags() | Sketch() | Reveal():
            return context, type(body).__name__
        case Report():
            return context, "report", body.shard, body.turn
        case Claim():
            return context, "claim", body.turn
    return None


def _one_statement_a_place(heard, count):
    out = []
    for name, statements in heard.items():
        known = {}
        for each in statements:
            where = place(each)
            if where is None:
                continue
            count.statements += 1
            if known.setdefault(where, each.envelope) != each.envelope:
                out.append(f"{name} said two different things: {where[1:]}")
    return out


def _one_rounding(diaries, count):
    out = []
    for name, diary in diaries.items():
        rounded = defaultdict(set)
        for key, value in diary.records:
            parts = key.split("/")
            if parts[-1] == "quantised":
                rounded["context", parts[2]].add(value)
            elif parts[-1] == "trained":
                rounded["round", parts[0]].add(value)
        count.updates += len(rounded)
        out += [
            f"{name} recorded {len(values)} updates for one {where[0]}"
            for where, values in rounded.items()
            if len(values) > 1
        ]
    return out


def _openings(diaries):
    """Context to (opening, pre-keys by member) of every attempt that anybody saw opened."""
    found = {}
    for diary in diaries.values():
        for key, value in diary.records:
            if boundaries.label(key, value) == "opened":
                record = decode(value, OpenRecord, limit_bytes=RECORD_LIMIT_BYTES)
                opening = decode(record.certificate.value, Opening)
                prekeys = {h.sender: h.body for h in map(hear, record.prekeys)}
                found[bytes(opening.context())] = opening, prekeys
    return found


def _one_use_of_a_prekey(diaries):
    used, out = {}, []
    for context, (opening, _) in _openings(diaries).items():
        for member, (number, _) in zip(opening.members, opening.prekeys, strict=True):
            if used.setdefault((member, number), context) != context:
                out.append(f"pre-key {number} of {member.hex()[:8]} has two openings")
    return out


def _one_kind_of_share(diaries, heard, count):
    openings, kinds, out = _openings(diaries), defaultdict(set), []
    for diary in diaries.values():
        cohort = Cohort(diary.epoch)
        for each in heard[diary.name]:
            if not isinstance(each.body, Release):
                continue
            opening, prekeys = openings[each.context]
            for member, share in zip(opening.members, each.body.shares, strict=True):
                prekey = prekeys[member]
                for kind in (SEED, KEY) if share else ():
                    seat = cohort.place(diary.me)
                    if is_share(cohort, member, prekey, seat, kind, share):
                        kinds[member, prekey.number].add(kind)
                        count.shares += 1
    for (member, number), found in kinds.items():
        if len(found) > 1:
            out.append(f"both shares of pre-key {number} of {member.hex()[:8]} are out")
    return out


def _one_history(diaries, count):
    verdicts, out = defaultdict(set), []
    for name, diary in diaries.items():
        last = -1
        for certificate in diary.certificates:
            verdict = decode(certificate.value, Verdict)
            verdicts[verdict.round].add(verdict)
            # A kill between the record and the row has the round told of by nobody, or twice.
            if verdict.round < last:
                out.append(f"{name} went back from round {last} to {verdict.round}")
            last = verdict.round
    count.rounds = len(verdicts)
    for number, found in sorted(verdicts.items()):
        if len(found) > 1:
            out.append(f"round {number} has {len(found)} verdicts")
    if sorted(verdicts) != list(range(len(verdicts))):
        out.append(f"verdicts on rounds {sorted(verdicts)}")
    return out


def _exact_sums(folder, diaries, spec, count):
    """Every round anew, from what its survivors recorded before they masked it."""
    epoch = next(iter(diaries.values())).epoch
    policy, ring = epoch.policy, epoch.policy.ring()
    weights = {seat.node_key: seat.weight for seat in epoch.seats}
    rounded, survivors = _rounded(diaries), _survivors(diaries)
    openings = _openings(diaries)
    verdicts = {}
    for diary in diaries.values():
        for certificate in diary.certificates:
            verdict = decode(certificate.value, Verdict)
            verdicts[verdict.round] = verdict
    now = initial_state(spec)
    exponents = np.full(blocks(policy.length), FIRST_EXPONENT, np.int8)
    assert now.size == size(spec) == policy.length
    out = []
    for number in sorted(verdicts):
        verdict = verdicts[number]
        if verdict.accept:
            opening, _ = openings[verdict.context]
            chosen = survivors[verdict.context]
            members = [m for i, m in enumerate(opening.members) if chosen >> i & 1]
            missing = [m for m in members if (m, verdict.context) not in rounded]
            if missing:
                out.append(f"round {number} counts an update that nobody recorded")
                return out
            parts = [_words(folder, ring, rounded[m, verdict.context]) for m in members]
            total = np.add.reduce(parts, dtype=ring.dtype)
            here, whole = sum(weights[m] for m in members), sum(weights.values())
            factor = mean_factor(here, whole, len(weights))
            mean = ring.decode(total, exponents, factor)
            now = outer_step(now, mean)
            exponents = ring.next_exponents(total, exponents, len(members))
        if state.state_root(now) != verdict.state:
            out.append(f"round {number} is not the sum of what its survivors recorded")
            return out
        count.recomputed += 1
    return out


def _rounded(diaries):
    """(member, context) to the digest of the update it recorded as rounded."""
    found = {}
    for diary in diaries.values():
        for key, value in diary.records:
            parts = key.split("/")
            if parts[-1] == "quantised":
                found[diary.me, bytes.fromhex(parts[2])] = value
    return found


def _survivors(diaries):
    """Context to the certified survivors, as a bitmap over its opening."""
    found = {}
    for diary in diaries.values():
        for key, value in diary.records:
            if "/certificate/" in key:
                certificate = boundaries.certificate(value)
                if certificate.slot.kind == Kind.SURVIVORS:
                    chosen = decode(certificate.value, Survivors)
                    found[certificate.slot.context] = chosen.members
    return found


def _words(folder, ring: Ring, blob: bytes):
    return np.fromfile(folder / f"{Digest(blob).hex()}.rounded", ring.dtype)
