"""Codegen: from a variant to Mojo source and from there to a binary, in a cache."""
