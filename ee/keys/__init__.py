"""Keys: what is drawn from a seed, what it does, and what it may be used for."""

from ee.keys.key import Key, state_keyed, state_unkeyed
from ee.keys.table import TrunkKey, key_trunk, unkey_trunk

__all__ = [
    "Key",
    "TrunkKey",
    "key_trunk",
    "state_keyed",
    "state_unkeyed",
    "unkey_trunk",
]
