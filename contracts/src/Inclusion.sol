// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

/// Inclusion in a Merkle tree in the shape of RFC 9162 §2.1, as `protocol/merkle.py` builds it.
library Inclusion {
    /// Does a leaf stand at `index` under `root`?  Nothing does under zero: that is what `rootOf`
    /// says of every proof that fits no tree, and what is answered for a part that there is not.
    function stands(
        bytes32 root,
        bytes32 leaf,
        uint256 index,
        uint256 size,
        bytes32[] calldata proof
    ) internal pure returns (bool) {
        return root != 0 && rootOf(leaf, index, size, proof) == root;
    }

    /// Root of the tree of `size` leaves in which the leaf with hash `leaf` (SHA-256 over a zero
    /// byte and the data) stands at `index`; zero where the proof fits no such tree.  The walk
    /// follows index and size, so the position is proved too.
    function rootOf(bytes32 leaf, uint256 index, uint256 size, bytes32[] calldata proof)
        internal
        pure
        returns (bytes32 current)
    {
        if (index >= size) return 0;
        uint256 used = 0;
        current = leaf;
        for (uint256 last = size - 1; last > 0; last >>= 1) {
            bool right = index & 1 == 1;
            // The last node of an odd level has no sibling: it is carried up unchanged.
            if (right || index < last) {
                if (used == proof.length) return 0;
                bytes32 sibling = proof[used++];
                current = right
                    ? sha256(abi.encodePacked(bytes1(0x01), sibling, current))
                    : sha256(abi.encodePacked(bytes1(0x01), current, sibling));
            }
            index >>= 1;
        }
        if (used != proof.length) return 0;
    }
}
