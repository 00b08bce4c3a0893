"""Which keys fit which architecture: one registered file each (docs/ee.md §3)."""
