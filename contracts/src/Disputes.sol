// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Anchors} from "./Anchors.sol";
import {Board} from "./Board.sol";
import {Judge} from "./Judge.sol";
import {Membership} from "./Membership.sol";
import {Parameters} from "./Parameters.sol";
import {Receipts} from "./Receipts.sol";
import {Registry} from "./Registry.sol";
import {PARTS, Steps} from "./Steps.sol";

/// Receipts that are proved wrong to the chain itself, by one number (docs/verify.md §10).
///
/// A challenger names one token's row after one layer of an anchored receipt.  The host answers
/// with the roots of the parts inside the layer that the row follows from.  Whatever is wrong in
/// the layer is then wrong in the first part that does not follow from those before it, and one
/// number of it is computed here (`Judge`).  A challenger that was not shown that part asks for
/// it.  Who does not move in time loses; the loser's bond is the winner's (`Board`).
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

    /// Five slots; what it is about is kept as digests and told again by who moves.
    struct Dispute {
        address challenger;
        uint40 deadline;
        Turn turn;
        Board.Outcome outcome;
        /// What was asked for, while it is the host's turn to show it.
        uint8 part;
        uint8 level;
        uint8 asks;
        address host;
        uint32 index;
        uint96 bond;
        bytes32 claim;
        bytes32 roots;
    }

    /// Levels of a tree that are shown at once: 32 nodes.
    uint256 public constant SPAN = 5;
    /// Enough to get from a root to one of 2^25 leaves, and for the one leaf that is shown.
    uint8 public constant MAX_ASKS = 6;
    uint8 private constant _MAX_LEVEL = 25;
    uint8 private constant _NOTHING = 255;

    Parameters public immutable parameters;
    Anchors public immutable anchors;
    Board public immutable board;
    Judge public immutable judge;
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
    event DisputeAnswered(uint256 indexed number, bytes32[PARTS] roots, uint40 deadline);
    event PartAsked(uint256 indexed number, uint8 part, uint8 level, uint32 index, uint40 deadline);
    event NodesShown(
        uint256 indexed number,
        uint8 part,
        uint8 level,
        uint32 index,
        bytes32[] nodes,
        uint40 deadline
    );
    event LeafShown(
        uint256 indexed number, uint8 part, uint32 index, Steps.Leaf leaf, uint40 deadline
    );
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
    error NoSuchNode(uint8 part, uint8 level, uint32 index);
    error AskedEnough(uint8 asks);
    error AnotherClaim();
    error NotWrong();

    constructor(
        Registry registry_,
        Parameters parameters_,
        Anchors anchors_,
        Board board_,
        Judge judge_,
        uint40 moveTime_
    ) Membership(registry_) {
        if (moveTime_ == 0 || moveTime_ > 30 days) revert InvalidMoveTime(moveTime_);
        parameters = parameters_;
        anchors = anchors_;
        board = board_;
        judge = judge_;
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
        Steps.Trunk calldata trunk,
        uint32 layer,
        uint32 caseNumber,
        uint32 token
    ) external onlyMember returns (uint256 number) {
        if (host == msg.sender) revert Partial(host);
        bytes32 leaf = sha256(abi.encodePacked(bytes1(0), receipt));
        _requireOpen(host, root, leaf, index, path);
        Steps.Claim memory claim = _claimOf(receipt, layer, caseNumber, token);
        Steps.read(claim, trunk);
        bytes32 key = keccak256(abi.encode(host, leaf, msg.sender));
        if (_begun[key]) revert AlreadyDisputed(leaf);
        _begun[key] = true;
        number = count++;
        Dispute storage made = _disputes[number];
        made.challenger = msg.sender;
        made.host = host;
        made.part = _NOTHING;
        made.claim = keccak256(abi.encode(claim));
        made.deadline = uint40(block.timestamp) + moveTime;
        emit DisputeOpened(number, msg.sender, host, leaf, claim, made.deadline);
        made.bond = board.begin(host, msg.sender);
    }

    /// The host's parts of the layer, as roots in their order.
    function answer(uint256 number, bytes32[PARTS] calldata roots) external {
        Dispute storage found = _moving(number, Turn.Host);
        if (found.roots != 0) revert NotYourTurn(number, msg.sender);
        found.roots = keccak256(abi.encode(roots));
        emit DisputeAnswered(number, roots, _pass(found, Turn.Challenger));
    }

    /// Ask for leaf `index` of a part (level 0), or for what is below a node of its tree.
    function ask(
        uint256 number,
        Steps.Claim calldata claim,
        uint8 part,
        uint8 level,
        uint32 index
    ) external {
        Dispute storage found = _moving(number, Turn.Challenger);
        if (keccak256(abi.encode(claim)) != found.claim) revert AnotherClaim();
        if (found.asks >= MAX_ASKS) revert AskedEnough(found.asks);
        // What there is not, a host cannot show, and must not lose for.
        if (level > _MAX_LEVEL || index >= Steps.nodesAt(claim.countOf(part), level)) {
            revert NoSuchNode(part, level, index);
        }
        found.asks += 1;
        (found.part, found.level, found.index) = (part, level, index);
        emit PartAsked(number, part, level, index, _pass(found, Turn.Host));
    }

    /// The host shows the leaf that was asked for.  It is the only one: what a number needs
    /// beside it, the challenger computes itself, and what is shown stays here for good.
    function show(
        uint256 number,
        Steps.Claim calldata claim,
        bytes32[PARTS] calldata roots,
        Steps.Leaf calldata leaf
    ) external {
        Dispute storage found = _asked(number, claim, roots);
        if (found.level != 0) revert NotYourTurn(number, msg.sender);
        (uint8 part, uint32 index) = (found.part, found.index);
        if (leaf.entries.length != claim.bytesOf(part, index)) revert Steps.Malformed();
        claim.requireLeaf(roots, part, index, leaf);
        found.part = _NOTHING;
        found.asks = MAX_ASKS;
        emit LeafShown(number, part, index, leaf, _pass(found, Turn.Challenger));
    }

    /// The host shows the nodes `SPAN` levels below the one that was asked for, or the leaves'
    /// hashes; `path` leads from that one to the part's root.
    function split(
        uint256 number,
        Steps.Claim calldata claim,
        bytes32[PARTS] calldata roots,
        bytes32[] calldata nodes,
        bytes32[] calldata path
    ) external {
        Dispute storage found = _asked(number, claim, roots);
        (uint8 part, uint8 level, uint32 index) = (found.part, found.level, found.index);
        if (level == 0) revert NotYourTurn(number, msg.sender);
        Steps.requireNodes(claim.countOf(part), level, index, nodes, path, roots[part], SPAN);
        found.part = _NOTHING;
        uint40 deadline = _pass(found, Turn.Challenger);
        emit NodesShown(number, part, level, index, nodes, deadline);
    }

    /// Show one number that the model's weights and the host's own rows make another.
    function prove(
        uint256 number,
        Steps.Claim calldata claim,
        bytes32[PARTS] calldata roots,
        Judge.Proof calldata
    ) external {
        Dispute storage found = _moving(number, Turn.Challenger);
        _requireSame(found, claim, roots);
        // The judge takes the same arguments, so they need not be taken apart and put together.
        (bool heard, bytes memory said) =
            address(judge).staticcall(bytes.concat(Judge.wrong.selector, msg.data[4:]));
        if (!heard) {
            assembly ("memory-safe") {
                revert(add(said, 32), mload(said))
            }
        }
        if (!abi.decode(said, (bool))) revert NotWrong();
        _close(number, found, Board.Outcome.Upheld);
    }

    /// Show a leaf whose salt is not the one that follows from the case's.  Without this a host
    /// could answer with hashes that nobody else can make, true numbers behind them, and be
    /// asked for all of them before the one that lies.
    function proveSalt(
        uint256 number,
        Steps.Claim calldata claim,
        bytes32[PARTS] calldata roots,
        uint8 part,
        uint32 index,
        Steps.Leaf calldata leaf,
        bytes32 caseSalt,
        Steps.Opened calldata before
    ) external {
        Dispute storage found = _moving(number, Turn.Challenger);
        _requireSame(found, claim, roots);
        claim.requireLeaf(roots, part, index, leaf);
        // The row before the layer has its salt from the case's, so that is what it must be.
        claim.requireBoundary(claim.layer, claim.token, claim.before, before);
        if (before.salt != claim.rowSalt(caseSalt)) revert Steps.NotInReceipt();
        if (leaf.salt == claim.leafSalt(caseSalt, part, index)) revert NotWrong();
        _close(number, found, Board.Outcome.Upheld);
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
        returns (Steps.Claim memory claim)
    {
        Receipts.Terms memory terms = Receipts.termsOf(receipt, layer);
        if (caseNumber >= terms.cases || token >= terms.tokens) {
            revert NoSuchRow(caseNumber, token);
        }
        claim.model = terms.model;
        claim.before = terms.before;
        claim.afterwards = terms.afterwards;
        claim.cases = terms.cases;
        claim.tokens = terms.tokens;
        claim.width = terms.width;
        claim.layer = layer;
        claim.caseNumber = caseNumber;
        claim.token = token;
    }

    /// The dispute, if its host was asked for something.
    function _asked(
        uint256 number,
        Steps.Claim calldata claim,
        bytes32[PARTS] calldata roots
    ) private view returns (Dispute storage found) {
        found = _moving(number, Turn.Host);
        if (found.part == _NOTHING) revert NotYourTurn(number, msg.sender);
        _requireSame(found, claim, roots);
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
        bytes32[PARTS] calldata roots
    ) private view {
        if (keccak256(abi.encode(claim)) != found.claim) revert AnotherClaim();
        if (keccak256(abi.encode(roots)) != found.roots) revert AnotherClaim();
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
        board.settle(found.host, found.challenger, found.bond, outcome);
    }
}
