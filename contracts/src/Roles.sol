// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

// Bits of a member's roles, as in protocol/members.py.
uint32 constant DATA_PROVIDER = 1;
uint32 constant RESEARCHER = 2;
uint32 constant COMPUTE_HOST = 4;
uint32 constant AUDITOR = 8;
