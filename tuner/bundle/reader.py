"""Reading a bundle: the file once into memory, trust, manifest, digests; and only then what it says.

Nothing of a bundle is unpacked to disk or run here.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tuner.bundle import manifest as manifests
from tuner.bundle import signing
from tuner.bundle.archive import MANIFEST, SIGNATURE, Archive, parse, read_file
from tuner.bundle.manifest import Manifest
from tuner.cpu.kernel import ABI, FORMER_ABI
from tuner.errors import (
    BundleAbiError,
    BundleDigestError,
    BundleError,
    BundleManifestError,
    BundleTrustError,
    MoetuneError,
    UsageError,
)
from tuner.gpu import ptx
from tuner.gpu.program import layer_program
from tuner.measure import gpu_probe

_PINNED = re.compile(r"sha256:([0-9a-fA-F]{64})")


@dataclass(frozen=True)
class Bundle:
    """A bundle whose every byte was checked.

    Attributes:
        sha256: of the file.
        manifest_sha256: of the manifest, which names what is in it whoever signed it.
        signer: id of the key; empty where trust did not rest on a signature.
    """

    path: Path
    archive: Archive
    manifest: Manifest
    sha256: str
    manifest_sha256: str
    signer: str


def read_bundle(path: Path, trust: str = "signed") -> Bundle:
    """Read and check a bundle.

    Args:
        trust: ``signed`` needs a signature by a trusted key; ``sha256:HEX`` takes the one file that has this
            digest; ``unsigned`` takes any file that is whole.

    Raises:
        UsageError: `trust` is none of these.
        BundleError: one of its kinds, for whatever is wrong.
    """
    _check_trust(trust)
    return read_bytes(read_file(path), path, trust)


def read_bytes(data: bytes, path: Path, trust: str) -> Bundle:
    """The same for the bytes of a file; `path` is where they came from."""
    sha256 = hashlib.sha256(data).hexdigest()
    _check_pinned(path, sha256, trust)
    archive = parse(data, str(path))
    raw = archive.read(MANIFEST)
    signer = _signer(archive, raw) if trust == "signed" else ""
    manifest = manifests.parse(raw, str(path))
    _check_members(archive, manifest)
    if manifest.abi not in (ABI, FORMER_ABI):
        raise BundleAbiError(
            f"{path}: its kernels speak ABI {manifest.abi}, this moetune {FORMER_ABI} and {ABI}; "
            "take the moetune of its maker, or build it again"
        )
    _check_programs(archive, manifest)
    return Bundle(path, archive, manifest, sha256, hashlib.sha256(raw).hexdigest(), signer)


def check_signer(path: Path, key: Path) -> None:
    """Whether the owner of the public key `key` signed a bundle, whoever is trusted here.

    Raises:
        UsageError: `key` holds no public key.
        BundleError: one of its kinds: somebody else signed, or nobody, or the file is no bundle.
    """
    archive = parse(read_file(path), str(path))
    raw = archive.read(MANIFEST)
    with _labelled(archive):
        signing.require_signer(raw, _signature(archive), key)


def _check_trust(trust: str) -> None:
    if trust not in ("signed", "unsigned") and not _PINNED.fullmatch(trust):
        raise UsageError(f"trust={trust!r}: must be signed, unsigned or sha256: and 64 hex digits")


def _check_pinned(path: Path, sha256: str, trust: str) -> None:
    pinned = _PINNED.fullmatch(trust)
    if pinned and pinned[1].lower() != sha256:
        raise BundleTrustError(f"{path}: has SHA-256 {sha256}, not the one that is trusted")


def _signer(archive: Archive, raw: bytes) -> str:
    with _labelled(archive):
        return signing.signer(raw, _signature(archive))


def _signature(archive: Archive) -> bytes:
    if SIGNATURE not in archive.sizes:
        raise BundleTrustError('is not signed; `moetune bundle sign` it, or say trust="unsigned"')
    return archive.read(SIGNATURE)


@contextlib.contextmanager
def _labelled(archive: Archive) -> Iterator[None]:
    """What is wrong with a signature is said of the file."""
    try:
        yield
    except BundleError as error:
        raise type(error)(f"{archive.label}: {error}") from error


def _check_members(archive: Archive, manifest: Manifest) -> None:
    """Whether the members are just those of the manifest, byte by byte."""
    there = set(archive.sizes) - {MANIFEST, SIGNATURE}
    if odd := sorted(there ^ manifest.members.keys()):
        raise BundleManifestError(
            f"{archive.label}: {odd[0]} is only in the manifest or only in the file"
        )
    for name, member in manifest.members.items():
        content = archive.read(name)
        if hashlib.sha256(content).hexdigest() != member.sha256 or len(content) != member.bytes:
            raise BundleDigestError(
                f"{archive.label}: {name} is not what was packed; don't trust it"
            )


def _check_programs(archive: Archive, manifest: Manifest) -> None:
    """Whether programs for GPUs can be read and are their problem's; that needs no GPU."""
    for section in manifest.sections:
        for part in (p for p in section.parts if p.target.kind == "gpu"):
            for build in part.builds.values():
                with _named(archive, build.binary):
                    text = archive.read(build.binary).decode()
                    layer_program(section.problem, text, build.variant)
            with _named(archive, part.probe):
                gpu_probe.check(ptx.parse(archive.read(part.probe).decode()))


@contextlib.contextmanager
def _named(archive: Archive, member: str) -> Iterator[None]:
    """What is wrong with a program is said of its member."""
    try:
        yield
    except (MoetuneError, ValueError) as error:
        raise BundleAbiError(f"{archive.label}: {member}: {error}") from error
