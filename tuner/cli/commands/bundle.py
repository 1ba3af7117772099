"""``moetune bundle``: pack tuned kernels, sign, verify and install them."""

from __future__ import annotations

import json
import shlex
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from tuner.bundle import build as builder
from tuner.bundle import install as installer
from tuner.bundle import signing
from tuner.bundle.archive import MANIFEST, SIGNATURE
from tuner.bundle.manifest import Part, Table
from tuner.bundle.reader import Bundle, check_signer, read_bundle
from tuner.bundle.report import lines
from tuner.cli import screen
from tuner.cli.options import Model, db_option, json_option, models_options
from tuner.host.files import write_named
from tuner.host.paths import trust_dir
from tuner.store.database import path_to_read
from tuner.target import named

_path = click.Path(path_type=Path)
_file = click.argument("file", type=_path)
_key = click.option(
    "--key", type=_path,
    help="Private key to sign with; made where it is not there, KEY.pub beside it, and trusted here.",
)  # fmt: skip
_trust = click.option(
    "--trust", default="signed", show_default=True,
    help="What it takes: signed (by a trusted key), unsigned (any), or sha256:HEX (this one file).",
)  # fmt: skip


@click.group()
def bundle() -> None:
    """One file of tuned kernels that verifies itself and runs without a compiler."""


@bundle.command()
@models_options
@click.option(
    "--target", "targets", multiple=True, default=("host",), show_default=True,
    help="Architecture or GPU (nvidia-h100) to pack kernels for; once for each.",
)  # fmt: skip
@click.option("-o", "--output", type=_path, required=True, help="The file to write.")
@_key
@db_option
def build(
    models: list[Model], targets: tuple[str, ...], output: Path, key: Path | None, db: Path | None
) -> int:
    """Pack the kernels that the database keeps for MODEL... on each target.

    Where a target has none, the template's default is compiled for it. All code that runs on this machine is
    run once against the self-test before the file is there.
    """
    problems = [model.problem for model in models]
    if key is not None and not key.exists():
        _say(f"{_new_key(key, trust=True)} (made just now)")
    made = builder.build(problems, [named(t) for t in targets], path_to_read(db), _say)
    with tempfile.TemporaryDirectory(prefix="moetune-") as folder:
        draft = Path(folder) / "draft.moe"
        write_named(draft, made)
        proven = installer.prove(draft, "unsigned")
        _say(f"self-test right on {', '.join(proven) or 'none: no code in it runs here'}")
        content = _signed(draft, "unsigned", key) if key else made
    write_named(output, content)
    screen.echo(f"{output}: {len(content)} bytes, {'signed' if key else 'not signed'}")
    _say(f"to install it, here or elsewhere: {_install_line(output, key)}")
    return 0


@bundle.command()
@click.argument("key", type=_path)
@click.option("--trust", is_flag=True, help="Trust it on this machine, too.")
def keygen(key: Path, trust: bool) -> None:
    """Make a private key in KEY and its public key in KEY.pub."""
    screen.echo(_new_key(key, trust))


@bundle.command("trust")
@click.argument("public", type=_path)
def trust_key(public: Path) -> None:
    """Let bundles run here that the owner of the public key PUBLIC signed."""
    screen.echo(f"{signing.trust(public)}: trusted, in {trust_dir()}")


@bundle.command()
@_file
@click.option("--key", type=_path, required=True, help="Private key to sign with.")
@click.option("-o", "--output", type=_path, help="The signed file; FILE itself unless given.")
def sign(file: Path, key: Path, output: Path | None) -> None:
    """Sign FILE, in place of any signature that it had."""
    content = _signed(file, "unsigned", key)
    write_named(output or file, content)
    screen.echo(f"{output or file}: signed")


@bundle.command()
@_file
@_trust
@json_option
def verify(file: Path, trust: str, as_json: bool) -> None:
    """Check signature and digests of FILE and say what it holds; nothing in it is run."""
    found = read_bundle(file, trust)
    if as_json:
        screen.echo(json.dumps(_facts(found), indent=2))
        return
    screen.echo("\n".join(_told(found)))


