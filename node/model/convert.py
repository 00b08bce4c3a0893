"""Cut and key a checkpoint on disk, and put it together again.

`key` makes two folders of one: the keyed trunk, a stock checkpoint that any host may have,
and the ends, which stay: everything else in the clear.  `unkey` makes one stock checkpoint
of a trunk (trained or not), its ends and its key.  A folder appears whole or not at all.
"""

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ee.arch.sites import Options
from ee.canonical import Cut
from ee.convert import key_stream, unkey_stream
from ee.errors import EncryptionError
from ee.keys.key import Key
from ee.ledger import Context, session_seed
from ee.split import canonical_config, sources
from node.disk import sync_folder
from node.errors import ModelError
from node.model.checkpoint import (
    CONFIG,
    SHARD_BYTES,
    Checkpoint,
    CheckpointWriter,
    read_config,
    read_json,
)
from node.model.tensor_file import Layout, TensorFile, TensorWriter

ENDS = "ends.safetensors"
CUT = "cut.json"
KEY_MARK = "rexis.key"
"""Metadata entry of a keyed trunk: the fingerprint of what opens it."""


@dataclass(frozen=True)
class Keyed:
    """What was made."""

    key: Key
    dropped: Mapping[str, float]
    """As `ee.canonical.Cut` has it."""
    tensors: int
    trunk_bytes: int
    ends_bytes: int


def key(
    source: Path,
    trunk: Path,
    ends: Path,
    *,
    secret: bytes,
    context: Context,
    stem_layers: int = 0,
    options: Options | None = None,
    dtype: torch.dtype = torch.float32,
    shard_bytes: int = SHARD_BYTES,
) -> Keyed:
    """Key the trunk of a stock checkpoint under a fresh secret.

    A narrower source is widened to `dtype`: a rotated weight has no short form, and
    rounding it to bfloat16 would cost the exactness that the key has in float32.
    """
    with refusals(), Checkpoint(source) as stock:
        if KEY_MARK in stock.metadata:
            raise ModelError(
                f"{source} is under the key {stock.metadata[KEY_MARK][:16]} already",
                hint="`rexis model rotate` puts a keyed trunk under another key",
            )
        cut = Cut(stock.config(), stem_layers)
        own = Key(session_seed(secret, context), cut.plan, options)
        base = {cut.architecture.base_name(name): name for name in stock.names()}
        with new_folder(ends) as kept, new_folder(trunk) as made:
            ends_bytes = _write_ends(stock, cut, base, kept)
            _write_config(made, cut, dtype)
            shapes = {name: (dtype, s) for name, s in cut.plan.shapes().items()}
            marks = {KEY_MARK: own.fingerprint().hex()}
            writer = CheckpointWriter(made, shapes, marks, shard_bytes=shard_bytes)
            vectors = {n: stock.read(r) for n, r in base.items() if _flat(stock, r)}
            matrices = _matrices(stock, cut, base)
            # A narrow result is rounded once, by the writer.
            work = dtype if dtype.itemsize >= 4 else torch.float32
            count = 0
            for name, tensor in key_stream(cut, own, vectors, matrices, work):
                writer.write(name, tensor)
                count += 1
            writer.close()
    size = sum(path.stat().st_size for path in trunk.glob("*.safetensors"))
    return Keyed(own, cut.dropped, count, size, ends_bytes)


def unkey(
    trunk: Path,
    ends: Path,
    out: Path,
    *,
    secret: bytes,
    context: Context,
    options: Options | None = None,
    shard_bytes: int = SHARD_BYTES,
) -> Key:
    """Bring a keyed trunk home and join it with its ends to one stock checkpoint.

    Raises `ModelError` if the key is not the trunk's.  The norms of the blocks stay folded
    into their neighbours: the model computes what it did, with gains of one.
    """
    with refusals(), Checkpoint(trunk) as keyed, TensorFile(ends / ENDS) as rest:
        cut = Cut(read_config(ends), int(read_json(ends / CUT)["stem_layers"]))
        own = Key(session_seed(secret, context), cut.plan, options)
        _require_key(trunk, keyed, own)
        prefix = str(read_json(ends / CUT)["prefix"])
        targets = {name: prefix + source for name, source in sources(cut).items()}
        with new_folder(out) as made:
            config = canonical_config(cut)
            config.dtype = keyed.slot(next(iter(targets))).dtype
            config.save_pretrained(made)
            # A norm that a post-norm trunk begins with is at both; the trunk's has learnt.
            kept = [name for name in rest.slots if name not in set(targets.values())]
            shapes = {n: (rest.slots[n].dtype, rest.slots[n].shape) for n in kept}
            for name, target in targets.items():
                slot = keyed.slot(name)
                shapes[target] = (slot.dtype, slot.shape)
            writer = CheckpointWriter(made, shapes, {}, shard_bytes=shard_bytes)
            for name in kept:
                writer.write(name, rest.read(name))
            for name, tensor in unkey_stream(own, keyed.tensors(keyed.names())):
                if name in targets:
                    writer.write(targets[name], tensor)
            writer.close()
    return own


