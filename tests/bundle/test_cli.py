"""``moetune bundle``: what each verb prints, writes and ends with."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.bundles import V2, ZEN4, bundle
from tests.commands import Run
from tuner.bundle import install as installer
from tuner.bundle.archive import SIGNATURE
from tuner.bundle.install import Installed, Result
from tuner.bundle.reader import read_bundle
from tuner.cpu.kernel import ABI

TINY = "--hidden 48 --expert-dim 40 --experts 4 --top-k 2"


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    return bundle(tmp_path / "plain.moe", (ZEN4, V2))


def test_keygen_sign_verify(moetune: Run, tmp_path: Path, plain: Path) -> None:
    key, signed = tmp_path / "key", tmp_path / "signed.moe"
    made = moetune(f"bundle keygen {key}")
    assert made.code == 0
    assert made.out.endswith(f"{key} signs, {key}.pub verifies\n")
    assert moetune(f"bundle sign {plain} --key {key} -o {signed}").out == f"{signed}: signed\n"
    assert SIGNATURE not in read_bundle(plain, "unsigned").archive.sizes
    unknown = moetune(f"bundle verify {signed}")
    assert (unknown.code, unknown.out) == (1, "")
    assert "whom nobody trusts here" in unknown.err
    assert moetune(f"bundle trust {key}.pub").code == 0
    verified = moetune(f"bundle verify {signed}")
    assert verified.code == 0
    assert verified.out.splitlines()[0].startswith(f"{signed}: whole, signed by ")
    assert "    select uniform: T <= 8: A; else B" in verified.out.splitlines()


def test_a_key_that_is_trusted_at_once(moetune: Run, tmp_path: Path, plain: Path) -> None:
    assert "and is trusted here" in moetune(f"bundle keygen {tmp_path}/key --trust").out
    assert moetune(f"bundle sign {plain} --key {tmp_path}/key").code == 0
    assert moetune(f"bundle verify {plain}").code == 0


def test_signing_twice_is_signing_once(moetune: Run, tmp_path: Path, plain: Path) -> None:
    moetune(f"bundle keygen {tmp_path}/key")
    moetune(f"bundle sign {plain} --key {tmp_path}/key")
    once = plain.read_bytes()
    moetune(f"bundle sign {plain} --key {tmp_path}/key")
    assert plain.read_bytes() == once


def test_verify_for_programs(moetune: Run, plain: Path) -> None:
    told = json.loads(moetune(f"bundle verify {plain} --trust unsigned --json").out)
    assert (told["signer"], told["abi"], len(told["parts"])) == ("", ABI, 2)
    assert told["parts"][0]["select"]["uniform"] == [
        {"up_to_tokens": 8, "variant": "k_a1"},
        {"up_to_tokens": None, "variant": "k_a2"},
    ]


def test_what_is_refused(moetune: Run, plain: Path) -> None:
    said = moetune(f"bundle verify {plain}")
    assert (said.code, said.out) == (1, "")
    assert said.err == (
        f'moetune: {plain}: is not signed; `moetune bundle sign` it, or say trust="unsigned"\n'
    )
    assert moetune(f"bundle verify {plain} --trust maybe").code == 2
    assert moetune(f"bundle sign {plain} --key {plain}").code == 2


def test_install_refuses_with_its_own_words(moetune: Run, plain: Path) -> None:
    said = moetune(f"bundle install {plain}")
    assert said.code == 1
    assert said.out.splitlines()[-1] == f"{plain}: refused"
    told = json.loads(moetune(f"bundle install {plain} --json").out)
    assert (told["verdict"], told["results"][0]["verdict"]) == ("refused", "refused")
    assert "is not signed" in told["results"][0]["notes"][0]


@pytest.mark.parametrize(
    ("verdict", "code"), [("ok", 0), ("slower than shipped", 0), ("refused", 1)]
)
def test_install_ends_with_the_verdict(
    moetune: Run, plain: Path, monkeypatch: pytest.MonkeyPatch, verdict: str, code: int
) -> None:
    cell = {
        "tokens": 4,
        "load": "uniform",
        "fraction": 0.4,
        "shipped_fraction": 0.8,
        "slower": True,
    }
    result = Result(verdict, "small", ("why",), "znver4", 1.5e-7, (cell,))
    found = Installed(str(plain), "a1b2", (Result("ok", "wide", (), "znver4", 0.0), result))
    monkeypatch.setattr(installer, "install", lambda *_, device: found)
    said = moetune(f"bundle install {plain}")
    assert said.code == code
    assert said.out.splitlines()[-1] == f"{plain} (signed by a1b2): {verdict}"
    if code == 0:
        assert "  4 tokens, uniform: 40% of the ceiling, 80% where tuned: slower" in said.out


def test_install_where_there_is_no_command_line(plain: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tuner.bundle", "install", plain, "--json"],
        capture_output=True, text=True,
    )  # fmt: skip
    assert (done.returncode, json.loads(done.stdout)["verdict"]) == (1, "refused")


def test_what_cannot_be_built(moetune: Run, tmp_path: Path) -> None:
    said = moetune(f"bundle build nonesuch -o {tmp_path}/x.moe")
    assert (said.code, "nonesuch" in said.err) == (2, True)
    assert moetune(f"bundle build {TINY} --target nonesuch -o {tmp_path}/x.moe").code == 2
    assert moetune(f"bundle build -o {tmp_path}/x.moe").code == 2
    assert not list(tmp_path.glob("*.moe*"))


@pytest.mark.compiler
@pytest.mark.slow
def test_build_fat_and_install(moetune: Run, tmp_path: Path) -> None:
    """Two targets without winners; the older one runs where the newer is not wanted."""
    path = tmp_path / "fat.moe"
    moetune(f"bundle keygen {tmp_path}/key --trust")
    said = moetune(
        f"bundle build {TINY} --target host --target x86-64-v2 --key {tmp_path}/key -o {path}"
    )
    assert said.code == 0
    assert said.out == f"{path}: {path.stat().st_size} bytes, signed\n"
    assert "self-test right on" in said.err
    assert "x86-64-v2" in said.err
    installed = moetune(f"bundle install {path}")
    assert installed.code == 0
    assert "the template's default, compiled for it" in installed.out
