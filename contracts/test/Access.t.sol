// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Datasets} from "../src/Datasets.sol";
import {Listings} from "../src/Listings.sol";
import {Registry} from "../src/Registry.sol";

interface Vm {
    function assume(bool condition) external pure;
    function prank(address sender) external;
    function warp(uint256 time) external;
}

/// What halmos proves of access for every input, not only for those that a test thought of:
/// `check_` functions hold for all arguments.  One dataset of `OWNER`, one member `GRANTEE`.
contract AccessTest {
    Vm private constant VM = Vm(address(uint160(uint256(keccak256("hevm cheat code")))));
    address private constant OWNER = address(0xA11CE);
    address private constant GRANTEE = address(0xB0B);
    address private constant MARKET = address(0xCAFE);
    uint256 private constant START = 1_800_000_000;

    Registry private registry;
    Datasets private datasets;

    function setUp() public {
        VM.warp(START);
        registry = new Registry(address(this));
        registry.admit(bytes32(uint256(1)), bytes32(uint256(2)), OWNER, 1, "owner");
        registry.admit(bytes32(uint256(3)), bytes32(uint256(4)), GRANTEE, 2, "grantee");
        datasets = new Datasets(registry, MARKET);
        VM.prank(OWNER);
        datasets.list(bytes32(uint256(5)), 64, 0, Listings.Terms(0, address(0), 0x1f, 0, 365));
    }

    /// Only who decides gives access, whatever is asked for.
    function check_onlyTheCommitteeGives(
        address who,
        Datasets.Scope calldata scope,
        uint40 until,
        uint32 purposes
    ) public {
        VM.assume(who != OWNER);
        VM.prank(who);
        try datasets.give(0, GRANTEE, scope, until) {
            assert(false);
        } catch {}
        assert(datasets.unitsFor(0, GRANTEE, purposes) == 0);
    }

    /// Nobody but the Market passes on an approval.
    function check_onlyTheMarketPassesOn(
        address who,
        address by,
        Datasets.Scope calldata scope,
        uint40 until
    ) public {
        VM.assume(who != MARKET);
        VM.prank(who);
        try datasets.giveFor(by, 0, GRANTEE, scope, until, 1) {
            assert(false);
        } catch {}
        assert(datasets.unitsFor(0, GRANTEE, 1) == 0);
    }

    /// What is read lies within what was given and within the terms, and not past its end.
    function check_accessIsWithinTheGrant(
        Datasets.Scope calldata scope,
        uint40 until,
        uint32 purposes,
        uint40 later
    ) public {
        VM.prank(OWNER);
        try datasets.give(0, GRANTEE, scope, until) {
            assert(until > START && until <= START + 365 days);
        } catch {
            return;
        }
        VM.assume(later >= START);
        VM.warp(later);
        uint64 units = datasets.unitsFor(0, GRANTEE, purposes);
        assert(units & ~scope.units == 0);
        if (units != 0) {
            assert(later < until);
            assert(purposes & ~scope.purposes == 0 && purposes & ~uint32(0x1f) == 0);
        }
    }

    /// After a revocation nothing is read, at no time and for no purpose.
    function check_revokedIsOver(
        Datasets.Scope calldata scope,
        uint40 until,
        uint32 purposes,
        uint40 later
    ) public {
        VM.prank(OWNER);
        try datasets.give(0, GRANTEE, scope, until) {} catch {}
        VM.prank(OWNER);
        datasets.revoke(0, GRANTEE);
        VM.warp(later);
        assert(datasets.unitsFor(0, GRANTEE, purposes) == 0);
    }

    /// Narrower terms act on what was given before.
    function check_termsCut(Datasets.Scope calldata scope, uint32 allowed, uint32 purposes) public {
        VM.assume(allowed != 0);
        VM.prank(OWNER);
        try datasets.give(0, GRANTEE, scope, uint40(START + 1 days)) {} catch {}
        VM.prank(OWNER);
        datasets.setTerms(0, Listings.Terms(0, address(0), allowed, 0, 365));
        if (datasets.unitsFor(0, GRANTEE, purposes) != 0) {
            assert(purposes & ~allowed == 0);
        }
    }

    /// A membership that ended takes its grants with it, also when it begins again.
    function check_membershipCuts(
        Datasets.Scope calldata scope,
        uint32 roles,
        uint32 purposes,
        uint16 pause
    ) public {
        VM.assume(pause != 0);
        VM.prank(OWNER);
        try datasets.give(0, GRANTEE, scope, uint40(START + 1 days)) {} catch {}
        VM.warp(START + pause);
        registry.setRoles(GRANTEE, 0);
        assert(datasets.unitsFor(0, GRANTEE, purposes) == 0);
        registry.setRoles(GRANTEE, roles);
        assert(datasets.unitsFor(0, GRANTEE, purposes) == 0);
    }
}
