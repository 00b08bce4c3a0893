// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

/// What a sealed receipt says, read from its canonical MessagePack (`protocol/receipt.py`).
///
/// Signatures are not looked at: the bytes stand in a batch that the host anchored from its own
/// account, which is its name under them.  Canonical means that a value has one spelling, and
/// reading in order means that the spelling has one value.
library Receipts {
    struct Terms {
        bytes32 model;
        /// Roots of the rows before and after the layer asked for.
        bytes32 before;
        bytes32 afterwards;
        uint32 cases;
        uint32 tokens;
        uint32 width;
    }

    /// The bytes are no receipt, or of another version.
    error Unreadable(uint256 place);
    error NoSuchLayer(uint256 layer, uint256 layers);

    // A tagged array and its domain: 6 fields, "env", and the domain's name.
    bytes21 private constant _RECEIPT = hex"96a3656e76af72657869732f726563656970742f31";
    bytes19 private constant _ORDER = hex"96a3656e76ad72657869732f6f726465722f31";
    // 4 fields, "receipt"; 6 fields, "order".
    bytes9 private constant _ANSWERED = hex"94a772656365697074";
    bytes7 private constant _ORDERED = hex"96a56f72646572";
    uint256 private constant _DIGEST = 34;

    /// What is said about `layer`, counted from 0.
    function termsOf(bytes calldata sealed_, uint256 layer)
        internal
        pure
        returns (Terms memory terms)
    {
        if (sealed_.length < 21 || bytes21(sealed_) != _RECEIPT) revert Unreadable(0);
        // Sender and context are bound by the anchor.
        bytes calldata answered = _bin(sealed_, 21 + 2 * _DIGEST);
        if (answered.length < 9 || bytes9(answered) != _ANSWERED) revert Unreadable(21);
        bytes calldata order = _bin(answered, 9);
        bytes32 input = _ordered(order, terms);
        uint256 place = 9 + _headed(order.length);
        uint256 layers;
        (layers, place) = _count(answered, place);
        if (layer >= layers) revert NoSuchLayer(layer, layers);
        terms.before = layer == 0 ? input : _digest(answered, place + _DIGEST * (layer - 1));
        terms.afterwards = _digest(answered, place + _DIGEST * layer);
    }

    function _ordered(bytes calldata data, Terms memory terms) private pure returns (bytes32) {
        if (data.length < 19 || bytes19(data) != _ORDER) revert Unreadable(19);
        bytes calldata order = _bin(data, 19 + 2 * _DIGEST);
        if (order.length < 7 || bytes7(order) != _ORDERED) revert Unreadable(7);
        terms.model = _digest(order, 7);
        // The host's key and the job's 16 bytes, each behind a header of two.
        uint256 place = 7 + 2 * _DIGEST + 18;
        if (_byte(order, place) != 0x93) revert Unreadable(place);
        (terms.cases, place) = _uint(order, place + 1);
        (terms.tokens, place) = _uint(order, place);
        (terms.width, place) = _uint(order, place);
        return _digest(order, place);
    }

    function _byte(bytes calldata data, uint256 place) private pure returns (uint256) {
        if (place >= data.length) revert Unreadable(place);
        return uint8(data[place]);
    }

    /// Length of a byte string with its header.
    function _headed(uint256 length) private pure returns (uint256) {
        return length + (length < 256 ? 2 : 3);
    }

    function _bin(bytes calldata data, uint256 place) private pure returns (bytes calldata) {
        uint256 kind = _byte(data, place);
        uint256 length = _byte(data, place + 1);
        uint256 start = place + 2;
        if (kind == 0xc5) {
            length = (length << 8) | _byte(data, start++);
            if (length < 256) revert Unreadable(place);
        } else if (kind != 0xc4) {
            revert Unreadable(place);
        }
        if (start + length > data.length) revert Unreadable(place);
        return data[start:start + length];
    }

    function _digest(bytes calldata data, uint256 place) private pure returns (bytes32) {
        if (place + _DIGEST > data.length || bytes2(data[place:]) != 0xc420) revert Unreadable(place);
        return bytes32(data[place + 2:]);
    }

    /// Items of an array, and where they begin.
    function _count(bytes calldata data, uint256 place) private pure returns (uint256, uint256) {
        uint256 kind = _byte(data, place);
        if (kind >> 4 == 9) return (kind & 15, place + 1);
        if (kind != 0xdc) revert Unreadable(place);
        return ((_byte(data, place + 1) << 8) | _byte(data, place + 2), place + 3);
    }

    function _uint(bytes calldata data, uint256 place) private pure returns (uint32, uint256) {
        uint256 kind = _byte(data, place);
        if (kind < 0x80) return (uint32(kind), place + 1);
        uint256 value = _byte(data, place + 1);
        if (kind == 0xcc) return (uint32(value), place + 2);
        if (kind != 0xcd) revert Unreadable(place);
        return (uint32((value << 8) | _byte(data, place + 2)), place + 3);
    }
}
