"""Failure: what kind of failure a trial's status and message mean, for the search.

A status says what became of a trial; the search wants to know what else fails for the same reason. The
kinds are the statuses, with two of them told apart: a compiler that takes too long meets a
larger source again, a kernel that hangs says nothing about others; and a kernel for which memory
is lacking is no other crash.
"""

from __future__ import annotations

# Constraint names of the sampler; a space file's [[monotone]] names one of them.
FAILURES = ("compile", "build_timeout", "timeout", "crash", "memory", "wrong", "invalid")

OUT_OF_MEMORY = "out of memory"
_COMPILER = "mojo build:"
# The kernel of the system ends a process that takes the last memory.
_KILLED = "SIGKILL"


def kind(status: str, message: str = "") -> str:
    """The kind of failure of a trial; empty where it has a time (`ok`, `slow`)."""
    if status in ("ok", "slow"):
        return ""
    if OUT_OF_MEMORY in message or (status == "crash" and _KILLED in message):
        return "memory"
    if status == "timeout" and message.startswith(_COMPILER):
        return "build_timeout"
    return status
