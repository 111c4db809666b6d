"""The page about a cohort: every slide with its verdict, tissue and tiles, what to look at first on top.

One self-contained file that works offline: pictures are data URIs, nothing is fetched, no label or macro
picture is shown. Its size is bounded: pictures go to the slides a person should look at first, as many as
MOST_BYTES hold, and a row without pictures takes about a kilobyte.
"""

import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lowmag import __version__
from lowmag.aliases import Aliases
from lowmag.concerns import KINDS, Concern, concerns_of, gravity
from lowmag.cures import VERDICTS
from lowmag.distributions import Distribution, distribution
from lowmag.magnification import name_of
from lowmag.page import render
from lowmag.publish import write_text
from lowmag.qc_table import FLAG_MEANINGS, FLAG_WORDS, Row, columns, make_row
from lowmag.sections import QC
from lowmag.slide_facts import SlideFacts, read_cohort_facts
from lowmag.slide_pictures import FLAG_COLOURS, Overview, Sample, overview, samples
from lowmag.store import FLAGS
from lowmag.wording import byte_size, count, percent, seconds, whole

MOST_BYTES = 8_000_000  # of pictures on the page
ROWS_AT_ONCE = 200
MOST_NAMED = 12  # slides of one kind that are named on top
SIZE_MARK = "\ue000"  # the size of the page until it is known; it comes before any foreign text
Pictures = tuple[Overview | None, Sequence[Sample]]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Look:
    """One kind of slides to look at: how many, what to do, and the first of them by number of their row."""

    kind: str
    heading: str
    advice: str
    n: int
    first: list[tuple[int, str]]


def write_page(results: Path, out: Path, options: QC, key: Path | None = None) -> None:
    """Write the page of the folder `results` to `out`, and to `key` which number is which slide.

    Raises UserError when there is no check.tsv.
    """
    cohort = read_cohort_facts(results)
    concerns = concerns_of(cohort)
    aliases = Aliases([facts.record for facts in cohort], anonymise=options.anonymise)
    cohort.sort(key=lambda facts: (gravity(concerns[facts.slide_id]), aliases.name(facts.slide_id)))
    pictures = dict(_pictures(results, cohort, options.samples))
    page = render("qc.html.j2", _content(cohort, concerns, aliases, pictures))
    size = byte_size(len(page.encode("utf-8")))
    write_text(out, page.replace(SIZE_MARK, size, 1))
    if key:
        lines = [f"{number}\t{slide_id}" for slide_id, number in aliases.numbers.items()]
        write_text(key, "\n".join(["number\tslide_id", *lines]) + "\n")
    log.info("%s, pictures of %d: %s", count(len(cohort), "slide"), len(pictures), size)


def _pictures(results: Path, cohort: Sequence[SlideFacts], n_samples: int) -> Iterator[tuple[str, Pictures]]:
    """Pictures of slides in the cohort's order, until they would be too many for one page."""
    left = MOST_BYTES
    for facts in cohort:
        shown = overview(results, facts)
        if not shown and not (facts.tiles and facts.tiles.n):
            continue
        tiles = samples(results, facts.slide_id, n_samples)
        left -= sum(map(len, (shown.small, shown.large, shown.tiles or ""))) if shown else 0
        left -= sum(len(picture.uri) for sample in tiles for picture in sample.pictures)
        if left < 0:
            break
        yield facts.slide_id, (shown, tiles)


def _content(
    cohort: Sequence[SlideFacts],
    concerns: Mapping[str, Sequence[Concern]],
    aliases: Aliases,
    pictures: Mapping[str, Pictures],
) -> dict[str, Any]:
    flags = [flag for flag in FLAGS if any(f.tiles and flag in f.tiles.flags for f in cohort)]
    rows = [
        make_row(f, concerns[f.slide_id], flags, aliases, pictures.get(f.slide_id, (None, ())))
        for f in cohort
    ]
    n_tiled = sum(bool(facts.tiles and facts.tiles.n) for facts in cohort)
    return {
        "version": __version__,
        "size": SIZE_MARK,
        "sentences": sentences(cohort),
        "effort": effort(cohort),
        "looks": looks(rows),
        "columns": columns(flags),
        "rows": rows,
        "verdicts": Counter(row.verdict for row in rows).most_common(),
        "kinds": {
            kind: n for kind in KINDS if kind != "rejected" and (n := sum(kind in r.kinds for r in rows))
        },
        "flags": {flag: sum(flag in row.flags for row in rows) for flag in flags},
        "flag_words": FLAG_WORDS,
        "flag_meanings": FLAG_MEANINGS,
        "flag_colours": FLAG_COLOURS,
        "meanings": VERDICTS,
        "spreads": spreads(cohort, concerns),
        "step": ROWS_AT_ONCE,
        "unit": next((facts.tiles.unit for facts in cohort if facts.tiles), "tile"),
        "n_pictured": len(pictures),
        "n_left_out": n_tiled - len(pictures),
        "anonymise": aliases.anonymise,
    }


