"""What an operator may ask of a running node: one function for each method of docs/rpc.md.

Parameters arrive typed and bounded by `node.rpc.methods`; what is returned here is checked
against the same schema before it leaves.  Bytes are hex text on this side of the fence.
"""

from collections.abc import Awaitable, Callable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import trio

from node.clock import monotonic_millis
from node.errors import AccessError, ChainError
from node.market import plan, publish
from node.market.reader import require_writable, write_private
from node.market.search import Filter
from node.services.deals_admin import DealsAdmin
from node.services.inference_asking import score_file
from node.services.node import Node
from node.services.queries_admin import QueriesAdmin
from node.services.sessions import Sessions
from protocol.members import (
    ROLE_AUDITOR,
    ROLE_COMPUTE_HOST,
    ROLE_DATA_PROVIDER,
    ROLE_RESEARCHER,
    Member,
)
from protocol.runs import END, GO, PAUSE
from protocol.seating import EXPOSE, IN, OUT

HEAD_TIMEOUT_S = 2.0
ROLES = {
    "data provider": ROLE_DATA_PROVIDER,
    "researcher": ROLE_RESEARCHER,
    "compute host": ROLE_COMPUTE_HOST,
    "auditor": ROLE_AUDITOR,
}

Row = dict[str, Any]
Handler = Callable[[Any], Awaitable[Row]]


