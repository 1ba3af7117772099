"""Trust: what a bundle must bring along before anything in it is looked at."""

from __future__ import annotations

import dataclasses
import hashlib
import sys
from pathlib import Path

import pytest

from tests.bundles import V2, bundle, contents, rewritten
from tuner.bundle import signing
from tuner.bundle.archive import MANIFEST, SIGNATURE, write
from tuner.bundle.build import packed
from tuner.bundle.manifest import Manifest
from tuner.bundle.reader import read_bundle
from tuner.cpu.kernel import ABI
from tuner.errors import (
    BundleAbiError,
    BundleDigestError,
    BundleFolderError,
    BundleManifestError,
    BundleSignatureError,
    BundleTrustError,
    UsageError,
)


@pytest.fixture
def key(tmp_path: Path) -> Path:
    """A key that is not trusted yet."""
    signing.generate(tmp_path / "key")
    return tmp_path / "key"


@pytest.fixture
def signed(tmp_path: Path, key: Path) -> Path:
    """A bundle whose signer is trusted."""
    signing.trust(key.with_name("key.pub"))
    return bundle(tmp_path / "signed.moe", key=key)


def test_a_trusted_signature(signed: Path, key: Path) -> None:
    found = read_bundle(signed)
    public = signing._read_public(key.with_name("key.pub"))[0]
    assert found.signer == signing.key_id(public)
    assert found.sha256 == hashlib.sha256(signed.read_bytes()).hexdigest()


def test_an_unsigned_bundle(tmp_path: Path) -> None:
    path = bundle(tmp_path / "plain.moe")
    with pytest.raises(BundleTrustError, match="is not signed"):
        read_bundle(path)
    assert read_bundle(path, "unsigned").signer == ""


def test_an_unknown_signer(tmp_path: Path, key: Path) -> None:
    path = bundle(tmp_path / "strange.moe", key=key)
    with pytest.raises(BundleTrustError, match="whom nobody trusts here"):
        read_bundle(path)


def test_a_key_that_is_not_trusted_any_more(signed: Path, tmp_path: Path) -> None:
    for path in (tmp_path / "trusted").iterdir():
        path.unlink()
    with pytest.raises(BundleTrustError):
        read_bundle(signed)


def test_a_signature_of_another_manifest(signed: Path, key: Path) -> None:
    """The signature is good, and of a trusted key, but of other bytes."""
    manifest, members = contents([V2])
    other = dataclasses.replace(manifest, toolchain="Mojo 2.0").dump()
    signature = signing.sign(other, key)
    signed.write_bytes(write({MANIFEST: manifest.dump(), SIGNATURE: signature, **members}))
    with pytest.raises(BundleSignatureError, match="not of this manifest"):
        read_bundle(signed)


@pytest.mark.parametrize("size", [0, 32, 95, 97])
def test_a_signature_of_another_length(signed: Path, key: Path, size: int) -> None:
    manifest, members = contents([V2])
    signature = (signing.sign(manifest.dump(), key) + b"\0")[:size]
    signed.write_bytes(write({MANIFEST: manifest.dump(), SIGNATURE: signature, **members}))
    with pytest.raises(BundleSignatureError, match="another length"):
        read_bundle(signed)


def test_a_pinned_file(tmp_path: Path) -> None:
    path = bundle(tmp_path / "plain.moe")
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    assert read_bundle(path, f"sha256:{sha256}").sha256 == sha256
    bundle(path, [V2], change=lambda m: dataclasses.replace(m, moetune="9"))
    with pytest.raises(BundleTrustError, match="not the one that is trusted"):
        read_bundle(path, f"sha256:{sha256}")


@pytest.mark.parametrize(
    "trust", ["", "yes", "Signed", "sha256:", "sha256:12", "sha256:" + "g" * 64]
)
def test_trust_is_spelled_out(tmp_path: Path, trust: str) -> None:
    with pytest.raises(UsageError, match="must be signed, unsigned or sha256"):
        read_bundle(tmp_path / "absent.moe", trust)


def test_without_cryptography(signed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("cryptography")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "cryptography", None)
    with pytest.raises(BundleTrustError, match="pip install cryptography"):
        read_bundle(signed)
    assert read_bundle(signed, "unsigned").manifest.abi == ABI


def test_a_folder_of_keys_that_others_may_write(signed: Path, tmp_path: Path) -> None:
    (tmp_path / "trusted").chmod(0o777)
    with pytest.raises(BundleFolderError, match="others could write it"):
        read_bundle(signed)


def test_a_trusted_key_that_others_may_write(signed: Path, tmp_path: Path) -> None:
    (path,) = (tmp_path / "trusted").iterdir()
    path.chmod(0o666)
    with pytest.raises(BundleFolderError, match="others could write it"):
        read_bundle(signed)


def test_keys_are_never_overwritten(key: Path) -> None:
    assert key.stat().st_mode & 0o777 == 0o600
    with pytest.raises(UsageError, match="File exists"):
        signing.generate(key)


def test_what_is_no_key(key: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds no public key"):
        signing.trust(key)
    with pytest.raises(UsageError, match="holds no private key"):
        signing.sign(b"", key.with_name("key.pub"))
    with pytest.raises(UsageError, match="cannot be read"):
        signing.sign(b"", tmp_path / "absent")


def test_another_kind_of_key(tmp_path: Path) -> None:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

    made = X25519PrivateKey.generate()
    plain = serialization.NoEncryption()
    encoding, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    (tmp_path / "k").write_bytes(made.private_bytes(encoding, form, plain))
    with pytest.raises(UsageError, match="another kind of key"):
        signing.sign(b"", tmp_path / "k")


def test_a_member_that_was_exchanged(signed: Path, key: Path) -> None:
    """The archive is whole and the manifest signed; a binary is not the one that it names."""
    manifest, members = contents([V2])
    name = next(name for name in members if name.endswith("k_a1.so"))
    members[name] = members[name][:-1] + b"!"
    signed.write_bytes(packed(manifest.dump(), members, key))
    with pytest.raises(BundleDigestError, match=r"k_a1.so is not what was packed"):
        read_bundle(signed)


def test_a_member_too_many_or_too_few(tmp_path: Path) -> None:
    manifest, members = contents([V2])
    more = rewritten(tmp_path / "more.moe", manifest.dump(), {**members, "src/extra": b"1"})
    with pytest.raises(BundleManifestError, match="src/extra is only in"):
        read_bundle(more, "unsigned")
    name, *_ = members
    fewer = {n: c for n, c in members.items() if n != name}
    with pytest.raises(BundleManifestError, match=f"{name} is only in"):
        read_bundle(rewritten(tmp_path / "fewer.moe", manifest.dump(), fewer), "unsigned")


def test_another_abi(tmp_path: Path) -> None:
    def other(manifest: Manifest) -> Manifest:
        return dataclasses.replace(manifest, abi=manifest.abi + 1)

    with pytest.raises(BundleAbiError, match="speak ABI 3, this moetune 1 and 2;"):
        read_bundle(bundle(tmp_path / "abi.moe", change=other), "unsigned")
