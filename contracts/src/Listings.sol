// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {ERC721} from "@openzeppelin/contracts/token/ERC721/ERC721.sol";
import {Membership} from "./Membership.sol";
import {Registry} from "./Registry.sol";
import {DATA_PROVIDER} from "./Roles.sol";

/// Datasets as tokens: what each is, on which terms it is given, and who decides.
///
/// A token does not move (ERC-5192): the right to give access follows the consent that
/// patients gave to one institution, and a sold token would carry it to another.  `record` is
/// the digest of the public listing, which names the Merkle root over the ciphertext, so one
/// digest binds both.  Consent units keep their number for ever: a new version may add units
/// and withdraw some, and never gives a number another meaning.
abstract contract Listings is ERC721, Membership {
    /// What a grantee has to accept.  Bits of `allowed` are permissions, bits of `required`
    /// modifiers of the Data Use Ontology (docs/chain.md has the table).
    struct Terms {
        uint96 price;
        /// The ERC-20 in which the price is asked; zero: settled elsewhere.
        address token;
        uint32 allowed;
        uint32 required;
        /// The longest a grant may last.
        uint16 maxDays;
    }

    /// What the world reads.
    struct Dataset {
        bytes32 record;
        address owner;
        /// Who decides on access: the owner, unless it named a committee.
        address committee;
        uint32 version;
        uint32 keyEpoch;
        uint8 units;
        bool open;
        /// Bitmap of consent units that are withdrawn for ever.
        uint64 withdrawn;
        Terms terms;
    }

    /// Two slots when fresh and free, and the second holds all that giving access needs; the
    /// third is for a price and for changes, the fourth for the price's token.
    struct Stored {
        bytes32 record;
        address committee;
        uint32 allowed;
        uint32 required;
        uint16 maxDays;
        uint8 units;
        Phase phase;
        uint64 withdrawn;
        uint32 revisions;
        uint32 rekeys;
        uint96 price;
        address token;
    }

    enum Phase {
        None,
        Open,
        /// Some units are withdrawn, so the bitmap has to be looked at.
        Reduced,
        Withdrawn
    }

    uint8 public constant MAX_UNITS = 64;

    /// The number of datasets, and the next one's id.
    uint256 public count;
    mapping(uint256 dataset => Stored) private _datasets;

    event DatasetListed(
        uint256 indexed dataset,
        address indexed owner,
        bytes32 record,
        uint8 units,
        uint96 price,
        address token,
        uint32 allowed,
        uint32 required,
        uint16 maxDays
    );
    event DatasetVersion(
        uint256 indexed dataset, uint32 version, bytes32 record, uint8 units, uint32 keyEpoch
    );
    event TermsChanged(
        uint256 indexed dataset,
        uint96 price,
        address token,
        uint32 allowed,
        uint32 required,
        uint16 maxDays
    );
    event CommitteeChanged(uint256 indexed dataset, address indexed committee);
    event UnitsWithdrawn(uint256 indexed dataset, uint64 units);
    event DatasetWithdrawn(uint256 indexed dataset);
    /// ERC-5192
    event Locked(uint256 tokenId);

    error InvalidRecord();
    error InvalidUnits(uint256 units);
    error InvalidTerms();
    error InvalidCommittee();
    error NotNext(uint256 expected, uint256 given);
    error NoSuchDataset(uint256 dataset);
    error NotOwner(uint256 dataset, address account);
    error NotCommittee(uint256 dataset, address account);
    error Withdrawn(uint256 dataset);
    error NotTransferable();

    /// Mint the token of a listing.  `nth` is how many datasets the caller has already, so a
    /// transaction sent twice lists once.
    function list(bytes32 record, uint8 units, uint256 nth, Terms calldata terms)
        external
        returns (uint256 dataset)
    {
        _requireRole(msg.sender, DATA_PROVIDER);
        if (record == 0) revert InvalidRecord();
        if (units == 0 || units > MAX_UNITS) revert InvalidUnits(units);
        uint256 expected = balanceOf(msg.sender);
        if (nth != expected) revert NotNext(expected, nth);
        dataset = count++;
        Stored storage made = _datasets[dataset];
        made.record = record;
        made.committee = msg.sender;
        made.units = units;
        made.phase = Phase.Open;
        _store(made, terms);
        _mint(msg.sender, dataset);
        emit Locked(dataset);
        emit DatasetListed(
            dataset,
            msg.sender,
            record,
            units,
            terms.price,
            terms.token,
            terms.allowed,
            terms.required,
            terms.maxDays
        );
    }

    /// Replace the listing: more units, other metadata, or new keys.  With `rekeyed` the
    /// ciphertext is new, and former grantees' keys do not open it.
    function addVersion(uint256 dataset, bytes32 record, uint8 units, bool rekeyed) external {
        Stored storage found = _own(dataset);
        if (record == 0) revert InvalidRecord();
        if (units < found.units || units > MAX_UNITS) revert InvalidUnits(units);
        found.record = record;
        found.units = units;
        found.revisions += 1;
        if (rekeyed) found.rekeys += 1;
        emit DatasetVersion(dataset, found.revisions + 1, record, units, found.rekeys + 1);
    }

    /// Terms for those that come; narrower ones also cut what was granted before.
    function setTerms(uint256 dataset, Terms calldata terms) external {
        _store(_own(dataset), terms);
        emit TermsChanged(
            dataset, terms.price, terms.token, terms.allowed, terms.required, terms.maxDays
        );
    }

    /// Hand the decision on access to a committee (an account or a contract), or, with the
    /// owner's own account, take it back.
    function setCommittee(uint256 dataset, address committee) external {
        if (committee == address(0)) revert InvalidCommittee();
        _own(dataset).committee = committee;
        emit CommitteeChanged(dataset, committee);
    }

    /// End the use of consent units for everybody, for ever.
    function withdrawUnits(uint256 dataset, uint64 units) external {
        Stored storage found = _own(dataset);
        if (units == 0 || uint256(units) >> found.units != 0) revert InvalidUnits(units);
        found.withdrawn |= units;
        found.phase = Phase.Reduced;
        emit UnitsWithdrawn(dataset, units);
    }

    /// End the use of the dataset for everybody, for ever.
    function withdraw(uint256 dataset) external {
        _own(dataset).phase = Phase.Withdrawn;
        emit DatasetWithdrawn(dataset);
    }

    /// Datasets `start` to `start + limit`; the id is the position.
    function page(uint256 start, uint256 limit) external view returns (Dataset[] memory found) {
        uint256 size = count;
        uint256 length = start >= size ? 0 : size - start;
        if (length > limit) length = limit;
        found = new Dataset[](length);
        for (uint256 i = 0; i < length; ++i) {
            found[i] = _shown(start + i);
        }
    }

    function datasetOf(uint256 dataset) external view returns (Dataset memory) {
        _stored(dataset);
        return _shown(dataset);
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

    function _stored(uint256 dataset) internal view returns (Stored storage found) {
        found = _datasets[dataset];
        if (found.phase == Phase.None) revert NoSuchDataset(dataset);
    }

    /// The dataset, if it is the caller's and not withdrawn.
    function _own(uint256 dataset) private view returns (Stored storage found) {
        found = _stored(dataset);
        address owner = _ownerOf(dataset);
        if (owner != msg.sender) revert NotOwner(dataset, msg.sender);
        if (found.phase == Phase.Withdrawn) revert Withdrawn(dataset);
    }

    function _store(Stored storage into, Terms calldata terms) private {
        if (terms.allowed == 0 || terms.maxDays == 0) revert InvalidTerms();
        into.allowed = terms.allowed;
        into.required = terms.required;
        into.maxDays = terms.maxDays;
        into.price = terms.price;
        into.token = terms.token;
    }

    function _shown(uint256 dataset) private view returns (Dataset memory) {
        Stored storage one = _datasets[dataset];
        return Dataset(
            one.record,
            _ownerOf(dataset),
            one.committee,
            one.revisions + 1,
            one.rekeys + 1,
            one.units,
            one.phase != Phase.Withdrawn,
            one.withdrawn,
            Terms(one.price, one.token, one.allowed, one.required, one.maxDays)
        );
    }
}