class Admin:
    """The methods of one node."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._born = monotonic_millis()

    def methods(self) -> Mapping[str, Handler]:
        """Every method of docs/rpc.md."""
        return {
            "status.get": self._status,
            "peers.list": self._peers,
            "members.list": self._members,
            "datasets.preview": self._datasets_preview,
            "datasets.publish": self._datasets_publish,
            "datasets.works": self._datasets_works,
            "datasets.list": self._datasets_list,
            "datasets.search": self._datasets_search,
            "datasets.show": self._datasets_show,
            "datasets.fetch": self._datasets_fetch,
            "datasets.rekey": self._datasets_rekey,
            "datasets.withdraw": self._datasets_withdraw,
            "datasets.terms": self._datasets_terms,
            "grants.give": self._grants_give,
            "grants.list": self._grants_list,
            "grants.revoke": self._grants_revoke,
            "runs.propose": self._runs_propose,
            "runs.join": self._runs_join,
            "runs.admit": self._runs_admit,
            "runs.dismiss": self._runs_dismiss,
            "runs.leave": self._runs_leave,
            "runs.list": self._runs_list,
            "runs.show": self._runs_show,
            "runs.pause": self._runs_pause,
            "runs.resume": self._runs_resume,
            "runs.end": self._runs_end,
            "runs.score": self._runs_score,
            "runs.export": self._runs_export,
            "rounds.list": self._rounds_list,
            "keys.list": self._keys_list,
            "models.release": self._models_release,
            "models.list": self._models_list,
            "models.show": self._models_show,
            "inference.run": self._inference_run,
            "receipts.list": self._receipts_list,
            "receipts.certificates": self._receipts_certificates,
            "receipts.anchor": self._receipts_anchor,
            "receipts.anchored": self._receipts_anchored,
            "receipts.export": self._receipts_export,
            "audits.list": self._audits_list,
            "provenance.show": self._provenance_show,
            "provenance.export": self._provenance_export,
            "disputes.open": self._disputes_open,
            "disputes.list": self._disputes_list,
            "events.list": self._events_list,
            "node.stop": self._stop,
            **DealsAdmin(self._node).methods(),
            **QueriesAdmin(self._node).methods(),
        }

    async def _status(self, _params: Any) -> Row:
        parts, transport = self._node.parts, self._node.reach()
        head: int | None
        try:
            with trio.move_on_after(2) as scope:
                head = (await parts.chain.head()).number
            if scope.cancelled_caught:
                head = None
        except ChainError:
            head = None
        return {
            "name": parts.config.node.name,
            "role": parts.config.node.role,
            "peer_id": parts.key.peer_id,
            "version": metadata.version("rexis"),
            "addresses": list(transport.addresses()),
            "connected": len(transport.connected()),
            "members": len(self._node.federation.members.members),
            "uptime_s": round((monotonic_millis() - self._born) / 1000, 1),
            "chain": {
                "url": parts.config.chain.url,
                "chain_id": parts.config.chain.chain_id,
                "head": head,
                "waiting": await self._node.outbox.waiting(),
            },
            "datasets": self._node.market.owned(),
            "runs": len(self._node.runs.rows()),
            "models": len(self._node.releases.rows()),
        }

    async def _peers(self, _params: Any) -> Row:
        connected = self._node.reach().connected()
        return {
            "peers": [
                {
                    "name": member.name,
                    "peer_id": member.peer_id,
                    "connected": member.peer_id in connected,
                    "roles": _roles(member),
                }
                for member in self._node.federation.members.members
                if member.peer_id != self._node.parts.key.peer_id
            ]
        }

    async def _members(self, _params: Any) -> Row:
        return {
            "members": [
                {
                    "name": member.name,
                    "peer_id": member.peer_id,
                    "node_key": member.node_key.hex(),
                    "account": "0x" + member.account.hex(),
                    "roles": _roles(member),
                }
                for member in self._node.federation.members.members
            ]
        }

    async def _datasets_publish(self, params: Any) -> Row:
        return await self._node.market.publish(
            params.paths,
            params.title,
            params.licence,
            params.duo,
            params.source,
            unit_by=params.unit_by,
            disease=params.disease,
            columns=params.columns,
            group=params.group,
            replaces=params.replaces,
            offered=await self._node.market.offer(params),
        )

    async def _datasets_preview(self, params: Any) -> Row:
        said = publish.Description(
            title=params.title,
            licence=params.licence,
            duo=tuple(sorted(set(params.duo))),
            source=params.source,
            unit_by=params.unit_by,
            disease=params.disease,
            columns=tuple(params.columns),
            group=params.group or plan.WHOLE,
        )
        return await self._node.market.preview(
            params.paths,
            said,
            replaces=params.replaces,
            offered=await self._node.market.offer(params),
            who=params.who,
        )

    async def _datasets_terms(self, params: Any) -> Row:
        market = self._node.market
        return await market.change(params.dataset, await market.offer(params))

    async def _datasets_works(self, _params: Any) -> Row:
        return {"works": self._node.market.works.rows()}

    async def _datasets_search(self, params: Any) -> Row:
        wanted = Filter(
            purpose=params.purpose,
            commercial=params.commercial,
            format=params.format,
            licence=params.licence,
            disease=params.disease,
            columns=tuple(params.columns),
            rows_at_least=params.rows,
        )
        return {"datasets": await self._node.market.search(params.text, wanted)}

    async def _datasets_list(self, _params: Any) -> Row:
        return {"datasets": await self._node.market.list()}

    async def _datasets_show(self, params: Any) -> Row:
        return await self._node.market.show(params.dataset)

    async def _datasets_fetch(self, params: Any) -> Row:
        owner = params.owner and self._node.federation.named(params.owner).peer_id
        return await self._node.market.fetch(
            params.dataset,
            owner,
            params.path,
            units=params.units,
            crypt4gh_key=params.crypt4gh_key and bytes.fromhex(params.crypt4gh_key),
        )

    async def _datasets_rekey(self, params: Any) -> Row:
        return await self._node.market.rekey(params.dataset)

    async def _datasets_withdraw(self, params: Any) -> Row:
        return await self._node.market.withdraw(params.dataset, params.units)

    async def _grants_give(self, params: Any) -> Row:
        return await self._node.market.give(
            *(params.dataset, params.grantee, params.units, params.days),
            params.purposes,
        )

    async def _grants_list(self, params: Any) -> Row:
        return {"grants": await self._node.market.grants(params.dataset)}

    async def _grants_revoke(self, params: Any) -> Row:
        return await self._node.market.revoke(params.grant)

    async def _runs_propose(self, params: Any) -> Row:
        self._only("institution")
        return await self._node.runs.propose(
            params.plan, params.rounds, params.members, params.dataset
        )

    async def _runs_join(self, params: Any) -> Row:
        self._only("institution")
        return await self._node.runs.join(bytes.fromhex(params.run), params.dataset)

    async def _runs_admit(self, params: Any) -> Row:
        return await self._node.runs.seat(bytes.fromhex(params.run), params.member, IN)

    async def _runs_dismiss(self, params: Any) -> Row:
        run, word = bytes.fromhex(params.run), EXPOSE if params.expose else OUT
        return await self._node.runs.seat(run, params.member, word)

    async def _runs_leave(self, params: Any) -> Row:
        return await self._node.runs.seat(bytes.fromhex(params.run), "", OUT)

    async def _runs_list(self, _params: Any) -> Row:
        return {"runs": self._node.runs.rows()}

    async def _runs_show(self, params: Any) -> Row:
        return self._node.runs.row(bytes.fromhex(params.run))

    async def _runs_pause(self, params: Any) -> Row:
        return await self._node.runs.steer(bytes.fromhex(params.run), PAUSE)

    async def _runs_resume(self, params: Any) -> Row:
        return await self._node.runs.steer(bytes.fromhex(params.run), GO)

    async def _runs_end(self, params: Any) -> Row:
        return await self._node.runs.steer(bytes.fromhex(params.run), END)

    async def _runs_score(self, params: Any) -> Row:
        self._only("institution")
        data = await trio.to_thread.run_sync(publish.read_table, Path(params.path))
        record = self._node.runs.record(bytes.fromhex(params.run))
        return await self._node.finished.score(record, data)

    async def _runs_export(self, params: Any) -> Row:
        self._only("institution")
        record = self._node.runs.record(bytes.fromhex(params.run))
        return await self._node.finished.export(record, Path(params.path))

    async def _rounds_list(self, params: Any) -> Row:
        return {"rounds": self._node.runs.rounds(bytes.fromhex(params.run))}

    async def _keys_list(self, _params: Any) -> Row:
        parts = self._node.parts
        return {"keys": await Sessions(parts.store, parts.key).rows()}

    async def _models_release(self, params: Any) -> Row:
        self._only("institution")
        return await self._node.releases.make(
            self._node.runs,
            bytes.fromhex(params.run),
            params.hosts,
            params.days,
        )

    async def _models_list(self, _params: Any) -> Row:
        return {"models": self._node.releases.rows()}

    async def _models_show(self, params: Any) -> Row:
        model = bytes.fromhex(params.model)
        row = self._node.releases.row(model)
        events = self._node.anchors.events()
        sources = await self._node.releases.sources(model, events)
        for source in sources:
            shown = await self._node.market.show(source["dataset"])
            listing = shown["listing"]
            source["title"] = shown["title"]
            source["licence"] = listing and listing["licence"]
        confirmed = self._node.confirmations.of(model)
        return {**row, "confirmed_by": confirmed, "sources": sources}

    async def _inference_run(self, params: Any) -> Row:
        self._only("institution")
        data = await trio.to_thread.run_sync(publish.read_table, Path(params.path))
        if params.out is not None:
            # Scores that cannot be written would be lost with their host asked already.
            await trio.to_thread.run_sync(require_writable, Path(params.out))
        with self._node.market.works.begin(params.path, "encrypting") as work:
            found = await self._node.requester.run(
                bytes.fromhex(params.model), params.host, data, work
            )
        if params.out is not None:
            lines = score_file(found)
            await trio.to_thread.run_sync(write_private, Path(params.out), lines)
            return {**found, "path": params.out}
        return found

    async def _receipts_list(self, _params: Any) -> Row:
        return {"receipts": await self._node.receipts.rows()}

    async def _receipts_certificates(self, _params: Any) -> Row:
        return {"certificates": await self._node.certificates.rows()}

    async def _receipts_anchor(self, _params: Any) -> Row:
        root = await self._node.receipts.anchor()
        return {"batch": root.hex() if root else None}

    async def _receipts_anchored(self, params: Any) -> Row:
        return self._node.anchors.batches(params.host, params.begins)

    async def _receipts_export(self, params: Any) -> Row:
        receipt, path = bytes.fromhex(params.receipt), Path(params.path)
        if params.case is not None:
            return await self._node.certificates.disclose(receipt, params.case, path)
        return await self._node.certificates.export(receipt, path)

    async def _audits_list(self, _params: Any) -> Row:
        return {"audits": self._node.audits.rows()}

    async def _provenance_show(self, params: Any) -> Row:
        return await self._node.provenance.show(params.about, params.direction)

    async def _provenance_export(self, params: Any) -> Row:
        return await self._node.provenance.export(
            params.about, params.direction, params.form, Path(params.path)
        )

    async def _disputes_open(self, params: Any) -> Row:
        disputes = self._node.disputes
        if disputes is None:
            raise ChainError("this chain's contracts decide no disputes")
        return await disputes.open(bytes.fromhex(params.receipt))

    async def _disputes_list(self, _params: Any) -> Row:
        disputes = self._node.disputes
        return {"disputes": [] if disputes is None else disputes.rows()}

    async def _events_list(self, params: Any) -> Row:
        store = self._node.parts.store
        if params.wait_s:
            with trio.move_on_after(params.wait_s):
                await store.wait_events(params.after)
        events = await store.events(params.after, params.limit)
        return {"events": [event.row() for event in events]}

    async def _stop(self, _params: Any) -> Row:
        self._node.stop_asked.set()
        return {"stopping": True}

    def _only(self, role: str) -> None:
        mine = self._node.parts.config.node.role
        if mine != role:
            raise AccessError(
                f"this node is a {mine}; that is work of an {role}",
                hint="ask a node with the other role, or change node.role",
            )


def _roles(member: Member) -> list[str]:
    return [name for name, bit in ROLES.items() if member.has(bit)]
