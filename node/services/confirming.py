"""Members vouch for a release: it is the keyed, quantised form of the state they trained.

A releaser could publish another trunk than the one the federation trained.  Whoever holds the
release key and the state can tell, so each such member compares once, signs what it found
right, tells everybody, and anchors the same root and record from its own account, where the
chain keeps it.  A release that does not agree is an event for the operator and is not signed.
"""

from typing import Any

import structlog
import trio

from node.errors import AccessError, NodeError
from node.ports.compute import Compute
from node.ports.keys import Signer
from node.ports.storage import Store
from node.ports.transport import Announcement, Transport
from node.services.federation import Federation
from node.services.outbox import Outbox
from node.services.releases import Releases, Runs
from protocol.confirmation import (
    CONFIRMATION_TOPIC,
    Confirmation,
    open_confirmation,
    seal_confirmation,
)
from protocol.errors import ProtocolError
from protocol.types import digest
from protocol.wire import encode

_SAID, _REFUTED = "release-confirmations", "release-refuted"
LOOK_EVERY_S = 2.0

log = structlog.get_logger()


class Confirmations:
    """Who vouches for what; this node among them."""

    def __init__(
        self,
        *,
        store: Store,
        signer: Signer,
        transport: Transport,
        federation: Federation,
        releases: Releases,
        runs: Runs,
        outbox: Outbox,
        compute: Compute,
        states: str,
        models: str,
        look_every_s: float = LOOK_EVERY_S,
    ) -> None:
        """`states` is the folder of training states by root, `models` that of bases by name."""
        self._store = store
        self._signer = signer
        self._transport = transport
        self._federation = federation
        self._releases = releases
        self._runs = runs
        self._outbox = outbox
        self._compute = compute
        self._states = states
        self._models = models
        self._look_every_s = look_every_s
        self._by: dict[bytes, dict[bytes, bytes]] = {}
        self._done: set[bytes] = set()

    async def load(self) -> None:
        """What was known before the restart."""
        for _, sealed in await self._store.scan(_SAID):
            self._note(sealed)
        self._done |= {root for root, _ in await self._store.scan(_REFUTED)}

    def of(self, model_root: bytes) -> list[str]:
        """Names of the members that vouch for a release as it is known here."""
        record = digest(encode(self._releases.get(model_root)))
        said = self._by.get(model_root, {})
        return sorted(
            self._federation.name_of(member)
            for member, about in said.items()
            if about == record
        )

    async def heard(self, said: Announcement) -> None:
        """A member vouches."""
        member = self._federation.peer(said.origin)
        confirmation, signer = open_confirmation(said.payload)
        if signer != member.node_key:
            raise ProtocolError(f"{member.name} announced what it did not sign")
        known = self._by.get(confirmation.model_root, {}).get(signer)
        if known not in (None, confirmation.record):
            raise ProtocolError(f"{member.name} vouches for two releases of one model")
        await self._keep(said.payload)

    async def run(self) -> None:
        """Look for releases this node can judge, for ever."""
        while True:
            for model_root in self._releases.roots():
                if model_root not in self._done:
                    await self._judge(model_root)
            await trio.sleep(self._look_every_s)

    async def _judge(self, model_root: bytes) -> None:
        """Vouch, refute, or leave it for the next look."""
        release = self._releases.get(model_root)
        try:
            seed = self._releases.key_seed(model_root)
        except AccessError:
            self._done.add(model_root)  # no key: others judge
            return
        try:
            mine = self._runs.final_state(release.run)
            found = await self._compute.call(
                "model.confirm",
                {
                    "spec": self._runs.record(release.run).spec,
                    "folder": self._states,
                    "root": mine,
                    "models": self._models,
                    "seed": seed,
                    "trunk": str(await self._releases.trunk_file(model_root)),
                    "model_root": model_root,
                },
            )
        except NodeError as error:
            # The run is not finished here, the trunk has not come, the child died.
            log.debug("release not compared yet", reason=str(error))
            return
        reason = str(found["differs"])
        if mine != release.state_root:
            reason = (
                f"it is of state {release.state_root.hex()[:16]}, the run ended with"
                f" {mine.hex()[:16]}"
            )
        if reason:
            await self._refute(model_root, reason)
        else:
            await self._vouch(Confirmation(model_root, digest(encode(release))))
        # Only what is on record is done: a store that fails here leaves it for the next look.
        self._done.add(model_root)

    async def _vouch(self, said: Confirmation) -> None:
        me = self._signer.public_key
        sealed = seal_confirmation(self._signer.sign, me, said)
        await self._outbox.put("model", said.model_root, said.record)
        await self._keep(sealed)
        await self._transport.announce(CONFIRMATION_TOPIC, sealed)

    async def _refute(self, model_root: bytes, reason: str) -> None:
        log.warning("release does not agree", model=model_root.hex(), reason=reason)
        await self._store.put(_REFUTED, model_root, reason.encode())
        details: dict[str, Any] = {"model": model_root.hex(), "reason": reason}
        await self._store.append_event("model.refuted", details)

    async def _keep(self, sealed: bytes) -> None:
        await self._store.put(_SAID, digest(sealed), sealed)
        if self._note(sealed):
            said, signer = open_confirmation(sealed)
            await self._store.append_event(
                "model.confirmed",
                {
                    "model": said.model_root.hex(),
                    "by": self._federation.name_of(signer),
                },
            )

    def _note(self, sealed: bytes) -> bool:
        """True where it is news."""
        said, signer = open_confirmation(sealed)
        of_model = self._by.setdefault(said.model_root, {})
        if signer == self._signer.public_key:
            self._done.add(said.model_root)
        news = signer not in of_model
        of_model.setdefault(signer, said.record)
        return news
