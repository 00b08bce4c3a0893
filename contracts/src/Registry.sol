// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Ownable} from "@openzeppelin/contracts/access/Ownable.sol";
import {Ownable2Step} from "@openzeppelin/contracts/access/Ownable2Step.sol";

/// Who belongs to the federation.  The owner (a committee's multisig) admits institutions,
/// never natural persons, and changes their roles; roles 0 means: no longer a member.
/// A node key and an account belong to each other: each names at most one member.
contract Registry is Ownable2Step {
    struct Member {
        bytes32 nodeKey;
        bytes32 sealKey;
        address account;
        uint32 roles;
        string name;
    }

    uint32 public constant DATA_PROVIDER = 1;
    uint256 public constant MAX_NAME_BYTES = 64;

    Member[] private _members;
    /// Position in `_members` plus one; zero is absent.
    mapping(bytes32 nodeKey => uint256) private _byKey;
    mapping(address account => uint256) private _byAccount;

    event MemberSet(
        bytes32 indexed nodeKey, bytes32 sealKey, address indexed account, uint32 roles, string name
    );

    error InvalidKey();
    error InvalidAccount();
    error InvalidName(uint256 length, uint256 limit);
    error AccountTaken(address account);

    constructor() Ownable(msg.sender) {}

    /// Admit a member, or replace what is known about the one with this node key.
    function setMember(Member calldata member) external onlyOwner {
        if (member.nodeKey == 0 || member.sealKey == 0) revert InvalidKey();
        if (member.account == address(0)) revert InvalidAccount();
        uint256 length = bytes(member.name).length;
        if (length == 0 || length > MAX_NAME_BYTES) revert InvalidName(length, MAX_NAME_BYTES);
        uint256 place = _byKey[member.nodeKey];
        uint256 taken = _byAccount[member.account];
        if (taken != 0 && taken != place) revert AccountTaken(member.account);
        if (place == 0) {
            _members.push(member);
            place = _members.length;
            _byKey[member.nodeKey] = place;
        } else {
            delete _byAccount[_members[place - 1].account];
            _members[place - 1] = member;
        }
        _byAccount[member.account] = place;
        emit MemberSet(member.nodeKey, member.sealKey, member.account, member.roles, member.name);
    }

    /// Zero for an account that is not, or no longer, a member's.
    function rolesOf(address account) external view returns (uint32) {
        uint256 place = _byAccount[account];
        return place == 0 ? 0 : _members[place - 1].roles;
    }

    /// How many members were ever admitted.
    function count() external view returns (uint256) {
        return _members.length;
    }

    /// Members `start` to `start + limit`, those with roles 0 included.
    function page(uint256 start, uint256 limit) external view returns (Member[] memory found) {
        uint256 size = _members.length;
        uint256 length = start >= size ? 0 : size - start;
        if (length > limit) length = limit;
        found = new Member[](length);
        for (uint256 i = 0; i < length; ++i) {
            found[i] = _members[start + i];
        }
    }
}
