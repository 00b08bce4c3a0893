"""Models offered for encrypted inference: made, announced, anchored, kept.

To release is to draw a fresh key, key the trained trunk with it, round it to integers and give
the bytes away; the key itself goes sealed to members that trained the model.  The record's
digest is anchored beside the model's root, and the first record that the chain has of a root
is the one that counts (`release_offers`), from the claim on that its releaser anchored before it:
nobody can offer other hosts or licences under the same name, earlier or later.
"""

import secrets
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any, Protocol

import structlog
import trio

from node.adapters.keyfile import seal_to
from node.clock import now_s
from node.compute.state import write_file
from node.errors import AccessError, ComputeError, NodeError
from node.market import lineage
from node.ports.chain import Chain, ChainEvent
from node.ports.compute import Compute
from node.ports.keys import Signer
from node.ports.storage import Blobs, Store
from node.ports.transport import Announcement, Transport
from node.services.federation import Federation
from node.services.outbox import Outbox
from node.services.release_offers import Offers
from protocol.errors import ProtocolError
from protocol.evaluation import (
    RELEASE_LIMIT_BYTES,
    RELEASE_TOPIC,
    SLICE_PROTOCOL,
    SMALL_LIMIT_BYTES,
    TRUNK_LIMIT_BYTES,
    Release,
    SealedKey,
    SliceAnswer,
    SliceRequest,
)
from protocol.first_record import claim_of
from protocol.provenance import Step, seal_step
from protocol.types import Digest, PeerId, digest
from protocol.wire import decode, encode

_RELEASES, _SOURCES = "releases", "release-sources"
_OWN = "release-unannounced"
FETCH_TIMEOUT_S = 120.0
DAY_S = 86_400

log = structlog.get_logger()


class RunRecord(Protocol):
    """What a release needs to know of a training run."""

    @property
    def spec(self) -> dict[str, Any]: ...

    @property
    def members(self) -> tuple[bytes, ...]: ...

    @property
    def initial(self) -> bytes: ...

    @property
    def datasets(self) -> tuple[int, ...]: ...


class Runs(Protocol):
    """Where finished training runs are found."""

    def record(self, run: bytes) -> RunRecord: ...

    def final_state(self, run: bytes) -> bytes: ...


