"""HDF5 files that appear only when complete, also where the disk is full."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py

from lowmag.publish import publishing

ERRNO = re.compile(r"errno = (\d+)")


@contextmanager
def publishing_hdf5(path: Path | str, *, libver: str = "latest") -> Iterator[h5py.File]:
    """A new HDF5 file that becomes `path` when the block ends without an error; see `publish.publishing`.

    With `libver="earliest"` programs built on any HDF5 1.x can read it.
    """
    with publishing(path) as temporary:
        file = h5py.File(temporary, "w", libver=libver, locking=False)
        try:
            yield file
            file.flush()  # the last moment that an error of writing can be told without harm
        except BaseException as error:
            _discard(file)
            number = ERRNO.search(str(error))
            if isinstance(error, RuntimeError) and number:
                raise OSError(int(number[1]), os.strerror(int(number[1]))) from error
            raise
        file.close()


def _discard(file: h5py.File) -> None:
    """Close a file that is not kept.

    HDF5 writes on closing what it still holds and, where it cannot, crashes the process some time later: so
    it is given memory to write to.
    """
    if hasattr(os, "memfd_create"):  # Linux
        sink = os.memfd_create("discarded")
        os.dup2(sink, file.id.get_vfd_handle())
        os.close(sink)
    file.close()
