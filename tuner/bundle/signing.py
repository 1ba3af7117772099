"""Signatures: Ed25519 (RFC 8032) over the bytes of the manifest. The only file that knows `cryptography`.

Keys are PEM files, as OpenSSL writes them. A public key is trusted when it lies in the user's folder of
trusted keys. The member ``manifest.sig`` is the public key (32 bytes) and the signature (64 bytes).
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from tuner.bundle.private import check_unwritable, unwritable_folder, write_whole
from tuner.errors import BundleSignatureError, BundleTrustError, UsageError
from tuner.host.files import write_new
from tuner.host.paths import trust_dir

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

KEY_BYTES, SIGNATURE_BYTES = 32, 64
_MAX_PEM = 4096


def key_id(public: bytes) -> str:
    """The short name of a public key: the first 16 hex digits of its SHA-256."""
    return hashlib.sha256(public).hexdigest()[:16]


def generate(path: Path) -> str:
    """Write a new private key (0600) to `path` and its public key beside it (`.pub`); its id.

    Raises UsageError where a file is there already or cannot be written.
    """
    with _explained():
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    key = Ed25519PrivateKey.generate()
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    public = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    _write_new(path, private, 0o600)
    try:
        _write_new(public_path(path), public, 0o644)
    except BaseException:  # half a pair is of no use
        path.unlink()
        raise
    return key_id(key.public_key().public_bytes_raw())


def sign(manifest: bytes, key: Path) -> bytes:
    """What goes into ``manifest.sig``. Raises UsageError where `key` holds no private key."""
    private = _private_key(key)
    return private.public_key().public_bytes_raw() + private.sign(manifest)


def signer(manifest: bytes, signature: bytes) -> str:
    """The id of the trusted key that signed the manifest.

    Raises:
        BundleSignatureError: the signature is not that of the key that it names.
        BundleTrustError: the key is not trusted here, or `cryptography` is missing.
    """
    public = _verified(manifest, signature)
    if public not in set(_trusted()):
        raise BundleTrustError(
            f"is signed by {key_id(public)}, whom nobody trusts here; where you know whose key that is, "
            "`moetune bundle trust KEY.pub`, or install it with --key KEY.pub"
        )
    return key_id(public)


def require_signer(manifest: bytes, signature: bytes, key: Path) -> None:
    """Raises BundleSignatureError where it is not the owner of the public key `key` who signed the manifest,
    BundleTrustError without `cryptography`, UsageError where `key` holds no public key."""
    wanted, public = _read_public(key)[0], _verified(manifest, signature)
    if public != wanted:
        raise BundleSignatureError(
            f"is signed by {key_id(public)}, not by {key_id(wanted)}, which is {key}; don't trust it"
        )


def _verified(manifest: bytes, signature: bytes) -> bytes:
    """The public key that a signature names, which is that of this manifest."""
    with _explained():
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    public, rest = signature[:KEY_BYTES], signature[KEY_BYTES:]
    if len(rest) != SIGNATURE_BYTES:
        raise BundleSignatureError("its signature has another length; sign it again")
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(rest, manifest)
    except (InvalidSignature, ValueError) as error:
        raise BundleSignatureError(
            "its signature is not of this manifest; don't trust it"
        ) from error
    return public


def trust(path: Path) -> str:
    """Copy a public key into the folder of trusted keys; its id. Raises UsageError where it is none."""
    public, pem = _read_public(path)
    folder = unwritable_folder(trust_dir())
    write_whole(folder / f"{key_id(public)}.pub", pem, 0o600)
    return key_id(public)


def _trusted() -> Iterator[bytes]:
    """The public keys in the user's folder, which nobody else may write."""
    folder = trust_dir()
    if not folder.is_dir():
        return
    check_unwritable(folder)
    for path in sorted(folder.glob("*.pub")):
        check_unwritable(path)
        yield _read_public(path)[0]


def _read_public(path: Path) -> tuple[bytes, bytes]:
    """A public key: its 32 bytes, and the file."""
    with _explained():
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
        from cryptography.hazmat.primitives.serialization import load_pem_public_key

    pem = _read(path)
    try:
        key = load_pem_public_key(pem)
    except ValueError as error:
        raise UsageError(f"{path}: holds no public key ({error}); give one in PEM") from error
    if not isinstance(key, Ed25519PublicKey):
        raise UsageError(
            f"{path}: holds another kind of key; `moetune bundle keygen` makes Ed25519"
        )
    return key.public_bytes_raw(), pem


def _private_key(path: Path) -> Ed25519PrivateKey:
    with _explained():
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
        from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        key = load_pem_private_key(_read(path), password=None)
    except (ValueError, TypeError) as error:  # TypeError: it has a password
        raise UsageError(f"{path}: holds no private key that can be read ({error})") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise UsageError(
            f"{path}: holds another kind of key; `moetune bundle keygen` makes Ed25519"
        )
    return key


@contextlib.contextmanager
def _explained() -> Iterator[None]:
    """Without the library nothing can be told of a signature."""
    try:
        yield
    except ImportError as error:
        raise BundleTrustError(
            "signatures need the package cryptography (pip install cryptography); without it say "
            'trust="sha256:HEX" of the file, or trust="unsigned"'
        ) from error


def public_path(path: Path) -> Path:
    """Where the public key of the private key `path` lies."""
    return path.with_name(f"{path.name}.pub")


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as stream:
            return stream.read(_MAX_PEM)
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror}); name a key") from error


def _write_new(path: Path, content: bytes, mode: int) -> None:
    try:
        write_new(path, content, mode)
    except OSError as error:
        raise UsageError(f"{path}: cannot be written ({error.strerror}); name another") from error
