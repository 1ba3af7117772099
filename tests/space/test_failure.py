from __future__ import annotations

import pytest

from tuner.cpu.buffers import allocate
from tuner.errors import KernelError
from tuner.space.failure import FAILURES, kind
from tuner.store.records import STATUSES


@pytest.mark.parametrize(
    ("status", "message", "expected"),
    [
        ("ok", "", ""),
        ("slow", "1.9 times the default's time", ""),
        ("compile", "kernel.mojo:3:1: error: no", "compile"),
        ("timeout", "mojo build: timed out after 120 s; raise the time limit", "build_timeout"),
        ("timeout", "race: no answer within 120 s; process killed", "timeout"),
        ("crash", "verify: the kernel's process was ended by SIGSEGV", "crash"),
        ("crash", "verify: the kernel's process was ended by SIGKILL", "memory"),
        ("crash", "out of memory: 4096 MiB cannot be had", "memory"),
        ("wrong", "row 3 differs", "wrong"),
    ],
)
def test_kinds(status: str, message: str, expected: str) -> None:
    assert kind(status, message) == expected


def test_every_status_has_a_kind_that_a_space_may_name() -> None:
    assert {kind(status) for status in STATUSES} <= {"", *FAILURES}


def test_memory_that_cannot_be_had_is_called_so() -> None:
    with pytest.raises(KernelError) as error:
        allocate(1 << 58)
    assert kind("crash", str(error.value)) == "memory"
