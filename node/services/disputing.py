"""Disputes of this node before the contract, as a host and as a challenger.

Everything that happens is an event of the chain, and what is known of a dispute is built again
from them after a restart.  A move is made only while the contract waits for the very move that
the events lead up to, so none is made twice; one that fails is tried again until its time is over.
The host answers from the rows it keeps.  The challenger asks its way down to the first leaf that is
not what the model makes, and shows one number of it.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import structlog
import trio

from node.clock import now_s
from node.errors import AccessError, NodeError, StorageError
from node.ports.chain import Chain, ChainEvent
from node.ports.compute import Compute
from node.ports.disputes import Arbiter, Standing
from node.ports.storage import Store
from node.services.federation import Federation
from node.services.receipts import Receipts
from node.services.releases import Releases
from node.verifier import bundle
from protocol import merkle
from protocol.dispute import (
    Asked,
    Game,
    Leaf,
    Proof,
    SaltProof,
    Trunk,
    Turn,
    claim_from,
)
from protocol.errors import ProtocolError
from protocol.receipt import open_receipt
from protocol.wire import decode, encode

_EVIDENCE = "disputes-evidence"
_TELLING = "disputes-told"
_TOLD = {"DisputeOpened": "dispute.opened", "DisputeClosed": "dispute.closed"}
OUTCOMES = ("", "upheld", "rejected", "undecided")
"""`Board.Outcome`; upheld: the host was wrong, or silent."""
LOOK_EVERY_S = 15.0
"""How often a move of our own that failed is tried again, and the other side's time looked at."""

log = structlog.get_logger()