class Releases:
    """Every release this node has made or heard of."""

    def __init__(
        self,
        *,
        store: Store,
        blobs: Blobs,
        signer: Signer,
        chain: Chain,
        transport: Transport,
        federation: Federation,
        outbox: Outbox,
        compute: Compute,
        states: Path,
        models: Path,
        trunks: Path,
    ) -> None:
        """`states` holds training states by root, `models` bases by name, `trunks` trunks and
        slices by root.
        """
        self._store = store
        self._blobs = blobs
        self._signer = signer
        self._chain = chain
        self._transport = transport
        self._federation = federation
        self._outbox = outbox
        self._compute = compute
        self._states = states
        self._models = models
        self._trunks = trunks
        self._offers = Offers(store)
        self._settling = trio.Lock()
        self._known: dict[bytes, tuple[Release, bytes]] = {}
        self._slices: set[Digest] = set()
        transport.serve(
            SLICE_PROTOCOL, self._serve_slice, limit_bytes=SMALL_LIMIT_BYTES
        )

    async def load(self) -> None:
        """What was known before the restart."""
        await self._offers.load()
        sources = dict(await self._store.scan(_SOURCES))
        for root, data in await self._store.scan(_RELEASES):
            release = decode(data, Release, limit_bytes=RELEASE_LIMIT_BYTES)
            self._known[root] = release, sources[root]

    async def make(
        self, runs: Runs, run: bytes, hosts: list[str], days: int | None = None
    ) -> dict[str, Any]:
        """Release the final state of `run`, for `days` or for good.

        Members hear of it once the chain has its record.
        """
        record = runs.record(run)
        # Before anything is made: a release is anchored for good.
        named = [self._federation.named_host(name).node_key for name in hosts]
        serving = tuple(dict.fromkeys(named))
        seed = secrets.token_bytes(32)
        state_root = runs.final_state(run)
        made = await self._compute.call(
            "model.release",
            {
                "spec": record.spec,
                "folder": str(self._states),
                "root": state_root,
                "models": str(self._models),
                "seed": seed,
                "trunks": str(self._trunks),
            },
        )
        path = self._trunks / f"{made['model_root'].hex()}.trunk"
        trunk = await trio.to_thread.run_sync(path.read_bytes)
        blob = await trio.to_thread.run_sync(self._blobs.put, trunk)
        keys = tuple(
            SealedKey(key, seal_to(self._federation.key(key).seal_key, seed))
            for key in record.members
        )
        release = Release(
            model_root=made["model_root"],
            blob=blob,
            blob_bytes=len(trunk),
            run=run,
            state_root=state_root,
            hosts=serving,
            keys=keys,
            provenance=await self._steps(record, state_root, made["model_root"]),
            until=0 if days is None else now_s() + days * DAY_S,
        )
        release.check()
        claim = claim_of(self._account(), release.model_root, digest(encode(release)))
        await self._store.put(_OWN, release.model_root, claim)
        await self._keep(release, self._signer.public_key)
        await self._outbox.put("model", claim, claim)
        return self.row(release.model_root)

    async def run(self) -> None:
        """Follow which records the chain has, for ever."""
        for root in self._offers.roots():
            await self._settle(root)  # a kill may have come between the record and this
        await self._show_claimed()
        async for event in self._chain.follow(await self._offers.start()):
            if event.kind != "ModelAnchored":
                continue
            root = bytes(event.data["root"])
            if await self._offers.anchored(event):
                await self._settle(root)
            elif root == bytes(event.data["record"]):
                await self._show_claimed(root)

    async def _show_claimed(self, claim: bytes | None = None) -> None:
        """Anchor the records made here whose claims stand, or the one with this claim."""
        for root, own in await self._store.scan(_OWN):
            if claim in (None, own) and self._offers.claimed(self._account(), own):
                # What the chain has already it refuses by name, and that is as good.
                await self._outbox.put(
                    "model", root, digest(encode(self._known[root][0]))
                )

    def _account(self) -> bytes:
        return self._federation.key(self._signer.public_key).account

    async def _settle(self, root: bytes) -> None:
        """Keep the release with the chain's first record, and no other."""
        async with self._settling:
            await self._settled(root)

    async def _settled(self, root: bytes) -> None:
        first = self._offers.first(root)
        if first is None:
            return
        if root in self._known and digest(encode(self._known[root][0])) != first.record:
            own = await self._store.get(_OWN, root)
            claim = None if own is None else self._offers.claimed(self._account(), own)
            if claim is not None and claim < first.place:
                return  # copied from the transaction that has ours, which counts once it is there
            await self._drop(root, first.account)
        offer = self._offers.standing(root)
        if offer is not None and root not in self._known:
            await self._keep(offer, offer.released_by())
        if root in self._known and await self._store.get(_OWN, root) is not None:
            release, _ = self._known[root]
            await self._transport.announce(RELEASE_TOPIC, encode(release))
            await self._store.delete(_OWN, root)
        await self._offers.clear(root)

    async def _drop(self, root: bytes, account: bytes) -> None:
        """Another record of this root was first on the chain; say by whose account."""
        source = self._known[root][1]
        about = {
            "model": root.hex(),
            "released_by": self._federation.name_of(source),
            "first_by": self._federation.name_of_account(account),
        }
        # Made here, it is lost; heard of, it was somebody's copy of the root, and is put right.
        mine = source == self._signer.public_key
        word = "model.contested" if mine else "model.replaced"
        log.warning("another record of this model was first on the chain", **about)
        del self._known[root]
        await self._store.put_many(
            [(space, root, None) for space in (_RELEASES, _SOURCES, _OWN)],
            event=(word, about),
        )

    async def _steps(
        self, record: RunRecord, state_root: bytes, model_root: bytes
    ) -> tuple[bytes, ...]:
        """What was made from what, with the chain's word for the listings."""
        listings = {
            token.dataset: token.record for token in await self._chain.datasets()
        }
        used = {listings[dataset] for dataset in record.datasets} | {record.initial}
        me, now = self._signer.public_key, now_s()
        version = metadata.version("rexis")
        steps = (
            Step("train", tuple(sorted(used)), state_root, "rexis", version, me, now),
            Step("release", (state_root,), model_root, "rexis", version, me, now),
        )
        return tuple(seal_step(self._signer.sign, me, step) for step in steps)

    async def sources(
        self, model_root: bytes, events: Iterable[ChainEvent]
    ) -> list[dict[str, Any]]:
        """The listings a model was trained on, as far as the chain knows them.

        `events` have those that datasets were listed with before they got new keys.
        """
        used = set(self.get(model_root).sources())
        tokens = await self._chain.datasets()
        return [
            {
                "dataset": token.dataset,
                "record": token.record.hex(),
                "owner": self._federation.name_of_account(token.owner),
            }
            for token in lineage.had(tokens, events)
            if token.record in used
        ]

    async def heard(self, said: Announcement) -> None:
        """A member offers a model; it stands if it has the chain's first record of its root."""
        release = decode(said.payload, Release, limit_bytes=RELEASE_LIMIT_BYTES)
        release.check()
        origin = self._federation.peer(said.origin)
        root = release.model_root
        known, first = self._known.get(root), self._offers.first(root)
        if known is not None and known[0] == release:
            return
        stands = first is None or first.record == digest(encode(release))
        if stands or (first is not None and not first.claimed):
            await self._offers.add(release, origin.node_key, origin.name)
        if first is not None and not stands:
            raise ProtocolError(
                f"{origin.name} offers another release of {root.hex()[:16]} than the chain"
                f" had first, by {self._federation.name_of_account(first.account)}"
            )
        await self._settle(root)

    async def trunk(self, model_root: bytes) -> bytes:
        """The trunk's bytes, fetched from whoever has them and checked."""
        release = self.get(model_root)
        await self.fetch_blob(model_root)
        return await trio.to_thread.run_sync(
            self._blobs.read, Digest(release.blob), 0, release.blob_bytes
        )

    async def trunk_file(self, model_root: bytes) -> Path:
        """The trunk as a file the compute child can read; whole or not there."""
        path = self._trunks / f"{model_root.hex()}.trunk"
        if not path.exists():
            await trio.to_thread.run_sync(_write, path, await self.trunk(model_root))
        return path

    async def slice_file(self, model_root: bytes, layer: int) -> Path:
        """One layer as a file, cut from the trunk if it is here or fetched if not.

        What a member gives is kept only if it is that layer of that model: a host that gave
        something else once would be spared every later audit of the layer.  Whoever reads the
        file computes the root again.
        """
        path = self._trunks / f"{model_root.hex()}.{layer}.slice"
        if path.exists():
            return path
        trunk = self._trunks / f"{model_root.hex()}.trunk"
        if not trunk.exists() and not self._blobs.has(
            Digest(self.get(model_root).blob)
        ):
            await self._fetch_slice(model_root, layer, path)
            return path
        await self._compute.call(
            "model.slice",
            {
                "trunk": str(await self.trunk_file(model_root)),
                "layer": layer,
                "out": str(path),
            },
        )
        return path

    async def _fetch_slice(self, model_root: bytes, layer: int, path: Path) -> None:
        """Write the layer to `path`, from the first holder that gives the right one."""
        refused: list[str] = []
        # Audits of one layer may ask for it at the same time.
        unchecked = path.with_suffix(f".{secrets.token_hex(8)}")
        for peer in self._holders(model_root):
            try:
                data = await self._transport.request(
                    peer,
                    SLICE_PROTOCOL,
                    encode(SliceRequest(model_root, layer)),
                    timeout_s=FETCH_TIMEOUT_S,
                    limit_bytes=SMALL_LIMIT_BYTES,
                )
                answer = decode(data, SliceAnswer)
                answer.check()
                blob = Digest(answer.blob)
                await self._transport.fetch(
                    peer,
                    blob,
                    limit_bytes=answer.blob_bytes,
                    timeout_s=FETCH_TIMEOUT_S,
                )
                given = await trio.to_thread.run_sync(
                    self._blobs.read, blob, 0, answer.blob_bytes
                )
                await trio.to_thread.run_sync(_write, unchecked, given)
                await self._compute.call(
                    "model.check_slice",
                    {"slice": str(unchecked), "model_root": model_root, "layer": layer},
                )
                await trio.Path(unchecked).rename(path)
                return
            except (NodeError, ProtocolError) as error:
                log.warning("no slice", peer=peer, layer=layer, reason=str(error))
                refused.append(str(error))
            finally:
                await trio.to_thread.run_sync(
                    partial(unchecked.unlink, missing_ok=True)
                )
        raise ComputeError(
            f"no member gives layer {layer} of {model_root.hex()[:16]}:"
            f" {'; '.join(refused) or 'none is known to hold it'}"
        )

    async def _serve_slice(self, peer: PeerId, payload: bytes) -> bytes:
        self._federation.peer(peer)
        request = decode(payload, SliceRequest, limit_bytes=SMALL_LIMIT_BYTES)
        request.check()
        release = self.get(request.model_root)
        if not self._blobs.has(Digest(release.blob)):
            raise ComputeError(f"trunk {release.blob.hex()[:16]} is not here")
        path = await self.slice_file(request.model_root, request.layer)
        data = await trio.to_thread.run_sync(path.read_bytes)
        blob = await trio.to_thread.run_sync(self._blobs.put, data)
        self._slices.add(blob)
        return encode(SliceAnswer(blob, len(data)))

    def _holders(self, model_root: bytes) -> list[PeerId]:
        """Whoever released the model, then its hosts."""
        release, source = self.get(model_root), self._known[model_root][1]
        me = self._signer.public_key
        keys = dict.fromkeys((source, *release.hosts))
        members = (self._federation.members.by_key(key) for key in keys if key != me)
        return [member.peer_id for member in members if member is not None]

    async def fetch_blob(self, model_root: bytes) -> Digest:
        """Make sure the trunk is on this node."""
        release = self.get(model_root)
        blob = Digest(release.blob)
        if self._blobs.has(blob):
            return blob
        last: NodeError | None = None
        for peer in self._holders(model_root):
            try:
                await self._transport.fetch(
                    peer,
                    blob,
                    limit_bytes=min(release.blob_bytes, TRUNK_LIMIT_BYTES),
                    timeout_s=FETCH_TIMEOUT_S,
                )
                return blob
            except NodeError as error:
                last = error
        raise ComputeError(
            f"no member gives the trunk of {model_root.hex()[:16]}: {last}",
            hint="it is fetched again with the next request",
        )

    def get(self, model_root: bytes) -> Release:
        """The release called `model_root`."""
        known = self._known.get(model_root)
        if known is None:
            raise ComputeError(
                f"model {model_root.hex()[:16]} is not known here",
                hint="`rexis model list` shows what is",
            )
        return known[0]

    def require_licence(self, model_root: bytes) -> Release:
        """The release, unless its licence has ended."""
        release = self.get(model_root)
        if release.is_over(now_s()):
            ended = datetime.fromtimestamp(release.until, UTC).isoformat(" ")
            raise AccessError(
                f"the licence for {model_root.hex()[:16]} ended at {ended}",
                hint="ask its releaser to release the model again",
            )
        return release

    def key_seed(self, model_root: bytes) -> bytes:
        """The release key's seed, if it was sealed to this node."""
        for sealed in self.get(model_root).keys:
            if sealed.node_key == self._signer.public_key:
                return self._signer.open_sealed(sealed.sealed)
        raise AccessError(
            f"this node has no key to model {model_root.hex()[:16]}",
            hint="ask the releaser; only members that trained it hold one",
        )

    def is_trunk(self, blob: bytes) -> bool:
        """Keyed trunks, and slices of them that were asked for, are for every member."""
        return blob in self._slices or any(
            release.blob == blob for release, _ in self._known.values()
        )

    def signed(self) -> list[bytes]:
        """All releases, encoded; what vouches for each is on the chain."""
        return [encode(release) for release, _ in self._known.values()]

    def roots(self) -> list[bytes]:
        """Every model that is known here, the oldest first."""
        return list(self._known)

    def rows(self) -> list[dict[str, Any]]:
        """For `models.list`."""
        return [self.row(root) for root in self._known]

    def row(self, model_root: bytes) -> dict[str, Any]:
        """For a person or a program to read."""
        release, source = self._known[model_root]
        name = self._federation.name_of
        return {
            "model": model_root.hex(),
            "run": release.run.hex(),
            "state_root": release.state_root.hex(),
            "released_by": name(source),
            "hosts": [name(host) for host in release.hosts],
            "until": release.until or None,
            "bytes": release.blob_bytes,
            "here": self._blobs.has(Digest(release.blob)),
        }

    async def _keep(self, release: Release, source: bytes) -> None:
        await self._store.put(_SOURCES, release.model_root, source)
        await self._store.put(_RELEASES, release.model_root, encode(release))
        self._known[release.model_root] = release, source
        details: Mapping[str, Any] = self.row(release.model_root)
        await self._store.append_event("model.released", dict(details))
        log.info("model released", model=release.model_root.hex()[:16])


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_file(path, data)
