"""Quotas of processor time and limits of memory, as the files of control groups tell them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tuner.host import quota
from tuner.host.quota import bytes_within, cores_within


@pytest.fixture
def groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of all control groups; this process is in one of version 2, a/b."""
    (tmp_path / "own").write_text("2:memory:/m\n1:cpu,cpuacct:/c/d\n0::/a/b\n")
    folder = tmp_path / "cgroup"
    (folder / "a" / "b").mkdir(parents=True)
    (folder / "cpu").mkdir()
    monkeypatch.setattr(quota, "_OWN", tmp_path / "own")
    monkeypatch.setattr(quota, "_CGROUPS", folder)
    return folder


@pytest.mark.parametrize(
    ("group", "text", "cores"),
    [
        ("a/b", "100000 100000\n", 1),
        ("a/b", "250000 100000\n", 3),
        ("a/b", "10000 100000\n", 1),
        ("a/b", "3200000 100000\n", 8),
        ("a/b", "max 100000\n", 8),
        ("a/b", "", 8),
        ("a", "200000 100000\n", 2),
        (".", "400000 100000\n", 4),
        ("other", "100000 100000\n", 8),
    ],
)
def test_the_least_of_a_group_and_those_around_it(
    groups: Path, group: str, text: str, cores: int
) -> None:
    (groups / group).mkdir(exist_ok=True)
    (groups / group / "cpu.max").write_text(text)
    assert cores_within(8) == cores


@pytest.mark.parametrize(("limit", "cores"), [("-1", 8), ("150000", 2)])
@pytest.mark.parametrize("group", ["cpu", "cpu/c", "cpu/c/d", "cpu,cpuacct/c/d"])
def test_control_groups_of_version_1(groups: Path, group: str, limit: str, cores: int) -> None:
    """The least of its group and those around it, wherever the controller is mounted."""
    (groups / group).mkdir(parents=True, exist_ok=True)
    (groups / group / "cpu.cfs_quota_us").write_text(f"{limit}\n")
    (groups / group / "cpu.cfs_period_us").write_text("100000\n")
    assert cores_within(8) == cores


@pytest.mark.parametrize(
    ("group", "files", "left"),
    [
        ("a/b", {"max": "1000", "current": "600", "stat": "anon 5\ninactive_file 50"}, 450),
        ("a", {"max": "1000", "current": "2000"}, 0),
        (".", {"max": "max", "current": "600"}, 10_000),
        ("a/b", {"max": "999999", "current": "1"}, 10_000),
        ("memory/m", {"limit_in_bytes": "1000", "usage_in_bytes": "600"}, 400),
        (
            "memory",
            {"limit_in_bytes": "9", "usage_in_bytes": "9", "stat": "total_inactive_file 3"},
            3,
        ),
    ],
)
def test_what_a_limit_of_memory_leaves(
    groups: Path, group: str, files: dict[str, str], left: int
) -> None:
    (groups / group).mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (groups / group / f"memory.{name}").write_text(f"{text}\n")
    assert bytes_within(10_000) == left


def test_a_system_without_control_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quota, "_OWN", tmp_path / "none")
    monkeypatch.setattr(quota, "_CGROUPS", tmp_path / "none")
    assert cores_within(8) == 8
    assert bytes_within(8) == 8
