// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Registry} from "./Registry.sol";

/// What the other contracts ask of the registry.
abstract contract Membership {
    Registry public immutable registry;

    error NotMember(address account);
    error MissingRole(address account, uint32 role);

    constructor(Registry registry_) {
        registry = registry_;
    }

    modifier onlyMember() {
        _requireMember(msg.sender);
        _;
    }

    function _requireMember(address account) internal view {
        if (registry.rolesOf(account) == 0) revert NotMember(account);
    }

    function _requireRole(address account, uint32 role) internal view {
        uint32 roles = registry.rolesOf(account);
        if (roles == 0) revert NotMember(account);
        if (roles & role == 0) revert MissingRole(account, role);
    }
}
