"""DICOM files of a folder: which series each belongs to, read without a library."""

import struct
from pathlib import Path
from typing import BinaryIO

PREAMBLE = 128
SERIES = (0x0020, 0x000E)
TRANSFER_SYNTAX = (0x0002, 0x0010)
IMPLICIT, BIG_ENDIAN = "1.2.840.10008.1.2", "1.2.840.10008.1.2.2"
LONG = {b"OB", b"OW", b"OF", b"OD", b"OL", b"OV", b"SQ", b"UT", b"UN", b"UC", b"UR", b"SV", b"UV"}
ITEM, ITEM_END, SEQUENCE_END = (0xFFFE, 0xE000), (0xFFFE, 0xE00D), (0xFFFE, 0xE0DD)
UNDEFINED = 0xFFFFFFFF
MOST_ELEMENTS = 100_000
MOST_UID_BYTES = 64
Tag = tuple[int, int]


def is_dicom(path: Path) -> bool:
    """Whether a file starts as DICOM files do."""
    try:
        with open(path, "rb") as file:
            return file.read(PREAMBLE + 4)[PREAMBLE:] == b"DICM"
    except OSError:
        return False


def series_of(folder: Path) -> dict[str, list[Path]]:
    """The DICOM files of a folder, sorted by name, by their SeriesInstanceUID; of no other depth."""
    found: dict[str, list[Path]] = {}
    for path in sorted(folder.iterdir()):
        if path.is_file() and not path.name.startswith(".") and is_dicom(path):
            found.setdefault(series_uid(path), []).append(path)
    return found


def series_uid(path: Path) -> str:
    """The SeriesInstanceUID of a DICOM file; empty where it states none or is damaged."""
    with open(path, "rb") as file:
        file.seek(PREAMBLE + 4)
        try:
            return _find(file)
        except (struct.error, RecursionError):
            return ""


def _find(file: BinaryIO) -> str:
    """Read elements in order until the series' one, at the top of the data set."""
    syntax, explicit = "", True
    for _ in range(MOST_ELEMENTS):
        place = file.tell()
        tag, length = _head(file, explicit=explicit)
        if tag[0] != 0x0002 and explicit and syntax in (IMPLICIT, BIG_ENDIAN):
            if syntax == BIG_ENDIAN:
                return ""
            explicit = False
            file.seek(place)
            continue
        if tag > SERIES or (tag in (TRANSFER_SYNTAX, SERIES) and length > MOST_UID_BYTES):
            return ""
        if tag in (TRANSFER_SYNTAX, SERIES):
            text = file.read(length).rstrip(b"\0 ").decode("ascii", "replace")
            if tag == SERIES:
                return text
            syntax = text
        else:
            _skip(file, length, explicit=explicit)
    return ""


def _head(file: BinaryIO, *, explicit: bool) -> tuple[Tag, int]:
    """Tag and length of the element here; afterwards the file stands at its value."""
    group, element = struct.unpack("<HH", file.read(4))
    tag = (group, element)
    if tag in (ITEM, ITEM_END, SEQUENCE_END) or not explicit:
        return tag, struct.unpack("<I", file.read(4))[0]
    kind, short = file.read(2), file.read(2)
    if kind in LONG:
        return tag, struct.unpack("<I", file.read(4))[0]
    return tag, struct.unpack("<H", short)[0]


def _skip(file: BinaryIO, length: int, *, explicit: bool) -> None:
    """Pass over a value; one of undefined length by its items, to its end."""
    if length != UNDEFINED:
        file.seek(length, 1)
        return
    for _ in range(MOST_ELEMENTS):
        tag, length = _head(file, explicit=explicit)
        if tag in (SEQUENCE_END, ITEM_END):
            return
        _skip(file, length, explicit=explicit)
    raise struct.error("no end of a sequence")
