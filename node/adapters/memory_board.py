"""What the Board holds and refuses, in plain Python (`contracts/src/Board.sol`)."""

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import IntEnum

from node.adapters.chain_errors import refused
from node.adapters.memory_coins import NO_TOKEN, Coins, Credits, Values
from node.adapters.memory_ledger import Ledger
from node.ports.market import Case, Outcome
from protocol import merkle
from protocol.errors import InclusionError
from protocol.members import ROLE_AUDITOR
from protocol.receipt import batch_digest

_ZERO = bytes(32)


class Kind(IntEnum):
    """`Board.Kind`."""

    RECEIPT = 0
    DELIVERY = 1


@dataclass
class Stake:
    """`Board.Stake`."""

    free: int = 0
    leaving: int = 0
    leaves: int = 0


class Board(Credits):
    """Cases that auditors decide, and what hosts answer with."""

    treasury = bytes(20)
    """Who is credited the half of what a loser loses that is everybody's: the council."""

    def __init__(
        self,
        ledger: Ledger,
        coins: Coins,
        values: Values,
        token: bytes,
        resolve: Callable[[int, Outcome], None],
    ) -> None:
        super().__init__(coins)
        self.ledger, self.values, self.token = ledger, values, token
        self._resolve = resolve
        self.cases: list[Case] = []
        self.voted: set[tuple[int, bytes]] = set()
        self.challenged: set[tuple[bytes, bytes, int]] = set()
        self.receipts: dict[int, tuple[bytes, bytes, int]] = {}
        self.stakes: dict[bytes, Stake] = defaultdict(Stake)
        self.tally: Counter[tuple[bytes, str]] = Counter()

    def stake(self, by: bytes, amount: int) -> None:
        doing = "board.stake"
        self.ledger.require(doing, by)
        if self.token == NO_TOKEN:
            raise refused(doing, "NoToken")
        self.coins.take(doing, self.token, by, amount)
        self.stakes[by].free += amount

    def unstake(self, by: bytes, amount: int) -> None:
        mine = self.stakes[by]
        if amount > mine.free:
            raise refused("board.unstake", "StakeTooSmall", stake=mine.free)
        mine.free -= amount
        mine.leaving += amount
        mine.leaves = self.ledger.now() + self.values.unbonding_s

    def release(self, by: bytes) -> None:
        mine = self.stakes[by]
        if mine.leaving == 0:
            raise refused("board.release", "NothingLeaves")
        if self.ledger.now() < mine.leaves:
            raise refused("board.release", "StillLiable", leaves=mine.leaves)
        if cases := self.tally[by, "accused"]:
            raise refused("board.release", "CasesPending", cases=cases)
        self.credit(self.token, by, mine.leaving)
        mine.leaving = 0

    def challenge(
        self,
        by: bytes,
        host: bytes,
        root: bytes,
        leaf: bytes,
        index: int,
        proof: Sequence[bytes],
        claim: bytes,
    ) -> int:
        """`leaf` is the receipt itself, not its hash."""
        doing = "board.challenge"
        self.ledger.require(doing, by)
        if claim == _ZERO:
            raise refused(doing, "InvalidDigest")
        if host == by:
            raise refused(doing, "Partial", account=by)
        time, count = self.ledger.batch_of.get((host, root), (0, 0))
        try:
            tree = merkle.root_from(leaf, index, count, proof)
            if batch_digest(count, tree) != root:
                raise InclusionError("batch root")
        except InclusionError as error:
            raise refused(doing, "NotIncluded", index=index) from error
        if self.ledger.now() > time + self.values.challenge_s:
            raise refused(doing, "WindowOver")
        receipt = (host, root, index)
        if receipt in self.challenged:
            raise refused(doing, "AlreadyChallenged")
        number = self.open(doing, Kind.RECEIPT, by, host, len(self.cases), claim)
        self.challenged.add(receipt)
        self.receipts[number] = receipt
        self.ledger.emit(
            "ReceiptChallenged",
            number=number,
            host=host,
            root=root,
            index=index,
            leaf=merkle.leaf_digest(leaf),
        )
        return number

    def open(
        self,
        doing: str,
        kind: Kind,
        plaintiff: bytes,
        defendant: bytes,
        subject: int,
        claim: bytes,
    ) -> int:
        values, now = self.values, self.ledger.now()
        bond = 0 if self.token == NO_TOKEN else values.bond
        self.hold(doing, self.token, plaintiff, bond)
        if kind is Kind.RECEIPT:
            self.tally[defendant, "accused"] += 1
            self.tally[plaintiff, "accusing"] += 1
        number = len(self.cases)
        self.cases.append(
            Case(
                case=number,
                plaintiff=plaintiff,
                defendant=defendant,
                delivery=kind is Kind.DELIVERY,
                subject=subject,
                opened=now,
                closes=now + values.vote_s,
                quorum=values.quorum,
                bond=bond,
                taken=0,
                outcome=Outcome.PENDING,
            )
        )
        self.ledger.emit(
            "CaseOpened",
            number=number,
            plaintiff=plaintiff,
            defendant=defendant,
            kind=int(kind),
            subject=subject,
            claim=claim,
            bond=bond,
        )
        return number

    def vote(self, by: bytes, number: int, report: bytes, *, uphold: bool) -> None:
        doing = "board.vote"
        found = self._running(doing, number)
        if self.ledger.now() > found.closes:
            raise refused(doing, "CaseOver", number=number)
        if report == _ZERO:
            raise refused(doing, "InvalidDigest")
        if by in {found.plaintiff, found.defendant}:
            raise refused(doing, "Partial", account=by)
        auditor = self.ledger.membership(by)
        if auditor is None or not auditor.member.has(ROLE_AUDITOR):
            raise refused(doing, "MissingRole", account=by, role=ROLE_AUDITOR)
        if auditor.roles_since > found.opened:
            raise refused(doing, "AuditorTooNew", since=auditor.roles_since)
        if (number, by) in self.voted:
            raise refused(doing, "AlreadyVoted", number=number, auditor=by)
        self.voted.add((number, by))
        self.tally[by, "votes"] += 1
        self.ledger.emit(
            "Voted", number=number, auditor=by, uphold=uphold, report=report
        )
        found = found.with_vote(uphold=uphold)
        self.cases[number] = found
        same = found.upholding if uphold else found.rejecting
        if same >= found.quorum:
            self._close(found, Outcome.UPHELD if uphold else Outcome.REJECTED)

    def close(self, number: int) -> None:
        doing = "board.close"
        found = self._running(doing, number)
        if self.ledger.now() <= found.closes:
            raise refused(doing, "CaseRuns", number=number, closes=found.closes)
        self._close(found, Outcome.UNDECIDED)

    def _running(self, doing: str, number: int) -> Case:
        if number >= len(self.cases):
            raise refused(doing, "NoSuchCase", number=number)
        found = self.cases[number]
        if found.outcome is not Outcome.PENDING:
            raise refused(doing, "CaseOver", number=number)
        return found

    def _slash(self, host: bytes, bond: int) -> int:
        theirs = self.stakes[host]
        from_free = min(bond, theirs.free)
        from_leaving = min(bond - from_free, theirs.leaving)
        theirs.free -= from_free
        theirs.leaving -= from_leaving
        return from_free + from_leaving

    def _pay_receipt(self, found: Case, outcome: Outcome) -> int:
        """The winner has its own and half of what the loser loses; what a host lost."""
        host, challenger, bond = found.defendant, found.plaintiff, found.bond
        self.tally[host, "accused"] -= 1
        self.tally[challenger, "accusing"] -= 1
        self.let(self.token, challenger, bond)
        if outcome is Outcome.UNDECIDED:
            self.credit(self.token, challenger, bond)
            return 0
        upheld = outcome is Outcome.UPHELD
        taken = self._slash(host, bond) if upheld else 0
        lost = taken if upheld else bond
        self.credit(self.token, challenger if upheld else host, lost - lost // 2)
        self.credit(self.token, challenger, bond if upheld else 0)
        self.credit(self.token, self.treasury, lost // 2)
        return taken

    def _close(self, found: Case, outcome: Outcome) -> None:
        taken = 0
        if not found.delivery:
            taken = self._pay_receipt(found, outcome)
        else:
            lost = outcome is Outcome.REJECTED
            winner = found.defendant if lost else found.plaintiff
            self.let(self.token, found.plaintiff, found.bond)
            self.credit(self.token, winner, found.bond)
        self.cases[found.case] = found.closed(outcome, taken)
        self.ledger.emit("CaseClosed", number=found.case, outcome=int(outcome))
        if found.delivery:
            self._resolve(found.subject, outcome)
        elif outcome is Outcome.UNDECIDED:
            self.challenged.discard(self.receipts[found.case])
        else:
            upheld = outcome is Outcome.UPHELD
            self.tally[found.defendant, "caught" if upheld else "cleared"] += 1
            self.tally[found.plaintiff, "right" if upheld else "wrong"] += 1
