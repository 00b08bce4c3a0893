// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Ownable} from "@openzeppelin/contracts/access/Ownable.sol";
import {Ownable2Step} from "@openzeppelin/contracts/access/Ownable2Step.sol";

/// Who belongs to the federation: institutions, never natural persons.
///
/// The owner (a committee's multisig, or the Council) admits members and changes their roles;
/// roles 0 means: no longer a member.  It cannot touch the keys or the account of somebody
/// admitted, for then it could take over what others granted to them.  A member changes its
/// own keys; one that lost its account is admitted again under another, without the grants.
contract Registry is Ownable2Step {
    /// What the world reads.
    struct Member {
        bytes32 nodeKey;
        bytes32 sealKey;
        address account;
        uint32 roles;
        uint32 keyEpoch;
        uint40 since;
        string name;
    }

    struct Identity {
        bytes32 nodeKey;
        bytes32 sealKey;
        address account;
        string name;
    }

    /// One slot, because every other contract asks for it.
    struct Standing {
        /// Position in the list plus one; zero: never admitted.
        uint32 place;
        uint32 roles;
        uint32 keyEpoch;
        /// When the membership began, or began again.
        uint40 since;
        /// When the roles last changed.
        uint40 rolesSince;
    }

    uint256 public constant MAX_NAME_BYTES = 64;

    Identity[] private _identities;
    mapping(address account => Standing) private _standing;
    mapping(bytes32 nodeKey => bool) private _used;

    /// How many are members now.
    uint32 public active;

    event MemberSet(
        bytes32 indexed nodeKey, bytes32 sealKey, address indexed account, uint32 roles, string name
    );
    event KeysRotated(
        address indexed account, bytes32 indexed nodeKey, bytes32 sealKey, uint32 keyEpoch
    );

    error InvalidKey();
    error InvalidAccount();
    error InvalidName(uint256 length, uint256 limit);
    error AccountTaken(address account);
    error KeyTaken(bytes32 nodeKey);
    error NotMember(address account);
    error NotRenounceable();

    constructor(address owner_) Ownable(owner_) {}

    /// Admit a member under an account and a node key that nobody had before.
    function admit(
        bytes32 nodeKey,
        bytes32 sealKey,
        address account,
        uint32 roles,
        string calldata name
    ) external onlyOwner {
        if (account == address(0)) revert InvalidAccount();
        uint256 length = bytes(name).length;
        if (length == 0 || length > MAX_NAME_BYTES) revert InvalidName(length, MAX_NAME_BYTES);
        if (_standing[account].place != 0) revert AccountTaken(account);
        _take(nodeKey, sealKey);
        _identities.push(Identity(nodeKey, sealKey, account, name));
        _standing[account].place = uint32(_identities.length);
        _setRoles(account, roles);
        emit MemberSet(nodeKey, sealKey, account, roles, name);
    }

    /// Change what a member may do; zero ends the membership, and it can be renewed.
    function setRoles(address account, uint32 roles) external onlyOwner {
        uint32 place = _standing[account].place;
        if (place == 0) revert NotMember(account);
        _setRoles(account, roles);
        Identity storage found = _identities[place - 1];
        emit MemberSet(found.nodeKey, found.sealKey, account, roles, found.name);
    }

    /// The caller's new keys; the node key may stay the same.
    function rotateKeys(bytes32 nodeKey, bytes32 sealKey) external {
        Standing storage standing = _standing[msg.sender];
        if (standing.roles == 0) revert NotMember(msg.sender);
        Identity storage found = _identities[standing.place - 1];
        if (nodeKey == found.nodeKey) {
            if (sealKey == 0) revert InvalidKey();
        } else {
            _take(nodeKey, sealKey);
        }
        found.nodeKey = nodeKey;
        found.sealKey = sealKey;
        standing.keyEpoch += 1;
        emit KeysRotated(msg.sender, nodeKey, sealKey, standing.keyEpoch);
    }

    /// Without an owner nobody could end a membership.
    function renounceOwnership() public pure override {
        revert NotRenounceable();
    }

    /// Zero for an account that is not, or no longer, a member's.
    function rolesOf(address account) external view returns (uint32) {
        return _standing[account].roles;
    }

    /// Roles, and since when somebody is a member.
    function memberSince(address account) external view returns (uint32 roles, uint40 since) {
        Standing storage found = _standing[account];
        return (found.roles, found.since);
    }

    /// Roles, and since when somebody has just these.
    function rolesSince(address account) external view returns (uint32 roles, uint40 since) {
        Standing storage found = _standing[account];
        return (found.roles, found.rolesSince);
    }

    /// How many members were ever admitted.
    function count() external view returns (uint256) {
        return _identities.length;
    }

    /// Members `start` to `start + limit`, those with roles 0 included.
    function page(uint256 start, uint256 limit) external view returns (Member[] memory found) {
        uint256 size = _identities.length;
        uint256 length = start >= size ? 0 : size - start;
        if (length > limit) length = limit;
        found = new Member[](length);
        for (uint256 i = 0; i < length; ++i) {
            Identity storage one = _identities[start + i];
            Standing storage how = _standing[one.account];
            found[i] = Member(
                one.nodeKey, one.sealKey, one.account, how.roles, how.keyEpoch, how.since, one.name
            );
        }
    }

    function _take(bytes32 nodeKey, bytes32 sealKey) private {
        if (nodeKey == 0 || sealKey == 0) revert InvalidKey();
        if (_used[nodeKey]) revert KeyTaken(nodeKey);
        _used[nodeKey] = true;
    }

    function _setRoles(address account, uint32 roles) private {
        Standing storage standing = _standing[account];
        if (standing.roles == 0 && roles != 0) {
            active += 1;
            standing.since = uint40(block.timestamp);
        } else if (standing.roles != 0 && roles == 0) {
            active -= 1;
        }
        standing.roles = roles;
        standing.rolesSince = uint40(block.timestamp);
    }
}
