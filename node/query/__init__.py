"""Queries where the data are: the program's digest, its sandbox, the budget (docs/queries.md)."""
