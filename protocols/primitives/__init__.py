"""Constructions that the protocols are built from: one file, one construction, one source."""
