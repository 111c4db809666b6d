from pathlib import Path

import pytest
from lowmag import gate

HEADER = "slide_id\tverdict\treason\tcure\n"


def test_bad_slides_are_named_with_their_cure(tmp_path):
    table = tmp_path / "check.tsv"
    table.write_text(HEADER + "A\tok\t\t\nB\tno_mpp\tnone stated\tfill in mpp\n")
    message = gate.bad_slides(table)
    assert "1 slides were rejected" in message
    assert "B: no_mpp: none stated; fill in mpp" in message
    assert "A:" not in message


def test_good_cohort_and_missing_table_say_nothing(tmp_path):
    table = tmp_path / "check.tsv"
    assert gate.bad_slides(table) == ""
    table.write_text(HEADER + "A\tok\t\t\n")
    assert gate.bad_slides(table) == ""


@pytest.mark.parametrize(("visible", "count"), [("", 0), ("-1", 0), ("0", 1), ("0,1", 2), ("GPU-a,GPU-b", 2)])
def test_visible_devices_decide_the_count(monkeypatch, visible, count):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert gate.gpu_count() == count


def test_devices_are_counted_where_nothing_is_said(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    names = {path.name for path in Path("/dev").glob("nvidia[0-9]*")}
    assert gate.gpu_count() == len(names)
