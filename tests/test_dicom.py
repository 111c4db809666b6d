import shutil
import struct

import pytest
from lowmag import check, dicom
from lowmag.reader import open_slide
from lowmag.record import load_record, require_same_file, size_of
from lowmag.sections import Check
from synthetic_slides import REAL_SLIDES, write_record

SAMPLE = REAL_SLIDES / "camelyon-overview.dcm"
real = pytest.mark.skipif(not REAL_SLIDES.is_dir(), reason="the shared slides are not on this machine")
UID = b"1.3.6.1.4.1.11129.5.7.0.1.517182092386.24422120.1688792467737634"
EXPLICIT, IMPLICIT = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2"


def element(group, number, kind, value, *, explicit=True, length=None):
    """One data element, little-endian."""
    n = len(value) if length is None else length
    tag = struct.pack("<HH", group, number)
    if not explicit:
        return tag + struct.pack("<I", n) + value
    if kind in ("SQ", "OB", "UN"):
        return tag + kind.encode() + bytes(2) + struct.pack("<I", n) + value
    return tag + kind.encode() + struct.pack("<H", n) + value


def write_dicom(path, uid, *, explicit=True):
    """A data set with a sequence of undefined length before the series, and another series within it."""
    inner = element(0x0020, 0x000E, "UI", b"9.9.9\0", explicit=explicit)
    item = struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF) + inner + struct.pack("<HHI", 0xFFFE, 0xE00D, 0)
    sequence = item + struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)
    syntax = EXPLICIT if explicit else IMPLICIT
    content = element(0x0002, 0x0010, "UI", syntax.encode().ljust(len(syntax) + len(syntax) % 2, b"\0"))
    content += element(0x0008, 0x0060, "CS", b"SM", explicit=explicit)
    content += element(0x0008, 0x1115, "SQ", sequence, explicit=explicit, length=0xFFFFFFFF)
    content += element(0x0010, 0x0010, "PN", b"A^B^", explicit=explicit)
    if uid is not None:
        content += element(0x0020, 0x000E, "UI", uid, explicit=explicit)
    path.write_bytes(bytes(128) + b"DICM" + content + element(0x7FE0, 0x0010, "OB", b"12", explicit=explicit))
    return path


@pytest.mark.parametrize("explicit", [True, False])
def test_series_is_the_one_of_the_file_and_not_of_a_sequence_in_it(tmp_path, explicit):
    assert dicom.series_uid(write_dicom(tmp_path / "a", b"1.2.3\0", explicit=explicit)) == "1.2.3"
    assert dicom.series_uid(write_dicom(tmp_path / "b", None, explicit=explicit)) == ""


def test_damaged_files_have_no_series(tmp_path):
    whole = write_dicom(tmp_path / "a", b"1.2.3\0").read_bytes()
    series = whole.index(b"1.2.3")
    for end in range(132, series, 3):
        (tmp_path / "b").write_bytes(whole[:end])
        assert dicom.series_uid(tmp_path / "b") == ""


def test_files_of_a_folder_are_sorted_by_series(tmp_path):
    for name, uid in (("b.dcm", b"1.2"), ("a", b"1.2"), ("c.dcm", b"1.3")):
        write_dicom(tmp_path / name, uid + b"\0")
    (tmp_path / "notes.txt").write_text("no DICOM")
    (tmp_path / "folder").mkdir()
    found = dicom.series_of(tmp_path)
    assert {uid: [path.name for path in files] for uid, files in found.items()} == {
        "1.2": ["a", "b.dcm"],
        "1.3": ["c.dcm"],
    }


def inspect(path):
    return check.inspect(check.SlideToCheck("S1", path), 0.3, Check())


@pytest.fixture
def folder(tmp_path):
    """A folder that holds one series, and a file beside it."""
    (tmp_path / "series").mkdir()
    shutil.copy(SAMPLE, tmp_path / "series" / "level-0")
    (tmp_path / "series" / "readme.txt").write_text("from the archive")
    return tmp_path / "series"


@real
def test_folder_of_one_series_is_a_slide(tmp_path, folder):
    record = load_record(write_record(tmp_path, folder, magnification=0.3))
    assert (record.verdict, record.source, record.vendor) == ("ok", "openslide", "dicom")
    assert (record.path, record.file) == (str(folder), str(folder / "level-0"))
    assert record.source_size == size_of(folder) > SAMPLE.stat().st_size
    with open_slide(record) as slide, open_slide(inspect(SAMPLE)) as alone:
        extent = slide.extent(64, 10 / 0.3, 0.2)
        assert (slide.read(300, 200, 64, extent) == alone.read(300, 200, 64, extent)).all()
    require_same_file(record)
    (folder / "readme.txt").unlink()
    with pytest.raises(Exception, match="inspect it again"):
        require_same_file(record)


@real
def test_two_series_in_a_folder_are_named(folder):
    content = (folder / "level-0").read_bytes()
    (folder / "other").write_bytes(content.replace(UID, UID[:-1] + b"5"))
    record = inspect(folder)
    assert record.verdict == "unsupported"
    assert (
        f"2 DICOM series, expected one: {UID.decode()} (level-0), {UID[:-1].decode()}5 (other)"
        in record.reason
    )
    assert "a folder and a row of its own" in record.cure


def test_folder_without_dicom_says_so(tmp_path):
    record = inspect(tmp_path)
    assert (record.verdict, record.cure[:19]) == ("unsupported", "correct column path")
    assert record.reason.endswith("is a folder without DICOM files")


def test_dicom_that_is_no_slide_is_told_in_plain_words(tmp_path):
    record = inspect(write_dicom(tmp_path / "ct.dcm", b"1.2.3\0"))
    assert record.verdict == "unsupported"
    assert record.reason.startswith("ct.dcm is DICOM, but no whole-slide picture that OpenSlide reads (")
    assert "VOLUME" in record.cure
    assert str(tmp_path) not in record.reason
