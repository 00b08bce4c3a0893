"""One masked sum that no server runs (docs/protocol.md)."""
