"""What is in a worker after a session, looked for in the real process.

All it can write to or read back is read: its memory, its arguments, its environment, its
open files.  Nothing of the key holder's may be there.  What the worker was given must be,
or the search would prove nothing.
"""

import re
from pathlib import Path

import numpy as np
import pytest
import torch

from node.worker.client import WorkerClient

pytestmark = pytest.mark.slow

SEED = bytes.fromhex("5ab3f1e0779d42c1a6080bd3ee9412778c51fa03b96de4582f3317c0995ea26d")
LABELS = {"malignant melanoma": 0, "benign naevus": 1}
LONGEST_MAP_BYTES = 1 << 31


def _memory(pid):
    """Every private page the process can write to, one bytes object a mapping."""
    with Path(f"/proc/{pid}/mem").open("rb", buffering=0) as memory:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            found = re.match(r"([0-9a-f]+)-([0-9a-f]+) rw", line)
            if found is None or line.endswith("[vvar]"):
                continue
            start, end = (int(edge, 16) for edge in found.groups())
            assert end - start < LONGEST_MAP_BYTES
            memory.seek(start)
            yield memory.read(end - start)


def _files(pid):
    """Arguments, environment and the names of open files."""
    proc = Path(f"/proc/{pid}")
    # The first three are the test runner's: it gives its own to what it starts.
    opened = [path for path in (proc / "fd").iterdir() if int(path.name) > 2]
    names = [str(path.readlink()) for path in opened]
    text = (proc / "cmdline").read_bytes() + (proc / "environ").read_bytes()
    return names, text + "\0".join(names).encode()


def _rows(tensor, count=3):
    """The first bytes of some rows, as they would lie in memory."""
    table = tensor.detach().numpy()
    picked = table[:: max(1, len(table) // count)]
    return [np.ascontiguousarray(row).tobytes()[:32] for row in picked]


def _secrets(home):
    """Everything the worker must not have, by name."""
    state = home.model.state_dict()
    tokens = [row.numpy() for row in home.tokens[:2]]
    labels = [row.numpy() for row in home.labels[:2]]
    plain = home.parts.trunk
    return {
        "key seed": [SEED, SEED.hex().encode()],
        "tokens": [r.astype(kind).tobytes() for r in tokens for kind in ("<i8", "<i4")],
        "labels": [r.astype(kind).tobytes() for r in labels for kind in ("<i8", "<i4")],
        "names of labels": [name.encode() for name in LABELS],
        "embedding": _rows(state["esm.embeddings.word_embeddings.weight"][4:]),
        "head": _rows(state["lm_head.dense.weight"]),
        "canonical trunk": _rows(plain["encoder.layer.1.output.dense.weight"])
        + _rows(plain["encoder.layer.0.attention.self.query.weight"]),
        "plain rows": _rows(home.rows[0]),
    }


def _count(pid, patterns):
    """How many of each name's patterns are in memory or files."""
    wanted = {name: set(many) for name, many in patterns.items()}
    seen = {name: set() for name in patterns}
    for block in [*_memory(pid), _files(pid)[1]]:
        for name, many in wanted.items():
            seen[name] |= {pattern for pattern in many if pattern in block}
    return {name: (len(seen[name]), len(wanted[name])) for name in patterns}


def test_a_worker_holds_nothing_of_the_key_holder(across, tmp_path):
    home = across.KeyHolder(seed=SEED)
    home.model.config.label2id = LABELS
    with torch.no_grad():
        home.rows = home.stem(input_ids=home.tokens, attention_mask=home.mask)
    with across.worker(tmp_path) as (process, path), WorkerClient(path) as worker:
        session = home.beginning()
        session.open(worker)
        for _ in range(3):
            home.step(worker)
        trained = worker.export()
        with torch.no_grad():
            keyed = home.key.enter(home.rows)
        worker.forward(keyed.numpy(), train=True)

        secrets = _count(process.pid, _secrets(home))
        assert secrets == {name: (0, many) for name, (_, many) in secrets.items()}
        assert all(many > 1 for _, many in secrets.values())

        # The search finds what is there: the keyed trunk as trained, and the keyed rows.
        name = "encoder.layer.0.output.dense.weight"
        held = {
            "keyed trunk": _rows(torch.from_numpy(trained[name])),
            "keyed rows": _rows(keyed[0]),
        }
        found = _count(process.pid, held)
        assert found == {name: (many, many) for name, (_, many) in found.items()}

        names, text = _files(process.pid)
        odd = [n for n in names if not re.match(r"socket:|pipe:|anon_inode:|/dev/", n)]
        assert odd == []
        assert b"node.worker" in text

        # And it would find a secret, if one were sent: tokens in the place of a mask.
        worker.forward(
            keyed.numpy(), train=True, mask=home.tokens.numpy().astype(np.int32)
        )
        assert _count(process.pid, {"tokens": _secrets(home)["tokens"]})["tokens"][0]
