"""Tune: a session from its default to its winners, and later checks of what it said."""