@bundle.command()
@_file
@_trust
@click.option(
    "--key", type=_path,
    help="Public key of who made it: it must have signed FILE, and is trusted here from now on.",
)  # fmt: skip
@click.option("--device", default="cuda:0", show_default=True, help="The GPU for code for GPUs.")
@json_option
def install(file: Path, trust: str, key: Path | None, device: str, as_json: bool) -> int:
    """Verify FILE, run its self-test here, and compare its speed with what was measured where it was tuned.

    Says ok, slower than shipped, or refused; ends with 1 where it is refused.
    """
    if key is not None:
        if trust != "signed":
            raise click.UsageError("--key: asks for a signature; leave --trust out")
        check_signer(file, key)
        _say(f"{signing.trust(key)}: trusted from now on, in {trust_dir()}")
    found = installer.install(file, trust, device=device)
    screen.echo(json.dumps(found.to_json(), indent=2) if as_json else "\n".join(lines(found)))
    return found.exit_code


def _say(line: str) -> None:
    screen.echo(line, err=True)


def _new_key(key: Path, trust: bool) -> str:
    """Makes a private key and its public key; says which they are."""
    name, public = signing.generate(key), signing.public_path(key)
    if trust:
        signing.trust(public)
    return f"{name}: {key} signs, {public} verifies{' and is trusted here' if trust else ''}"


def _install_line(file: Path, key: Path | None) -> str:
    """The command that installs a bundle that was built just now, for who has it and the public key."""
    trust = ["--key", str(signing.public_path(key))] if key else ["--trust", "unsigned"]
    return shlex.join(["moetune", "bundle", "install", str(file), *trust])


def _signed(file: Path, trust: str, key: Path | None) -> bytes:
    archive = read_bundle(file, trust).archive
    members = {n: archive.read(n) for n in archive.sizes if n not in (MANIFEST, SIGNATURE)}
    return builder.packed(archive.read(MANIFEST), members, key)


def _facts(found: Bundle) -> dict[str, Any]:
    manifest = found.manifest
    parts = [
        {
            "problem": section.problem.name,
            "digest": section.problem.digest,
            "target": part.target.label,
            "tuned": part.tuned,
            "note": part.note,
            "kernels": sorted(part.builds),
            "select": {load: _rules(table) for load, table in part.tables.items()},
        }
        for section in manifest.sections
        for part in section.parts
    ]
    return {
        "sha256": found.sha256,
        "signer": found.signer,
        "abi": manifest.abi,
        "toolchain": manifest.toolchain,
        "members": len(manifest.members),
        "parts": parts,
    }


def _rules(table: Table) -> list[dict[str, Any]]:
    return [{"up_to_tokens": r.up_to_tokens, "variant": r.variant} for r in table.rules]


def _told(found: Bundle) -> Iterator[str]:
    manifest = found.manifest
    signed = f"signed by {found.signer}" if found.signer else "signature not asked for"
    yield f"{found.path}: whole, {signed}"
    yield f"sha256:{found.sha256}"
    yield f"{len(manifest.members)} members, ABI {manifest.abi}, {manifest.toolchain}"
    for section in manifest.sections:
        yield section.problem.describe()
        for part in section.parts:
            yield f"  {part.target.label}: {part.note}"
            yield from (f"    {line}" for line in _selects(part))


def _selects(part: Part) -> Iterator[str]:
    letters = {variant: chr(ord("A") + i) for i, variant in enumerate(sorted(part.builds))}
    yield from (f"{letter}: {variant}" for variant, letter in letters.items())
    for load, table in part.tables.items():
        rules = [
            f"else {letters[r.variant]}"
            if r.up_to_tokens is None
            else f"T <= {r.up_to_tokens}: {letters[r.variant]}"
            for r in table.rules
        ]
        yield f"select {load}: {'; '.join(rules)}"
