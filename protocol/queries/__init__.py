"""Compute to data: named queries, their sums, their noise, their attestations (docs/queries.md).

Every query is one vector of integers, summed over records: a record adds to a few cells, the
same few whatever the query is about, so one noise, one mask and one sum serve all of them.
What a person wants to read (quantiles, a correlation, a survival curve) is made of the noisy
sum afterwards, and costs no privacy.
"""
