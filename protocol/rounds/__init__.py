"""Rounds of masked sums that no coordinator runs and no crash stops (docs/protocol.md §5-§7)."""
