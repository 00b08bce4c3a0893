"""`rexisd --home PATH`: put one node together, run it, take it apart.

This is the only module that knows every other.  It opens what is local first and in the order
of what can go wrong most plainly (lock, config, keys, database), then the chain, then the
sockets; readiness is told when a peer and an operator could both be served.
"""

import argparse
import os
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import structlog
import trio

from node import log as logs
from node import notify
from node.adapters.blob_dir import BlobDir
from node.adapters.compute_child import open_compute_child
from node.adapters.evm_chain import EvmChain
from node.adapters.evm_committees import EvmCommittees
from node.adapters.evm_council import EvmCouncil
from node.adapters.evm_disputes import EvmDisputes
from node.adapters.evm_market import EvmMarket
from node.adapters.keyfile import KeyFile, open_
from node.adapters.libp2p import Libp2pTransport
from node.adapters.sqlite_store import SqliteStore
from node.compute.state import tidy
from node.config import Config, load
from node.errors import ChainError, ComputeError, ConfigError, NodeError
from node.locations import Home
from node.passphrase import read_passphrase
from node.ports.compute import Compute
from node.rpc.server import RpcServer
from node.services.admin import Admin
from node.services.node import Node, Parts

log = structlog.get_logger()

STOP_TIMEOUT_S = 5.0


def main() -> int:
    """Exit status 0 after a graceful stop, 1 with one clear line otherwise."""
    parser = argparse.ArgumentParser(prog="rexisd", description="The Rexis daemon.")
    parser.add_argument("--home", required=True, type=Path, metavar="PATH")
    options = parser.parse_args()
    try:
        home = Home(options.home)
        config = load(home, os.environ)
        logs.configure(config.log)
        with home.lock():
            key = open_(home.keyfile, read_passphrase(os.environ))
            trio.run(_serve, home, config, key)
    except NodeError as error:
        return _fail(error)
    except BaseExceptionGroup as group:
        expected, rest = group.split(NodeError)
        if expected is None or rest is not None:
            raise
        return _fail(_first(expected))
    return 0


def _fail(error: BaseException) -> int:
    sys.stderr.write(f"error: {error}\n")
    if isinstance(error, NodeError) and error.hint():
        sys.stderr.write(f"hint: {error.hint()}\n")
    return 1


def _first(group: BaseExceptionGroup[NodeError]) -> BaseException:
    found: BaseException = group
    while isinstance(found, BaseExceptionGroup):
        found = found.exceptions[0]
    return found


async def _serve(home: Home, config: Config, key: KeyFile) -> None:
    async with opened(home, config, key) as (node, nursery):
        rpc = RpcServer(
            Admin(node).methods(), connections=config.limits.rpc_connections
        )
        await nursery.start(rpc.serve, home.rpc_socket)
        notify.ready()
        log.info("ready", peer=key.peer_id, name=config.node.name)
        await _told_to_stop(node)
        notify.stopping()
        log.info("stopping")
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def opened(
    home: Home, config: Config, key: KeyFile
) -> AsyncIterator[tuple[Node, trio.Nursery]]:
    """A running node, without its admin socket."""
    async with AsyncExitStack() as stack:
        store = SqliteStore.open(home.database)
        stack.callback(store.close)
        blobs = BlobDir(home.blobs)
        blobs.tidy()
        for folder in (home.states, home.trunks):
            tidy(folder)
        chain = EvmChain(
            url=config.chain.url,
            chain_id=config.chain.chain_id,
            contracts=contract_addresses(config),
            account_key=key.account_key,
            confirmations=config.chain.confirmations,
            poll_s=config.chain.poll_ms / 1000,
        )
        await _check_chain(chain)
        compute = await stack.enter_async_context(open_compute_child())
        if config.node.role == "verifier":
            await _check_arithmetic(compute)
        nursery = await stack.enter_async_context(trio.open_nursery())
        node = Node(
            Parts(
                *(home, config, key, store, blobs, chain, compute),
                arbiter=EvmDisputes(chain),
                trade=EvmMarket(chain),
                committees=EvmCommittees(chain),
                council=EvmCouncil(chain),
            )
        )
        transport = Libp2pTransport(
            identity_seed=key.identity_seed,
            sign=key.sign,
            listen=tuple(config.network.listen),
            allowed=node.is_member,
            blobs=blobs,
            may_fetch=node.may_fetch,
        )
        node.attach(transport)
        await node.load()
        await nursery.start(transport.run)
        nursery.start_soon(node.run)
        try:
            yield node, nursery
        finally:
            nursery.cancel_scope.cancel()


async def _check_arithmetic(compute: Compute) -> None:
    """A verifier that computes otherwise than the op-spec would accuse honest hosts."""
    try:
        await compute.call("audit.ready", {})
    except ComputeError as error:
        raise ComputeError(
            str(error), hint="audit on another machine, or another BLAS"
        ) from error


async def _check_chain(chain: EvmChain) -> None:
    """A wrong chain stops the start; a chain that is down does not (rounds go on)."""
    try:
        await chain.check()
    except ChainError as error:
        if not error.temporary:
            raise
        log.warning("chain is down; anchors will wait", reason=str(error))


def contract_addresses(config: Config) -> Mapping[str, str]:
    """Name to address; empty addresses are a configuration nobody has finished."""
    addresses = {
        "registry": config.chain.contracts.registry,
        "datasets": config.chain.contracts.datasets,
        "anchors": config.chain.contracts.anchors,
    }
    for name, address in addresses.items():
        if not address:
            raise ConfigError(
                f"chain.contracts.{name} is empty",
                hint="deploy with `rexis chain deploy`, or ask the federation for its addresses",
            )
    return addresses


async def _told_to_stop(node: Node) -> None:
    async with trio.open_nursery() as nursery:

        async def by_signal() -> None:
            with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
                async for _ in signals:
                    nursery.cancel_scope.cancel()

        async def by_operator() -> None:
            await node.stop_asked.wait()
            nursery.cancel_scope.cancel()

        nursery.start_soon(by_signal)
        nursery.start_soon(by_operator)


if __name__ == "__main__":
    sys.exit(main())
