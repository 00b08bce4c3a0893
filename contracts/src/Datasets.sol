// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {ERC721} from "@openzeppelin/contracts/token/ERC721/ERC721.sol";
import {EIP712} from "@openzeppelin/contracts/utils/cryptography/EIP712.sol";
import {SignatureChecker} from "@openzeppelin/contracts/utils/cryptography/SignatureChecker.sol";
import {Listings} from "./Listings.sol";
import {Membership} from "./Membership.sol";
import {Registry} from "./Registry.sol";
import {DATA_PROVIDER} from "./Roles.sol";

/// Who may read which consent units of which dataset, for which purposes, until when.
///
/// A grant is a record and not a token: it is bound to who asked and what for.  There is one
/// per dataset and grantee; giving again replaces it.  Only a dataset's committee raises
/// access, in one of three ways: by a transaction, by a signature that anybody may submit, or
/// through the Market when a request is approved.  Whatever narrows (a revocation, new terms,
/// a withdrawal, the end of a membership) acts at once, because it is read here and not
/// copied anywhere.
contract Datasets is Listings, EIP712 {
    /// What is asked for or given: bit i of `units` is consent unit i, `purposes` are DUO
    /// permissions, `acknowledged` the modifiers that the grantee agreed to.
    struct Scope {
        uint64 units;
        uint32 purposes;
        uint32 acknowledged;
    }

    /// One slot.
    struct Grant {
        uint64 units;
        uint32 purposes;
        uint32 acknowledged;
        uint40 until;
        uint40 given;
        /// When the committee last decided on this grantee.
        uint40 decided;
        bool revoked;
    }

    /// A grant as its committee signs it off chain.
    struct Order {
        uint256 dataset;
        address grantee;
        Scope scope;
        uint40 until;
        /// The dataset's version that the committee looked at.
        uint32 version;
        uint40 issued;
        /// The last moment at which it may be submitted.
        uint40 deadline;
    }

    bytes32 private constant _ORDER_TYPE = keccak256(
        "Order(uint256 dataset,address grantee,Scope scope,uint40 until,uint32 version,uint40 issued,uint40 deadline)Scope(uint64 units,uint32 purposes,uint32 acknowledged)"
    );

    bytes32 private constant _SCOPE_TYPE =
        keccak256("Scope(uint64 units,uint32 purposes,uint32 acknowledged)");

    /// The one contract that may pass on a committee's approval.
    address public immutable market;

    mapping(uint256 dataset => mapping(address grantee => Grant)) private _grants;

    event AccessGranted(
        uint256 indexed dataset, address indexed grantee, Scope scope, uint40 until
    );
    event AccessRevoked(uint256 indexed dataset, address indexed grantee);
    event OrdersCancelled(uint256 indexed dataset, address indexed grantee);
    /// ERC-7507
    event UpdateUser(uint256 indexed tokenId, address indexed user, uint64 expires);

    error InvalidExpiry(uint256 until, uint256 earliest, uint256 latest);
    error PurposeNotAllowed(uint32 purposes, uint32 allowed);
    error NotAcknowledged(uint32 acknowledged, uint32 required);
    error AlreadyRevoked(uint256 dataset, address grantee);
    error NotMarket(address account);
    error OwnDataset(uint256 dataset);
    error StaleVersion(uint32 version, uint32 current);
    error StaleOrder(uint40 issued, uint40 decided);
    error OrderExpired(uint40 deadline);
    error OrderFromTheFuture(uint40 issued);
    error NarrowerThanGranted(uint64 units, uint32 purposes, uint40 until);
    error BadSignature();

    constructor(Registry registry_, address market_)
        ERC721("Rexis dataset", "RXD")
        EIP712("Rexis datasets", "1")
        Membership(registry_)
    {
        market = market_;
    }

    /// Let a member read some units for some purposes until a time.  Given to somebody who
    /// is no member, or by an owner that left, it has no effect (`unitsFor`).
    function give(uint256 dataset, address grantee, Scope calldata scope, uint40 until) external {
        _give(_decidable(dataset, msg.sender), dataset, grantee, scope, until);
    }

    /// The same, by whoever holds the committee's signature (ECDSA, or ERC-1271 of a
    /// contract).  An order counts once, and not at all after a later decision on the same
    /// grantee: a revocation also ends every order that was signed before it.
    function giveBySignature(Order calldata order, bytes calldata signature) external {
        Stored storage found = _stored(order.dataset);
        Grant storage grant = _grants[order.dataset][order.grantee];
        if (block.timestamp > order.deadline) revert OrderExpired(order.deadline);
        if (order.issued > block.timestamp) revert OrderFromTheFuture(order.issued);
        if (order.issued <= grant.decided) revert StaleOrder(order.issued, grant.decided);
        _requireVersion(found, order.version);
        if (!SignatureChecker.isValidSignatureNow(found.committee, orderDigest(order), signature)) {
            revert BadSignature();
        }
        _give(found, order.dataset, order.grantee, order.scope, order.until);
    }

    /// The Market passes on that `by` approved a request.  `by` must be who decides, the owner
    /// in good standing, because it is paid for this, and what the grantee has already stays.
    function giveFor(
        address by,
        uint256 dataset,
        address grantee,
        Scope calldata scope,
        uint40 until,
        uint32 version
    ) external {
        if (msg.sender != market) revert NotMarket(msg.sender);
        Stored storage found = _decidable(dataset, by);
        address owner = _ownerOf(dataset);
        if (grantee == owner) revert OwnDataset(dataset);
        _requireRole(owner, DATA_PROVIDER);
        _requireVersion(found, version);
        _requireWider(dataset, grantee, scope, until);
        _give(found, dataset, grantee, scope, until);
    }

    /// Take a grant back, at any time; an owner that left the federation still may.
    function revoke(uint256 dataset, address grantee) external {
        _requireParty(dataset);
        _revoke(dataset, grantee);
    }

    /// Make every order for this grantee that was signed until now worthless, and leave
    /// the grant as it is.
    function cancelOrders(uint256 dataset, address grantee) external {
        _requireParty(dataset);
        _grants[dataset][grantee].decided = uint40(block.timestamp);
        emit OrdersCancelled(dataset, grantee);
    }

    /// What a request has to agree with, checked, and what it costs.  `duration` is in days.
    function quote(uint256 dataset, Scope calldata scope, uint16 duration)
        external
        view
        returns (bytes32 record, uint32 version, uint96 price, address token)
    {
        Stored storage found = _stored(dataset);
        _requireTerms(found, dataset, scope);
        if (duration == 0 || duration > found.maxDays) {
            revert InvalidExpiry(duration, 1, found.maxDays);
        }
        price = found.price;
        return (found.record, found.revisions + 1, price, price == 0 ? address(0) : found.token);
    }

    /// Whether `account` decides on access to a dataset.
    function decides(uint256 dataset, address account) external view returns (bool) {
        return _stored(dataset).committee == account;
    }

    function grantOf(uint256 dataset, address grantee) external view returns (Grant memory) {
        return _grants[dataset][grantee];
    }

    /// The grants of these accounts, in their order; `given` is zero where there is none.
    function grantsOf(uint256 dataset, address[] calldata grantees)
        external
        view
        returns (Grant[] memory found)
    {
        found = new Grant[](grantees.length);
        for (uint256 i = 0; i < grantees.length; ++i) {
            found[i] = _grants[dataset][grantees[i]];
        }
    }

    /// The units that `account` may read now for all of `purposes`, as a bitmap.  A grant
    /// does not outlive the membership it was given to: one that ended and began again, or
    /// began later, starts with nothing.
    function unitsFor(uint256 dataset, address account, uint32 purposes)
        public
        view
        returns (uint64)
    {
        Stored storage found = _stored(dataset);
        Grant storage grant = _grants[dataset][account];
        if (found.phase == Phase.Withdrawn || grant.revoked || grant.until <= block.timestamp) return 0;
        if (purposes == 0 || purposes & ~(grant.purposes & found.allowed) != 0) return 0;
        if (found.required & ~grant.acknowledged != 0) return 0;
        (uint32 roles, uint40 since) = registry.memberSince(account);
        if (roles == 0 || since > grant.given) return 0;
        if (registry.rolesOf(_ownerOf(dataset)) & DATA_PROVIDER == 0) return 0;
        return grant.units & ~found.withdrawn;
    }

    function hasAccess(uint256 dataset, address account, uint32 purposes)
        external
        view
        returns (bool)
    {
        return unitsFor(dataset, account, purposes) != 0;
    }

    /// Whether `reader` may read anything, for any purpose it was granted; the name and
    /// shape that tools for tokenised research look for.
    function canRead(address reader, uint256 tokenId) external view returns (bool) {
        return userExpires(tokenId, reader) != 0;
    }

    /// ERC-7507: when the access of `user` ends; zero if it has none now.
    function userExpires(uint256 tokenId, address user) public view returns (uint256) {
        Grant storage grant = _grants[tokenId][user];
        uint32 purposes = grant.purposes & _stored(tokenId).allowed;
        return unitsFor(tokenId, user, purposes) == 0 ? 0 : grant.until;
    }

    /// What a committee signs.
    function orderDigest(Order calldata order) public view returns (bytes32) {
        bytes32 scope = keccak256(abi.encode(_SCOPE_TYPE, order.scope));
        return _hashTypedDataV4(
            keccak256(
                abi.encode(
                    _ORDER_TYPE,
                    order.dataset,
                    order.grantee,
                    scope,
                    order.until,
                    order.version,
                    order.issued,
                    order.deadline
                )
            )
        );
    }

    function _decidable(uint256 dataset, address by) private view returns (Stored storage found) {
        found = _stored(dataset);
        if (found.committee != by) revert NotCommittee(dataset, by);
    }

    function _requireParty(uint256 dataset) private view {
        if (msg.sender != _stored(dataset).committee && msg.sender != _ownerOf(dataset)) {
            revert NotCommittee(dataset, msg.sender);
        }
    }

    function _requireVersion(Stored storage found, uint32 version) private view {
        uint32 current = found.revisions + 1;
        if (version != current) revert StaleVersion(version, current);
    }

    function _requireWider(uint256 dataset, address grantee, Scope calldata scope, uint256 until)
        private
        view
    {
        Grant storage grant = _grants[dataset][grantee];
        if (grant.revoked || grant.until <= block.timestamp) return;
        if (
            grant.units & ~scope.units != 0 || grant.purposes & ~scope.purposes != 0
                || grant.until > until
        ) {
            revert NarrowerThanGranted(grant.units, grant.purposes, grant.until);
        }
    }

    function _requireTerms(Stored storage found, uint256 dataset, Scope calldata scope)
        private
        view
    {
        uint64 units = scope.units;
        Phase phase = found.phase;
        if (phase == Phase.Withdrawn) revert Withdrawn(dataset);
        if (units == 0 || uint256(units) >> found.units != 0) revert InvalidUnits(units);
        if (phase == Phase.Reduced && units & found.withdrawn != 0) revert InvalidUnits(units);
        uint32 allowed = found.allowed;
        if (scope.purposes == 0 || scope.purposes & ~allowed != 0) {
            revert PurposeNotAllowed(scope.purposes, allowed);
        }
        uint32 required = found.required;
        if (required & ~scope.acknowledged != 0) {
            revert NotAcknowledged(scope.acknowledged, required);
        }
    }

    function _give(
        Stored storage found,
        uint256 dataset,
        address grantee,
        Scope calldata scope,
        uint40 until
    ) private {
        _requireTerms(found, dataset, scope);
        uint256 latest = block.timestamp + uint256(found.maxDays) * 1 days;
        if (until <= block.timestamp || until > latest) {
            revert InvalidExpiry(until, block.timestamp + 1, latest);
        }
        _grants[dataset][grantee] = Grant(
            scope.units,
            scope.purposes,
            scope.acknowledged,
            until,
            uint40(block.timestamp),
            uint40(block.timestamp),
            false
        );
        emit AccessGranted(dataset, grantee, scope, until);
        emit UpdateUser(dataset, grantee, until);
    }

    function _revoke(uint256 dataset, address grantee) private {
        Grant storage grant = _grants[dataset][grantee];
        if (grant.revoked) revert AlreadyRevoked(dataset, grantee);
        grant.revoked = true;
        grant.decided = uint40(block.timestamp);
        emit AccessRevoked(dataset, grantee);
        emit UpdateUser(dataset, grantee, 0);
    }
}
