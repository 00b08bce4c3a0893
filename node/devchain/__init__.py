"""An embedded development chain: one sequencer, no consensus, real EVM, real receipts."""
