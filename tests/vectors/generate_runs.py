"""Write `runs.json`, or with --check compare it with what the code makes now.

What surrounds the sums of `rounds.json`: who consents to a run and what follows from it, who gets
a seat, which sums of one base may be opened, and one statement of every kind.
"""

import argparse
import json
import sys
from itertools import combinations
from pathlib import Path
from typing import Any

from generate import NAMES, SEALS, node_key, seed, sign

from protocol.certificate import Certificate, Kind, Proposal, Slot, Step, Vote
from protocol.certificate import value_name as name_of
from protocol.course import Course
from protocol.gossip import GossipLog
from protocol.rounds import messages
from protocol.rounds.differencing import isolates
from protocol.rounds.messages import GIVEN_UP, Said, say
from protocol.rounds.policy import Thresholds
from protocol.runs import (
    Consent,
    Plan,
    Stance,
    canonical_plan,
    seal_consent,
    seal_proposal,
    seal_stance,
)
from protocol.runs import Proposal as RunProposal
from protocol.seating import EXPOSE, IN, OUT, Wish, seal_wish
from protocol.types import Millis, PublicKey
from protocol.wire import encode

FILE = Path(__file__).with_name("runs.json")
ENTRIES = 40
SAMPLES = {name: 10 * (place + 1) for place, name in enumerate(NAMES)}
MEMBERS = sorted(NAMES, key=node_key)
"""Of the run, as their seats stand: all but one of the names ask for one later."""
LATE = "eve"


def key(name: str) -> PublicKey:
    return PublicKey(node_key(name) if name in NAMES else seed(f"key of {name}"))


def build() -> dict[str, Any]:
    """Every section of the file."""
    course, plan, run = _run()
    return {
        "run": run,
        "seats": _seats(course, plan),
        "differences": _differences(),
        "said": _said(course.run),
        "given_up": {
            "value": encode(GIVEN_UP).hex(),
            "name": name_of(encode(GIVEN_UP)).hex(),
        },
        "note": _note(),
    }


def _run() -> tuple[Course, Plan, dict[str, Any]]:
    plan = Plan(
        title="vector",
        spec={"columns": [{"name": "age", "centre": 40.0, "scale": 10.0}]},
        task={"id": "id", "label": "y"},
        train={"steps": 2},
        outer={"rate": 0.7, "momentum": 0.9},
        sum={"ring_bits": 16, "input_bits": 12, "view_ms": 1500},
    )
    proposal = RunProposal(
        plan.title,
        canonical_plan(plan),
        seed("first state"),
        5,
        tuple(node_key(name) for name in MEMBERS),
        1_796_000_000,
    )
    course = Course(proposal)
    consents = {}
    for dataset, name in enumerate(MEMBERS):
        seal_key = SEALS[name].public_key().public_bytes_raw()
        consent = Consent(course.run, dataset, SAMPLES[name], seal_key)
        course.consent(node_key(name), consent)
        consents[name] = seal_consent(sign(name), key(name), consent)
    first = MEMBERS[0]
    stance = seal_stance(sign(first), key(first), Stance(course.run, 3, "pause"))
    epoch = course.epoch(ENTRIES, plan)
    return (
        course,
        plan,
        {
            "plan": canonical_plan(plan).decode(),
            "entries": ENTRIES,
            "proposal": encode(proposal).hex(),
            "id": course.run.hex(),
            "sealed_by_first_member": seal_proposal(
                sign(first), key(first), proposal
            ).hex(),
            "consents": [consents[name].hex() for name in MEMBERS],
            "stance": stance.hex(),
            "epoch": encode(epoch).hex(),
            "epoch_name": epoch.name().hex(),
        },
    )


