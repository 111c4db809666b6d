"""Which model files may be run: TorchScript is a program, and runs where the user has named its digest."""

import hashlib
from pathlib import Path

from lowmag.errors import UserError

PROGRAMS = (".pt", ".ts")


def sha256_of(path: Path | str) -> str:
    """SHA-256 of a file, 64 hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def require_trust(path: Path | str, sha256: str | None) -> None:
    """Raise UserError for a program whose digest is not given, and for a file of another digest."""
    if sha256 is None and Path(path).suffix.lower() not in PROGRAMS:
        return
    found = sha256_of(path)
    if sha256 is None:
        raise UserError(
            f"tissue.model: {path} is TorchScript, a program that runs with your rights. If you trust where "
            f"it comes from, set tissue.model_sha256 to {found}; or export the network to ONNX"
        )
    if found != sha256.lower():
        raise UserError(
            f"tissue.model: {path} has the SHA-256 {found}, tissue.model_sha256 says {sha256}: it is another "
            "file than the one you trusted"
        )
