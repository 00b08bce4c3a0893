// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Board} from "./Board.sol";
import {Market} from "./Market.sol";

/// What somebody's record says, as numbers from 0 to 100.  Nobody writes here: the record is
/// what happened in the Market and on the Board.
///
/// A score is the share of what went well, with one good and one bad case added to both sides,
/// so that a newcomer stands at 50 and one deal does not make a hundred.  Two members that only
/// deal with each other can raise each other's score; whoever weighs it looks at the events,
/// which say who dealt with whom.
contract Reputation {
    Market public immutable market;
    Board public immutable board;

    constructor(Market market_, Board board_) {
        market = market_;
        board = board_;
    }

    /// As a provider of data: delivered, against refunded after a dispute, halved, or left
    /// unanswered.
    function asProvider(address account) external view returns (uint8 score, uint256 cases) {
        Market.Tally memory found = market.tallyOf(account);
        uint256 bad = uint256(found.failed) + found.undecided + found.unanswered;
        return _score(found.delivered, bad);
    }

    /// As a grantee: deals that were paid, against disputes lost.
    function asGrantee(address account) external view returns (uint8 score, uint256 cases) {
        Market.Tally memory found = market.tallyOf(account);
        return _score(found.received, found.overruled);
    }

    /// As a host of inference: challenged receipts that held, against those that did not.
    function asHost(address account) external view returns (uint8 score, uint256 cases) {
        Board.Tally memory found = board.tallyOf(account);
        return _score(found.cleared, found.caught);
    }

    /// As a challenger of receipts: won against lost.
    function asChallenger(address account) external view returns (uint8 score, uint256 cases) {
        Board.Tally memory found = board.tallyOf(account);
        return _score(found.right, found.wrong);
    }

    function _score(uint256 good, uint256 bad) private pure returns (uint8, uint256) {
        uint256 cases = good + bad;
        return (uint8((good + 1) * 100 / (cases + 2)), cases);
    }
}