def rotate(
    trunk: Path,
    ends: Path,
    out: Path,
    *,
    old: tuple[bytes, Context],
    new: tuple[bytes, Context],
    options: Options | None = None,
) -> Key:
    """The same keyed trunk under a fresh key, as a new folder; the model stays as it is.

    No matrix leads from one key to the other: each tensor comes home and is keyed anew, and
    in between it is in this process only.
    """
    with refusals(), Checkpoint(trunk) as keyed:
        cut = Cut(read_config(ends), int(read_json(ends / CUT)["stem_layers"]))
        one, two = (Key(session_seed(*each), cut.plan, options) for each in (old, new))
        _require_key(trunk, keyed, one)
        with new_folder(out) as made:
            shutil.copyfile(trunk / CONFIG, made / CONFIG)
            slots = {name: keyed.slot(name) for name in keyed.names()}
            shapes = {name: (slot.dtype, slot.shape) for name, slot in slots.items()}
            marks = {KEY_MARK: two.fingerprint().hex()}
            writer = CheckpointWriter(made, shapes, marks)
            for name, tensor in unkey_stream(one, keyed.tensors(keyed.names())):
                carried = two.plan.carries(name, tensor)
                writer.write(name, tensor if carried else two.key(name, tensor))
            writer.close()
    return two


def _require_key(trunk: Path, keyed: Checkpoint, own: Key) -> None:
    mark = keyed.metadata.get(KEY_MARK)
    if mark not in {None, own.fingerprint().hex()}:
        raise ModelError(
            f"{trunk} is under the key {str(mark)[:16]}, this one is"
            f" {own.fingerprint().hex()[:16]}",
            hint="`rexis model inspect` shows what a key file opens",
        )


def _flat(stock: Checkpoint, name: str) -> bool:
    return len(stock.slot(name).shape) == 1


def _matrices(
    stock: Checkpoint, cut: Cut, base: Mapping[str, str]
) -> Iterator[tuple[str, Tensor]]:
    """The trunk's matrices; the tables of the ends are not read for this."""
    for name, raw in base.items():
        if cut.is_trunk(name) and not cut.is_buffer(name) and not _flat(stock, raw):
            yield name, stock.read(raw)


def _write_ends(
    stock: Checkpoint, cut: Cut, base: Mapping[str, str], folder: Path
) -> int:
    """Everything that is not the trunk's, under its own names, with the configuration."""
    names = [raw for name, raw in base.items() if not cut.is_trunk(name)]
    layout = Layout.of(
        {n: (stock.slot(n).dtype, stock.slot(n).shape) for n in names}, {}
    )
    writer = TensorWriter(folder / ENDS, layout)
    for name in names:
        writer.write(name, stock.read(name))
    writer.close()
    shutil.copyfile(stock.folder / CONFIG, folder / CONFIG)
    prefix = cut.architecture.prefix
    headed = any(raw.startswith(prefix) for raw in base.values())
    about = {"stem_layers": cut.stem_layers, "prefix": prefix if headed else ""}
    (folder / CUT).write_text(json.dumps(about))
    return (folder / ENDS).stat().st_size


def _write_config(folder: Path, cut: Cut, dtype: torch.dtype) -> None:
    config = cut.trunk_config
    config.dtype = dtype
    config.save_pretrained(folder)


@contextmanager
def refusals() -> Iterator[None]:
    """What the algebra refuses, as an error an operator may see."""
    try:
        yield
    except EncryptionError as error:
        raise ModelError(
            str(error), hint="docs/ee.md lists what can be keyed and how to add to it"
        ) from error


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A folder beside `path` that takes its name at the end, or vanishes."""
    if path.exists():
        raise ModelError(
            f"{path} exists already", hint="choose a new name; nothing is overwritten"
        )
    made = path.with_name(f".{path.name}.part")
    shutil.rmtree(made, ignore_errors=True)
    try:
        made.mkdir(mode=0o700, parents=True)
    except OSError as error:
        raise ModelError(f"cannot create {made}: {error.strerror}") from error
    try:
        yield made
        made.replace(path)
        sync_folder(path.parent)
    except BaseException:
        shutil.rmtree(made, ignore_errors=True)
        raise
