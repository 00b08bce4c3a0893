// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Ownable} from "@openzeppelin/contracts/access/Ownable.sol";
import {Ownable2Step} from "@openzeppelin/contracts/access/Ownable2Step.sol";

/// The numbers that the Market and the Board go by, and the tokens they take.
///
/// The owner is the Council, that is, the members.  Every number has bounds here that no vote
/// can pass; a request or a case under way keeps the times and the bond it began with.
contract Parameters is Ownable2Step {
    struct Values {
        /// How long a request may wait for an answer, in seconds.
        uint32 answerWindow;
        /// How long a grantee may dispute a delivery.
        uint32 disputeWindow;
        /// How long a batch of receipts may be challenged.
        uint32 challengeWindow;
        /// How long auditors may vote on a case.
        uint32 voteWindow;
        /// How long a stake stays liable after its owner asked for it back.
        uint32 unbonding;
        /// Votes for one side that decide a case.
        uint16 quorum;
        /// Requests that one member may have open.
        uint16 openRequests;
        /// What it costs to open a case and be wrong.
        uint96 bond;
    }

    uint32 public constant SHORTEST = 1 minutes;
    uint32 public constant LONGEST = 365 days;
    /// A host keeps a receipt's rows for 90 days (docs/verify.md §5.2): whoever is challenged
    /// must still have them, though its clock or its chain be some weeks late.
    uint32 public constant LONGEST_CHALLENGE = 60 days;
    uint16 public constant MAX_QUORUM = 100;
    uint16 public constant MAX_OPEN_REQUESTS = 1_000;

    Values private _values;
    mapping(address token => bool) public accepted;

    event ParametersSet(Values values);
    event TokenSet(address indexed token, bool accepted);

    error OutOfBounds(string name, uint256 value, uint256 lowest, uint256 highest);
    error InvalidToken(address token);
    error NotRenounceable();

    constructor(address owner_, Values memory values_) Ownable(owner_) {
        _set(values_);
    }

    function set(Values calldata values_) external onlyOwner {
        _set(values_);
    }

    /// Take a token for prices, or no longer.  Only plain ERC-20: what is escrowed in a
    /// token that takes fees, rebases or blocks accounts may not come out again.
    function setToken(address token, bool accepted_) external onlyOwner {
        if (accepted_ && token.code.length == 0) revert InvalidToken(token);
        accepted[token] = accepted_;
        emit TokenSet(token, accepted_);
    }

    function renounceOwnership() public pure override {
        revert NotRenounceable();
    }

    function values() external view returns (Values memory) {
        return _values;
    }

    function _set(Values memory next) private {
        _within("answerWindow", next.answerWindow, SHORTEST, LONGEST);
        _within("disputeWindow", next.disputeWindow, SHORTEST, LONGEST);
        _within("challengeWindow", next.challengeWindow, SHORTEST, LONGEST_CHALLENGE);
        _within("voteWindow", next.voteWindow, SHORTEST, LONGEST);
        // A host must not be gone with its stake before the last case about it is over.
        uint256 liable = uint256(next.challengeWindow) + next.voteWindow;
        _within("unbonding", next.unbonding, liable, 3 * uint256(LONGEST));
        _within("quorum", next.quorum, 1, MAX_QUORUM);
        _within("openRequests", next.openRequests, 1, MAX_OPEN_REQUESTS);
        _values = next;
        emit ParametersSet(next);
    }

    function _within(string memory name, uint256 value, uint256 lowest, uint256 highest)
        private
        pure
    {
        if (value < lowest || value > highest) revert OutOfBounds(name, value, lowest, highest);
    }
}
