// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Board} from "./Board.sol";
import {Credits} from "./Credits.sol";
import {Datasets} from "./Datasets.sol";
import {Membership} from "./Membership.sol";
import {Parameters} from "./Parameters.sol";
import {Registry} from "./Registry.sol";

/// Requests for access, the price in escrow, and what becomes of it.
///
///     Open -> Approved -> Paid                 accepted, or not disputed in time
///          |           -> Disputed -> Paid | Refunded | Halved
///          -> Refunded                         cancelled, rejected or not answered
///
/// The keys travel between nodes; the approval commits to the digest of the message that
/// brings them, so that both sides can show auditors what was sent.  A price is fixed when it
/// is asked for, with the listing it was asked for; if either changes, the request is stale.
/// A request says all that its grantee is to have: approving one never takes away what an
/// earlier one gave.  Nor does a refund; whoever decides on access revokes it.
contract Market is Membership, Credits {
    enum Status {
        None,
        Open,
        Approved,
        Disputed,
        Paid,
        Refunded,
        Halved
    }

    /// What a member asks for.
    struct Wanted {
        uint256 dataset;
        /// The listing that was read; another one is another dataset.
        bytes32 record;
        Datasets.Scope scope;
        /// In days.
        uint16 duration;
        uint96 maxPrice;
        address token;
    }

    /// Two slots, three with a price.
    struct Request {
        address grantee;
        Status status;
        uint64 units;
        uint16 duration;
        uint64 dataset;
        uint32 purposes;
        uint32 acknowledged;
        uint32 version;
        /// Until when it may be answered; once approved, until when it may be disputed.
        uint40 deadline;
        /// How long that will be, in seconds.
        uint32 disputeWindow;
        address token;
        uint96 amount;
    }

    /// What came of somebody's dealings; Reputation reads it.
    struct Tally {
        /// As provider: paid, refunded after a dispute, halved, left unanswered.
        uint32 delivered;
        uint32 failed;
        uint32 undecided;
        uint32 unanswered;
        /// As grantee: paid, and disputes lost.
        uint32 received;
        uint32 overruled;
    }

    Datasets public immutable datasets;
    Parameters public immutable parameters;
    Board public immutable board;

    /// The number of requests, and the next one's id.
    uint256 public count;
    mapping(uint256 request => Request) private _requests;
    mapping(address grantee => uint256) public openOf;
    mapping(address account => Tally) private _tally;

    event AccessRequested(
        uint256 indexed request,
        uint256 indexed dataset,
        address indexed grantee,
        Datasets.Scope scope,
        uint16 duration,
        address token,
        uint96 amount
    );
    event RequestApproved(
        uint256 indexed request, uint256 indexed dataset, address indexed grantee, bytes32 keyDigest
    );
    event RequestDisputed(uint256 indexed request, uint256 indexed number, bytes32 claim);
    event RequestClosed(uint256 indexed request, uint256 indexed dataset, Status status);

    error NoSuchRequest(uint256 request);
    error WrongStatus(uint256 request, Status status);
    error NotGrantee(uint256 request, address account);
    error NotBoard(address account);
    error NotCommittee(uint256 dataset, address account);
    error StaleRecord(bytes32 record, bytes32 current);
    error PriceAbove(uint96 price, uint96 limit);
    error TokenNotAccepted(address token);
    error TooManyOpen(uint256 open, uint256 limit);
    error InvalidDigest();
    error TooLate(uint40 deadline);
    error TooEarly(uint40 deadline);

    constructor(Registry registry_, Datasets datasets_, Parameters parameters_, Board board_)
        Membership(registry_)
    {
        datasets = datasets_;
        parameters = parameters_;
        board = board_;
    }

    /// Ask for access and put its price into escrow; the caller has approved this contract
    /// for the price.
    function request(Wanted calldata wanted) external nonReentrant onlyMember returns (uint256 id) {
        Parameters.Values memory values = parameters.values();
        uint256 open = openOf[msg.sender];
        if (open >= values.openRequests) revert TooManyOpen(open, values.openRequests);
        (bytes32 record, uint32 version, uint96 price, address token) =
            datasets.quote(wanted.dataset, wanted.scope, wanted.duration);
        if (wanted.record != record) revert StaleRecord(wanted.record, record);
        if (price > wanted.maxPrice) revert PriceAbove(price, wanted.maxPrice);
        if (price != 0 && (token != wanted.token || !parameters.accepted(token))) {
            revert TokenNotAccepted(token);
        }
        id = count++;
        openOf[msg.sender] = open + 1;
        _requests[id] = Request({
            grantee: msg.sender,
            status: Status.Open,
            units: wanted.scope.units,
            duration: wanted.duration,
            dataset: uint64(wanted.dataset),
            purposes: wanted.scope.purposes,
            acknowledged: wanted.scope.acknowledged,
            version: version,
            deadline: uint40(block.timestamp + values.answerWindow),
            disputeWindow: values.disputeWindow,
            token: token,
            amount: price
        });
        emit AccessRequested(
            id,
            wanted.dataset,
            msg.sender,
            wanted.scope,
            wanted.duration,
            token,
            price
        );
        _take(token, msg.sender, price);
    }

    /// The committee says yes: the grant begins, and the owner's node sends the message
    /// with this digest.
    function approve(uint256 id, bytes32 keyDigest) external nonReentrant {
        Request storage found = _in(id, Status.Open);
        if (keyDigest == 0) revert InvalidDigest();
        if (block.timestamp > found.deadline) revert TooLate(found.deadline);
        found.status = Status.Approved;
        found.deadline = uint40(block.timestamp + found.disputeWindow);
        openOf[found.grantee] -= 1;
        emit RequestApproved(id, found.dataset, found.grantee, keyDigest);
        datasets.giveFor(
            msg.sender,
            found.dataset,
            found.grantee,
            Datasets.Scope(found.units, found.purposes, found.acknowledged),
            uint40(block.timestamp + uint256(found.duration) * 1 days),
            found.version
        );
    }

    /// The committee says no.
    function reject(uint256 id) external {
        Request storage found = _in(id, Status.Open);
        if (!datasets.decides(found.dataset, msg.sender)) {
            revert NotCommittee(found.dataset, msg.sender);
        }
        _giveBack(id, found);
    }

    /// The grantee changed its mind before an answer.
    function cancel(uint256 id) external {
        Request storage found = _in(id, Status.Open);
        if (found.grantee != msg.sender) revert NotGrantee(id, msg.sender);
        _giveBack(id, found);
    }

    /// Nobody answered in time; anybody may say so.
    function expire(uint256 id) external {
        Request storage found = _in(id, Status.Open);
        if (block.timestamp <= found.deadline) revert TooEarly(found.deadline);
        _tally[datasets.ownerOf(found.dataset)].unanswered += 1;
        _giveBack(id, found);
    }

    /// The grantee has what it paid for.
    function accept(uint256 id) external {
        Request storage found = _in(id, Status.Approved);
        if (found.grantee != msg.sender) revert NotGrantee(id, msg.sender);
        _pay(id, found);
    }

    /// Nobody disputed in time; anybody may say so.
    function settle(uint256 id) external {
        Request storage found = _in(id, Status.Approved);
        if (block.timestamp <= found.deadline) revert TooEarly(found.deadline);
        _pay(id, found);
    }

    /// The grantee says that no key came, or a wrong one.  `claim` is the digest of what it
    /// shows the auditors.  The bond goes to the Board, which the caller has approved for it.
    function dispute(uint256 id, bytes32 claim) external nonReentrant {
        Request storage found = _in(id, Status.Approved);
        if (found.grantee != msg.sender) revert NotGrantee(id, msg.sender);
        if (claim == 0) revert InvalidDigest();
        if (block.timestamp > found.deadline) revert TooLate(found.deadline);
        found.status = Status.Disputed;
        uint256 number = board.open(id, msg.sender, datasets.ownerOf(found.dataset), claim);
        emit RequestDisputed(id, number, claim);
    }

    /// The auditors have decided, or have not been able to.
    function resolve(uint256 id, Board.Outcome outcome) external {
        if (msg.sender != address(board)) revert NotBoard(msg.sender);
        Request storage found = _in(id, Status.Disputed);
        address owner = datasets.ownerOf(found.dataset);
        if (outcome == Board.Outcome.Rejected) {
            _tally[found.grantee].overruled += 1;
            _pay(id, found);
            return;
        }
        uint96 back = found.amount;
        if (outcome == Board.Outcome.Upheld) {
            _tally[owner].failed += 1;
            _close(id, found, Status.Refunded);
        } else {
            // Nobody knows who is right, and neither must gain by keeping auditors away.
            _tally[owner].undecided += 1;
            back -= back / 2;
            _credit(found.token, owner, found.amount - back);
            _close(id, found, Status.Halved);
        }
        _credit(found.token, found.grantee, back);
    }

    function requestOf(uint256 id) external view returns (Request memory) {
        if (id >= count) revert NoSuchRequest(id);
        return _requests[id];
    }

    /// Requests `start` to `start + limit`; the id is the position.
    function page(uint256 start, uint256 limit) external view returns (Request[] memory found) {
        uint256 length = start >= count ? 0 : count - start;
        if (length > limit) length = limit;
        found = new Request[](length);
        for (uint256 i = 0; i < length; ++i) {
            found[i] = _requests[start + i];
        }
    }

    function tallyOf(address account) external view returns (Tally memory) {
        return _tally[account];
    }

    function _in(uint256 id, Status status) private view returns (Request storage found) {
        if (id >= count) revert NoSuchRequest(id);
        found = _requests[id];
        if (found.status != status) revert WrongStatus(id, found.status);
    }

    function _giveBack(uint256 id, Request storage found) private {
        openOf[found.grantee] -= 1;
        _credit(found.token, found.grantee, found.amount);
        _close(id, found, Status.Refunded);
    }

    function _pay(uint256 id, Request storage found) private {
        address owner = datasets.ownerOf(found.dataset);
        _tally[owner].delivered += 1;
        _tally[found.grantee].received += 1;
        _credit(found.token, owner, found.amount);
        _close(id, found, Status.Paid);
    }

    function _close(uint256 id, Request storage found, Status status) private {
        found.status = status;
        emit RequestClosed(id, found.dataset, status);
    }
}
