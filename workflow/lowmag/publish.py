"""Outputs that appear only when complete: temporary name, fsync, then `os.replace`."""

import errno
import fcntl
import hashlib
import json
import os
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from lowmag.errors import UserError
from lowmag.ownership import refuse_outlived

FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}  # what only writing can meet, wherever it is raised


@contextmanager
def reporting(path: Path, kinds: set[int] | None = None) -> Iterator[None]:
    """Turns the system's errors (of `kinds`, or all) into a UserError that says what to do about `path`."""
    try:
        yield
    except OSError as error:
        if kinds and error.errno not in kinds:
            raise
        cure = "make room there" if error.errno in FULL else "make its folder writable, or name another"
        reason = os.strerror(error.errno) if error.errno else error
        raise UserError(f"{path} cannot be written: {reason}; {cure} and rerun") from error


@contextmanager
def publishing(path: Path | str) -> Iterator[Path]:
    """A temporary path in the folder of `path` that becomes `path` when the block ends without an error.

    The suffix of `path` is kept, because writers choose their format by it. On an error the temporary
    file is removed and an existing `path` stays as it was. What a killed process left behind is written over
    by the next one with the same `path`. Raises UserError when the folder cannot be written to or is full,
    and in a job that has outlived its Snakemake, once another one is at work.
    """
    path = Path(path)
    with reporting(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = _temporary(path)
    try:
        with reporting(path, FULL):
            yield temporary
        with reporting(path):
            temporary.chmod(0o666 & ~_umask())
            _fsync(temporary)
            refuse_outlived(path)
            os.replace(temporary, path)
            _fsync(path.parent)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    finally:
        os.close(handle)


def _temporary(path: Path) -> tuple[int, Path]:
    """An empty file beside `path`, open and locked: its descriptor and its path.

    Every process of a machine takes the same name for the same `path`, so that leftovers do not pile up. The
    lock tells a leftover from the file of a process at work, beside which another name is taken.
    """
    machine = hashlib.sha256(socket.gethostname().encode()).hexdigest()[:8]
    usual = path.with_name(f".{path.stem}.{machine}{path.suffix}")
    with suppress(OSError):
        handle = os.open(usual, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        if _is_locked(handle, usual):
            return handle, usual
        os.close(handle)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}.", suffix=path.suffix)
    return handle, Path(name)


def _is_locked(handle: int, path: Path) -> bool:
    """Whether the open file at `path` is now ours, and empty."""
    if os.fstat(handle).st_nlink > 1:  # an output under a second name, left by a process that was killed
        path.unlink(missing_ok=True)
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks, where nobody keeps this name
        path.unlink(missing_ok=True)
        return False
    if not path.exists() or not os.path.samestat(os.fstat(handle), path.stat()):
        return False  # published by another process between opening and locking
    os.truncate(handle, 0)
    return True


def write_json(path: Path | str, content: Any) -> None:
    """Write `content` as indented JSON with sorted keys, atomically."""
    write_text(path, json.dumps(content, indent=2, sort_keys=True, allow_nan=False) + "\n")


def write_text(path: Path | str, text: str) -> None:
    """Write `text` as UTF-8, atomically."""
    with publishing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
