"""The development chain, its server, and accounts on it; what is asked of it can be counted and
answered with a lie.
"""

import threading
from collections import Counter

from eth_utils.crypto import keccak

from node.adapters.evm_chain import EvmChain, account_address, deploy
from node.devchain.kv import SqliteKV
from node.devchain.ledger import Ledger
from node.devchain.methods import Methods
from node.devchain.server import Server

CHAIN_ID = 71
KEYS = {name: keccak(text=f"account {name}") for name in ("owner", "one", "two")}


class Asked(Methods):
    """Counts what is called; answers calls that begin with some bytes as it is told."""

    def __init__(self, *said, **more):
        super().__init__(*said, **more)
        self.calls = Counter()
        self.lies = {}

    def answer(self, request):
        self.calls[request["method"]] += 1
        if request["method"] == "eth_call":
            call = request["params"][0]
            given = call.get("data") or call["input"]
            for start, lie in self.lies.items():
                if given.startswith(start):
                    return {"jsonrpc": "2.0", "id": request["id"], "result": lie}
        return super().answer(request)


class World:
    def __init__(self, path):
        self.kv = SqliteKV(path)
        ledger = Ledger(self.kv, CHAIN_ID)
        self.rpc = Asked(ledger, self.kv, time_travel=True)
        for key in KEYS.values():
            self.rpc.fund_if_empty(account_address(key))
        self.server = Server(0, self.rpc)
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.01,))

    def __enter__(self):
        self.thread.start()
        self.contracts = deploy(self.server.url, CHAIN_ID, KEYS["owner"])
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()
        self.kv.close()

    def chain(self, name, confirmations=0):
        return EvmChain(
            url=self.server.url,
            chain_id=CHAIN_ID,
            contracts=self.contracts,
            account_key=KEYS[name],
            confirmations=confirmations,
            poll_s=0.01,
        )

    def ask(self, method, *params):
        answer = Methods.answer(
            self.rpc, {"jsonrpc": "2.0", "id": 1, "method": method, "params": [*params]}
        )
        assert "result" in answer, answer
        return answer["result"]

    def mine(self, blocks):
        """Blocks with nothing of ours in them."""
        for _ in range(blocks):
            self.ask("dev_fund", "0x" + "07" * 20, "0x1")
