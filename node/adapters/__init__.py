"""Real and in-memory implementations of the ports; foreign exceptions stop here."""
