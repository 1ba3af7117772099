"""Audit: whether the stored winners of this machine still win."""
