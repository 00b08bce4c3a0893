"""The auditor's code: `protocol` and `ee.integer`, nothing else of the node (docs/adr/0009)."""
