"""The command line `rexis`: it asks the daemon and prints what it hears."""
