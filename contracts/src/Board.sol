// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Anchors} from "./Anchors.sol";
import {Credits} from "./Credits.sol";
import {Market} from "./Market.sol";
import {Membership} from "./Membership.sol";
import {Parameters} from "./Parameters.sol";
import {Registry} from "./Registry.sol";
import {AUDITOR} from "./Roles.sol";

/// Cases that auditors decide: a receipt that is said to be wrong, a delivery that is said
/// not to have come.
///
/// Who opens a case puts up a bond; a host that is challenged answers with as much of its
/// stake.  Auditors look at the evidence off chain (they replay the receipt, or open the
/// message that was sent), vote once, and commit to their report.  The first side with the
/// quorum wins and takes the other's bond; without a quorum in time everybody gets back what
/// is theirs, and the same receipt may be challenged again.  Parties do not vote, nor does
/// anyone who became an auditor after the case was opened.
contract Board is Membership, Credits {
    enum Kind {
        Receipt,
        Delivery
    }

    enum Outcome {
        Pending,
        Upheld,
        Rejected,
        Undecided
    }

    /// Three slots, and what it is about.
    struct Case {
        address plaintiff;
        uint40 opened;
        uint40 closes;
        Kind kind;
        Outcome outcome;
        address defendant;
        uint16 quorum;
        uint16 upholding;
        uint16 rejecting;
        uint96 bond;
        /// What the case took of the host's stake, once it is upheld.
        uint96 taken;
        /// The request's id, or the key of the receipt.
        uint256 subject;
    }

    /// What a host answers with.
    struct Stake {
        uint96 free;
        uint96 leaving;
        uint40 leaves;
    }

    /// What came of somebody's part in cases; Reputation reads it.
    struct Tally {
        /// As host: receipts found wrong, and found right when challenged.
        uint32 caught;
        uint32 cleared;
        /// As challenger: challenges won and lost.
        uint32 right;
        uint32 wrong;
        /// As auditor.
        uint32 votes;
        /// Cases and disputes about receipts that are not decided yet, as host and as challenger:
        /// here, so that who decides one writes no slot that nobody wrote before.
        uint32 accused;
        uint32 accusing;
    }

    Parameters public immutable parameters;
    Anchors public immutable anchors;
    Market public immutable market;
    /// Decides about receipts by computing; may lock stakes and settle what became of them.
    address public immutable disputes;
    /// The ERC-20 of bonds and stakes; zero: a federation that asks for none.
    address public immutable token;

    /// The number of cases, and the next one's id.
    uint256 public count;
    mapping(uint256 number => Case) private _cases;
    mapping(uint256 number => mapping(address auditor => bool)) private _voted;
    mapping(uint256 receipt => bool) private _challenged;
    mapping(address host => Stake) private _stakes;
    mapping(address account => Tally) private _tally;

    event CaseOpened(
        uint256 indexed number,
        address indexed plaintiff,
        address indexed defendant,
        Kind kind,
        uint256 subject,
        bytes32 claim,
        uint96 bond
    );
    event ReceiptChallenged(
        uint256 indexed number, address indexed host, bytes32 root, uint256 index, bytes32 leaf
    );
    event Voted(uint256 indexed number, address indexed auditor, bool uphold, bytes32 report);
    event CaseClosed(uint256 indexed number, Outcome outcome);
    event StakeChanged(address indexed host, uint96 free, uint96 leaving, uint40 leaves);

    error NoToken();
    error NoSuchCase(uint256 number);
    error CaseOver(uint256 number);
    error CaseRuns(uint256 number, uint40 closes);
    error NotMarket(address account);
    error NotDisputes(address account);
    error NotIncluded(bytes32 leaf, uint256 index);
    error WindowOver(uint256 ended);
    error AlreadyChallenged(uint256 receipt);
    error AlreadyVoted(uint256 number, address auditor);
    error Partial(address account);
    error AuditorTooNew(uint40 since, uint40 opened);
    error InvalidDigest();
    error StakeTooSmall(uint96 stake, uint96 needed);
    error StillLiable(uint40 leaves);
    error NothingLeaves();
    error CasesPending(uint256 cases);

    constructor(
        Registry registry_,
        Parameters parameters_,
        Anchors anchors_,
        Market market_,
        address disputes_,
        address token_
    ) Membership(registry_) {
        parameters = parameters_;
        anchors = anchors_;
        market = market_;
        disputes = disputes_;
        token = token_;
    }

    /// Add to what the caller answers with as a host.
    function stake(uint96 amount) external nonReentrant onlyMember {
        if (token == address(0)) revert NoToken();
        Stake storage mine = _stakes[msg.sender];
        mine.free += amount;
        _told(msg.sender);
        _take(token, msg.sender, amount);
    }

    /// Ask for a part back.  It stays liable until everything that was anchored before may
    /// no longer be challenged; asking again starts the time anew.
    function unstake(uint96 amount) external {
        Stake storage mine = _stakes[msg.sender];
        if (amount > mine.free) revert StakeTooSmall(mine.free, amount);
        mine.free -= amount;
        mine.leaving += amount;
        mine.leaves = uint40(block.timestamp + parameters.values().unbonding);
        _told(msg.sender);
    }

    /// What was asked back becomes collectable, unless something is still undecided.
    function release() external {
        Stake storage mine = _stakes[msg.sender];
        uint96 amount = mine.leaving;
        if (amount == 0) revert NothingLeaves();
        if (block.timestamp < mine.leaves) revert StillLiable(mine.leaves);
        uint32 cases = _tally[msg.sender].accused;
        if (cases != 0) revert CasesPending(cases);
        mine.leaving = 0;
        _credit(token, msg.sender, amount);
        _told(msg.sender);
    }

    /// Say that a receipt is wrong: it stands at `index` of a batch that `host` anchored.
    function challenge(
        address host,
        bytes32 root,
        bytes32 leaf,
        uint256 index,
        bytes32[] calldata proof,
        bytes32 claim
    ) external nonReentrant onlyMember returns (uint256 number) {
        if (claim == 0) revert InvalidDigest();
        if (host == msg.sender) revert Partial(host);
        if (!anchors.includes(host, root, leaf, index, proof)) revert NotIncluded(leaf, index);
        Parameters.Values memory values = parameters.values();
        uint256 ended = uint256(anchors.batchOf(host, root).time) + values.challengeWindow;
        if (block.timestamp > ended) revert WindowOver(ended);
        uint256 receipt = uint256(keccak256(abi.encode(host, root, index)));
        if (_challenged[receipt]) revert AlreadyChallenged(receipt);
        _challenged[receipt] = true;
        uint96 bond = token == address(0) ? 0 : values.bond;
        _accuse(host, msg.sender);
        number = _open(Kind.Receipt, msg.sender, host, receipt, claim, bond, values);
        emit ReceiptChallenged(number, host, root, index, leaf);
        _hold(token, msg.sender, bond);
    }

    /// The Market passes on that a grantee disputes a delivery.
    function open(uint256 request, address plaintiff, address defendant, bytes32 claim)
        external
        nonReentrant
        returns (uint256 number)
    {
        if (msg.sender != address(market)) revert NotMarket(msg.sender);
        Parameters.Values memory values = parameters.values();
        uint96 bond = token == address(0) ? 0 : values.bond;
        number = _open(Kind.Delivery, plaintiff, defendant, request, claim, bond, values);
        _hold(token, plaintiff, bond);
    }

    /// A dispute begins, for the challenger's bond.
    function begin(address host, address challenger)
        external
        nonReentrant
        returns (uint96 bond)
    {
        if (msg.sender != disputes) revert NotDisputes(msg.sender);
        bond = token == address(0) ? 0 : parameters.values().bond;
        _accuse(host, challenger);
        _hold(token, challenger, bond);
    }

    /// A dispute ends.
    function settle(address host, address challenger, uint96 bond, Outcome outcome)
        external
        nonReentrant
    {
        if (msg.sender != disputes) revert NotDisputes(msg.sender);
        _payReceipt(challenger, host, bond, outcome);
        if (outcome != Outcome.Undecided) _tallied(challenger, host, outcome);
    }

    /// An auditor's finding, and the digest of its report.
    function vote(uint256 number, bool uphold, bytes32 report) external nonReentrant {
        Case storage found = _running(number);
        if (block.timestamp > found.closes) revert CaseOver(number);
        if (report == 0) revert InvalidDigest();
        if (msg.sender == found.plaintiff || msg.sender == found.defendant) {
            revert Partial(msg.sender);
        }
        (uint32 roles, uint40 since) = registry.rolesSince(msg.sender);
        if (roles & AUDITOR == 0) revert MissingRole(msg.sender, AUDITOR);
        if (since > found.opened) revert AuditorTooNew(since, found.opened);
        if (_voted[number][msg.sender]) revert AlreadyVoted(number, msg.sender);
        _voted[number][msg.sender] = true;
        _tally[msg.sender].votes += 1;
        emit Voted(number, msg.sender, uphold, report);
        uint16 same = uphold ? ++found.upholding : ++found.rejecting;
        if (same >= found.quorum) _close(number, uphold ? Outcome.Upheld : Outcome.Rejected);
    }

    /// Time is up without a quorum; anybody may say so.
    function close(uint256 number) external nonReentrant {
        Case storage found = _running(number);
        if (block.timestamp <= found.closes) revert CaseRuns(number, found.closes);
        _close(number, Outcome.Undecided);
    }

    function caseOf(uint256 number) external view returns (Case memory) {
        if (number >= count) revert NoSuchCase(number);
        return _cases[number];
    }

    /// Cases `start` to `start + limit`; the number is the position.
    function page(uint256 start, uint256 limit) external view returns (Case[] memory found) {
        uint256 length = start >= count ? 0 : count - start;
        if (length > limit) length = limit;
        found = new Case[](length);
        for (uint256 i = 0; i < length; ++i) {
            found[i] = _cases[start + i];
        }
    }

    function stakeOf(address host) external view returns (Stake memory) {
        return _stakes[host];
    }

    function tallyOf(address account) external view returns (Tally memory) {
        return _tally[account];
    }

    /// Cases and disputes about a host's receipts that are not decided yet.
    function pending(address host) external view returns (uint256) {
        return _tally[host].accused;
    }

    function _running(uint256 number) private view returns (Case storage found) {
        if (number >= count) revert NoSuchCase(number);
        found = _cases[number];
        if (found.outcome != Outcome.Pending) revert CaseOver(number);
    }

    /// As much of the host's stake as the bond, the part that leaves included.
    function _slash(address host, uint96 bond) private returns (uint96 taken) {
        Stake storage theirs = _stakes[host];
        uint96 fromFree = bond < theirs.free ? bond : theirs.free;
        uint96 rest = bond - fromFree;
        uint96 fromLeaving = rest < theirs.leaving ? rest : theirs.leaving;
        taken = fromFree + fromLeaving;
        if (taken == 0) return 0;
        theirs.free -= fromFree;
        theirs.leaving -= fromLeaving;
        _told(host);
    }

    function _open(
        Kind kind,
        address plaintiff,
        address defendant,
        uint256 subject,
        bytes32 claim,
        uint96 bond,
        Parameters.Values memory values
    ) private returns (uint256 number) {
        number = count++;
        _cases[number] = Case({
            plaintiff: plaintiff,
            opened: uint40(block.timestamp),
            closes: uint40(block.timestamp + values.voteWindow),
            kind: kind,
            outcome: Outcome.Pending,
            defendant: defendant,
            quorum: values.quorum,
            upholding: 0,
            rejecting: 0,
            bond: bond,
            taken: 0,
            subject: subject
        });
        emit CaseOpened(number, plaintiff, defendant, kind, subject, claim, bond);
    }

    function _close(uint256 number, Outcome outcome) private {
        Case storage found = _cases[number];
        found.outcome = outcome;
        (address plaintiff, address defendant) = (found.plaintiff, found.defendant);
        if (found.kind == Kind.Receipt) {
            found.taken = _payReceipt(plaintiff, defendant, found.bond, outcome);
        } else {
            _let(token, plaintiff, found.bond);
            _credit(token, outcome == Outcome.Rejected ? defendant : plaintiff, found.bond);
        }
        emit CaseClosed(number, outcome);
        if (found.kind == Kind.Delivery) {
            market.resolve(found.subject, outcome);
        } else if (outcome == Outcome.Undecided) {
            _challenged[found.subject] = false;
        } else {
            _tallied(plaintiff, defendant, outcome);
        }
    }

    /// The winner has its own and half of what the loser loses; undecided, everybody theirs.
    ///
    /// The stake is taken at the end and not set aside at the beginning, so nobody keeps it from
    /// others by disputes that lead nowhere.  The other half goes to all, so a host that loses
    /// to a friend, or a friend to a host, does not get its own money back.
    function _payReceipt(address challenger, address host, uint96 bond, Outcome outcome)
        private
        returns (uint96 taken)
    {
        _tally[host].accused -= 1;
        _tally[challenger].accusing -= 1;
        _let(token, challenger, bond);
        if (outcome == Outcome.Undecided) {
            _credit(token, challenger, bond);
            return 0;
        }
        bool upheld = outcome == Outcome.Upheld;
        taken = upheld ? _slash(host, bond) : 0;
        uint96 lost = upheld ? taken : bond;
        uint96 shared = lost / 2;
        _credit(token, upheld ? challenger : host, lost - shared);
        if (upheld) _credit(token, challenger, bond);
        _credit(token, parameters.owner(), shared);
    }

    function _accuse(address host, address challenger) private {
        _tally[host].accused += 1;
        _tally[challenger].accusing += 1;
    }

    function _tallied(address plaintiff, address defendant, Outcome outcome) private {
        bool upheld = outcome == Outcome.Upheld;
        upheld ? ++_tally[defendant].caught : ++_tally[defendant].cleared;
        upheld ? ++_tally[plaintiff].right : ++_tally[plaintiff].wrong;
    }

    function _told(address host) private {
        Stake storage mine = _stakes[host];
        emit StakeChanged(host, mine.free, mine.leaving, mine.leaves);
    }
}
