"""``moetune bundle``: what each verb prints, writes and ends with."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.bundles import V2, ZEN4, bundle
from tests.commands import Run, Said
from tuner.bundle import install as installer
from tuner.bundle import signing
from tuner.bundle.archive import SIGNATURE
from tuner.bundle.install import Installed, Result
from tuner.bundle.reader import read_bundle
from tuner.cpu.kernel import ABI
from tuner.host.paths import trust_dir

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


@pytest.fixture
def signed(tmp_path: Path) -> Path:
    """A bundle beside the keys of who signed it and of somebody else; nobody trusts them."""
    for name in ("key", "other"):
        signing.generate(tmp_path / name)
    return bundle(tmp_path / "signed.moe", (V2,), key=tmp_path / "key")


def test_install_names_whose_bundle_it_is(
    moetune: Run, signed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One line trusts the key and installs; later ones need no key."""
    asked: list[str] = []

    def verdict(path: Path, trust: str, device: str) -> Installed:
        asked.append(read_bundle(path, trust).signer)
        return Installed(str(path), asked[-1], (Result("ok", "small", (), "znver4", 0.0),))

    monkeypatch.setattr(installer, "install", verdict)
    key = signed.with_name("key.pub")
    said = moetune(f"bundle install {signed} --key {key}")
    assert said.code == 0
    assert said.err == f"{asked[0]}: trusted from now on, in {trust_dir()}\n"
    assert moetune(f"bundle install {signed}").code == 0
    assert moetune(f"bundle install {signed} --key {key}").code == 0
    assert asked == [signing.key_id(signing._read_public(key)[0])] * 3


@pytest.mark.parametrize("command", ["moetune bundle", "python -m tuner.bundle"])
def test_a_bundle_of_somebody_else_is_refused(
    moetune: Run, signed: Path, plain: Path, command: str
) -> None:
    """Before anything in it is run, and nobody is trusted for it."""

    def install(words: str) -> Said:
        if command == "moetune bundle":
            return moetune(f"bundle install {words}")
        line = [sys.executable, "-m", "tuner.bundle", "install", *words.split()]
        done = subprocess.run(line, capture_output=True, text=True)
        return Said(done.returncode, done.stdout, done.stderr)

    other = signed.with_name("other.pub")
    said = install(f"{signed} --key {other}")
    assert (said.code, said.out) == (1, "")
    assert f"which is {other}; don't trust it" in said.err
    assert "is not signed" in install(f"{plain} --key {other}").err
    assert install(f"{signed} --key {signed}").code == 2
    assert install(f"{signed} --key {other} --trust unsigned").code == 2
    assert not trust_dir().exists()


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
