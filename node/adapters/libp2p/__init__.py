"""The `Transport` port over py-libp2p 0.8.1: TCP, Noise, Yamux (docs/network.md)."""

from node.adapters.libp2p.transport import Libp2pTransport

__all__ = ["Libp2pTransport"]
