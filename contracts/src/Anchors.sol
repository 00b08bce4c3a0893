// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Inclusion} from "./Inclusion.sol";
import {Membership} from "./Membership.sol";
import {Registry} from "./Registry.sol";

/// Digests that members put their name to: models, rounds of training, batches of receipts.
///
/// Every anchor belongs to the account that made it, so nobody can take a digest away from
/// somebody else by being first.  The same anchor again is refused as already there, which
/// makes a repeated send harmless; another state for the same round is refused as a conflict.
contract Anchors is Membership {
    /// One slot.
    struct Batch {
        /// Zero: not anchored.
        uint32 count;
        uint40 time;
        uint64 number;
    }

    mapping(address => mapping(bytes32 root => bytes32 record)) private _models;
    mapping(address => mapping(bytes32 run => mapping(uint64 number => bytes32 state))) private _rounds;
    mapping(address => mapping(bytes32 root => Batch)) private _batches;

    /// The number of batches, and the next batch's id.
    uint64 public batches;

    event ModelAnchored(address indexed account, bytes32 indexed root, bytes32 record);
    event RoundAnchored(
        address indexed account, bytes32 indexed run, uint64 indexed number, bytes32 state
    );
    event ReceiptsAnchored(
        uint256 indexed batch, address indexed host, bytes32 indexed root, uint32 count
    );

    error InvalidDigest();
    error InvalidCount();
    error AlreadyAnchored(bytes32 digest);
    error ConflictingAnchor(bytes32 anchored, bytes32 offered);

    constructor(Registry registry_) Membership(registry_) {}

    function anchorModel(bytes32 root, bytes32 record) external onlyMember {
        if (root == 0 || record == 0) revert InvalidDigest();
        _requireNew(_models[msg.sender][root], record);
        _models[msg.sender][root] = record;
        emit ModelAnchored(msg.sender, root, record);
    }

    function anchorRound(bytes32 run, uint64 number, bytes32 state) external onlyMember {
        if (run == 0 || state == 0) revert InvalidDigest();
        _requireNew(_rounds[msg.sender][run][number], state);
        _rounds[msg.sender][run][number] = state;
        emit RoundAnchored(msg.sender, run, number, state);
    }

    function anchorReceipts(bytes32 root, uint32 count) external onlyMember returns (uint256 batch) {
        if (root == 0) revert InvalidDigest();
        if (count == 0) revert InvalidCount();
        if (_batches[msg.sender][root].count != 0) revert AlreadyAnchored(root);
        batch = batches++;
        _batches[msg.sender][root] = Batch(count, uint40(block.timestamp), uint64(batch));
        emit ReceiptsAnchored(batch, msg.sender, root, count);
    }

    /// What `account` anchored for a model root; zero if nothing.
    function modelRecord(address account, bytes32 root) external view returns (bytes32) {
        return _models[account][root];
    }

    /// What `account` anchored for a round; zero if nothing.
    function roundState(address account, bytes32 run, uint64 number) external view returns (bytes32) {
        return _rounds[account][run][number];
    }

    /// When `host` anchored a batch and of how many receipts; zeros if it did not.
    function batchOf(address host, bytes32 root) external view returns (Batch memory) {
        return _batches[host][root];
    }

    /// Whether a receipt stands at `index` of the batch that `host` anchored.  A batch's root
    /// has the count beside the tree (`protocol/receipt.py`), which a proof alone does not fix.
    function includes(
        address host,
        bytes32 root,
        bytes32 leaf,
        uint256 index,
        bytes32[] calldata proof
    ) external view returns (bool) {
        uint32 size = _batches[host][root].count;
        if (size == 0) return false;
        bytes32 tree = Inclusion.rootOf(leaf, index, size, proof);
        if (tree == 0) return false;
        return root == sha256(abi.encodePacked("rexis-receipt-batch-1", size, tree));
    }

    function _requireNew(bytes32 anchored, bytes32 offered) private pure {
        if (anchored == offered) revert AlreadyAnchored(offered);
        if (anchored != 0) revert ConflictingAnchor(anchored, offered);
    }
}
