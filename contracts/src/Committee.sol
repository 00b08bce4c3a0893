// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IERC1271} from "@openzeppelin/contracts/interfaces/IERC1271.sol";
import {ECDSA} from "@openzeppelin/contracts/utils/cryptography/ECDSA.sol";
import {EIP712} from "@openzeppelin/contracts/utils/cryptography/EIP712.sol";

/// A data access committee: some people, any `threshold` of whom decide together.
///
/// They sign off chain.  Signatures of enough of them over an order for a grant make it valid
/// (ERC-1271, `Datasets.giveBySignature`), and over an act make this contract do it, which is
/// how a committee answers a request in the Market.  Who sits on it is fixed; a dataset's
/// owner changes its committee by naming another contract.
contract Committee is IERC1271, EIP712 {
    bytes32 private constant _ACT_TYPE =
        keccak256("Act(address target,bytes call,uint256 nonce,uint40 deadline)");

    uint256 public constant MAX_SEATS = 32;

    uint256 public immutable threshold;
    address[] private _seats;
    mapping(address => bool) public sits;
    /// The number of acts done, and the nonce of the next.
    uint256 public acts;

    event Acted(uint256 indexed nonce, address indexed target, bytes call);

    error InvalidSeats(uint256 seats, uint256 threshold);
    error InvalidSeat(address seat);
    error NotEnoughSignatures();
    error ActExpired(uint40 deadline);
    error InvalidTarget(address target);

    constructor(address[] memory seats_, uint256 threshold_) EIP712("Rexis committee", "1") {
        if (threshold_ == 0 || threshold_ > seats_.length || seats_.length > MAX_SEATS) {
            revert InvalidSeats(seats_.length, threshold_);
        }
        for (uint256 i = 0; i < seats_.length; ++i) {
            if (seats_[i] == address(0) || sits[seats_[i]]) revert InvalidSeat(seats_[i]);
            sits[seats_[i]] = true;
        }
        _seats = seats_;
        threshold = threshold_;
    }

    /// Do what enough of the committee signed; anybody may bring it.
    function act(address target, bytes calldata call, uint40 deadline, bytes[] calldata signatures)
        external
        returns (bytes memory)
    {
        if (block.timestamp > deadline) revert ActExpired(deadline);
        if (target.code.length == 0) revert InvalidTarget(target);
        uint256 nonce = acts;
        if (!_signed(actDigest(target, call, nonce, deadline), signatures)) {
            revert NotEnoughSignatures();
        }
        acts = nonce + 1;
        emit Acted(nonce, target, call);
        (bool success, bytes memory answer) = target.call(call);
        if (!success) {
            assembly ("memory-safe") {
                revert(add(answer, 0x20), mload(answer))
            }
        }
        return answer;
    }

    /// ERC-1271 over ABI-encoded `bytes[]`, in the order of the signers' addresses.
    function isValidSignature(bytes32 hash, bytes calldata signature)
        external
        view
        returns (bytes4)
    {
        bytes[] memory signatures = abi.decode(signature, (bytes[]));
        return _signed(hash, signatures) ? IERC1271.isValidSignature.selector : bytes4(0xffffffff);
    }

    function seats() external view returns (address[] memory) {
        return _seats;
    }

    /// What the committee signs for an act.
    function actDigest(address target, bytes calldata call, uint256 nonce, uint40 deadline)
        public
        view
        returns (bytes32)
    {
        return _hashTypedDataV4(
            keccak256(abi.encode(_ACT_TYPE, target, keccak256(call), nonce, deadline))
        );
    }

    /// Signatures of enough different seats, sorted by signer so that none counts twice.
    function _signed(bytes32 digest, bytes[] memory signatures) private view returns (bool) {
        if (signatures.length < threshold || signatures.length > MAX_SEATS) return false;
        address last = address(0);
        for (uint256 i = 0; i < signatures.length; ++i) {
            address signer = ECDSA.recover(digest, signatures[i]);
            if (signer <= last || !sits[signer]) return false;
            last = signer;
        }
        return true;
    }
}
