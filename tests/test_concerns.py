"""What stands out in a cohort, and what does not."""

from collections.abc import Mapping

import pytest
from lowmag.concerns import KINDS, Concern, beyond_fences, concerns_of, gravity
from lowmag.record import SlideRecord
from lowmag.slide_facts import SlideFacts, TileFacts, TissueFacts

OF_RECORD = ("verdict", "reason", "width", "height", "bounds")


def tiles(n: int = 100, flags: Mapping[str, int] | None = None) -> TileFacts:
    return TileFacts(n, dict(flags or {}), (10.0,), 512.0, 10_000, 1.0)


def slide(name: str, **changes) -> SlideFacts:
    given = {"mpp_x": 0.25, "mpp_y": 0.25, "vendor": "aperio", "objective_power": 40.0}
    record = {key: changes.pop(key) for key in [*given, *OF_RECORD] if key in changes}
    facts = {"tissue": TissueFacts(1, 100.0, 0.3), "tiles": tiles()}
    return SlideFacts(SlideRecord(name, f"{name}.svs", **(given | record)), **(facts | changes))


def cohort(*unlike: SlideFacts) -> list[SlideFacts]:
    """Twelve ordinary slides that differ a little, and others."""
    usual = [
        slide(
            f"A{n}",
            tissue=TissueFacts(1, 80.0 + 4 * n, 0.3),
            tiles=tiles(flags={"blur": n % 3, "pen": n % 2}),
        )
        for n in range(12)
    ]
    return [*usual, *unlike]


def kinds(facts: SlideFacts) -> list[str]:
    return [concern.kind for concern in concerns_of(cohort(facts))[facts.slide_id]]


def test_ordinary_slides_are_of_no_concern():
    assert not any(concerns_of(cohort()).values())


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"verdict": "no_mpp", "tissue": None, "tiles": tiles(0)}, ["rejected"]),
        ({"tiles": tiles(0)}, ["empty"]),
        ({"tiles": tiles(flags={"read_error": 1})}, ["unread"]),
        ({"tiles": tiles(flags={"blur": 30})}, ["blur"]),
        ({"tiles": tiles(flags={"blur": 4})}, []),
        ({"tiles": tiles(flags={"pen": 30})}, ["pen"]),
        ({"tiles": tiles(flags={"mask_edge": 90, "transparent": 20})}, []),
        ({"tissue": TissueFacts(1, 3.0, 0.01)}, ["area"]),
        ({"tissue": TissueFacts(9, 3000.0, 0.9)}, ["area"]),
        ({"tissue": TissueFacts(1, 100.0, 0.3, "no pen was left out")}, ["tissue"]),
        ({"mpp_x": 0.5, "mpp_y": 0.5}, ["scale"]),
        ({"mpp_x": 0.26, "mpp_y": 0.26}, []),
        ({"mpp_x": 0.5, "mpp_y": 0.5, "objective_power": 20.0}, []),
        ({"mpp_x": 0.5, "mpp_y": 0.5, "vendor": "hamamatsu"}, []),
        ({"notes": ("one level only",)}, ["note"]),
        ({"notes": ("one level only",), "tiles": tiles(flags={"read_error": 1})}, ["unread", "note"]),
    ],
)
def test_a_slide_unlike_the_others(changes, expected):
    assert kinds(slide("odd", **changes)) == expected


def test_the_reason_says_by_how_much():
    found = concerns_of(cohort(slide("odd", mpp_x=0.5, mpp_y=0.5, tiles=tiles(flags={"blur": 30}))))
    assert [concern.text for concern in found["odd"]] == [
        "0.5 µm per pixel, the median of aperio at 40x is 0.25",
        "30\u202f% of its tiles are blurred",
    ]


def test_a_slide_smaller_than_a_field_is_not_blamed_on_its_tissue():
    size = {"width": 4000, "height": 2000, "bounds": (0, 0, 4000, 2000)}
    small = slide("odd", tiles=tiles(0), **size)
    fits = slide("fit", tiles=tiles(0), **{**size, "height": 2048, "bounds": (0, 0, 4000, 2048)})
    found = concerns_of([small, fits])
    assert found["odd"][0].text == "1\u202f000 × 500 µm, smaller than one field of 512 µm"
    assert found["fit"][0].text == "no tile"


def test_a_slide_blurred_all_over_is_found_in_any_cohort():
    alone = slide("odd", tiles=tiles(flags={"blur": 51}))
    assert [concern.kind for concern in concerns_of([alone])["odd"]] == ["blur"]
    others = [slide(f"B{n}", tiles=tiles(flags={"blur": 60 + n})) for n in range(10)]
    assert all(own[0].kind == "blur" for own in concerns_of(others).values())


def test_few_slides_have_no_outliers():
    assert beyond_fences({"a": 1.0, "b": 1.0, "c": 1000.0}) == set()


def test_fences_are_three_interquartile_ranges_away():
    values = {f"v{n}": float(n) for n in range(1, 10)}  # quartiles 3 and 7, fences -9 and 19
    assert beyond_fences(values | {"in": 5.0}) == set()
    quartiles = {**values, "low": 3.0, "high": 7.0}  # leave the quartiles where they are
    assert beyond_fences({**quartiles, "far": 100.0}) == {"far"}


def test_graver_comes_first():
    order = [slide("n", notes=("x",)), slide("r", verdict="missing", tiles=None), slide("e", tiles=tiles(0))]
    found = concerns_of(order)
    assert sorted(found, key=lambda name: gravity(found[name])) == ["r", "e", "n"]
    mild, strong = (gravity([Concern("blur", "", weight)]) for weight in (0.2, 0.9))
    assert strong < mild
    assert gravity([]) > max(gravity(own) for own in found.values())
    assert all(kind in KINDS for own in found.values() for kind in [concern.kind for concern in own])
