"""What the daemon does for its operator, written against the ports only."""
