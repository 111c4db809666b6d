import math

import pytest
from lowmag import wording


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (1231011, "1\N{NARROW NO-BREAK SPACE}231\N{NARROW NO-BREAK SPACE}011"),
        (488.3, "488"),
        (26.21, "26.2"),
        (0.01256, "0.0126"),
        (0.000001234, "1.2e-06"),
        (0, "0"),
        (math.nan, wording.NONE),
        (None, wording.NONE),
    ],
)
def test_numbers_have_three_digits(value: float | None, expected: str) -> None:
    assert wording.three_digits(value) == expected


def test_intervals_and_differences() -> None:
    assert wording.with_interval({"value": 0.8666, "low": 0.801, "high": 0.9301}) == "0.87 [0.80, 0.93]"
    row = {"difference": -0.0001, "low": -0.051, "high": 0.012}
    assert wording.with_interval(row, "difference") == "0.00 [−0.05, +0.01]"
    assert wording.with_interval({"value": 0.5, "low": math.nan, "high": 1}) == "0.50"


@pytest.mark.parametrize(
    ("p", "expected"), [(0.0004, "<0.001"), (0.02, "0.020"), (0.344, "0.34"), (1.0, "1.00")]
)
def test_p_values(p: float, expected: str) -> None:
    assert wording.probability(p) == expected


@pytest.mark.parametrize(
    ("value", "expected"), [(0.276, "0.28 s"), (41.2, "41 s"), (300, "5 min"), (9000, "2.5 h")]
)
def test_seconds_come_in_the_unit_that_fits(value: float, expected: str) -> None:
    assert wording.seconds(value) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/data/lab 1/a.svs is broken", "lab 1/a.svs is broken"),
        ("cannot open '/home/someone/b.svs': no", "cannot open 'b.svs': no"),
        (r"C:\scans\c.svs (see D:/x/d.tif)", "c.svs (see d.tif)"),
        ("5 of 6 mm/px and/or 10x", "5 of 6 mm/px and/or 10x"),
        ("/c.svs", "c.svs"),
        ("slides/x/y.svs is missing", "slides/x/y.svs is missing"),
        ("//server/share/z.svs", "z.svs"),
    ],
)
def test_no_folder_of_a_machine_is_told(text: str, expected: str) -> None:
    assert wording.without_folders(text) == expected
