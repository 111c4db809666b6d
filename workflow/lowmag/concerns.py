"""What to look at first in a cohort: slides that cannot be used, and those unlike the others."""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from lowmag.slide_facts import SlideFacts
from lowmag.wording import percent, three_digits, whole

FENCE = 3.0  # interquartile ranges beyond the quartiles: Tukey's outer fence (1977)
FEWEST = 8  # slides; among fewer none is unusual
LEAST_SHARE, MOST_SHARE = 0.05, 0.5  # of tiles blurred or written on: fewer never, more always are a concern
SCALE_DIFFERENCE = 0.1  # of the median scale of slides of one vendor and objective
FEWEST_OF_A_SCANNER = 3

# In the order in which a person should look: what the slides are, and what to do about it.
KINDS = {
    "rejected": ("rejected", "Follow the cure of each and run again: only these slides are redone."),
    "empty": (
        "without a tile",
        "Look at the outline: was tissue missed, is there none, or too little for a field?",
    ),
    "unread": ("with tiles that cannot be read", "Training leaves these out; another copy may hold them."),
    "tissue": ("whose tissue needs review", "Look at the outline; columns of slides.csv change it."),
    "scale": ("of another scale than the same scanner's", "A wrong scale shows wrong fields: check it."),
    "blur": ("with many blurred tiles", "Look at the samples; out of focus, a slide is best scanned again."),
    "pen": ("with much pen", "Look at the tiles on the thumbnail: ink is no tissue."),
    "area": ("with an unusual area of tissue", "Look at the outline: tissue missed, or glass taken for it?"),
    "note": ("with a note", "Usable; the note says what to know."),
}


Unusual = tuple[str, str, float]  # a slide, the reason, how far off it is


@dataclass(frozen=True)
class Concern:
    """Why a person should look at a slide: a kind of KINDS, the reason in a few words, how far off it is."""

    kind: str
    text: str
    weight: float = 0.0


def concerns_of(cohort: Sequence[SlideFacts]) -> dict[str, list[Concern]]:
    """The concerns of every slide by its id, gravest first; none for most."""
    found: dict[str, list[Concern]] = {facts.slide_id: _own(facts) for facts in cohort}
    for kind, unusual in (
        ("scale", _scale),
        ("blur", _share("blur")),
        ("pen", _share("pen")),
        ("area", _area),
    ):
        for slide_id, text, weight in unusual(cohort):
            found[slide_id].append(Concern(kind, text, weight))
    rank = {kind: n for n, kind in enumerate(KINDS)}
    return {slide_id: sorted(own, key=lambda concern: rank[concern.kind]) for slide_id, own in found.items()}


def gravity(concerns: Sequence[Concern]) -> tuple[int, float, int]:
    """A key that puts the slide to look at first in front; `concerns` with the gravest first."""
    if not concerns:
        return len(KINDS), 0.0, 0
    return list(KINDS).index(concerns[0].kind), -concerns[0].weight, -len(concerns)


def _own(facts: SlideFacts) -> list[Concern]:
    """What needs no comparison with other slides."""
    found = []
    review = facts.tissue.review if facts.tissue else ""
    if not facts.record.usable:
        found.append(Concern("rejected", facts.record.verdict))
    if facts.is_empty:
        found.append(Concern("empty", _too_small(facts) or review or "no tile"))
    elif review:
        found.append(Concern("tissue", review))
    if facts.tiles and (n := facts.tiles.flags.get("read_error")):
        text = f"{whole(n)} of {whole(facts.tiles.n)} tiles cannot be read"
        found.append(Concern("unread", text, facts.tiles.share("read_error")))
    return found + [Concern("note", note) for note in facts.notes]


def _too_small(facts: SlideFacts) -> str:
    """What to say of a slide that no field fits into, whatever its tissue; empty of others."""
    record, tiles = facts.record, facts.tiles
    if record.bounds is None or tiles is None or tiles.field_um is None or tiles.unit != "tile":
        return ""
    width, height = (n * mpp for n, mpp in zip(record.scanned[2:], record.mpp, strict=True))
    if min(width, height) >= tiles.field_um:
        return ""
    return f"{whole(width)} × {whole(height)} µm, smaller than one field of {tiles.field_um:g} µm"


def _scale(cohort: Sequence[SlideFacts]) -> Iterable[Unusual]:
    """Slides whose scale is away from the median of the same vendor and objective power."""
    scanners: dict[tuple[str | None, float | None], dict[str, float]] = defaultdict(dict)
    for facts in cohort:
        if facts.mpp and facts.record.usable:
            scanners[facts.record.vendor, facts.record.objective_power][facts.slide_id] = facts.mpp
    for (vendor, power), scales in scanners.items():
        middle = float(np.median(list(scales.values())))
        scanner = f"{vendor or 'an unknown scanner'}{f' at {power:g}x' if power else ''}"
        for slide_id, mpp in scales.items():
            if len(scales) >= FEWEST_OF_A_SCANNER and abs(mpp / middle - 1) > SCALE_DIFFERENCE:
                text = f"{three_digits(mpp)} µm per pixel, the median of {scanner} is {three_digits(middle)}"
                yield slide_id, text, abs(math.log(mpp / middle))


def _share(flag: str) -> Callable[[Sequence[SlideFacts]], Iterable[Unusual]]:
    word = {"blur": "are blurred", "pen": "show pen"}[flag]

    def unusual(cohort: Sequence[SlideFacts]) -> Iterable[Unusual]:
        shares = {
            facts.slide_id: facts.tiles.share(flag) for facts in cohort if facts.tiles and facts.tiles.n
        }
        outliers = beyond_fences(shares)
        middle = float(np.median(list(shares.values()) or [0.0]))
        for slide_id, share in shares.items():
            if share > MOST_SHARE or (slide_id in outliers and share > max(LEAST_SHARE, middle)):
                yield slide_id, f"{percent(share)} of its tiles {word}", share

    return unusual


def _area(cohort: Sequence[SlideFacts]) -> Iterable[Unusual]:
    """Slides with far less or far more tissue, by ratio."""
    areas = {f.slide_id: f.tissue.area_mm2 for f in cohort if f.tissue and f.tissue.area_mm2}
    for slide_id in sorted(beyond_fences({name: math.log(area) for name, area in areas.items()})):
        middle, area = float(np.median(list(areas.values()))), areas[slide_id]
        text = f"{three_digits(area)} mm² of tissue, the median is {three_digits(middle)}"
        yield slide_id, text, abs(math.log(area / middle))


def beyond_fences(values: dict[str, float]) -> set[str]:
    """Names of values beyond Tukey's outer fences; none among fewer than FEWEST."""
    if len(values) < FEWEST:
        return set()
    low, high = np.percentile(list(values.values()), [25, 75])
    reach = FENCE * (high - low)
    return {name for name, value in values.items() if not low - reach <= value <= high + reach}
