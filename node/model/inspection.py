"""What a folder or a file is, said without opening a secret."""

from pathlib import Path
from typing import Any

from ee.arch.known import registered
from ee.canonical import Cut
from ee.errors import EncryptionError
from node.errors import ModelError
from node.model import key_document
from node.model.base import base_digest
from node.model.checkpoint import Checkpoint
from node.model.convert import CUT, ENDS, KEY_MARK
from node.model.tensor_file import TensorFile


def described(path: Path, stem_layers: int = 0) -> dict[str, Any]:
    """A key file, the ends of a model, a keyed trunk or a stock checkpoint."""
    if path.is_file():
        return {"kind": "key", **key_document.read(path).described()}
    if (path / CUT).exists():
        return _ends(path)
    with Checkpoint(path) as stock:
        config = stock.config()
        answer = {
            "kind": "checkpoint",
            "architecture": config.model_type,
            "tensors": len(stock.names()),
            "largest_file_bytes": stock.largest_file_bytes,
        }
        mark = stock.metadata.get(KEY_MARK)
        if mark is not None:
            return {**answer, "kind": "keyed trunk", "fingerprint": mark}
        try:
            cut = Cut(config, stem_layers)
            plan = cut.plan
        except EncryptionError as error:
            known = ", ".join(sorted(registered()))
            return {**answer, "can_be_keyed": False, "why": str(error), "known": known}
        return {
            **answer,
            "can_be_keyed": True,
            "width": plan.width,
            "keyed_tensors": len(plan.keyed()),
            "plan": plan.digest().hex(),
            "dropout_left_out": dict(cut.dropped),
            "base": base_digest(path),
        }


def _ends(path: Path) -> dict[str, Any]:
    with TensorFile(path / ENDS) as file:
        if not file.slots:
            raise ModelError(f"{path / ENDS} is empty")
        return {"kind": "ends", "tensors": sorted(file.slots)}
