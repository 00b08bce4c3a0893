"""The host's half: a program that holds a keyed trunk and nothing that could unkey it."""
