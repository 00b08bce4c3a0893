// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Math} from "@openzeppelin/contracts/utils/math/Math.sol";

import {Inclusion} from "./Inclusion.sol";

/// The leaves behind a layer's result and the arithmetic between them, as docs/verify.md §2 and
/// §10 have it to the bit.
library Steps {
    /// What is disputed: one token's row after one layer.
    struct Claim {
        bytes32 model;
        bytes32 before;
        bytes32 afterwards;
        uint32 cases;
        uint32 tokens;
        uint32 width;
        uint32 layer;
        uint32 caseNumber;
        uint32 token;
    }

    /// A row inside a layer: what a host hashed for one step of one token.
    struct Row {
        bytes32 salt;
        uint8 exponent;
        bytes entries;
    }

    /// One output channel of a matrix, and its way up to the model root.
    struct Channel {
        bytes32 header;
        bytes32[] layers;
        uint256 index;
        uint256 size;
        bytes32[] path;
        bytes leaf;
    }

    /// A row between layers, and its way up to a boundary root of the receipt.
    struct Opened {
        bytes32 salt;
        bytes row;
        bytes32[] tokenPath;
        bytes32[] casePath;
    }

    /// The head of a trunk: its numbers, the digest of its tables, the roots of its layers.
    struct Trunk {
        bytes numbers;
        bytes32 tables;
        bytes32[] layers;
    }

    /// What a norm is of a row.
    struct Norm {
        uint256 width;
        int256 gain;
        int256 shift;
        int256 exponent;
    }

    /// Numbers of a channel's leaf; the weights follow.
    struct Head {
        uint256 matrix;
        uint256 shift;
        uint256 channel;
        uint256 inputs;
        uint256 multiplier;
    }

    uint256 internal constant HEAD_BYTES = 14;
    uint256 internal constant NUMBERS_BYTES = 84;

    error NotInReceipt();
    error NotInModel();
    error Malformed();

    /// The hash of a row inside a layer.
    function rowLeaf(Claim memory claim, uint8 step, Row calldata row)
        internal
        pure
        returns (bytes32)
    {
        return sha256(
            abi.encodePacked(
                bytes1(0),
                "rexis-trace-1",
                step,
                claim.layer,
                claim.caseNumber,
                claim.token,
                row.salt,
                row.exponent,
                row.entries
            )
        );
    }

    /// Fail unless this is the token's row at the boundary with root `root`.
    function requireBoundary(
        Claim memory claim,
        uint32 boundary,
        bytes32 root,
        Opened calldata opened
    ) internal pure {
        bytes32 leaf = sha256(
            abi.encodePacked(
                bytes1(0),
                "rexis-row-1",
                boundary,
                claim.caseNumber,
                claim.token,
                claim.width,
                opened.salt,
                opened.row
            )
        );
        bytes32 ofCase = Inclusion.rootOf(leaf, claim.token, claim.tokens, opened.tokenPath);
        bytes32 caseLeaf = sha256(abi.encodePacked(bytes1(0), ofCase));
        if (Inclusion.rootOf(caseLeaf, claim.caseNumber, claim.cases, opened.casePath) != root) {
            revert NotInReceipt();
        }
    }

    /// The numbers of a channel that is in the model.
    function headOf(Claim memory claim, Channel calldata channel)
        internal
        pure
        returns (Head memory head)
    {
        _requireModel(claim, channel.header, channel.layers);
        if (claim.layer >= channel.layers.length) revert NotInModel();
        bytes32 leaf = sha256(abi.encodePacked(bytes1(0), channel.leaf));
        // A leaf says itself which channel it is, so where it stands need not be believed.
        bytes32 root = Inclusion.rootOf(leaf, channel.index, channel.size, channel.path);
        if (root != channel.layers[claim.layer]) revert NotInModel();
        bytes calldata data = channel.leaf;
        if (data.length < HEAD_BYTES) revert Malformed();
        head.matrix = uint8(data[0]);
        head.shift = uint8(data[1]);
        head.channel = _little(data, 2);
        head.inputs = _little(data, 6);
        head.multiplier = _little(data, 10);
        if (data.length != HEAD_BYTES + head.inputs) revert Malformed();
    }

    /// norm of the op-spec for a row (packed: between layers; else of four-byte numbers): all
    /// that its entries have in common.
    function normOf(Claim memory claim, Trunk calldata trunk, bytes calldata row, bool packed)
        internal
        pure
        returns (Norm memory norm)
    {
        if (trunk.numbers.length != NUMBERS_BYTES) revert Malformed();
        bytes32 header = sha256(abi.encodePacked(trunk.numbers, trunk.tables));
        _requireModel(claim, header, trunk.layers);
        // After the digest of the op-spec: layers, width, …; the bias after eight of them.
        norm.width = _little(trunk.numbers, 36);
        if (row.length != norm.width * (packed ? 3 : 4)) revert Malformed();
        (uint256 total, int256 low, int256 high) = _spread(row, packed);
        total += _little(trunk.numbers, 64) | (_little(trunk.numbers, 68) << 32);
        uint256 bits = Math.log2(total) + 1;
        if (total == 0 || bits > 62) revert Malformed();
        uint256 lift = (62 - bits) & ~uint256(1);
        norm.gain = int256((Math.sqrt(norm.width << 40) << 31) / Math.sqrt(total << lift));
        norm.shift = 35 - int256(lift / 2);
        // Rounding keeps the order, so the largest comes of one of the two ends.
        int256 top = half(high * norm.gain, norm.shift);
        int256 bottom = -half(low * norm.gain, norm.shift);
        uint256 largest = uint256(top > bottom ? top : bottom);
        uint256 length = largest == 0 ? 0 : Math.log2(largest) + 1;
        norm.exponent = length > 7 ? int256(length - 7) : int256(0);
    }

    /// Entry of the normed row that comes of entry `place` of the row.
    function normed(Norm memory norm, bytes calldata row, bool packed, uint256 place)
        internal
        pure
        returns (int256)
    {
        (, int256 entry) = packed ? packedOf(row, place) : entryOf(row, place);
        return clamp(half(half(entry * norm.gain, norm.shift), norm.exponent), 127);
    }

    /// linear of the op-spec, limited: `entries` are of `size` bytes each, big-endian.
    function linear(
        Head memory head,
        bytes calldata weights,
        Row calldata input,
        uint256 size,
        int256 limit
    ) internal pure returns (int256) {
        int256 sum = dot(input.entries, size, weights, head.inputs);
        int256 scaled = int256(head.multiplier) * sum;
        return clamp(half(scaled, int256(head.shift) - int256(uint256(input.exponent))), limit);
    }

    /// Sum of products of `count` signed entries of `size` bytes with weights behind a head.
    function dot(bytes calldata entries, uint256 size, bytes calldata weights, uint256 count)
        internal
        pure
        returns (int256 sum)
    {
        assembly ("memory-safe") {
            let left := entries.offset
            let right := add(weights.offset, HEAD_BYTES)
            let end := add(right, count)
            let shift := sub(256, mul(8, size))
            let top := sub(size, 1)
            for {} lt(right, end) {
                right := add(right, 1)
                left := add(left, size)
            } {
                let a := signextend(top, shr(shift, calldataload(left)))
                sum := add(sum, mul(a, signextend(0, shr(248, calldataload(right)))))
            }
        }
    }

    /// floor(n / 2^e + 1/2).
    function half(int256 n, int256 e) internal pure returns (int256) {
        if (e <= 0) return n << uint256(-e);
        return (n + int256(1 << uint256(e - 1))) >> uint256(e);
    }

    function clamp(int256 n, int256 limit) internal pure returns (int256) {
        return n > limit ? limit : n < -limit ? -limit : n;
    }

    /// Entry of a row of four-byte numbers; `there` is false beyond its end.
    function entryOf(bytes calldata entries, uint256 place)
        internal
        pure
        returns (bool there, int256 value)
    {
        there = 4 * place + 4 <= entries.length;
        if (there) value = int32(uint32(bytes4(entries[4 * place:])));
    }

    /// Entry of a packed row between layers: three bytes, little-endian.
    function packedOf(bytes calldata row, uint256 place)
        internal
        pure
        returns (bool there, int256 value)
    {
        there = 3 * place + 3 <= row.length;
        if (!there) return (false, 0);
        uint256 raw = uint256(uint8(row[3 * place])) | (uint256(uint8(row[3 * place + 1])) << 8)
            | (uint256(uint8(row[3 * place + 2])) << 16);
        value = int24(uint24(raw));
    }

    function _requireModel(Claim memory claim, bytes32 header, bytes32[] calldata layers)
        private
        pure
    {
        bytes32 model = sha256(abi.encodePacked("rexis-model-root-2", header, layers));
        if (model != claim.model) revert NotInModel();
    }

    /// Sum of squares, and the smallest and largest entry, or 0.
    function _spread(bytes calldata row, bool packed)
        private
        pure
        returns (uint256 squares, int256 low, int256 high)
    {
        assembly ("memory-safe") {
            let end := add(row.offset, row.length)
            for { let next := row.offset } lt(next, end) {} {
                let entry := shr(224, calldataload(next))
                switch packed
                case 0 {
                    entry := signextend(3, entry)
                    next := add(next, 4)
                }
                default {
                    entry := signextend(
                        2,
                        or(
                            or(and(shr(24, entry), 0xff), and(shr(8, entry), 0xff00)),
                            and(shl(8, entry), 0xff0000)
                        )
                    )
                    next := add(next, 3)
                }
                squares := add(squares, mul(entry, entry))
                if slt(entry, low) { low := entry }
                if sgt(entry, high) { high := entry }
            }
        }
    }

    function _little(bytes calldata data, uint256 place) private pure returns (uint256) {
        uint256 big = uint32(bytes4(data[place:]));
        return (big >> 24) | ((big >> 8) & 0xff00) | ((big << 8) & 0xff0000)
            | ((big << 24) & 0xff000000);
    }
}
