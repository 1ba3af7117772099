"""Store: the database of what was measured, and its forms as text."""
