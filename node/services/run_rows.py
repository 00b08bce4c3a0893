"""A run and its rounds, as people and programs read them."""

from collections.abc import Callable
from typing import Any

from node.clock import now_s
from node.services.hands import RoundNotes, Tools
from node.services.privacy import privacy_row
from node.services.run_record import Record
from node.services.sketches import newest_sketch
from node.services.training import Trainer
from protocol.course import Course
from protocol.rounds.events import Finished
from protocol.runs import END, PAUSE
from protocol.seating import EXPOSE, IN, OUT

Named = Callable[[bytes], str]
"""A member's name by its node key."""


def run_row(record: Record, tools: Tools) -> dict[str, Any]:
    """For `runs.show`."""
    course, trainer, name = record.course, record.trainer, tools.federation.name_of
    names = [name(member) for member in record.members]
    return {
        "run": course.run.hex(),
        "title": course.proposal.title,
        "phase": record.phase(),
        "round": record.done,
        "rounds": course.proposal.rounds,
        "privacy": privacy_row(
            record.plan,
            record.rounds,
            record.done,
            names,
            allowed=record.rounds_allowed,
        ),
        "epoch": len(course.seating.changes),
        "members": names,
        "seats": _seats(course, name),
        "stances": {
            name(member): stance.word
            for member, stance in sorted(course.stances.items())
        },
        "consents": [name(member) for member in course.consents],
        "datasets": {
            name(member): consent.dataset for member, consent in course.consents.items()
        },
        "samples": {
            name(member): consent.samples for member, consent in course.consents.items()
        },
        "state_root": record.state.hex(),
        "proposed_by": name(record.proposer),
        "mine": tools.signer.public_key in record.members,
        "reason": _reason(record, tools),
        "sketch": newest_sketch(record.rounds),
        "accused": _accused(record),
        "progress": dict(trainer.progress) if trainer and trainer.progress else None,
        **_now(record, name),
    }


def _accused(record: Record) -> dict[str, str]:
    """By member's name, what it was shown to have done in the newest round that showed any."""
    found: dict[str, str] = {}
    for row in record.rounds:
        for name, reason in (row.get("accused") or {}).items():
            found[name] = f"round {row['round']}: {reason}"
    if record.trainer is not None:
        for name, reason in record.trainer.accused().items():
            found[name] = f"round {record.done}: {reason}"
    return found


def _seats(course: Course, name: Named) -> list[dict[str, Any]]:
    """What is wanted of seats and has not come about: who asks for one, who is to go."""
    seating, members = course.seating, course.members
    open_wishes = [
        (member, IN, seating.wanting(member, IN))
        for member in seating.applicants(course.consents, members)
    ] + [
        (member, OUT, seating.wanting(member, OUT))
        for member in members
        if seating.wanting(member, OUT) or seating.gives_up(member)
    ]
    return [
        {
            "member": name(member),
            "wish": word,
            "by": [name(each) for each in by],
            "itself": word == IN or seating.gives_up(member),
            "needed": seating.needed,
            "exposed_by": [name(each) for each in seating.wanting(member, EXPOSE)],
        }
        for member, word, by in open_wishes
    ]


def _now(record: Record, name: Named) -> dict[str, Any]:
    """Where the round under way stands, and who could be in it; nothing where none is."""
    trainer = record.trainer
    if trainer is None or record.phase() not in {"training", "paused"}:
        return {"stage": None, "away": []}
    return {
        "stage": trainer.stage(),
        "away": sorted(name(member) for member in trainer.away()),
    }


def _reason(record: Record, tools: Tools) -> str | None:
    """Why the run stands still, or why this node cannot go on with it."""
    course, phase, allowed = record.course, record.phase(), record.rounds_allowed
    me, name = tools.signer.public_key, tools.federation.name_of
    if phase in {"paused", "ended"}:
        who = course.holding(*((END,) if phase == "ended" else (PAUSE, END)))
        return f"{phase} by {', '.join(name(member) for member in who)}"
    if phase == "finished":
        if allowed == course.proposal.rounds:
            return None
        return (
            f"the privacy budget is used up: {allowed} of {course.proposal.rounds}"
            " rounds, and one more would exceed it"
        )
    if me not in course.members and me in course.seating.ever:
        return "this node has left the run; the others go on"
    trainer = record.trainer
    if trainer is None:
        return record.reason or None
    return trainer.reason or _waits(trainer, name) or None


def _waits(trainer: Trainer, name: Named) -> str:
    """After a rejected sum the same members meet again, and nobody else would say for whom."""
    names = ", ".join(name(member) for member in trainer.lacking())
    return names and (
        f"waits for {names}: the last sum was rejected, and one of the same updates without"
        f" {names} would tell what {names} sent; if they do not come back, `rexis run dismiss"
        " --expose` lets the others go on all the same"
    )


def _cause(end: Finished, name: Named) -> str | None:
    if end.disliked is None:
        return None
    names = ", ".join(map(name, end.disliked))
    return f"hold-outs of {names}" if names else "no sum, or no check of it, in time"


def round_row(
    run: bytes, end: Finished, notes: RoundNotes, seconds: float, name: Named
) -> dict[str, Any]:
    """For `rounds.list`: a verdict, as this node saw its round."""
    verdict = end.verdict
    scores = notes.scores.get(verdict.state) if verdict.accept else None
    return {
        "run": run.hex(),
        "round": verdict.round,
        "attempt": end.certificate.slot.attempt,
        "attempts": len(notes.attempts),
        "accepted": verdict.accept,
        "rejected_for": _cause(end, name),
        "survivors": [name(member) for member in end.survivors],
        "state_root": verdict.state.hex(),
        "seconds": round(seconds, 3),
        "finished_at": now_s(),
        "loss_first": notes.loss_first,
        "loss_last": notes.loss_last,
        "norm": notes.norm,
        "cut": notes.cut,
        "held_out": scores["held_out"] if scores else 0,
        "auc": scores["auc"] if scores else None,
        "loss": scores["loss"] if scores else None,
        "sketch": notes.sketch,
        "accused": notes.accused,
        "bytes_received": sum(size for _, size in notes.received.values()),
        "received": {
            one: {"count": count, "bytes": size}
            for one, (count, size) in sorted(notes.received.items())
        },
    }
