// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {ERC721} from "@openzeppelin/contracts/token/ERC721/ERC721.sol";
import {Membership} from "./Membership.sol";
import {Registry} from "./Registry.sol";

/// Datasets as tokens, and who may read which consent units of them until when.
///
/// A token does not move (ERC-5192): the right to give access follows the consent that
/// patients gave to one institution, and a sold token would carry it to another.  A grant is
/// a record, not a token, for the same reason.  Bit i of a bitmap is consent unit i.
contract Datasets is ERC721, Membership {
    struct Dataset {
        bytes32 record;
        address owner;
        uint8 units;
        uint128 price;
    }

    struct Grant {
        uint256 dataset;
        address grantee;
        uint64 units;
        uint64 until;
        bool revoked;
    }

    uint8 public constant MAX_UNITS = 64;

    Dataset[] private _datasets;
    Grant[] private _grants;
    mapping(uint256 dataset => uint256[]) private _grantsOf;
    mapping(address owner => mapping(bytes32 record => bool)) private _listed;

    event DatasetListed(
        uint256 indexed dataset, address indexed owner, bytes32 record, uint8 units, uint128 price
    );
    event AccessGranted(
        uint256 indexed grant, uint256 indexed dataset, address indexed grantee, uint64 units, uint64 until
    );
    event AccessRevoked(uint256 indexed grant, uint256 indexed dataset, address indexed grantee);
    /// ERC-5192
    event Locked(uint256 tokenId);

    error InvalidRecord();
    error InvalidUnits(uint256 units);
    error AlreadyListed(bytes32 record);
    error NoSuchDataset(uint256 dataset);
    error NoSuchGrant(uint256 grant);
    error NotOwner(uint256 dataset, address account);
    error InvalidExpiry(uint64 until, uint256 time);
    error AlreadyRevoked(uint256 grant);
    error NotTransferable();

    constructor(Registry registry_) ERC721("Rexis dataset", "RXD") Membership(registry_) {}

    /// Mint the token of a listing record; `price` is what the owner asks, settled elsewhere.
    function list(bytes32 record, uint8 units, uint128 price) external returns (uint256 dataset) {
        _requireRole(msg.sender, registry.DATA_PROVIDER());
        if (record == 0) revert InvalidRecord();
        if (units == 0 || units > MAX_UNITS) revert InvalidUnits(units);
        if (_listed[msg.sender][record]) revert AlreadyListed(record);
        _listed[msg.sender][record] = true;
        dataset = _datasets.length;
        _datasets.push(Dataset(record, msg.sender, units, price));
        _mint(msg.sender, dataset);
        emit Locked(dataset);
        emit DatasetListed(dataset, msg.sender, record, units, price);
    }

    /// Let a member read the units in the bitmap until a time; only the dataset's owner,
    /// and only while it is a member itself.
    function give(uint256 dataset, address grantee, uint64 units, uint64 until)
        external
        returns (uint256 grant)
    {
        _requireOwner(dataset);
        _requireRole(msg.sender, registry.DATA_PROVIDER());
        _requireMember(grantee);
        if (units == 0 || uint256(units) >> _datasets[dataset].units != 0) revert InvalidUnits(units);
        if (until <= block.timestamp) revert InvalidExpiry(until, block.timestamp);
        grant = _grants.length;
        _grants.push(Grant(dataset, grantee, units, until, false));
        _grantsOf[dataset].push(grant);
        emit AccessGranted(grant, dataset, grantee, units, until);
    }

    /// Take a grant back, at any time; an owner that left the federation still may.
    function revoke(uint256 grant) external {
        if (grant >= _grants.length) revert NoSuchGrant(grant);
        Grant storage found = _grants[grant];
        _requireOwner(found.dataset);
        if (found.revoked) revert AlreadyRevoked(grant);
        found.revoked = true;
        emit AccessRevoked(grant, found.dataset, found.grantee);
    }

    /// Whether `account` may read `unit` now: a live grant, and still a member.
    function canRead(uint256 dataset, address account, uint8 unit) external view returns (bool) {
        if (unit >= MAX_UNITS || registry.rolesOf(account) == 0) return false;
        uint256[] storage ids = _grantsOf[dataset];
        for (uint256 i = 0; i < ids.length; ++i) {
            Grant storage found = _grants[ids[i]];
            if (
                found.grantee == account && !found.revoked && found.until > block.timestamp
                    && (found.units >> unit) & 1 == 1
            ) return true;
        }
        return false;
    }

    function count() external view returns (uint256) {
        return _datasets.length;
    }

    /// Datasets `start` to `start + limit`; the id is the position.
    function page(uint256 start, uint256 limit) external view returns (Dataset[] memory found) {
        uint256 length = _clip(_datasets.length, start, limit);
        found = new Dataset[](length);
        for (uint256 i = 0; i < length; ++i) {
            found[i] = _datasets[start + i];
        }
    }

    function grantCount(uint256 dataset) external view returns (uint256) {
        return _grantsOf[dataset].length;
    }

    /// The dataset's grants in the order they were given, with their ids.
    function grantPage(uint256 dataset, uint256 start, uint256 limit)
        external
        view
        returns (uint256[] memory ids, Grant[] memory found)
    {
        uint256 length = _clip(_grantsOf[dataset].length, start, limit);
        ids = new uint256[](length);
        found = new Grant[](length);
        for (uint256 i = 0; i < length; ++i) {
            ids[i] = _grantsOf[dataset][start + i];
            found[i] = _grants[ids[i]];
        }
    }

    /// ERC-5192: every token is locked.
    function locked(uint256 tokenId) external view returns (bool) {
        _requireOwned(tokenId);
        return true;
    }

    function supportsInterface(bytes4 interfaceId) public view override returns (bool) {
        return interfaceId == 0xb45a3c0e || super.supportsInterface(interfaceId);
    }

    function _update(address to, uint256 tokenId, address auth) internal override returns (address) {
        address from = super._update(to, tokenId, auth);
        if (from != address(0)) revert NotTransferable();
        return from;
    }

    function _requireOwner(uint256 dataset) private view {
        if (dataset >= _datasets.length) revert NoSuchDataset(dataset);
        if (_datasets[dataset].owner != msg.sender) revert NotOwner(dataset, msg.sender);
    }

    function _clip(uint256 size, uint256 start, uint256 limit) private pure returns (uint256) {
        uint256 length = start >= size ? 0 : size - start;
        return length > limit ? limit : length;
    }
}
