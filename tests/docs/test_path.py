"""The way of a newcomer: README's own lines, from the check of the machine to a bundle that is served.

Each preset is a small layer, so that its kernels compile in seconds, and budgets of time are short.
"""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import tuner
from tests.commands import Run, Said
from tests.docs.pages import ROOT, commands
from tests.kernels import TINY, tokens

LINES = [" ".join(words) for _, words in commands(ROOT / "README.md") if words[0] == "moetune"]
BUNDLE = [line for line in LINES if line.startswith("moetune bundle")]
# What a session of a minute does, done in less.
SHORT = "--time 30s"
VARIABLES = ("MOETUNE_DB", "MOETUNE_TRUST", "MOETUNE_TEMPLATES", "XDG_CONFIG_HOME", "XDG_DATA_HOME")


def line(start: str) -> str:
    """The first line of README that starts so, without the program's name, and shortened."""
    found = next(line for line in LINES if line.startswith(f"moetune {start}"))
    return re.sub(r"--time \w+", SHORT, found).removeprefix("moetune ")


def move_into(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home folder, which is the working folder, too."""
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(home)
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    return home


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A newcomer's home, with the compile cache of the tests, where each preset is a small layer."""
    monkeypatch.setattr(tuner.Problem, "preset", classmethod(lambda cls, name: TINY))
    return move_into(tmp_path / "maker", monkeypatch)


def done(said: Said) -> Said:
    assert said.code == 0, said
    return said


def test_two_lines_build_and_install_a_bundle() -> None:
    assert len(BUNDLE) == 2
    build, install = BUNDLE
    assert build.endswith("-o granite.moe --key release-key")
    assert install == "moetune bundle install granite.moe --key release-key.pub"


@pytest.mark.compiler
def test_they_work_where_it_is_made_and_elsewhere(
    home: Path, moetune: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    build, install = (line.removeprefix("moetune ") for line in BUNDLE)
    made = done(moetune(build))
    assert made.out.endswith("bytes, signed\n")
    assert made.err.endswith(f"to install it, here or elsewhere: {BUNDLE[1]}\n")
    weights, x = tuner.Weights.random(TINY, seed=0), tokens(TINY, 7)
    y = tuner.load("granite.moe", weights)(x)  # whoever made it trusts it at once
    done(moetune(install))
    done(moetune(build))  # the key is there: the same one signs

    other = move_into(home.with_name("other"), monkeypatch)
    monkeypatch.setenv("MOETUNE_CACHE", str(other / "cache"))
    monkeypatch.setenv("PATH", "")
    for name in ("granite.moe", "release-key.pub"):
        shutil.copy(home / name, other)
    with pytest.raises(tuner.errors.BundleTrustError, match="install it with --key"):
        tuner.load("granite.moe", weights)
    assert "trusted from now on" in done(moetune(install)).err
    np.testing.assert_array_equal(tuner.load("granite.moe", weights)(x), y)


@pytest.fixture
def service(home: Path) -> Iterator[str]:
    """The address at which README's `moetune serve` answers, with a port that is free."""
    pytest.importorskip("uvicorn")
    command = [sys.executable, "-m", "tuner", *line("serve").split(), "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        yield process.stderr.readline().split()[0]
        process.send_signal(signal.SIGTERM)


def posted(service: str, bundle: Path, token: str) -> int:
    """The status of an answer of the service to a bundle."""
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/zip"}
    request = urllib.request.Request(
        f"{service.rstrip('/')}/v1/bundles", bundle.read_bytes(), headers
    )
    with urllib.request.urlopen(request) as answer:
        return int(answer.status)


@pytest.mark.compiler
@pytest.mark.timed
@pytest.mark.slow  # a session, two builds and a service: over a minute
def test_from_a_clone_to_a_served_bundle(home: Path, moetune: Run, service: str) -> None:
    """Two commands say what works here and how fast it is; three more pack, check and serve it."""
    assert "compiled, loaded and called a library" in done(moetune(line("doctor"))).out
    tuned = done(moetune(line("tune granite")))
    for count in (1, 16, 128):
        assert re.search(rf"^ *{count} .*\d(?:\.\d+)? us", tuned.out, re.MULTILINE), tuned.out
    assert "against NumPy" in tuned.out
    assert re.search(r"^ *1 +[\d.]+ .?s .* [\d.]+x ", tuned.out, re.MULTILINE), tuned.out
    for made in BUNDLE:
        done(moetune(made.removeprefix("moetune ")))
    layer = tuner.load("granite.moe", tuner.Weights.random(TINY, seed=0))
    assert layer.selection(16).match in ("exact", "tokens")
    assert (
        posted(
            service,
            Path("granite.moe"),
            done(moetune("token create me --scope bundles")).out.strip(),
        )
        == 201
    )
    answer = tuner.Client(service).best_config(TINY, 16, target=tuner.target.detect())
    assert answer.match == "exact"
