// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Anchors} from "./Anchors.sol";
import {Board} from "./Board.sol";
import {Membership} from "./Membership.sol";
import {Parameters} from "./Parameters.sol";
import {Receipts} from "./Receipts.sol";
import {Registry} from "./Registry.sol";
import {Steps} from "./Steps.sol";

/// Receipts that are proved wrong to the chain itself, by one dot product (docs/verify.md §10).
///
/// A challenger names one token's row after one layer of an anchored receipt.  The host answers
/// with the hashes of the ten rows inside the layer from which it follows.  Whatever is wrong in
/// the layer is then wrong between two rows, and those of a matrix or a norm are checked here: of a
/// matrix the input row, one output channel of the released model and the output.  Who does not move in time loses;
/// the loser's bond is the winner's (`Board`).
///
/// A host that answers what the model says cannot lose: every way to its bond ends in a number
/// of its own that differs from the one computed here from its own rows and the model's weights.
contract Disputes is Membership {
    using Steps for Steps.Claim;

    enum Turn {
        Host,
        Challenger,
        Nobody
    }

    /// Four slots; what it is about is kept as digests and told again by who moves.
    struct Dispute {
        address challenger;
        uint40 deadline;
        Turn turn;
        Board.Outcome outcome;
        /// Step asked for, while it is the host's turn to show it.
        uint8 asked;
        address host;
        /// Bit s: step s was asked for.
        uint16 steps;
        uint96 bond;
        uint96 locked;
        bytes32 claim;
        bytes32 rows;
    }

    /// One wrong number: what it was computed from, what it should have been.
    struct Proof {
        Steps.Channel channel;
        Steps.Row input;
        /// The matrix's output; for the last one the row that its output is added to.
        Steps.Row other;
        /// The row before the layer (output projection) or after it (down projection).
        Steps.Opened boundary;
    }

    /// One wrong number of a norm: the row it is of, and the row the host has of it.
    struct NormProof {
        Steps.Trunk trunk;
        /// The row before the layer; empty for the second norm.
        Steps.Opened boundary;
        /// Step 5, for the second norm.
        Steps.Row middle;
        Steps.Row claimed;
        uint256 entry;
    }

    uint256 public constant STEPS = 10;
    uint8 private constant _NOTHING = 255;
    int256 private constant _RESIDUAL = (1 << 23) - 1;
    int256 private constant _MIDDLE = (1 << 24) - 1;

    Parameters public immutable parameters;
    Anchors public immutable anchors;
    Board public immutable board;
    /// Seconds for each move.
    uint40 public immutable moveTime;

    uint256 public count;
    mapping(uint256 number => Dispute) private _disputes;
    mapping(bytes32 key => bool) private _begun;

    event DisputeOpened(
        uint256 indexed number,
        address indexed challenger,
        address indexed host,
        bytes32 leaf,
        Steps.Claim claim,
        uint40 deadline
    );
    event DisputeAnswered(uint256 indexed number, bytes32[STEPS] rows, uint40 deadline);
    event RowAsked(uint256 indexed number, uint8 step, uint40 deadline);
    event RowShown(uint256 indexed number, uint8 step, Steps.Row row, uint40 deadline);
    event DisputeClosed(uint256 indexed number, Board.Outcome outcome);

    error InvalidMoveTime(uint40 moveTime);
    error NoSuchDispute(uint256 number);
    error NotYourTurn(uint256 number, address account);
    error MoveTooLate(uint40 deadline);
    error StillTime(uint40 deadline);
    error Partial(address account);
    error NotIncluded(bytes32 leaf, uint256 index);
    error WindowOver(uint256 ended);
    error AlreadyDisputed(bytes32 leaf);
    error NoSuchRow(uint32 caseNumber, uint32 token);
    error NoSuchStep(uint256 step);
    error AlreadyAsked(uint8 step);
    error AnotherClaim();
    error AnotherRow(uint8 step);
    error NotWrong(int256 number);

    constructor(
        Registry registry_,
        Parameters parameters_,
        Anchors anchors_,
        Board board_,
        uint40 moveTime_
    ) Membership(registry_) {
        if (moveTime_ == 0 || moveTime_ > 30 days) revert InvalidMoveTime(moveTime_);
        parameters = parameters_;
        anchors = anchors_;
        board = board_;
        moveTime = moveTime_;
    }

    /// Say that a token's row after `layer` is not the model's, in a receipt that stands at
    /// `index` of a batch that `host` anchored.
    function accuse(
        address host,
        bytes32 root,
        uint256 index,
        bytes32[] calldata path,
        bytes calldata receipt,
        uint32 layer,
        uint32 caseNumber,
        uint32 token
    ) external onlyMember returns (uint256 number) {
        if (host == msg.sender) revert Partial(host);
        bytes32 leaf = sha256(abi.encodePacked(bytes1(0), receipt));
        _requireOpen(host, root, leaf, index, path);
        Steps.Claim memory claim = _claimOf(receipt, layer, caseNumber, token);
        bytes32 key = keccak256(abi.encode(host, leaf, msg.sender));
        if (_begun[key]) revert AlreadyDisputed(leaf);
        _begun[key] = true;
        number = count++;
        Dispute storage made = _disputes[number];
        made.challenger = msg.sender;
        made.host = host;
        made.asked = _NOTHING;
        made.claim = keccak256(abi.encode(claim));
        made.deadline = uint40(block.timestamp) + moveTime;
        emit DisputeOpened(number, msg.sender, host, leaf, claim, made.deadline);
        (made.bond, made.locked) = board.lock(host, msg.sender);
    }

    /// The host's rows inside the layer, as hashes in the order of the steps.
    function answer(uint256 number, bytes32[STEPS] calldata rows) external {
        Dispute storage found = _moving(number, Turn.Host);
        if (found.rows != 0) revert NotYourTurn(number, msg.sender);
        found.rows = keccak256(abi.encode(rows));
        emit DisputeAnswered(number, rows, _pass(found, Turn.Challenger));
    }

    /// Ask what stands in one of these rows.
    function ask(uint256 number, uint8 step) external {
        Dispute storage found = _moving(number, Turn.Challenger);
        if (step >= STEPS) revert NoSuchStep(step);
        uint16 bit = uint16(1 << step);
        if (found.steps & bit != 0) revert AlreadyAsked(step);
        found.steps |= bit;
        found.asked = step;
        emit RowAsked(number, step, _pass(found, Turn.Host));
    }

    /// The host shows the row that was asked for.
    function show(
        uint256 number,
        Steps.Claim calldata claim,
        bytes32[STEPS] calldata rows,
        Steps.Row calldata row
    ) external {
        Dispute storage found = _moving(number, Turn.Host);
        uint8 step = found.asked;
        if (step == _NOTHING) revert NotYourTurn(number, msg.sender);
        _requireSame(found, claim, rows);
        if (claim.rowLeaf(step, row) != rows[step]) revert AnotherRow(step);
        found.asked = _NOTHING;
        emit RowShown(number, step, row, _pass(found, Turn.Challenger));
    }

    /// Show one number that the model's weights and the host's own rows make another.
    function prove(
        uint256 number,
        Steps.Claim calldata claim,
        bytes32[STEPS] calldata rows,
        Proof calldata proof
    ) external {
        Dispute storage found = _moving(number, Turn.Challenger);
        _requireSame(found, claim, rows);
        (bool there, int256 claimed, int256 computed) = _product(claim, rows, proof);
        // A row too short for the model's channels is as wrong as a wrong number.
        if (there && claimed == computed) revert NotWrong(computed);
        _close(number, found, Board.Outcome.Upheld);
    }

    /// Show one number of a norm that the host's own row before it makes another: step 0 or 6.
    function proveNorm(
        uint256 number,
        Steps.Claim calldata claim,
        bytes32[STEPS] calldata rows,
        uint8 step,
        NormProof calldata proof
    ) external {
        Dispute storage found = _moving(number, Turn.Challenger);
        _requireSame(found, claim, rows);
        if (step != 0 && step != 6) revert NoSuchStep(step);
        if (claim.rowLeaf(step, proof.claimed) != rows[step]) revert AnotherRow(step);
        if (!_normWrong(claim, rows, step == 0, proof)) revert NotWrong(int256(proof.entry));
        _close(number, found, Board.Outcome.Upheld);
    }

    /// The challenger sees nothing that can be shown here; both keep what is theirs.
    function drop(uint256 number) external {
        _close(number, _moving(number, Turn.Challenger), Board.Outcome.Undecided);
    }

    /// Time is up: who had to move loses.  Anybody may say so.
    function close(uint256 number) external {
        Dispute storage found = _known(number);
        if (found.turn == Turn.Nobody) revert NotYourTurn(number, msg.sender);
        if (block.timestamp <= found.deadline) revert StillTime(found.deadline);
        bool silent = found.turn == Turn.Host;
        _close(number, found, silent ? Board.Outcome.Upheld : Board.Outcome.Rejected);
    }

    function disputeOf(uint256 number) external view returns (Dispute memory) {
        return _known(number);
    }

    /// Disputes `start` to `start + limit`; the number is the position.
    function page(uint256 start, uint256 limit) external view returns (Dispute[] memory found) {
        uint256 length = start >= count ? 0 : count - start;
        if (length > limit) length = limit;
        found = new Dispute[](length);
        for (uint256 i = 0; i < length; ++i) {
            found[i] = _disputes[start + i];
        }
    }

    function _requireOpen(
        address host,
        bytes32 root,
        bytes32 leaf,
        uint256 index,
        bytes32[] calldata path
    ) private view {
        if (!anchors.includes(host, root, leaf, index, path)) revert NotIncluded(leaf, index);
        uint256 ended =
            uint256(anchors.batchOf(host, root).time) + parameters.values().challengeWindow;
        if (block.timestamp > ended) revert WindowOver(ended);
    }

    function _claimOf(bytes calldata receipt, uint32 layer, uint32 caseNumber, uint32 token)
        private
        pure
        returns (Steps.Claim memory)
    {
        Receipts.Terms memory terms = Receipts.termsOf(receipt, layer);
        if (caseNumber >= terms.cases || token >= terms.tokens) {
            revert NoSuchRow(caseNumber, token);
        }
        return Steps.Claim({
            model: terms.model,
            before: terms.before,
            afterwards: terms.afterwards,
            cases: terms.cases,
            tokens: terms.tokens,
            width: terms.width,
            layer: layer,
            caseNumber: caseNumber,
            token: token
        });
    }

    /// Matrices q, k, v (0 to 2) read step 0 and write steps 1 to 3; the output projection (3)
    /// reads step 4 and, added to the row before the layer, writes step 5; gate and up (4, 5)
    /// read step 6 and write 7 and 8; down (6) reads step 9 and, added to step 5, is the row
    /// after the layer.
    function _product(
        Steps.Claim calldata claim,
        bytes32[STEPS] calldata rows,
        Proof calldata proof
    ) private pure returns (bool there, int256 claimed, int256 computed) {
        Steps.Head memory head = claim.headOf(proof.channel);
        if (head.matrix > 6) revert Steps.Malformed();
        (uint8 from, uint8 to) = _between(head.matrix);
        if (claim.rowLeaf(from, proof.input) != rows[from]) revert AnotherRow(from);
        if (claim.rowLeaf(to, proof.other) != rows[to]) revert AnotherRow(to);
        uint256 size = head.matrix == 6 ? 2 : 1;
        if (proof.input.entries.length != size * head.inputs) return (false, 0, 0);
        bool adds = head.matrix == 3 || head.matrix == 6;
        computed = Steps.linear(
            head, proof.channel.leaf, proof.input, size, adds ? _RESIDUAL : _MIDDLE
        );
        (there, claimed) = Steps.entryOf(proof.other.entries, head.channel);
        if (!adds || !there) return (there, claimed, computed);
        int256 base;
        if (head.matrix == 3) {
            claim.requireBoundary(claim.layer, claim.before, proof.boundary);
            (there, base) = Steps.packedOf(proof.boundary.row, head.channel);
            // The row before is the requester's, or what another layer put out.
            if (!there) revert Steps.Malformed();
        } else {
            base = claimed;
            claim.requireBoundary(claim.layer + 1, claim.afterwards, proof.boundary);
            (there, claimed) = Steps.packedOf(proof.boundary.row, head.channel);
        }
        computed = Steps.clamp(base + computed, _RESIDUAL);
    }

    function _normWrong(
        Steps.Claim calldata claim,
        bytes32[STEPS] calldata rows,
        bool first,
        NormProof calldata proof
    ) private pure returns (bool) {
        bytes calldata row = first ? proof.boundary.row : proof.middle.entries;
        if (first) {
            claim.requireBoundary(claim.layer, claim.before, proof.boundary);
        } else if (claim.rowLeaf(5, proof.middle) != rows[5]) {
            revert AnotherRow(5);
        }
        Steps.Norm memory norm = claim.normOf(proof.trunk, row, first);
        bytes calldata claimed = proof.claimed.entries;
        if (claimed.length != norm.width) return true;
        if (int256(uint256(proof.claimed.exponent)) != norm.exponent) return true;
        if (proof.entry >= norm.width) revert Steps.Malformed();
        int256 entry = int8(uint8(claimed[proof.entry]));
        return entry != Steps.normed(norm, row, first, proof.entry);
    }

    function _between(uint256 matrix) private pure returns (uint8 from, uint8 to) {
        if (matrix < 3) return (0, uint8(1 + matrix));
        if (matrix == 3) return (4, 5);
        if (matrix == 6) return (9, 5);
        return (6, uint8(3 + matrix));
    }

    function _known(uint256 number) private view returns (Dispute storage found) {
        if (number >= count) revert NoSuchDispute(number);
        found = _disputes[number];
    }

    /// The dispute, if it is the caller's turn and there is still time.
    function _moving(uint256 number, Turn turn) private view returns (Dispute storage found) {
        found = _known(number);
        address mover = turn == Turn.Host ? found.host : found.challenger;
        if (found.turn != turn || msg.sender != mover) revert NotYourTurn(number, msg.sender);
        if (block.timestamp > found.deadline) revert MoveTooLate(found.deadline);
    }

    function _requireSame(
        Dispute storage found,
        Steps.Claim calldata claim,
        bytes32[STEPS] calldata rows
    ) private view {
        if (keccak256(abi.encode(claim)) != found.claim) revert AnotherClaim();
        if (keccak256(abi.encode(rows)) != found.rows) revert AnotherClaim();
    }

    function _pass(Dispute storage found, Turn turn) private returns (uint40 deadline) {
        found.turn = turn;
        deadline = uint40(block.timestamp) + moveTime;
        found.deadline = deadline;
    }

    function _close(uint256 number, Dispute storage found, Board.Outcome outcome) private {
        found.turn = Turn.Nobody;
        found.outcome = outcome;
        emit DisputeClosed(number, outcome);
        board.settle(found.host, found.challenger, found.bond, found.locked, outcome);
    }
}
