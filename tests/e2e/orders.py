"""Grants that an owner signs off the chain, and anybody may bring."""

from eth_account.messages import encode_typed_data
from eth_keys.datatypes import PrivateKey
from web3 import Web3

from node.adapters.evm_contracts import artifact
from node.adapters.keyfile import open_

DAY = 86_400
TYPES = {
    "Scope": [
        {"name": "units", "type": "uint64"},
        {"name": "purposes", "type": "uint32"},
        {"name": "acknowledged", "type": "uint32"},
    ],
    "Order": [
        {"name": "dataset", "type": "uint256"},
        {"name": "grantee", "type": "address"},
        {"name": "scope", "type": "Scope"},
        {"name": "until", "type": "uint40"},
        {"name": "version", "type": "uint32"},
        {"name": "issued", "type": "uint40"},
        {"name": "deadline", "type": "uint40"},
    ],
}
FIELDS = [one["name"] for one in TYPES["Order"]]


def selector(error):
    """How a custom error of the datasets begins, in hex."""
    (found,) = [one for one in artifact("datasets")["abi"] if one.get("name") == error]
    types = ",".join(one["type"] for one in found["inputs"])
    return Web3.keccak(text=f"{error}({types})").hex()[:8]


class Orders:
    """Signed by one member, MN unless named; brought by LAB, for itself unless said otherwise."""

    def __init__(self, made):
        secret = (made.folder / "passphrase").read_bytes().strip()
        self.keys = {
            name: open_(site.home.keyfile, secret) for name, site in made.sites.items()
        }
        self.lab = self.account("LAB")
        self.bringer = Web3().eth.account.from_key(self.keys["LAB"].account_key)
        self.web3 = Web3(Web3.HTTPProvider(made.chain_url))
        self.contract = self.web3.eth.contract(
            made.contracts["datasets"], abi=artifact("datasets")["abi"]
        )

    def account(self, name):
        key = PrivateKey(self.keys[name].account_key).public_key
        return Web3.to_checksum_address(key.to_address())

    def now(self):
        return self.web3.eth.get_block("latest")["timestamp"]

    def signed(self, dataset, *, by="MN", domain=None, **changes):
        """An order for the first unit, and its signature; `domain` is elsewhere than here."""
        now = self.now()
        scope = {"units": 1, "purposes": 0b11110, "acknowledged": 0}
        order = {
            "dataset": dataset,
            "grantee": self.lab,
            "scope": scope,
            "until": now + 30 * DAY,
            "version": 1,
            "issued": now,
            "deadline": now + DAY,
            **changes,
        }
        place = {
            "name": "Rexis datasets",
            "version": "1",
            "chainId": self.web3.eth.chain_id,
            "verifyingContract": self.contract.address,
            **(domain or {}),
        }
        signable = encode_typed_data(place, TYPES, order)
        key = self.keys[by].account_key
        signed = self.web3.eth.account.sign_message(signable, key)
        return order, bytes(signed.signature)

    def bring(self, order, signature, *, gas=None):
        """By the grantee itself; raises with the contract's reason.

        With `gas` it is sent unasked, as one would who hopes that the block takes it.
        """
        row = [
            tuple(value.values()) if isinstance(value, dict) else value
            for value in (order[name] for name in FIELDS)
        ]
        call = self.contract.functions.giveBySignature(tuple(row), signature)
        made = call.build_transaction(
            {
                "from": self.bringer.address,
                "nonce": self.web3.eth.get_transaction_count(self.bringer.address),
                **({"gas": gas} if gas else {}),
            }
        )
        sent = self.web3.eth.send_raw_transaction(
            self.bringer.sign_transaction(made).raw_transaction
        )
        receipt = self.web3.eth.wait_for_transaction_receipt(sent)
        assert receipt["status"] == (0 if gas else 1)
