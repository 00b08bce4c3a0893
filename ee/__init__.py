"""Equivariant Encryption as tensor maths: no network, disk or clock."""
