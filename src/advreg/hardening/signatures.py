"""Signatures: ed25519 over the files of models and snapshots, made when they are written and verified before they are used.

The private key signs where challengers are trained; the public key, in ``harden.toml``, verifies anywhere. Write access to the
workspace alone then replaces no model unseen.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from advreg.errors import HardeningError
from advreg.hardening.store.audit import canonical
from advreg.plugins import import_extra
from advreg.runs import RunFolder

FILE = "signature.json"
SIGNED = (
    "model.json",
    "model.safetensors",
    "config.json",
    "adapter_config.json",
    "adapter_model.safetensors",
    "adapter.json",
    "adapter.safetensors",
    "language.toml",
)
"""Files of a run folder that decide what the model is."""
_MODULE = "cryptography.hazmat.primitives.asymmetric.ed25519"


def create_key(path: str | Path) -> str:
    """Create a private key in a new file that only its owner may read, and return the public key.

    Args:
        path: the file, best outside the workspace.

    Raises:
        HardeningError: the file exists, or cannot be written.
        MissingExtraError: cryptography is not installed.
    """
    secret = _ed25519().Ed25519PrivateKey.generate()
    try:
        descriptor = os.open(Path(path).expanduser(), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        raise HardeningError(f"cannot create the key {path}: {error.strerror}; choose another file") from error
    with os.fdopen(descriptor, "w") as file:
        file.write(secret.private_bytes_raw().hex() + "\n")
    return str(secret.public_key().public_bytes_raw().hex())


@dataclass(frozen=True)
class SigningKeys:
    """The keys of a workspace.

    Attributes:
        key: file of the private key; "" where nothing is signed.
        public: public key, 64 hexadecimal digits; "" derives it from the private key.
    """

    key: str = ""
    public: str = ""

    @property
    def public_key(self) -> str:
        """The public key that signatures must be of; empty where there are no keys, and nothing is verified."""
        return self.public or (str(_private(self.key).public_key().public_bytes_raw().hex()) if self.key else "")

    def sign_run(self, run: RunFolder) -> None:
        """Write ``signature.json`` into a model's run folder; without a private key nothing is written.

        Args:
            run: the run folder, complete.
        """
        if self.key:
            run.write_json(FILE, self._signature(_hashes(run)))

    def sign_file(self, file: Path) -> None:
        """Write the signature of one file beside it, ``NAME.signature.json``.

        Args:
            file: the file.
        """
        if self.key:
            signature = self._signature({file.name: _sha256(file)})
            RunFolder(file.parent).write_json(f"{file.name}.{FILE}", signature)

    def verify_run(self, run: RunFolder) -> None:
        """Verify the signature of a model's run folder; without keys nothing is verified.

        Args:
            run: the run folder.

        Raises:
            HardeningError: no signature, one of another key, or a file that was changed since.
        """
        if public := self.public_key:
            _verify(run / FILE, _hashes(run), public)

    def verify_file(self, file: Path) -> None:
        """Verify the signature of one file; without keys nothing is verified.

        Args:
            file: the file.

        Raises:
            HardeningError: no signature, one of another key, or the file was changed since.
        """
        if public := self.public_key:
            _verify(file.with_name(f"{file.name}.{FILE}"), {file.name: _sha256(file)}, public)

    def _signature(self, hashes: dict[str, str]) -> dict[str, Any]:
        secret = _private(self.key)
        signature = secret.sign(_statement(hashes)).hex()
        public = secret.public_key().public_bytes_raw().hex()
        return {"schema": "advreg/signature@1", "files": hashes, "public": public, "signature": signature}


def _verify(place: Path, hashes: dict[str, str], public: str) -> None:
    remedy = "restore it from a backup, or sign it again if you trust it"
    try:
        record = RunFolder(place.parent).read_json(place.name) if place.is_file() else {}
        signature, claimed = bytes.fromhex(str(record["signature"])), record["files"]
    except (KeyError, ValueError):
        raise HardeningError(f"{place.parent} has no signature {place.name}; {remedy}") from None
    changed = sorted(name for name in {*hashes, *claimed} if hashes.get(name) != claimed.get(name))
    if changed:
        raise HardeningError(f"{place.parent / changed[0]} was changed after it was signed; {remedy}")
    try:
        _ed25519().Ed25519PublicKey.from_public_bytes(bytes.fromhex(public)).verify(signature, _statement(hashes))
    except ValueError as error:
        raise HardeningError(f"signing.public is {public!r}; give 64 hexadecimal digits") from error
    except import_extra("cryptography.exceptions", "advreg[sign]").InvalidSignature:
        raise HardeningError(f"{place} is not a signature of the key {public[:12]}; {remedy}") from None


def _statement(hashes: dict[str, str]) -> bytes:
    return b"advreg/signature@1\n" + canonical(hashes).encode()


def _hashes(run: RunFolder) -> dict[str, str]:
    return {name: _sha256(run / name) for name in SIGNED if (run / name).is_file()}


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _private(path: str) -> Any:
    file = Path(path).expanduser()
    if file.is_file() and file.stat().st_mode & 0o077:
        raise HardeningError(f"the key {file} can be read by others; chmod 600 {file}")
    try:
        return _ed25519().Ed25519PrivateKey.from_private_bytes(bytes.fromhex(file.read_text().strip()))
    except (OSError, ValueError) as error:
        raise HardeningError(
            f"{file} holds no private key; create one with `advreg harden sign --key {file}`"
        ) from error


def _ed25519() -> Any:
    return import_extra(_MODULE, "advreg[sign]")
