"""The attack suite as an operator runs it: real weights, real text, one table."""