def sentences(cohort: Sequence[SlideFacts]) -> list[str]:
    """What the cohort holds: slides by verdict, tiles by magnification, tissue, flags."""
    verdicts = Counter(facts.record.verdict for facts in cohort)
    n_ok = verdicts.pop("ok", 0)
    first = f"{whole(n_ok)} of {count(len(cohort), 'slide')} can be used"
    if verdicts:
        first += "; " + ", ".join(f"{whole(n)} {verdict}" for verdict, n in verdicts.most_common())
    tiled = [facts.tiles for facts in cohort if facts.tiles and facts.tiles.n]
    if not tiled:
        return [f"{first}."]
    n = sum(tiles.n for tiles in tiled)
    edge = f" of {tiled[0].field_um:g} µm" if tiled[0].field_um and tiled[0].unit == "tile" else ""
    names = [name_of(m) for m in tiled[0].magnifications]
    area = sum(facts.tissue.area_mm2 for facts in cohort if facts.tissue)
    second = f"They give {count(n, tiled[0].unit)}{edge}, each at {', '.join(names)}"
    second += f", from {square(area)} of tissue" if area >= 1 else ""
    flagged = sum((Counter(tiles.flags) for tiles in tiled), Counter[str]())
    parts = [f"{whole(k)} {FLAG_WORDS[f]} ({percent(k / n)})" for f in FLAG_COLOURS if (k := flagged[f])]
    third = [f"Of the {tiled[0].unit}s, {', '.join(parts)}."] if parts else []
    return [f"{first}.", f"{second}.", *third]


def square(area_mm2: float) -> str:
    """An area in the unit that fits."""
    return f"{whole(area_mm2)} mm²" if area_mm2 < 10_000 else f"{whole(area_mm2 / 100)} cm²"


def effort(cohort: Sequence[SlideFacts]) -> str:
    """What the tiles cost in bytes and time."""
    tiled = [facts.tiles for facts in cohort if facts.tiles]
    if not tiled:
        return "No tiles have been cut yet."
    took = sum(tiles.seconds or 0.0 for tiles in tiled)
    time = f", cut in {seconds(took)} of one core" if took else ""
    return f"{byte_size(sum(tiles.n_bytes for tiles in tiled))} of tile files{time}."


def looks(rows: Sequence[Row]) -> list[Look]:
    """The kinds of slides to look at, gravest first."""
    found = []
    for kind, (heading, advice) in KINDS.items():
        mine = [(n, row.name) for n, row in enumerate(rows, start=1) if kind in row.kinds]
        if mine:
            found.append(Look(kind, heading, advice, len(mine), mine[:MOST_NAMED]))
    return found


def spreads(cohort: Sequence[SlideFacts], concerns: Mapping[str, Sequence[Concern]]) -> list[Distribution]:
    """How the measures spread over the slides that can be used; the scale by scanner."""
    usable = [facts for facts in cohort if facts.record.usable]
    tiled = {facts.slide_id: facts.tiles for facts in usable if facts.tiles and facts.tiles.n}

    def unusual(kind: str) -> set[str]:
        return {slide_id for slide_id, own in concerns.items() if any(c.kind == kind for c in own)}

    areas = {f.slide_id: f.tissue.area_mm2 for f in usable if f.tissue}
    found = [
        distribution("Tissue", "mm²", areas, unusual("area") & {*areas}),
        distribution("Tiles per slide", "", {name: tiles.n for name, tiles in tiled.items()}),
    ]
    for flag, title in (("blur", "Blurred tiles"), ("pen", "Tiles with pen")):
        shares = {name: 100 * tiles.share(flag) for name, tiles in tiled.items()}
        if any(shares.values()):
            found.append(distribution(title, "%", shares, unusual(flag) & {*shares}))
    for vendor in sorted({f.record.vendor or "" for f in usable}):
        scales = {f.slide_id: f.mpp for f in usable if (f.record.vendor or "") == vendor and f.mpp}
        title = f"µm per px, {vendor or 'scanner unknown'}: {count(len(scales), 'slide')}"
        found.append(distribution(title, "", scales, unusual("scale") & {*scales}))
    return [spread for spread in found if spread]
