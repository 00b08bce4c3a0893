// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Inclusion} from "./Inclusion.sol";

// Parts of a layer that a host answers with.
uint256 constant PARTS = 18;

/// What a dispute is about, and the parts of a layer that a host answers with: their leaves,
/// their sizes and their places, as docs/verify.md §10.2 has them.
library Steps {
    /// One token's row after one layer of one model.
    struct Claim {
        bytes32 model;
        bytes32 before;
        bytes32 afterwards;
        bytes32 layerRoot;
        bytes32 tables;
        uint32 cases;
        uint32 tokens;
        uint32 width;
        uint32 layer;
        uint32 caseNumber;
        uint32 token;
        uint32 inner;
        uint32 heads;
        uint32 kvHeads;
        uint32 headDim;
        uint32 positions;
        /// What its blocks are, see CAUSAL and those beside it.
        uint32 flags;
        uint64 bias;
        uint64 multiplier;
    }

    /// The head of a trunk: its numbers, the root of its tables, the roots of its layers.
    struct Trunk {
        bytes numbers;
        bytes32 tables;
        bytes32[] layers;
    }

    /// A leaf of a part, and its way up to what the host answered.
    struct Leaf {
        bytes32 salt;
        bytes entries;
        bytes32[] path;
    }

    /// A row between layers, and its way up to a boundary root of the receipt.
    struct Opened {
        bytes32 salt;
        bytes row;
        bytes32[] tokenPath;
        bytes32[] casePath;
    }

    /// What the gains of a post-norm block make of its rows, which steps 6 and 9 add to; other
    /// blocks add to the rows themselves, and have neither this nor BASE2.
    uint8 internal constant BASE = 0;
    uint8 internal constant NORM = 1;
    uint8 internal constant QUERY = 2;
    uint8 internal constant KEY = 3;
    uint8 internal constant VALUE = 4;
    uint8 internal constant COLUMN = 5;
    uint8 internal constant SCORE = 6;
    uint8 internal constant MIXED = 7;
    uint8 internal constant MIXED_TOP = 8;
    uint8 internal constant MIXED_ROW = 9;
    uint8 internal constant MIDDLE = 10;
    uint8 internal constant BASE2 = 11;
    uint8 internal constant NORM2 = 12;
    uint8 internal constant GATE = 13;
    uint8 internal constant UP = 14;
    uint8 internal constant PRODUCT = 15;
    uint8 internal constant PRODUCT_TOP = 16;
    uint8 internal constant WIDE = 17;
    /// The row after the layer, which stands in the receipt and in no answer.
    uint8 internal constant AFTER = 18;

    /// Bytes of a number of BASE, which is as small as one of a row between layers.
    uint256 internal constant BASE_BYTES = 3;

    /// Entries of one leaf where a row is cut into blocks.
    uint256 internal constant BLOCK = 64;

    /// Bits of the last number of a trunk (docs/verify.md §2.1), of which op-spec 1 has the first.
    uint32 internal constant CAUSAL = 1;
    uint32 internal constant CENTRED = 2;
    uint32 internal constant POST = 4;
    uint32 internal constant ROTARY = 8;
    uint32 internal constant GATED = 16;
    /// No trunk's: op-spec 2, that is, biases and an activation of the trunk's own.
    uint32 internal constant STOCK = 32;

    uint256 private constant _NUMBERS_BYTES = 84;
    /// The rules that are computed here (docs/verify.md §2).
    bytes32 internal constant OP_SPEC =
        0x4a3cedd562391b6cb19c4c785803b8f4bf7923f4c6e5c91b312f3635d5796273;
    bytes32 internal constant STOCK_SPEC =
        0xcc89753ca6067d38fd6a5c0b74ddadb2ce61bfe653bd41f9c003571e46ff250a;
    /// Entries of one leaf of the activation's table, and how many leaves that makes.
    uint256 internal constant ACTIVATION_ROW = 32;
    uint256 internal constant ACTIVATION_ROWS = 257;

    error NotInReceipt();
    error NotInModel();
    error AnotherOpSpec(bytes32 digest);
    error Malformed();
    error NoSuchPart(uint256 part);
    error AnotherRow(uint8 part);

    /// The numbers of a model that is what its root says, in a claim about it.
    function read(Claim memory claim, Trunk calldata trunk) internal pure {
        bytes calldata numbers = trunk.numbers;
        if (numbers.length != _NUMBERS_BYTES) revert Malformed();
        bool stock = bytes32(numbers) == STOCK_SPEC;
        bytes32 header = sha256(abi.encodePacked(numbers, trunk.tables));
        bytes18 label = stock ? bytes18("rexis-stock-root-2") : bytes18("rexis-model-root-3");
        bytes32 model = sha256(abi.encodePacked(label, header, trunk.layers));
        if (model != claim.model) revert NotInModel();
        if (!stock && bytes32(numbers) != OP_SPEC) revert AnotherOpSpec(bytes32(numbers));
        uint256 layers = _little(numbers, 32);
        // A receipt of another shape than its model has is wrong as a whole, not in one row.
        if (layers != trunk.layers.length || claim.layer >= layers) revert NotInModel();
        if (_little(numbers, 36) != claim.width) revert NotInModel();
        claim.layerRoot = trunk.layers[claim.layer];
        claim.tables = trunk.tables;
        claim.inner = uint32(_little(numbers, 40));
        claim.heads = uint32(_little(numbers, 44));
        claim.kvHeads = uint32(_little(numbers, 48));
        claim.headDim = uint32(_little(numbers, 52));
        claim.positions = uint32(_little(numbers, 56));
        if (claim.tokens > claim.positions) revert NotInModel();
        claim.bias = uint64(_little(numbers, 64) | (_little(numbers, 68) << 32));
        claim.multiplier = uint64(_little(numbers, 72) | (_little(numbers, 76) << 32));
        uint32 flags = uint32(_little(numbers, 80));
        claim.flags = stock ? flags | STOCK : flags | ROTARY | GATED;
    }

    /// How many leaves a part has.
    function countOf(Claim calldata claim, uint8 part) internal pure returns (uint256) {
        if ((part == BASE || part == BASE2) && !has(claim.flags, POST)) return 0;
        if (part == BASE || part == NORM) return claim.tokens;
        if (part == QUERY || part == SCORE) return claim.heads;
        if (part == KEY || part == VALUE) return uint256(claim.tokens) * claim.kvHeads;
        if (part == COLUMN) return uint256(claim.kvHeads) * claim.headDim;
        if (part == MIXED) return _blocks(_joined(claim));
        if (part == UP && !has(claim.flags, GATED)) return 0;
        if (part >= GATE && part <= PRODUCT) return _blocks(claim.inner);
        if (part >= PARTS) revert NoSuchPart(part);
        return 1;
    }

    /// Bytes of the entries of leaf `index`.
    function bytesOf(Claim calldata claim, uint8 part, uint256 index)
        internal
        pure
        returns (uint256)
    {
        if (part == BASE || part == BASE2) return BASE_BYTES * uint256(claim.width);
        if (part == NORM || part == NORM2) return 1 + uint256(claim.width);
        if (part >= QUERY && part <= VALUE) return 4 * uint256(claim.headDim);
        if (part == COLUMN) return 2 * uint256(claim.tokens);
        if (part == SCORE) return 4 * visible(claim);
        if (part == MIXED) return 4 * _inBlock(_joined(claim), index);
        if (part == MIXED_TOP) return 8 * _blocks(_joined(claim));
        if (part == MIXED_ROW) return 1 + _joined(claim);
        if (part == MIDDLE) return 4 * uint256(claim.width);
        if (part == GATE || part == UP) return 4 * _inBlock(claim.inner, index);
        if (part == PRODUCT) return 8 * _inBlock(claim.inner, index);
        if (part == PRODUCT_TOP) return 8 * _blocks(claim.inner);
        return 1 + 2 * uint256(claim.inner);
    }

    /// How many tokens the claim's token attends to.
    function visible(Claim calldata claim) internal pure returns (uint256) {
        return has(claim.flags, CAUSAL) ? uint256(claim.token) + 1 : claim.tokens;
    }

    /// Is a block of this kind?
    function has(uint32 flags, uint32 kind) internal pure returns (bool) {
        return flags & kind != 0;
    }

    /// Fail unless this is row `index` of the trunk's tables: the angles of its positions, then
    /// its activation.
    function requireTable(
        Claim calldata claim,
        uint256 index,
        bytes calldata row,
        bytes32[] calldata path
    ) internal pure {
        uint256 rows = has(claim.flags, ROTARY) ? claim.positions : 0;
        if (has(claim.flags, STOCK)) rows += ACTIVATION_ROWS;
        bytes32 leaf = sha256(abi.encodePacked(bytes1(0), row));
        if (!Inclusion.stands(claim.tables, leaf, index, rows, path)) revert NotInModel();
    }

    /// Nodes of a tree of `count` leaves at `level`, leaves being level 0.
    function nodesAt(uint256 count, uint256 level) internal pure returns (uint256) {
        return (count + (1 << level) - 1) >> level;
    }

    /// Fail unless the host answered with this leaf.
    function requireLeaf(
        Claim calldata claim,
        bytes32[PARTS] calldata roots,
        uint8 part,
        uint256 index,
        Leaf calldata leaf
    ) internal pure {
        bytes32 hashed = sha256(
            abi.encodePacked(
                bytes1(0), "rexis-trace-3", placeOf(claim, part, index), leaf.salt, leaf.entries
            )
        );
        if (!Inclusion.stands(roots[part], hashed, index, countOf(claim, part), leaf.path)) {
            revert AnotherRow(part);
        }
    }

    /// Fail unless these are all nodes `span` levels below a node of a tree of `count` leaves.
    function requireNodes(
        uint256 count,
        uint256 level,
        uint256 index,
        bytes32[] calldata nodes,
        bytes32[] calldata path,
        bytes32 root,
        uint256 span
    ) internal pure {
        if (span > level) span = level;
        uint256 wanted = nodesAt(count, level - span) - (index << span);
        if (wanted > 1 << span) wanted = 1 << span;
        if (nodes.length != wanted) revert Malformed();
        bytes32[] memory row = nodes;
        for (uint256 length = wanted; span > 0; --span) {
            for (uint256 i = 0; i < length / 2; ++i) {
                row[i] = sha256(abi.encodePacked(bytes1(0x01), row[2 * i], row[2 * i + 1]));
            }
            // The last node of an odd level is carried up unchanged.
            if (length % 2 == 1) row[length / 2] = row[length - 1];
            length = (length + 1) / 2;
        }
        if (!Inclusion.stands(root, row[0], index, nodesAt(count, level), path)) {
            revert Malformed();
        }
    }

    /// The salt that a leaf has under a case's salt.
    function leafSalt(Claim calldata claim, bytes32 caseSalt, uint8 part, uint256 index)
        internal
        pure
        returns (bytes32)
    {
        return sha256(
            abi.encodePacked("rexis-trace-salt-3", caseSalt, placeOf(claim, part, index))
        );
    }

    /// The salt that the claim's row before the layer has under a case's salt.
    function rowSalt(Claim calldata claim, bytes32 caseSalt) internal pure returns (bytes32) {
        return sha256(
            abi.encodePacked(
                "rexis-row-salt-1",
                caseSalt,
                claim.layer,
                claim.caseNumber,
                claim.token,
                claim.width
            )
        );
    }

    /// Where a leaf stands, as its salt and its hash have it.
    function placeOf(Claim calldata claim, uint8 part, uint256 index)
        internal
        pure
        returns (bytes memory)
    {
        return abi.encodePacked(
            part, claim.layer, claim.caseNumber, claim.token, uint32(index)
        );
    }

    /// Fail unless this is row `token` of the claim's case at the boundary with root `root`.
    function requireBoundary(
        Claim calldata claim,
        uint32 boundary,
        uint32 token,
        bytes32 root,
        Opened calldata opened
    ) internal pure {
        bytes32 leaf = sha256(
            abi.encodePacked(
                bytes1(0),
                "rexis-row-1",
                boundary,
                claim.caseNumber,
                token,
                claim.width,
                opened.salt,
                opened.row
            )
        );
        bytes32 ofCase = Inclusion.rootOf(leaf, token, claim.tokens, opened.tokenPath);
        bytes32 caseLeaf = sha256(abi.encodePacked(bytes1(0), ofCase));
        if (!Inclusion.stands(root, caseLeaf, claim.caseNumber, claim.cases, opened.casePath)) {
            revert NotInReceipt();
        }
        if (opened.row.length != 3 * uint256(claim.width)) revert Malformed();
    }

    /// Heads and their dimensions, side by side.
    function _joined(Claim calldata claim) private pure returns (uint256) {
        return uint256(claim.heads) * claim.headDim;
    }

    function _blocks(uint256 entries) private pure returns (uint256) {
        return (entries + BLOCK - 1) / BLOCK;
    }

    function _inBlock(uint256 entries, uint256 index) private pure returns (uint256) {
        uint256 left = entries - BLOCK * index;
        return left < BLOCK ? left : BLOCK;
    }

    function _little(bytes calldata data, uint256 place) private pure returns (uint256) {
        uint256 big = uint32(bytes4(data[place:]));
        return (big >> 24) | ((big >> 8) & 0xff00) | ((big << 8) & 0xff0000)
            | ((big << 24) & 0xff000000);
    }
}
