// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Math} from "@openzeppelin/contracts/utils/math/Math.sol";

/// The op-spec's arithmetic (docs/verify.md §2) on bytes of calldata whose length was checked.
///
/// Overflow is not looked for where numbers have at most 64 bits to begin with: of an honest
/// host's rows nothing overflows, and nobody proves anything from rows that are not.
library Arithmetic {
    /// What a norm is of a row: all that its entries have in common.
    struct Norm {
        /// What is taken from each entry first; 0 unless the norm is centred.
        int256 mean;
        int256 gain;
        int256 shift;
        int256 exponent;
    }

    int256 internal constant RESIDUAL = (1 << 23) - 1;
    int256 internal constant MIDDLE = (1 << 24) - 1;
    int256 private constant _SCORE = 1 << 30;
    uint256 private constant _TABLE = 4096;
    uint256 private constant _FRACTION = 120;

    /// Signed number of `size` bytes, big-endian, `offset` bytes into `data`.
    function signed(bytes calldata data, uint256 offset, uint256 size)
        internal
        pure
        returns (int256 value)
    {
        assembly ("memory-safe") {
            value := sar(sub(256, mul(8, size)), calldataload(add(data.offset, offset)))
        }
    }

    /// The same without a sign.
    function unsigned(bytes calldata data, uint256 offset, uint256 size)
        internal
        pure
        returns (uint256 value)
    {
        assembly ("memory-safe") {
            value := shr(sub(256, mul(8, size)), calldataload(add(data.offset, offset)))
        }
    }

    /// Signed number of two bytes, little-endian: an entry of a RoPE table.
    function angle(bytes calldata row, uint256 place) internal pure returns (int256) {
        uint256 raw = unsigned(row, 2 * place, 2);
        return int16(uint16((raw >> 8) | ((raw & 0xff) << 8)));
    }

    /// Entry of a packed row between layers: three bytes, little-endian.
    function packed(bytes calldata row, uint256 place) internal pure returns (int256) {
        uint256 raw = unsigned(row, 3 * place, 3);
        return int24(uint24((raw >> 16) | (raw & 0xff00) | ((raw & 0xff) << 16)));
    }

    /// Unsigned number of four bytes, little-endian.
    function little(bytes calldata data, uint256 offset) internal pure returns (uint256) {
        uint256 big = unsigned(data, offset, 4);
        return (big >> 24) | ((big >> 8) & 0xff00) | ((big << 8) & 0xff0000)
            | ((big << 24) & 0xff000000);
    }

    /// floor(n / 2^e + 1/2).
    function half(int256 n, int256 e) internal pure returns (int256) {
        unchecked {
            if (e <= 0) return n << uint256(-e);
            return (n + int256(1 << uint256(e - 1))) >> uint256(e);
        }
    }

    function clamp(int256 n, int256 limit) internal pure returns (int256) {
        return n > limit ? limit : n < -limit ? -limit : n;
    }

    /// Exponent of rows(., kept) for a row whose largest number is `largest`.
    function exponentOf(uint256 largest, uint256 kept) internal pure returns (int256) {
        uint256 length = largest == 0 ? 0 : Math.log2(largest) + 1;
        return length > kept ? int256(length - kept) : int256(0);
    }

    /// Largest |n| of a row of signed numbers.
    function largestOf(bytes calldata row, uint256 size) internal pure returns (uint256 largest) {
        unchecked {
            for (uint256 next = 0; next < row.length; next += size) {
                int256 n = signed(row, next, size);
                uint256 distance = uint256(n < 0 ? -n : n);
                if (distance > largest) largest = distance;
            }
        }
    }

    /// Sum of products of signed entries of `size` bytes with as many weights.
    function dot(bytes calldata entries, uint256 size, bytes calldata weights)
        internal
        pure
        returns (int256 sum)
    {
        assembly ("memory-safe") {
            let left := entries.offset
            let right := weights.offset
            let end := add(right, weights.length)
            let shift := sub(256, mul(8, size))
            // Four a turn, because the loop costs as much as a product; then the rest.
            for { let four := sub(end, and(weights.length, 3)) } lt(right, four) {
                right := add(right, 4)
            } {
                let w := calldataload(right)
                sum := add(sum, mul(sar(shift, calldataload(left)), sar(248, w)))
                left := add(left, size)
                sum := add(sum, mul(sar(shift, calldataload(left)), sar(248, shl(8, w))))
                left := add(left, size)
                sum := add(sum, mul(sar(shift, calldataload(left)), sar(248, shl(16, w))))
                left := add(left, size)
                sum := add(sum, mul(sar(shift, calldataload(left)), sar(248, shl(24, w))))
                left := add(left, size)
            }
            for {} lt(right, end) { right := add(right, 1) } {
                sum := add(sum, mul(sar(shift, calldataload(left)), sar(248, calldataload(right))))
                left := add(left, size)
            }
        }
    }

    /// norm for a row (between layers: packed; else of four-byte numbers).
    function normOf(
        bytes calldata row,
        bool between,
        bool centred,
        uint256 width,
        uint256 bias
    ) internal pure returns (Norm memory norm) {
        (uint256 total, int256 furthest) = (0, 0);
        (norm.mean, total, furthest) = _spread(row, between, centred, int256(width));
        total += bias;
        uint256 bits = Math.log2(total) + 1;
        uint256 lift = (62 - bits) & ~uint256(1);
        norm.gain = int256((Math.sqrt(width << 40) << 31) / Math.sqrt(total << lift));
        norm.shift = 35 - int256(lift / 2);
        // Rounding keeps the order, so the largest comes of the furthest.
        int256 largest = half(furthest * norm.gain, norm.shift);
        norm.exponent = exponentOf(uint256(largest < 0 ? -largest : largest), 7);
    }

    /// What the norm makes of one number of its row, with 16 fraction bits.
    function scaled(Norm memory norm, int256 entry) internal pure returns (int256) {
        return half((entry - norm.mean) * norm.gain, norm.shift);
    }

    /// A number of rows(., 7).
    function short(int256 n, int256 exponent) internal pure returns (int256) {
        return clamp(half(n, exponent), 127);
    }

    /// One head as rows(., 7), its numbers and their exponent; after RoPE unless there are no
    /// angles.
    function turned(bytes calldata head, bytes calldata angles)
        internal
        pure
        returns (int256[] memory made, int256 exponent)
    {
        unchecked {
            made = new int256[](head.length / 4);
            uint256 largest = 0;
            uint256 middle = angles.length / 4;
            for (uint256 k = 0; k < middle; ++k) {
                int256 u = signed(head, 4 * k, 4);
                int256 w = signed(head, 4 * (k + middle), 4);
                int256 c = angle(angles, k);
                int256 s = angle(angles, k + middle);
                int256 left = clamp(half(u * c - w * s, 14), MIDDLE);
                int256 right = clamp(half(w * c + u * s, 14), MIDDLE);
                (made[k], made[k + middle]) = (left, right);
                uint256 a = uint256(left < 0 ? -left : left);
                uint256 b = uint256(right < 0 ? -right : right);
                if (a > largest) largest = a;
                if (b > largest) largest = b;
            }
            if (middle == 0) {
                largest = largestOf(head, 4);
                for (uint256 k = 0; k < made.length; ++k) {
                    made[k] = signed(head, 4 * k, 4);
                }
            }
            exponent = exponentOf(largest, 7);
            for (uint256 k = 0; k < made.length; ++k) {
                made[k] = clamp(half(made[k], exponent), 127);
            }
        }
    }

    /// Step 4: how much one token attends to another, before the table.
    function score(
        bytes calldata query,
        bytes calldata key,
        bytes calldata queryAngles,
        bytes calldata keyAngles,
        uint256 multiplier
    ) internal pure returns (int256) {
        unchecked {
            (int256[] memory q, int256 sq) = turned(query, queryAngles);
            (int256[] memory k, int256 sk) = turned(key, keyAngles);
            int256 sum = 0;
            for (uint256 d = 0; d < q.length; ++d) {
                sum += q[d] * k[d];
            }
            return clamp(half(int256(multiplier) * sum, 42 - sq - sk), _SCORE);
        }
    }

    /// Steps 4 and 5: one number out of the scores of a head and a column of its values, which
    /// is an exponent for each of `tokens` and then their numbers; all scores are of tokens in
    /// sight.
    function mixed(bytes calldata scores, bytes calldata column, uint256 tokens)
        internal
        pure
        returns (int256)
    {
        unchecked {
            uint256 count = scores.length / 4;
            int256 top = type(int256).min;
            uint256 exponent = 0;
            for (uint256 j = 0; j < count; ++j) {
                int256 z = signed(scores, 4 * j, 4);
                if (z > top) top = z;
                uint256 s = unsigned(column, j, 1);
                if (s > exponent) exponent = s;
            }
            int256 above = 0;
            int256 below = 0;
            for (uint256 j = 0; j < count; ++j) {
                uint256 e = exponential(uint256(top - signed(scores, 4 * j, 4)));
                if (e == 0) continue;
                below += int256(e);
                int256 weight = half(int256(e), int256(exponent - unsigned(column, j, 1)));
                above += weight * signed(column, tokens + j, 1);
            }
            // The largest score has EXP[0], so `below` is not 0.
            int256 whole = 2 * (above << exponent) + below;
            int256 part = 2 * below;
            int256 quotient = whole / part;
            if (whole % part < 0) --quotient;
            return clamp(quotient, MIDDLE);
        }
    }

    /// Step 8's c of op-spec 1 for a gate.
    function silu(int256 gate) internal pure returns (int256) {
        int256 c = int256(sigmoid(uint256(half(gate < 0 ? -gate : gate, 6))));
        return gate < 0 ? (1 << 16) - c : c;
    }

    /// Where ACT has the c of a gate.
    function activation(int256 gate) internal pure returns (uint256) {
        int256 index = half(gate < 0 ? -gate : gate, 6);
        if (index > int256(_TABLE)) index = int256(_TABLE);
        return uint256(int256(_TABLE) + (gate < 0 ? -index : index));
    }

    /// EXP[t] of the op-spec, 0 beyond the table: from the squares of 2^(-1/256).
    function exponential(uint256 t) internal pure returns (uint256) {
        if (t >= _TABLE) return 0;
        unchecked {
            uint256 power = 1 << _FRACTION;
            if (t & 1 != 0) power = 1325633837834690508963717048037218525;
            if (t & 2 != 0) power = (power * 1322049398285982516061304924529990959) >> _FRACTION;
            if (t & 4 != 0) power = (power * 1314909569352122348325159125266850030) >> _FRACTION;
            if (t & 8 != 0) power = (power * 1300745380819945908267688182657670528) >> _FRACTION;
            if (t & 16 != 0) power = (power * 1272873089560025263042053741399087120) >> _FRACTION;
            if (t & 32 != 0) power = (power * 1218907446475609545032963071138623061) >> _FRACTION;
            if (t & 64 != 0) power = (power * 1117743056710415342136155708219993408) >> _FRACTION;
            if (t & 128 != 0) power = (power * 939906129562517623222788173740722879) >> _FRACTION;
            if (t & 256 != 0) power >>= 1;
            if (t & 512 != 0) power >>= 2;
            if (t & 1024 != 0) power >>= 4;
            if (t & 2048 != 0) power >>= 8;
            // EXP[2048] is 63.5, and the table has 63.
            return (16256 * power + (1 << (_FRACTION - 1)) - 1) >> _FRACTION;
        }
    }

    /// SIGMOID[t] of the op-spec, 2^16 beyond the table: from the squares of exp(-1/256).
    function sigmoid(uint256 t) internal pure returns (uint256) {
        if (t >= _TABLE) return 1 << 16;
        unchecked {
            uint256 power = 1 << _FRACTION;
            if (t & 1 != 0) power = 1324045826939374259649008916690886862;
            if (t & 2 != 0) power = (power * 1318883861455504880928687943836255265) >> _FRACTION;
            if (t & 4 != 0) power = (power * 1308620225818089699869019196473305813) >> _FRACTION;
            if (t & 8 != 0) power = (power * 1288331949711122269131457996233839515) >> _FRACTION;
            if (t & 16 != 0) power = (power * 1248694142697725702380430328095943773) >> _FRACTION;
            if (t & 32 != 0) power = (power * 1173039589108917891863411525073984843) >> _FRACTION;
            if (t & 64 != 0) power = (power * 1035203803997726531313427079124707572) >> _FRACTION;
            if (t & 128 != 0) power = (power * 806217533191926544038127755907354071) >> _FRACTION;
            if (t & 256 != 0) power = (power * 488995652278791141083010649602151673) >> _FRACTION;
            if (t & 512 != 0) power = (power * 179891447295586611014163519111824683) >> _FRACTION;
            if (t & 1024 != 0) power = (power * 24345659971592398245929020355029897) >> _FRACTION;
            if (t & 2048 != 0) power = (power * 445906316547596808387023333293799) >> _FRACTION;
            uint256 wide = (1 << (_FRACTION + 17)) / ((1 << _FRACTION) + power);
            return (wide + 1) >> 1;
        }
    }

    /// The mean, or 0; the sum of squares without it; and the entry then furthest from 0: of n
    /// and -n it is n, which half() leaves further away.
    function _spread(bytes calldata row, bool between, bool centred, int256 width)
        private
        pure
        returns (int256 mean, uint256 squares, int256 furthest)
    {
        int256 high = between ? packed(row, 0) : signed(row, 0, 4);
        int256 low = high;
        // Two a turn, because the loop costs as much as an entry; of an odd row the first is done.
        bool odd = width & 1 == 1;
        int256 sum = odd ? high : int256(0);
        squares = uint256(sum * sum);
        uint256 start = odd ? (between ? 3 : 4) : 0;
        assembly ("memory-safe") {
            let next := add(row.offset, start)
            let end := add(row.offset, row.length)
            // An entry is outside of [low, high] if it is further above low than high is.
            let apart := 0
            switch between
            case 0 {
                for {} lt(next, end) { next := add(next, 8) } {
                    let a := sar(224, calldataload(next))
                    let b := sar(224, calldataload(add(next, 4)))
                    sum := add(sum, add(a, b))
                    squares := add(squares, add(mul(a, a), mul(b, b)))
                    if or(gt(sub(a, low), apart), gt(sub(b, low), apart)) {
                        if sgt(a, high) { high := a }
                        if slt(a, low) { low := a }
                        if sgt(b, high) { high := b }
                        if slt(b, low) { low := b }
                        apart := sub(high, low)
                    }
                }
            }
            default {
                for {} lt(next, end) {} {
                    // Ten entries of three bytes; the outer ones change places all at once.
                    let w := calldataload(next)
                    w := or(
                        and(w, 0x00ff0000ff0000ff0000ff0000ff0000ff0000ff0000ff0000ff0000ff000000),
                        or(
                            and(
                                shl(16, w),
                                0xff0000ff0000ff0000ff0000ff0000ff0000ff0000ff0000ff0000ff00000000
                            ),
                            and(
                                shr(16, w),
                                0x0000ff0000ff0000ff0000ff0000ff0000ff0000ff0000ff0000ff0000ff0000
                            )
                        )
                    )
                    let last := add(next, 30)
                    if gt(last, end) { last := end }
                    for {} lt(next, last) { next := add(next, 6) } {
                        let a := sar(232, w)
                        let b := sar(232, shl(24, w))
                        w := shl(48, w)
                        sum := add(sum, add(a, b))
                        squares := add(squares, add(mul(a, a), mul(b, b)))
                        if or(gt(sub(a, low), apart), gt(sub(b, low), apart)) {
                            if sgt(a, high) { high := a }
                            if slt(a, low) { low := a }
                            if sgt(b, high) { high := b }
                            if slt(b, low) { low := b }
                            apart := sub(high, low)
                        }
                    }
                }
            }
        }
        if (centred) {
            int256 doubled = 2 * sum + width;
            mean = doubled / (2 * width);
            if (doubled % (2 * width) < 0) --mean;
            squares = uint256(int256(squares) - 2 * mean * sum + width * mean * mean);
            high -= mean;
            low -= mean;
        }
        furthest = high >= -low ? high : low;
    }
}
