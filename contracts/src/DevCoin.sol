// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {ERC20} from "@openzeppelin/contracts/token/ERC20/ERC20.sol";

/// A coin for development chains and tests: anybody makes as much as they like.
contract DevCoin is ERC20 {
    constructor() ERC20("Rexis development coin", "DEV") {}

    function mint(address account, uint256 amount) external {
        _mint(account, amount);
    }
}
