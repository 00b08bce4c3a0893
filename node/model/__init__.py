"""Models on disk: keyed checkpoints, their key files, and the keyring of the daemon."""
