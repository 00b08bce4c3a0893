// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Arithmetic} from "./Arithmetic.sol";
import {Inclusion} from "./Inclusion.sol";
import {PARTS, Steps} from "./Steps.sol";

/// Whether one number of a host's answer is another than the parts before it make
/// (docs/verify.md §10.3).
///
/// Keeps nothing and trusts nobody: every byte it computes from hangs on a root in the receipt,
/// in the model or in the host's own answer.  It is a contract of its own for its size.
contract Judge {
    using Steps for Steps.Claim;

    /// One output channel of a matrix, and its way up to the layer's root.
    struct Channel {
        uint256 index;
        uint256 size;
        bytes32[] path;
        bytes leaf;
    }

    /// A row of the trunk's tables, a token's angles or some of its activation, and its way up
    /// to their root.
    struct Table {
        bytes row;
        bytes32[] path;
    }

    /// A wrong number, and what it was to be computed from.
    struct Proof {
        uint8 part;
        /// Which leaf of the part, and which entry of it.
        uint32 index;
        uint32 place;
        /// What the host has; empty for the row after the layer.
        Steps.Leaf claimed;
        /// What it is made of, in the order of the parts.
        Steps.Leaf[] inputs;
        /// The row before the layer (a norm's, or to add to) or after it (to compare with).
        Steps.Opened boundary;
        Channel channel;
        /// Angles of the claim's token and of the other one, for a score; the activation's, for a
        /// product.
        Table[] tables;
    }

    uint256 private constant _HEAD = 14;
    uint256 private constant _BIAS = 4;

    error Missing(uint256 inputs);
    error NoSuchEntry(uint256 place);

    /// True if the number is wrong; fails if the proof proves nothing.
    function wrong(
        uint256,
        Steps.Claim calldata claim,
        bytes32[PARTS] calldata roots,
        Proof calldata proof
    ) external pure returns (bool) {
        uint8 part = proof.part;
        if (part == Steps.AFTER) {
            if (proof.index != 0) revert NoSuchEntry(proof.index);
            claim.requireBoundary(claim.layer + 1, claim.token, claim.afterwards, proof.boundary);
            _within(proof.place, claim.width);
            return Arithmetic.packed(proof.boundary.row, proof.place)
                != _sum(claim, roots, proof, Steps.WIDE);
        }
        claim.requireLeaf(roots, part, proof.index, proof.claimed);
        bytes calldata told = proof.claimed.entries;
        if (told.length != claim.bytesOf(part, proof.index)) return true;
        if (part == Steps.NORM || part == Steps.NORM2) return _normWrong(claim, roots, proof);
        if (part == Steps.COLUMN) return _columnWrong(claim, roots, proof);
        if (part == Steps.MIXED_ROW || part == Steps.WIDE) return _rowWrong(claim, roots, proof);
        uint256 size = 4;
        if (part == Steps.BASE || part == Steps.BASE2) size = Steps.BASE_BYTES;
        if (part == Steps.PRODUCT || part == Steps.MIXED_TOP || part == Steps.PRODUCT_TOP) size = 8;
        _within(proof.place, told.length / size);
        return Arithmetic.signed(told, proof.place * size, size) != _made(claim, roots, proof);
    }

    /// The tables of the op-spec as they are computed here.
    function tables(uint256 t) external pure returns (uint256 exponential, uint256 sigmoid) {
        return (Arithmetic.exponential(t), Arithmetic.sigmoid(t));
    }

    /// What the number should have been, where a leaf has nothing but numbers.
    function _made(
        Steps.Claim calldata claim,
        bytes32[PARTS] calldata roots,
        Proof calldata proof
    ) private pure returns (int256) {
        uint8 part = proof.part;
        if (part == Steps.BASE || part == Steps.BASE2) return _gained(claim, roots, proof);
        if (part == Steps.SCORE) return _score(claim, roots, proof);
        if (part == Steps.MIXED) return _mixed(claim, roots, proof);
        if (part == Steps.MIXED_TOP) {
            return int256(
                Arithmetic.largestOf(_input(claim, roots, proof, 0, Steps.MIXED, proof.place), 4)
            );
        }
        if (part == Steps.PRODUCT_TOP) {
            return int256(
                Arithmetic.largestOf(_input(claim, roots, proof, 0, Steps.PRODUCT, proof.place), 8)
            );
        }
        if (part == Steps.PRODUCT) return _product(claim, roots, proof);
        if (part == Steps.MIDDLE) return _sum(claim, roots, proof, Steps.MIXED_ROW);
        uint8 from = part < Steps.MIXED ? Steps.NORM : Steps.NORM2;
        return _linear(claim, roots, proof, from, Arithmetic.MIDDLE);
    }

    /// A matrix's output added to the base that its norm left: the residual of steps 6 and 9.
    function _sum(
        Steps.Claim calldata claim,
        bytes32[PARTS] calldata roots,
        Proof calldata proof,
        uint8 from
    ) private pure returns (int256) {
        int256 base;
        if (Steps.has(claim.flags, Steps.POST)) {
            bytes calldata row = from == Steps.WIDE
                ? _input(claim, roots, proof, 1, Steps.BASE2, 0)
                : _input(claim, roots, proof, 1, Steps.BASE, claim.token);
            base = Arithmetic.signed(row, Steps.BASE_BYTES * proof.place, Steps.BASE_BYTES);
        } else if (from == Steps.WIDE) {
            bytes calldata middle = _input(claim, roots, proof, 1, Steps.MIDDLE, 0);
            base = Arithmetic.signed(middle, 4 * uint256(proof.place), 4);
        } else {
            claim.requireBoundary(claim.layer, claim.token, claim.before, proof.boundary);
            base = Arithmetic.packed(proof.boundary.row, proof.place);
        }
        int256 added = _linear(claim, roots, proof, from, Arithmetic.RESIDUAL);
        return Arithmetic.clamp(base + added, Arithmetic.RESIDUAL);
    }

    /// linear of the op-spec, limited, for the channel that writes this number.
    function _linear(
        Steps.Claim calldata claim,
        bytes32[PARTS] calldata roots,
        Proof calldata proof,
        uint8 from,
        int256 limit
    ) private pure returns (int256) {
        bool stock = Steps.has(claim.flags, Steps.STOCK);
        uint256 head = stock ? _HEAD + _BIAS : _HEAD;
        (bytes calldata leaf, uint256 token) = _channel(claim, proof, head);
        bytes calldata input = _input(claim, roots, proof, 0, from, token);
        uint256 size = from == Steps.WIDE ? 2 : 1;
        if (leaf.length - head != (input.length - 1) / size) revert Steps.Malformed();
        int256 sum = Arithmetic.dot(input[1:], size, leaf[head:]);
        int256 shift = int256(uint256(uint8(leaf[1]))) - int256(uint256(uint8(input[0])));
        sum = Arithmetic.half(int256(Arithmetic.little(leaf, 10)) * sum, shift);
        if (stock) sum += int32(uint32(Arithmetic.little(leaf, _HEAD)));
        return Arithmetic.clamp(sum, limit);
    }

    /// The base of a post-norm block: what a gain makes of one number of a norm.
    function _gained(
        Steps.Claim calldata claim,
        bytes32[PARTS] calldata roots,
        Proof calldata proof
    ) private pure returns (int256) {
        (Arithmetic.Norm memory norm, int256 entry) =
            _norm(claim, roots, proof, proof.part == Steps.BASE);
        (bytes calldata leaf,) = _channel(claim, proof, _HEAD + _BIAS);
        int256 gain = int32(uint32(Arithmetic.little(leaf, 10)));
        int256 made = Arithmetic.half(
            gain * Arithmetic.scaled(norm, entry), int256(uint256(uint8(leaf[1])))
        );
        made += int32(uint32(Arithmetic.little(leaf, _HEAD)));
        return Arithmetic.clamp(made, Arithmetic.RESIDUAL);
    }

    /// The leaf of the channel that writes this number, and whose row goes in.
    function _channel(Steps.Claim calldata claim, Proof calldata proof, uint256 head)
        private
        pure
        returns (bytes calldata leaf, uint256 token)
    {
        uint256 matrix;
        uint256 channel;
        (matrix, channel, token) = _written(claim, proof);
        leaf = proof.channel.leaf;
        bool found = Inclusion.stands(
            claim.layerRoot,
            sha256(abi.encodePacked(bytes1(0), leaf)),
            proof.channel.index,
            proof.channel.size,
            proof.channel.path
        );
        // A leaf says itself which channel it is, so where it stands need not be believed.
        if (!found || leaf.length < head) revert Steps.NotInModel();
        if (uint8(leaf[0]) != matrix || Arithmetic.little(leaf, 2) != channel) {
            revert Steps.NotInModel();
        }
    }

    /// Matrix, channel and token of the number that a proof is about.
    function _written(Steps.Claim calldata claim, Proof calldata proof)
        private
        pure
        returns (uint256 matrix, uint256 channel, uint256 token)
    {
        uint256 part = proof.part;
        (uint256 index, uint256 place) = (proof.index, proof.place);
        // The last of the matrices, of which a block that is not gated has one less; the gains
        // come behind them.
        uint256 last = Steps.has(claim.flags, Steps.GATED) ? 6 : 5;
        if (part == Steps.AFTER) return (last, place, 0);
        if (part == Steps.BASE) return (last + 1, place, index);
        if (part == Steps.BASE2) return (last + 2, place, 0);
        if (part == Steps.MIDDLE) return (3, place, 0);
        if (part == Steps.GATE || part == Steps.UP) {
            return (part == Steps.GATE ? 4 : 5, Steps.BLOCK * index + place, 0);
        }
        if (part == Steps.QUERY) return (0, index * claim.headDim + place, claim.token);
        if (part != Steps.KEY && part != Steps.VALUE) revert Steps.NoSuchPart(part);
        return (
            part == Steps.KEY ? 1 : 2,
            (index % claim.kvHeads) * claim.headDim + place,
            index / claim.kvHeads
        );
    }

    /// rows(., 7) of a norm, or of what a gain made of it.
    function _normWrong(
        Steps.Claim calldata claim,
        bytes32[PARTS] calldata roots,
        Proof calldata proof
    ) private pure returns (bool) {
        _within(proof.place, claim.width);
        bool first = proof.part == Steps.NORM;
        int256 exponent;
        int256 made;
        if (Steps.has(claim.flags, Steps.POST)) {
            bytes calldata base =
                _input(claim, roots, proof, 0, first ? Steps.BASE : Steps.BASE2, proof.index);
            exponent = Arithmetic.exponentOf(Arithmetic.largestOf(base, Steps.BASE_BYTES), 7);
            made = Arithmetic.signed(base, Steps.BASE_BYTES * proof.place, Steps.BASE_BYTES);
        } else {
            (Arithmetic.Norm memory norm, int256 entry) = _norm(claim, roots, proof, first);
            exponent = norm.exponent;
            made = Arithmetic.scaled(norm, entry);
        }
        bytes calldata told = proof.claimed.entries;
        if (int256(uint256(uint8(told[0]))) != exponent) return true;
        return Arithmetic.signed(told, 1 + uint256(proof.place), 1)
            != Arithmetic.short(made, exponent);
    }

    /// The norm of step 1 or of step 7, and the number of its row that a proof is about.
    function _norm(
        Steps.Claim calldata claim,
        bytes32[PARTS] calldata roots,
        Proof calldata proof,
        bool first
    ) private pure returns (Arithmetic.Norm memory norm, int256 entry) {
        bool centred = Steps.has(claim.flags, Steps.CENTRED);
        if (first) {
            claim.requireBoundary(claim.layer, proof.index, claim.before, proof.boundary);
            bytes calldata row = proof.boundary.row;
            norm = Arithmetic.normOf(row, true, centred, claim.width, claim.bias);
            entry = Arithmetic.packed(row, proof.place);
        } else {
            bytes calldata row = _input(claim, roots, proof, 0, Steps.MIDDLE, 0);
            norm = Arithmetic.normOf(row, false, centred, claim.width, claim.bias);
            entry = Arithmetic.signed(row, 4 * uint256(proof.place), 4);
        }
    }

    /// A column has token `place`'s exponent of a head's values, and one of those.
    function _columnWrong(
        Steps.Claim calldata claim,
        bytes32[PARTS] calldata roots,
        Proof calldata proof
    ) private pure returns (bool) {
        (uint256 tokens, uint256 dim, uint256 j) = (claim.tokens, claim.headDim, proof.place);
        _within(j, tokens);
        uint256 leaf = j * claim.kvHeads + proof.index / dim;
        bytes calldata values = _input(claim, roots, proof, 0, Steps.VALUE, leaf);
        int256 exponent = Arithmetic.exponentOf(Arithmetic.largestOf(values, 4), 7);
        bytes calldata told = proof.claimed.entries;
        if (int256(Arithmetic.unsigned(told, j, 1)) != exponent) return true;
        int256 value = Arithmetic.signed(values, 4 * (proof.index % dim), 4);
        return Arithmetic.signed(told, tokens + j, 1) != Arithmetic.short(value, exponent);
    }

    /// rows(., 7) of what attention mixed, rows(., 13) of the activated product.
    function _rowWrong(
        Steps.Claim calldata claim,
        bytes32[PARTS] calldata roots,
        Proof calldata proof
    ) private pure returns (bool) {
        bool wide = proof.part == Steps.WIDE;
        (uint256 from, uint256 to) = wide ? (uint256(8), uint256(2)) : (uint256(4), uint256(1));
        bytes calldata told = proof.claimed.entries;
        _within(proof.place, (told.length - 1) / to);
        bytes calldata tops =
            _input(claim, roots, proof, 1, wide ? Steps.PRODUCT_TOP : Steps.MIXED_TOP, 0);
        int256 exponent = Arithmetic.exponentOf(Arithmetic.largestOf(tops, 8), wide ? 13 : 7);
        if (int256(uint256(uint8(told[0]))) != exponent) return true;
        uint256 place = proof.place;
        bytes calldata row = _input(
            claim, roots, proof, 0, wide ? Steps.PRODUCT : Steps.MIXED, place / Steps.BLOCK
        );
        int256 made =
            Arithmetic.half(Arithmetic.signed(row, from * (place % Steps.BLOCK), from), exponent);
        if (!wide) made = Arithmetic.clamp(made, 127);
        return Arithmetic.signed(told, 1 + to * place, to) != made;
    }

    function _score(
        Steps.Claim calldata claim,
        bytes32[PARTS] calldata roots,
        Proof calldata proof
    ) private pure returns (int256) {
        uint256 head = (uint256(proof.index) * claim.kvHeads) / claim.heads;
        return Arithmetic.score(
            _input(claim, roots, proof, 0, Steps.QUERY, proof.index),
            _input(claim, roots, proof, 1, Steps.KEY, proof.place * uint256(claim.kvHeads) + head),
            _angles(claim, claim.token, proof, 0),
            _angles(claim, proof.place, proof, 1),
            claim.multiplier
        );
    }

    /// Step 8 up to the row: what a gate lets through, of the other number if there is one.
    function _product(
        Steps.Claim calldata claim,
        bytes32[PARTS] calldata roots,
        Proof calldata proof
    ) private pure returns (int256) {
        uint256 begin = 4 * uint256(proof.place);
        int256 gate =
            Arithmetic.signed(_input(claim, roots, proof, 0, Steps.GATE, proof.index), begin, 4);
        int256 c;
        if (Steps.has(claim.flags, Steps.STOCK)) {
            uint256 entry = Arithmetic.activation(gate);
            uint256 row = entry / Steps.ACTIVATION_ROW;
            if (Steps.has(claim.flags, Steps.ROTARY)) row += claim.positions;
            bytes calldata table = _table(claim, row, proof, 0);
            c = int256(Arithmetic.little(table, 4 * (entry % Steps.ACTIVATION_ROW)));
        } else {
            c = Arithmetic.silu(gate);
        }
        int256 made = Arithmetic.half(gate * c, 16);
        if (!Steps.has(claim.flags, Steps.GATED)) return made;
        return made
            * Arithmetic.signed(_input(claim, roots, proof, 1, Steps.UP, proof.index), begin, 4);
    }

    function _mixed(
        Steps.Claim calldata claim,
        bytes32[PARTS] calldata roots,
        Proof calldata proof
    ) private pure returns (int256) {
        uint256 dim = claim.headDim;
        uint256 entry = Steps.BLOCK * uint256(proof.index) + proof.place;
        uint256 head = entry / dim;
        uint256 column = ((head * claim.kvHeads) / claim.heads) * dim + entry % dim;
        return Arithmetic.mixed(
            _input(claim, roots, proof, 0, Steps.SCORE, head),
            _input(claim, roots, proof, 1, Steps.COLUMN, column),
            claim.tokens
        );
    }

    /// The entries of an input: a leaf of the host's answer, as long as the model has it.  If it
    /// is not, that is what can be proved.
    function _input(
        Steps.Claim calldata claim,
        bytes32[PARTS] calldata roots,
        Proof calldata proof,
        uint256 place,
        uint8 part,
        uint256 index
    ) private pure returns (bytes calldata entries) {
        if (place >= proof.inputs.length) revert Missing(proof.inputs.length);
        claim.requireLeaf(roots, part, index, proof.inputs[place]);
        entries = proof.inputs[place].entries;
        if (entries.length != claim.bytesOf(part, index)) revert Steps.Malformed();
    }

    /// A token's angles; none where heads are not turned.
    function _angles(
        Steps.Claim calldata claim,
        uint256 token,
        Proof calldata proof,
        uint256 place
    ) private pure returns (bytes calldata) {
        if (!Steps.has(claim.flags, Steps.ROTARY)) return proof.channel.leaf[0:0];
        return _table(claim, token, proof, place);
    }

    function _table(
        Steps.Claim calldata claim,
        uint256 index,
        Proof calldata proof,
        uint256 place
    ) private pure returns (bytes calldata) {
        if (place >= proof.tables.length) revert Missing(proof.tables.length);
        Table calldata table = proof.tables[place];
        claim.requireTable(index, table.row, table.path);
        return table.row;
    }

    function _within(uint256 place, uint256 count) private pure {
        if (place >= count) revert NoSuchEntry(place);
    }
}
