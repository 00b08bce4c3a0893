"""What the daemon needs from the outside, and nothing about how it is got.

Each port has a real adapter and one in memory under `node/adapters/`, and one conformance
suite under `tests/conformance/` that both must pass.  Services and the driver are written
against these names only, so a federation can run inside one test without a socket, and a
transport or a chain can be replaced by writing one module.
"""
