// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";
import {ReentrancyGuard} from "@openzeppelin/contracts/utils/ReentrancyGuard.sol";

/// Tokens that are held for somebody, who fetches them.  Nothing is ever sent unasked, so
/// nobody's code runs while somebody else's affair is settled.  No function takes ether.
abstract contract Credits is ReentrancyGuard {
    using SafeERC20 for IERC20;

    /// One slot, which is written when a bond is put up: whoever wins then changes it and does not
    /// pay for a first write with the proof that wins.
    struct Credit {
        uint128 free;
        /// Of bonds in cases that are not decided.
        uint128 held;
    }

    mapping(address token => mapping(address account => Credit)) private _credits;

    event Collected(address indexed token, address indexed account, uint256 amount);

    error NothingToCollect(address token, address account);
    error WrongAmount(uint256 received, uint256 expected);

    /// Fetch everything held for the caller in one token.
    function collect(address token) external nonReentrant {
        uint256 amount = _credits[token][msg.sender].free;
        if (amount == 0) revert NothingToCollect(token, msg.sender);
        _credits[token][msg.sender].free = 0;
        emit Collected(token, msg.sender, amount);
        IERC20(token).safeTransfer(msg.sender, amount);
    }

    /// What an account may fetch.
    function credits(address token, address account) external view returns (uint256) {
        return _credits[token][account].free;
    }

    /// What of an account's is a bond that may be lost.
    function heldOf(address token, address account) external view returns (uint256) {
        return _credits[token][account].held;
    }

    function _credit(address token, address account, uint96 amount) internal {
        if (amount != 0) _credits[token][account].free += amount;
    }

    /// Take a bond; it stays its owner's until `_let` and a credit say whose it is.
    function _hold(address token, address account, uint96 bond) internal {
        if (bond != 0) _credits[token][account].held += bond;
        _take(token, account, bond);
    }

    function _let(address token, address account, uint96 bond) internal {
        if (bond != 0) _credits[token][account].held -= bond;
    }

    /// Take exactly `amount` from `account`.  A token that keeps a part for itself would
    /// leave us owing more than we hold, so what arrived is counted.
    function _take(address token, address account, uint256 amount) internal {
        if (amount == 0) return;
        uint256 before = IERC20(token).balanceOf(address(this));
        IERC20(token).safeTransferFrom(account, address(this), amount);
        uint256 received = IERC20(token).balanceOf(address(this)) - before;
        if (received != amount) revert WrongAmount(received, amount);
    }
}
