// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Membership} from "./Membership.sol";
import {Registry} from "./Registry.sol";

/// The members decide: one member, one vote, whatever they hold.
///
/// A proposal is one call to one contract (the Parameters, or the Registry once its owner has
/// handed it over).  It passes with more than half of all who were members when it was made,
/// not of those who came to vote, and is carried out after a delay in which who disagrees can
/// leave.  Who joins later has no vote on it.  The Council holds nothing and pays nothing.
contract Council is Membership {
    struct Proposal {
        address target;
        uint40 opened;
        /// When it may be carried out; zero: not passed.
        uint40 ready;
        bool done;
        uint32 electorate;
        uint32 yes;
        bytes32 call;
    }

    /// In seconds.
    uint40 public immutable votingPeriod;
    uint40 public immutable delay;
    /// How long a passed proposal may be carried out.
    uint40 public constant GRACE = 30 days;

    uint256 public count;
    mapping(uint256 proposal => Proposal) private _proposals;
    mapping(uint256 proposal => mapping(address member => bool)) private _voted;

    event Proposed(
        uint256 indexed proposal, address indexed by, address indexed target, bytes call, bytes32 reason
    );
    event VotedFor(uint256 indexed proposal, address indexed member);
    event Passed(uint256 indexed proposal, uint40 ready);
    event Done(uint256 indexed proposal);

    error NoSuchProposal(uint256 proposal);
    error InvalidTarget(address target);
    error VotingOver(uint256 proposal);
    error AlreadyVoted(uint256 proposal, address member);
    error MemberTooNew(uint40 since, uint40 opened);
    error NotPassed(uint256 proposal);
    error NotReady(uint40 ready);
    error TooLate(uint256 proposal);
    error AlreadyDone(uint256 proposal);
    error AnotherCall(bytes32 expected, bytes32 given);

    constructor(Registry registry_, uint40 votingPeriod_, uint40 delay_) Membership(registry_) {
        votingPeriod = votingPeriod_;
        delay = delay_;
    }

    /// Propose a call.  `reason` is the digest of a text that members can read elsewhere.
    function propose(address target, bytes calldata call, bytes32 reason)
        external
        onlyMember
        returns (uint256 id)
    {
        if (target.code.length == 0) revert InvalidTarget(target);
        id = count++;
        _proposals[id] = Proposal({
            target: target,
            opened: uint40(block.timestamp),
            ready: 0,
            done: false,
            electorate: registry.active(),
            yes: 0,
            call: keccak256(call)
        });
        emit Proposed(id, msg.sender, target, call, reason);
    }

    /// Agree.  There is no vote against: who does not agree does not count.
    function vote(uint256 id) external {
        Proposal storage found = _known(id);
        if (block.timestamp > found.opened + votingPeriod) revert VotingOver(id);
        (uint32 roles, uint40 since) = registry.memberSince(msg.sender);
        if (roles == 0) revert NotMember(msg.sender);
        if (since > found.opened) revert MemberTooNew(since, found.opened);
        if (_voted[id][msg.sender]) revert AlreadyVoted(id, msg.sender);
        _voted[id][msg.sender] = true;
        found.yes += 1;
        emit VotedFor(id, msg.sender);
        if (found.ready == 0 && uint256(found.yes) * 2 > found.electorate) {
            found.ready = uint40(block.timestamp) + delay;
            emit Passed(id, found.ready);
        }
    }

    /// Carry out what has passed; anybody may.
    function execute(uint256 id, bytes calldata call) external {
        Proposal storage found = _known(id);
        if (found.ready == 0) revert NotPassed(id);
        if (found.done) revert AlreadyDone(id);
        if (block.timestamp < found.ready) revert NotReady(found.ready);
        if (block.timestamp > uint256(found.ready) + GRACE) revert TooLate(id);
        if (keccak256(call) != found.call) revert AnotherCall(found.call, keccak256(call));
        found.done = true;
        emit Done(id);
        (bool success, bytes memory answer) = found.target.call(call);
        if (!success) {
            // The target's own reason, byte for byte.
            assembly ("memory-safe") {
                revert(add(answer, 0x20), mload(answer))
            }
        }
    }

    function proposalOf(uint256 id) external view returns (Proposal memory) {
        return _known(id);
    }

    function _known(uint256 id) private view returns (Proposal storage found) {
        if (id >= count) revert NoSuchProposal(id);
        found = _proposals[id];
    }
}
