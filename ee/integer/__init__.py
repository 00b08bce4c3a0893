"""Integer trunks: one result on every machine (docs/verify.md).

numpy only.  `quantise` makes a trunk from keyed float weights, `encode` and `decode` are its
canonical bytes, `model_root` its name, `IntegerTrunk.forward` its result, `Slice.replay` the
result of one layer.  `self_test` comes before serving and before auditing.
"""

from ee.integer.block import LLAMA, Style
from ee.integer.codec import (
    SLICE_MAGIC,
    TRUNK_MAGIC,
    ChannelOpening,
    Slice,
    TableOpening,
    cut,
    decode,
    decode_header,
    decode_slice,
    encode,
    encode_header,
    encode_slice,
    header_digest,
    header_parts,
    layer_root,
    model_root,
    open_activation,
    open_angles,
    open_channel,
    root_over_layers,
)
from ee.integer.errors import IntegerModelError, MalformedTrunkError, SelfTestError
from ee.integer.known import self_test
from ee.integer.linear import Gain, Matrix
from ee.integer.quantise import quantise
from ee.integer.rows import (
    ENTRY_BYTES,
    RESIDUAL_BITS,
    decode_rows,
    encode_rows,
    pack_rows,
    unpack_rows,
)
from ee.integer.spec import op_spec_digest
from ee.integer.stock import head_norm, quantise_stock
from ee.integer.trace import BLOCK, activation_entry, trace_token
from ee.integer.trunk import (
    Cache,
    Header,
    IntegerTrunk,
    Layer,
    RowArray,
    Trace,
    TrunkConfig,
)

__all__ = [
    "BLOCK",
    "ENTRY_BYTES",
    "LLAMA",
    "RESIDUAL_BITS",
    "SLICE_MAGIC",
    "TRUNK_MAGIC",
    "Cache",
    "ChannelOpening",
    "Gain",
    "Header",
    "IntegerModelError",
    "IntegerTrunk",
    "Layer",
    "MalformedTrunkError",
    "Matrix",
    "RowArray",
    "SelfTestError",
    "Slice",
    "Style",
    "TableOpening",
    "Trace",
    "TrunkConfig",
    "activation_entry",
    "cut",
    "decode",
    "decode_header",
    "decode_rows",
    "decode_slice",
    "encode",
    "encode_header",
    "encode_rows",
    "encode_slice",
    "head_norm",
    "header_digest",
    "header_parts",
    "layer_root",
    "model_root",
    "op_spec_digest",
    "open_activation",
    "open_angles",
    "open_channel",
    "pack_rows",
    "quantise",
    "quantise_stock",
    "root_over_layers",
    "self_test",
    "trace_token",
    "unpack_rows",
]
