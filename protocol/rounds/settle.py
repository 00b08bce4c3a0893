"""From a certified survivor set to a state and a claim (§5.6, §5.8, §5.9).

Before the certificate nothing secret has left any member; by the certificate, a quorum holds
every masked sum.  So whoever goes away now cannot keep the others from finishing, and the
only thing that can is too few shares: they are waited for.

The law of this file: of one pre-key this member releases shares of one kind, to everyone,
for one certificate.  `Released` is the ledger that refuses anything else.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from protocol.aggregate.checks import PRIME, packed_bytes
from protocol.aggregate.masks import self_key
from protocol.certificate import value_name
from protocol.errors import LocalProtocolError, VerificationError
from protocol.rounds import pairs, prekeys
from protocol.rounds.desk import Desk
from protocol.rounds.events import (
    Applied,
    Apply,
    Astray,
    Check,
    Checked,
    Tag,
    Tagged,
)
from protocol.rounds.gather import Gathering
from protocol.rounds.messages import (
    Claim,
    Heard,
    Opening,
    Release,
    Report,
    Survivors,
    Tags,
)
from protocol.rounds.policy import Cohort
from protocol.rounds.prekeys import KEY, SEED
from protocol.rounds.setting import Setting
from protocol.rounds.stock import Known
from protocol.types import Digest, Millis
from protocol.wire import encode

TURNS = 8
"""Claims of one member: each follows a sum shown to be wrong, or a check done for another."""


class Released:
    """Which kind of share of which pre-key this member has let out."""

    def __init__(self) -> None:
        self._kinds: dict[bytes, int] = {}

    def enter(self, prekey: bytes, kind: int) -> None:
        """Raises `LocalProtocolError` if the other kind has gone out before."""
        if self._kinds.setdefault(prekey, kind) != kind:
            raise LocalProtocolError(
                f"both kinds of share of pre-key {prekey.hex()[:16]} would be released"
            )


@dataclass(frozen=True)
class Outcome:
    """What this member computed."""

    state: Digest
    scales: Digest
    accept: bool
    metric: int


class Settling:
    """What follows one survivors' certificate."""

    def __init__(
        self,
        setting: Setting,
        opening: Opening,
        survivors: Survivors,
        used: Mapping[bytes, Known],
        gathering: Gathering,
        cohort: Cohort,
        desk: Desk,
        ledger: Released,
        own: tuple[Digest, ...],
        now: Millis,
    ) -> None:
        """`own`: the masked parts of this node; empty if it uploaded none."""
        self._setting = setting
        self._opening = opening
        self.survivors = survivors
        self._used = used
        self._gathering = gathering
        self._cohort = cohort
        self._desk = desk
        self._ledger = ledger
        self._own = own
        self.since = now
        self.value = value_name(encode(survivors))
        self.members = setting.named(survivors.members)
        """The survivors."""
        self.dropped = setting.named(setting.everyone & ~survivors.members)
        self._gone = frozenset(self.dropped)
        self.dirty = True
        """Has anything happened that `advance` should look at?"""
        self.outcome: Outcome | None = None
        self.broken = False
        """The sum cannot be had: a dealer cheated, or an uploader."""
        self.claims: dict[bytes, Claim] = {}
        self.claimed_at: Millis | None = None
        self._shares: dict[bytes, dict[int, bytes]] = {m: {} for m in setting.members}
        self._seeds: dict[bytes, bytes] = {}
        self._keys: dict[bytes, bytes] = {}
        self._truth: dict[int, Digest] = {}
        self._sums: tuple[Digest, ...] | None = None
        self._doubted: set[int] = set()
        self._late: set[int] = set()
        """In doubt for want of tags alone: if these come and agree, no more."""
        self._strays: set[int] = set()
        self._applying: tuple[Digest, ...] | None = None
        self._tagging = False
        self._tags: dict[bytes, tuple[int, ...]] = {}
        self._asked_check: set[int] = set()
        self._checked: set[int] = set()
        self._trusted: set[int] = set()
        """Taken on the word of whoever added them up, for want of what only it has."""
        self._reported: dict[bytes, int] = {}
        for shard, place in enumerate(survivors.reporters):
            member = setting.members[place]
            self._reported[member] = self._reported.get(member, 0) | 1 << shard
        self._check_ranks = self._ranks()
        self._due = self._check_ranks if cohort.policy.checked else {}

    # Shares ------------------------------------------------------------------------------

    def release(self) -> Heard:
        """My shares, once: seeds of survivors, keys of the others."""
        place = self._cohort.place(self._desk.me)
        shares = []
        for member in self._setting.members:
            known = self._used[member]
            kind = self._kind(member)
            self._ledger.enter(known.name, kind)
            shares.append(known.shares.of(kind) if known.shares else b"")
        heard = self._say("release", Release(self.value, tuple(shares)))
        self._take_shares(place, heard)
        return heard

    def hear_release(self, heard: Heard, body: Release) -> bool:
        """Another's shares; a share that is not the one dealt names its sender."""
        if body.survivors != self.value or len(body.shares) != len(
            self._setting.members
        ):
            return False
        self._take_shares(self._cohort.place(heard.sender), heard)
        return True

    def _take_shares(self, place: int, heard: Heard) -> None:
        body = heard.body
        assert isinstance(body, Release)
        if all(len(each) >= self._enough for each in self._shares.values()):
            return
        for member, share in zip(self._setting.members, body.shares, strict=True):
            if not share:
                continue
            known, kind = self._used[member], self._kind(member)
            if prekeys.is_share(self._cohort, member, known.prekey, place, kind, share):
                self._shares[member][place] = share
            else:
                self._desk.accuse(
                    heard.sender,
                    "released a share that is not the one it was dealt",
                    heard.envelope,
                    known.envelope,
                )

    @property
    def _enough(self) -> int:
        return self._cohort.thresholds.shares

    def _kind(self, member: bytes) -> int:
        return KEY if member in self._gone else SEED

    def open(self) -> bool:
        """All seeds and keys, if a threshold of shares of each is here."""
        if self._seeds:
            return True
        if any(len(each) < self._enough for each in self._shares.values()):
            return False
        for member in self._setting.members:
            known, kind = self._used[member], self._kind(member)
            try:
                secret = prekeys.open_secret(
                    self._cohort, member, known.prekey, kind, self._shares[member]
                )
            except VerificationError:
                self.broken = True
                self._desk.accuse(
                    member,
                    "dealt shares of another secret than it announced",
                    known.envelope,
                )
                continue
            (self._keys if kind == KEY else self._seeds)[member] = secret
        if self.broken:
            self._seeds.clear()
            self._keys.clear()
        else:
            self._name_false_digests()
        return not self.broken

    # Sums --------------------------------------------------------------------------------

    def advance(self, now: Millis) -> None:
        """Go as far as what is here allows."""
        self.dirty = False
        if self.broken or not self.open():
            return
        # First: the others wait for it, and for the state nobody but this member.
        self._tag()
        self._resolve_doubts()
        if self.broken:
            return
        sums = self.sums()
        missing = [s for s in sums if s not in self._gathering.here]
        for index, digest in enumerate(sums) if missing else ():
            if digest in missing:
                size = self._gathering.slice_bytes(self._setting.slices[index])
                self._pull(index, digest, size)
        if not missing and self._applying != sums and not self._open_doubts():
            self._applying = sums
            self._desk.do(self._apply(sums))
        self._check(now)
        self._claim(now)

    def sums(self) -> tuple[Digest, ...]:
        """The certified sums, with those replaced that were shown to be wrong."""
        if self._sums is None:
            self._sums = tuple(
                self._truth.get(index, Digest(report.sum))
                for index, report in enumerate(self.survivors.reports)
            )
        return self._sums

    def astray(self, event: Astray) -> None:
        """A slice cannot be right: its sum is wrong, or a member masked what it may not."""
        if event.sums == self.sums():
            self.broken = any(shard in self._truth for shard in event.slices)
            self._strays.update(event.slices)
            self._doubted.update(event.slices)

    def applied(self, event: Applied) -> None:
        """The state that follows from the present sums."""
        if event.sums == self._applying:
            self.outcome = Outcome(
                event.state, event.scales, event.accept, event.metric
            )

    def doubt(self, body: Report) -> None:
        """Somebody has another sum of a slice over the same set: add it up here."""
        certified = self.survivors.reports[body.shard]
        if body.members == certified.members and body.sum != certified.sum:
            self._doubted.add(body.shard)

    def _resolve_doubts(self) -> None:
        for shard in self._open_doubts():
            own = self._gathering.audited(shard, self.survivors.members)
            if own is not None:
                self._resolve(shard, own)

    def _resolve(self, shard: int, own: Digest) -> None:
        """Added up here: now this member knows who is wrong."""
        self._truth[shard] = own
        self._sums = None
        self._checked.add(shard)
        certified = self.survivors.reports[shard]
        if own != certified.sum:
            # What was computed from the wrong sum is not claimed any more.
            self.outcome = self._applying = None
            place = self.survivors.reporters[shard]
            self._desk.accuse(
                self._setting.members[place],
                f"reported a wrong sum of slice {shard}",
                encode(certified),
                encode(self.survivors),
            )
        elif shard in self._strays:
            # Added up right and out of range all the same: a member masked what it may not.
            self.broken = True

    def _open_doubts(self) -> list[int]:
        return sorted((self._doubted | self._late).difference(self._truth))

    def _pull(self, index: int, digest: Digest, limit_bytes: int) -> None:
        reporter = self._setting.members[self.survivors.reporters[index]]
        sources = (reporter, *self._cohort.members)
        self._gathering.pull(digest, sources, limit_bytes)

    def open_masks(self) -> dict[bytes, tuple[list[bytes], list[bytes]]]:
        """Per survivor the keys of masks that hide nothing any more: what it added, took off.

        Its self mask, and those that it shares with members that are no survivors.
        """
        context = Digest(self._setting.context)
        masks: dict[bytes, tuple[list[bytes], list[bytes]]] = {
            m: ([self_key(self._seeds[m], context, m)], []) for m in self.members
        }
        for gone in self.dropped:
            shared = self._keys_of(gone, self.members)
            for member, key in shared.items():
                # The member added the mask if its key is the lower one of the two.
                masks[member][member > gone].append(key)
        return masks

    def _keys_of(self, gone: bytes, others: Sequence[bytes]) -> dict[bytes, bytes]:
        """Pair keys of a member that is no survivor, whose secret is open."""
        context, secret = Digest(self._setting.context), self._keys[gone]
        return pairs.pair_keys(secret, gone, others, self._used, context)

    def _name_false_digests(self) -> None:
        """Who said of a key that is open now what it is not (§5.10)?"""
        said, place = self._gathering.said, self._setting.place
        for gone in self.dropped:
            others = [m for m in self._setting.members if m != gone]
            keys = {place(m): k for m, k in self._keys_of(gone, others).items()}
            for liar in pairs.false_digests(place(gone), keys, said.uploads):
                self._desk.accuse(
                    self._setting.members[liar],
                    "said a digest of a pair key that is not the key's",
                    said.envelopes[liar],
                    self._used[gone].envelope,
                    self._keys[gone],
                    shun=True,
                )

    def _apply(self, sums: tuple[Digest, ...]) -> Apply:
        plus: list[bytes] = []
        minus: list[bytes] = []
        for added, taken_off in self.open_masks().values():
            minus += added
            plus += taken_off
        return Apply(
            self._setting.context,
            self._opening,
            self._setting.slices,
            sums,
            self.members,
            tuple(plus),
            tuple(minus),
        )

    # The check ---------------------------------------------------------------------------

    def beacon(self) -> bytes:
        """Seed of the random combination: nobody knew it before the sums were certified.

        It hangs on every survivor's mask seed, which fewer members than a threshold cannot
        open, and which a member cannot withhold: the shares of the others open it.
        """
        out = hashlib.sha256(b"rexis-beacon-1" + self._setting.context + self.value)
        for member in self.members:
            out.update(self._seeds[member])
        return out.digest()

    def _tag(self) -> None:
        """Ask for the combination of my own parts, once."""
        wanted = self._cohort.policy.checked and self._desk.me in self.members
        if wanted and self._own and not self._tagging:
            self._tagging = True
            slices, context = self._setting.slices, self._setting.context
            self._desk.do(Tag(context, slices, self._own, self.beacon()))

    def tagged(self, event: Tagged) -> Heard:
        heard = self._say("tags", Tags(event.values))
        self.hear_tags(heard.sender, Tags(event.values))
        return heard

    def hear_tags(self, sender: bytes, body: Tags) -> bool:
        """A survivor's combination of its own parts."""
        if sender not in self.members or len(body.values) != len(self._setting.slices):
            return False
        if not all(0 <= value < PRIME for value in body.values):
            return False
        self._tags.setdefault(sender, body.values)
        return True

    def _to_check(self, now: Millis) -> list[int]:
        """Slices this member should check by now, if nobody else did.

        The survivors other than the reporter take turns in the order of the slice.
        """
        if not self._cohort.policy.checked:
            return []
        done = self.covered()
        turns = (now - self.since) // self._cohort.policy.patience_ms
        return [
            shard
            for shard, rank in self._check_ranks.items()
            if rank == 0 or (rank <= turns and not done >> shard & 1)
        ]

    def _ranks(self) -> dict[int, int]:
        out = {}
        for each in self._setting.slices:
            reporter = self._setting.members[self.survivors.reporters[each.index]]
            others = [m for m in each.order if m != reporter and m in self.members]
            if self._desk.me in others:
                out[each.index] = others.index(self._desk.me)
        return out

    def covered(self) -> int:
        """Slices that somebody claims to have checked who came to my state; bit by slice.

        Whoever reported a sum does not count as its checker.
        """
        done = 0
        if self.outcome is not None:
            mine = self.outcome
            for member, claim in self.claims.items():
                if (claim.state, claim.scales) == (mine.state, mine.scales):
                    done |= claim.checked & ~self._reported.get(member, 0)
        return done

    def settled(self) -> bool:
        """Is there an outcome, claimed, and no sum in doubt?"""
        return self.claimed_at is not None and not self._open_doubts()

    @property
    def every_slice(self) -> int:
        return (1 << len(self._setting.slices)) - 1

    def _check(self, now: Millis) -> None:
        """Check by tags; where tags or a carry stay away, add up."""
        complete = len(self._tags) == len(self.members)
        for shard in self._to_check(now):
            if shard in self._asked_check or shard in self._checked:
                continue
            carry = Digest(self.survivors.reports[shard].carry)
            if carry in self._gathering.here:
                if complete:
                    self._ask_check(shard, carry)
                    continue
            elif carry:
                size = self._setting.slices[shard].size
                self._pull(shard, carry, packed_bytes(size, len(self.members)))
            self._do_without(shard, now - self.since)

    def _do_without(self, shard: int, waited_ms: int) -> None:
        """Tags or a carry are not here: add the slice up in time, or take its author's word."""
        policy = self._cohort.policy
        author = self._setting.members[self.survivors.reporters[shard]]
        if self._is_authors_alone(shard, author):
            if waited_ms >= policy.grace_ms // 2:
                self._late.discard(shard)
                self._trusted.add(shard)
            return
        complete = len(self._tags) == len(self.members)
        # A carry is a file, and may be on its way for longer than a few numbers.
        patience_ms = policy.grace_ms // 2 if complete else policy.patience_ms
        if waited_ms >= patience_ms:
            self._late.add(shard)

    def _is_authors_alone(self, shard: int, author: bytes) -> bool:
        """Would only the member that added a slice up, which says nothing, know it to be wrong?

        Its own part of that slice is nowhere else.  So a survivor that went away would stop the
        run for good, and need not: its part is whatever makes its sum right, and it fixed both
        before a mask was open.  By a wrong sum it can do what it can do by its upload, and
        no more.
        """
        if author not in self.members:
            return (
                False  # all parts are with others, and no update in this sum is its own
            )
        carry = Digest(self.survivors.reports[shard].carry)
        return author not in self._tags or carry not in self._gathering.here

    def _ask_check(self, shard: int, carry: Digest) -> None:
        self._asked_check.add(shard)
        self._desk.do(
            Check(
                self._setting.context,
                self._setting.slices[shard],
                len(self.members),
                Digest(self.survivors.reports[shard].sum),
                carry,
                self.beacon(),
                sum(values[shard] for values in self._tags.values()) % PRIME,
            )
        )

    def checked(self, event: Checked) -> None:
        """A sum that fails is added up here, which tells who is wrong."""
        self._late.discard(event.shard)
        self._trusted.discard(event.shard)
        if event.good:
            self._checked.add(event.shard)
        else:
            self._doubted.add(event.shard)

    # The claim ---------------------------------------------------------------------------

    def hear_claim(self, sender: bytes, body: Claim) -> bool:
        """A member's newest claim stands."""
        known = self.claims.get(sender)
        if body.turn >= TURNS or (known is not None and known.turn >= body.turn):
            return False
        self.claims[sender] = body
        return True

    def _claim(self, now: Millis) -> None:
        if self.outcome is None or self._open_doubts():
            return
        known = self._checked | self._trusted
        if any(rank == 0 and s not in known for s, rank in self._due.items()):
            return
        checked = sum(1 << shard for shard in known)
        mine, out = self.claims.get(self._desk.me), self.outcome
        turn = 0
        if mine is not None:
            same = (mine.state, mine.scales) == (out.state, out.scales)
            if same and not checked & ~mine.checked:
                if self.claimed_at is None:
                    self.claimed_at = now  # claimed before a restart
                return
            turn = mine.turn + 1
        if turn < TURNS:
            claim = Claim(turn, out.state, out.scales, out.accept, checked, out.metric)
            self._say(f"claim/{turn}", claim)
            self.claims[self._desk.me] = claim
            self.claimed_at = now

    def _say(self, what: str, body: Release | Tags | Claim) -> Heard:
        setting = self._setting
        return self._desk.say(
            setting.key(what), setting.context, setting.round, setting.attempt, body
        )
