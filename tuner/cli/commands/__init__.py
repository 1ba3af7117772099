"""Commands: each command of ``moetune``, or a family of them, in a file of its own."""