class Disputes:
    """What this node is a party of, and every other one it has heard of."""

    def __init__(
        self,
        *,
        store: Store,
        chain: Chain,
        arbiter: Arbiter,
        federation: Federation,
        receipts: Receipts,
        releases: Releases,
        compute: Compute,
        evidence: Path,
        look_every_s: float = LOOK_EVERY_S,
    ) -> None:
        self._store = store
        self._chain = chain
        self._arbiter = arbiter
        self._federation = federation
        self._receipts = receipts
        self._releases = releases
        self._compute = compute
        self._evidence = evidence
        self._look_every_s = look_every_s
        self._games: dict[int, Game] = {}
        self._moving = trio.Lock()
        """One move at a time: an event and the clock may both ask for the same."""
        self._stuck: dict[int, str] = {}

    async def open(self, receipt: bytes) -> dict[str, Any]:
        """Take the evidence against a receipt to the contract."""
        path = self._evidence / f"{receipt.hex()}.bundle"
        if not path.exists():
            raise StorageError(
                f"no evidence against receipt {receipt.hex()[:16]} on this node",
                hint="a verifier keeps some when a host has shown a wrong number",
            )
        found = bundle.read(await trio.to_thread.run_sync(path.read_bytes))
        host = self._federation.key(open_receipt(found.receipt).host)
        answer = await self._compute.call("dispute.place", {"evidence": str(path)})
        layer, case, token = answer["place"]
        await self._store.put(_EVIDENCE, merkle.leaf_digest(found.receipt), receipt)
        number = await self._arbiter.accuse(
            host.account,
            found.batch,
            found.proof,
            found.receipt,
            decode(answer["trunk"], Trunk),
            (layer, case, token),
        )
        return {"dispute": number, "host": host.name}

    async def run(self) -> None:
        """Follow the chain for ever, and move when it is this node's turn."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._keep_time)
            # From the start: what was said in a dispute is nowhere but on the chain.
            async for event in self._chain.follow(0):
                game = self._noted(event)
                if game is not None:
                    await self._heard(game, event.kind)

    def rows(self) -> list[dict[str, Any]]:
        """For `disputes.list`."""
        return [self._row(game) for game in self._games.values()]

    def _row(self, game: Game) -> dict[str, Any]:
        return {
            "dispute": game.number,
            "challenger": self._federation.name_of_account(game.challenger),
            "host": self._federation.name_of_account(game.host),
            "model": game.claim.model.hex(),
            "layer": game.claim.layer,
            "case": game.claim.case_number,
            "token": game.claim.token,
            "turn": game.turn.name.lower(),
            "outcome": game.outcome or None,
        }

    def _noted(self, event: ChainEvent) -> Game | None:
        """The dispute that an event is about, with it."""
        data = event.data
        if event.kind == "DisputeOpened":
            game = Game(
                number=int(data["number"]),
                challenger=bytes(data["challenger"]),
                host=bytes(data["host"]),
                leaf=bytes(data["leaf"]),
                claim=claim_from(data),
                deadline=int(data["deadline"]),
            )
            self._games[game.number] = game
            return game
        if event.kind not in _SAYS:
            return None
        game = self._games[int(data["number"])]
        _SAYS[event.kind](game, data)
        game.deadline = int(data.get("deadline", game.deadline))
        return game

    async def _heard(self, game: Game, kind: str) -> None:
        me = self._arbiter.account
        if me not in (game.host, game.challenger):
            return
        if kind in _TOLD:
            await self._tell(game, _TOLD[kind])
        if me == game.host:
            await self._keep_rows(game, kind)
        await self._move(game)

    async def _move(self, game: Game) -> None:
        """What the contract waits for, if it is this node's."""
        me = self._arbiter.account
        async with self._moving:
            try:
                standing = await self._arbiter.standing(game.number)
                if standing != Standing(game.turn, game.deadline):
                    return  # more has happened, and comes
                if game.turn is Turn.HOST and me == game.host:
                    await self._defend(game)
                elif game.turn is Turn.CHALLENGER and me == game.challenger:
                    await self._press(game)
            except (NodeError, ProtocolError, OSError) as error:
                await self._complain(game, str(error))
            else:
                self._stuck.pop(game.number, None)

    async def _keep_rows(self, game: Game, kind: str) -> None:
        """Whatever the host may be asked for must be there until nobody may ask."""
        if kind == "DisputeClosed":
            await self._receipts.let_go(game.number)
        elif kind == "DisputeOpened":
            try:
                await self._receipts.hold(game.number, game.leaf)
            except StorageError as error:
                await self._complain(game, str(error))

    async def _complain(self, game: Game, reason: str) -> None:
        """Once for each reason, however often it is tried."""
        if self._stuck.get(game.number) == reason:
            return
        self._stuck[game.number] = reason
        log.warning("dispute is stuck", dispute=game.number, reason=reason)
        await self._store.append_event(
            "dispute.stuck", {"dispute": game.number, "reason": reason}
        )

    async def _tell(self, game: Game, name: str) -> None:
        """Once, although the chain is read again after every start."""
        key = f"{name} {game.number}".encode()
        if await self._store.get(_TELLING, key) is None:
            row = self._row(game)
            await self._store.put_many([(_TELLING, key, b"")], event=(name, row))

    async def _defend(self, game: Game) -> None:
        receipt, kept = await self._receipts.by_leaf(game.leaf)
        claim = game.claim
        found = await self._compute.call(
            "dispute.trace",
            {
                "model": str(await self._releases.trunk_file(receipt.model_root)),
                "claim": encode(claim),
                "salt": kept.salt,
                "rows": await self._receipts.rows_at(receipt, kept, claim.layer),
                "asked": b"" if game.asked is None else encode(game.asked),
            },
        )
        about = (game.number, claim, game.roots)
        if game.asked is None:
            await self._arbiter.answer(game.number, found["roots"])
        elif game.asked.level == 0:
            await self._arbiter.show(*about, decode(found["leaf"], Leaf))
        else:
            await self._arbiter.split(*about, found["nodes"], found["path"])

    async def _press(self, game: Game) -> None:
        receipt = await self._store.get(_EVIDENCE, game.leaf)
        if receipt is None:
            raise AccessError("the evidence of this dispute is not on this node")
        path = self._evidence / f"{receipt.hex()}.bundle"
        found = await self._compute.call(
            "dispute.move", {"evidence": str(path), "game": encode(game)}
        )
        if "asked" in found:
            asked = decode(found["asked"], Asked)
            await self._arbiter.ask(game.number, game.claim, asked)
            return
        proof: Proof | SaltProof = (
            decode(found["proof"], Proof)
            if "proof" in found
            else decode(found["salt"], SaltProof)
        )
        await self._arbiter.prove(game.number, game.claim, game.roots, proof)

    async def _keep_time(self) -> None:
        """Try our own moves again; say so when the other side's time is over."""
        while True:
            await trio.sleep(self._look_every_s)
            me = self._arbiter.account
            for game in list(self._games.values()):
                turn_of = {Turn.HOST: game.host, Turn.CHALLENGER: game.challenger}
                if me not in (game.host, game.challenger) or game.turn not in turn_of:
                    continue
                if turn_of[game.turn] == me:
                    await self._move(game)
                else:
                    await self._close_if_late(game)

    async def _close_if_late(self, game: Game) -> None:
        try:
            standing = await self._arbiter.standing(game.number)
            # A chain without traffic has an old block on top; the next will be of now.
            now = max((await self._chain.head()).time, now_s())
            late = now > standing.deadline
            if standing.turn is game.turn and late:
                await self._arbiter.close(game.number)
        except NodeError as error:
            log.warning("not closed", dispute=game.number, reason=str(error))


def _asked(data: Mapping[str, Any]) -> Asked:
    return Asked(int(data["part"]), int(data["level"]), int(data["index"]))


def _leaf_shown(game: Game, data: Mapping[str, Any]) -> None:
    leaf = Leaf(
        bytes(data["salt"]), bytes(data["entries"]), tuple(map(bytes, data["path"]))
    )
    game.leaf_shown(int(data["part"]), int(data["index"]), leaf)


_SAYS: Mapping[str, Any] = {
    "DisputeAnswered": lambda game, data: game.answered(
        [bytes(root) for root in data["roots"]]
    ),
    "PartAsked": lambda game, data: game.part_asked(_asked(data)),
    "NodesShown": lambda game, data: game.nodes_shown(
        _asked(data), [bytes(node) for node in data["nodes"]]
    ),
    "LeafShown": _leaf_shown,
    "DisputeClosed": lambda game, data: game.closed(OUTCOMES[int(data["outcome"])]),
}