def _seats(course: Course, plan: Plan) -> list[dict[str, Any]]:
    """Wishes as (who, about whom, word), and the epoch that follows from all up to there."""
    present = course.epoch(ENTRIES, plan)
    course.consent(key(LATE), Consent(course.run, 9, 25, seed("seal of eve")))
    a, b, c, d = MEMBERS
    steps = [
        [(a, LATE, IN), (b, LATE, IN)],
        [(c, LATE, IN)],
        [(a, d, OUT), (b, d, EXPOSE)],
        [(c, d, EXPOSE)],
        [(a, d, EXPOSE)],
        [(c, d, IN)],
        [(d, d, OUT)],
        [(a, LATE, OUT), (b, LATE, OUT)],
        [(c, c, OUT)],
    ]
    out = []
    for step in steps:
        sealed = []
        for who, about, word in step:
            serial = course.seating.serial(key(who), key(about))
            wish = Wish(course.run, serial, key(about), word)
            course.seating.wish(key(who), wish)
            sealed.append(seal_wish(sign(who), key(who), wish).hex())
        following = course.seating.next(present, course.consents)
        exposed = course.seating.exposed(present)
        out.append(
            {
                "wishes": sealed,
                "next": "" if following is None else encode(following).hex(),
                "exposed": sorted(each.hex() for each in exposed),
            }
        )
    return out


def _differences() -> list[dict[str, Any]]:
    """Sets as bitmaps: may a sum over `set` be certified after sums over `opened`?"""
    out = []
    for members, opened, exposed in (
        (4, [0b1111], 0),
        (4, [0b0111], 0),
        (4, [0b1111], 0b1000),
        (7, [0b1111111], 0),
        (7, [0b0011111, 0b1111100], 0),
        (7, [0b0011111, 0b1111100], 0b0000001),
    ):
        limits = Thresholds(members)
        floor = max(3, limits.liars + 2)
        allowed = []
        for size in range(limits.survivors, members + 1):
            for chosen in combinations(range(members), size):
                new = sum(1 << place for place in chosen)
                sets = [_named(each) for each in opened]
                if not isolates(sets, _named(new), floor, _named(exposed)):
                    allowed.append(new)
        out.append(
            {
                "members": members,
                "opened": opened,
                "exposed": exposed,
                "allowed": sorted(allowed),
            }
        )
    return out


def _named(bitmap: int) -> frozenset[bytes]:
    return frozenset(bytes([place]) for place in range(64) if bitmap >> place & 1)


def _said(run: bytes) -> list[dict[str, Any]]:
    """One statement of each kind, by the first member; contexts are those of §5."""
    slot = Slot(run, seed("epoch"), 2, 1, Kind.VERDICT, seed("opening"))
    vote = Vote(slot, Step.PREVOTE, 1, name_of(b"a value"))
    certificate = Certificate(slot, 1, b"a value", ((0, bytes(64)), (2, bytes(64))))
    report = messages.Report(3, 0, 0b111, seed("inputs"), seed("sum"), seed("carry"))
    bodies: list[Any] = [
        messages.Heartbeat(seed("head"), True, 2, (0, 1, -1, 300), b""),
        messages.Proof(certificate),
        messages.Evidence(b"one envelope", b"another"),
        messages.Upload((seed("part"),) * 2, (b"", seed("pair"))),
        report,
        messages.Release(seed("survivors"), (seed("share"), b"")),
        messages.Tags((0, (1 << 61) - 2)),
        messages.Claim(1, seed("state"), seed("scales"), True, 0b1010, 0),
        messages.Sketch(seed("blob")),
        messages.Reveal(((2, seed("pair")),)),
    ]
    first = MEMBERS[0]
    out = []
    for body in bodies:
        of_epoch = isinstance(
            body, messages.Heartbeat | messages.Proof | messages.Evidence
        )
        context = seed("epoch") if of_epoch else seed("opening")
        said = Said(run, 2, 1, body)
        out.append(
            {
                "said": encode(said).hex(),
                "envelope": say(sign(first), key(first), context, said).hex(),
            }
        )
    proposal = Proposal(slot, 1, b"a value", 0, ((1, bytes(64)),))
    return [*out, {"vote": encode(vote).hex()}, {"proposal": encode(proposal).hex()}]


def _note() -> dict[str, Any]:
    first = MEMBERS[0]
    log = GossipLog(
        key(first), sign(first), lambda _key: True, Millis(1_796_000_000_000)
    )
    sealed = log.announce("round", b"an envelope")
    return {"sealed": sealed.hex(), "pull": encode(log.known()).hex()}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    text = json.dumps(build(), indent=1) + "\n"
    if parser.parse_args().check:
        return 0 if FILE.read_text() == text else 1
    FILE.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
