"""The only place with IO: the daemon, its adapters, command line and verifier."""
