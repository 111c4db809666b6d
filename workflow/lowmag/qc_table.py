"""The table of a cohort on its page: one row per slide, with what opens below it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lowmag.aliases import Aliases
from lowmag.concerns import Concern
from lowmag.cures import Line, line_of
from lowmag.page import Cell
from lowmag.slide_facts import SlideFacts
from lowmag.slide_pictures import Overview, Sample
from lowmag.wording import NONE, byte_size, count, percent, seconds, three_digits, whole

FLAG_WORDS = {
    "read_error": "unread",
    "transparent": "transparent",
    "out_of_bounds": "out of bounds",
    "blur": "blurred",
    "pen": "pen",
    "mask_edge": "edge",
}
FLAG_MEANINGS = {
    "read_error": "cannot be read; training leaves the tile out",
    "transparent": "more than 5 % of the tile has no pixels in the file",
    "out_of_bounds": "the tile reaches beyond what was scanned",
    "blur": "out of focus",
    "pen": "more than 5 % of the tile is ink",
    "mask_edge": "the outline of the tissue runs through the tile",
}


@dataclass(frozen=True)
class Column:
    """A column: its heading, what it means, and whether it holds names rather than numbers."""

    heading: str
    meaning: str
    is_name: bool = False


@dataclass(frozen=True)
class Field(Cell):
    """A cell with the value it is sorted by (empty: none), and a line below its text."""

    value: str = ""
    below: str = ""


@dataclass(frozen=True)
class Row:
    """One slide of the page: what its row shows and what opens below it."""

    name: str
    fields: list[Field]
    verdict: str
    kinds: tuple[str, ...]
    flags: tuple[str, ...]
    reason: str
    cure: str
    line: Line | None
    concerns: list[str]
    facts: list[tuple[str, str]]
    overview: Overview | None
    samples: Sequence[Sample]


def columns(flags: Sequence[str]) -> list[Column]:
    """The columns, of flags those asked for."""
    return [
        Column("slide", "press to open", is_name=True),
        Column("verdict", "and what there is to look at", is_name=True),
        Column("µm per px", "scale of level 0, and where it comes from"),
        Column("size (px)", "width and height of level 0; sorted by their product"),
        Column("tissue (mm²)", "area inside the outline, and the pieces it has"),
        Column("share", "share of the scanned part that is tissue"),
        Column("tiles", "pictures in the tile file"),
        *(Column(FLAG_WORDS[flag], f"{FLAG_MEANINGS[flag]}; sorted by share") for flag in flags),
        Column("file", "size of the tile file"),
        Column("time", "seconds that cutting the tiles took"),
    ]


def make_row(
    facts: SlideFacts,
    concerns: Sequence[Concern],
    flags: Sequence[str],
    aliases: Aliases,
    pictures: tuple[Overview | None, Sequence[Sample]],
) -> Row:
    """The row of one slide; `flags` are those that have a column."""
    record, slide_id = facts.record, facts.slide_id
    name = aliases.name(slide_id)
    reason = aliases.text(record.reason, slide_id)
    texts = [aliases.text(concern.text, slide_id) for concern in concerns if concern.kind != "rejected"]
    return Row(
        name=name,
        fields=_fields(facts, [name, *([reason] if reason else texts)], flags),
        verdict=record.verdict,
        kinds=tuple(dict.fromkeys(concern.kind for concern in concerns)),
        flags=tuple(facts.tiles.flags) if facts.tiles else (),
        reason=reason,
        cure=aliases.text(record.cure, slide_id),
        line=line_of(record, name, aliases.text(Path(record.path).name, slide_id)),
        concerns=texts,
        facts=[(term, aliases.text(text, slide_id)) for term, text in _details(facts)],
        overview=pictures[0],
        samples=pictures[1],
    )


def _fields(facts: SlideFacts, names: Sequence[str], flags: Sequence[str]) -> list[Field]:
    record, tissue, tiles = facts.record, facts.tissue, facts.tiles
    style = "bad" if not record.usable else "warn" if facts.is_empty else "good"
    why = names[1] if len(names) > 1 else ""
    more = f" (+{len(names) - 2})" if len(names) > 2 else ""
    size = f"{whole(record.width)} × {whole(record.height)}" if record.width and record.height else NONE
    return [
        Field(names[0], "name", below=record.vendor or ""),
        Field(record.verdict, f"name {style}", below=f"{why}{more}"),
        _number(facts.mpp, three_digits(facts.mpp), record.mpp_source or ""),
        _number(
            (record.width or 0) * (record.height or 0) or None, size, _levels(facts) if record.levels else ""
        ),
        _number(
            tissue and tissue.area_mm2,
            three_digits(tissue and tissue.area_mm2),
            count(tissue.pieces, "piece") if tissue else "",
        ),
        _number(tissue and tissue.share, percent(tissue.share) if tissue else NONE),
        _number(tiles and tiles.n, whole(tiles.n) if tiles else NONE),
        *(_flag(facts, flag) for flag in flags),
        _number(tiles and tiles.n_bytes, byte_size(tiles.n_bytes) if tiles else NONE),
        _number(tiles and tiles.seconds, _time(tiles.seconds if tiles else None)),
    ]


def _number(value: float | None, text: str, below: str = "") -> Field:
    return Field(text, value="" if value is None else f"{value:.6g}", below=below)


def _flag(facts: SlideFacts, flag: str) -> Field:
    tiles = facts.tiles
    if not tiles or not tiles.n:
        return Field(NONE)
    n, share = tiles.flags.get(flag, 0), tiles.share(flag)
    return Field(whole(n), "" if n else "none", f"{share:.6g}", percent(share) if n else "")


def _levels(facts: SlideFacts) -> str:
    return count(len(facts.record.levels), "level")


def _time(value: float | None) -> str:
    if value is None:
        return NONE
    return seconds(value) if value >= 0.05 else "<0.1 s"  # a log tells tenths


def _details(facts: SlideFacts) -> list[tuple[str, str]]:
    """What only the opened row says, as pairs of a term and its text; what is not known is left out."""
    record = facts.record
    scale = f"{record.mpp_x:.4g} × {record.mpp_y:.4g} µm per px" if record.mpp_x and record.mpp_y else ""
    levels = ", ".join(
        f"{whole(level.width)} × {whole(level.height)} (1:{level.downsample:.5g})" for level in record.levels
    )
    pairs = [
        ("Scale", f"{scale}, from {record.mpp_source}" if scale else ""),
        ("Objective", f"{record.objective_power:g}x" if record.objective_power else ""),
        ("Levels", levels),
        ("Scanner", record.vendor or ""),
        ("Read by", f"{record.source}, {record.reader}" if record.reader else ""),
        ("Tissue by", facts.tissue.source if facts.tissue else ""),
        ("Colour profile", "" if record.icc in (None, "absent") else "present"),
    ]
    if facts.tiles and facts.tiles.n:
        n = facts.tiles.n
        flagged = [
            f"{whole(k)} {FLAG_WORDS[flag]} ({percent(k / n)})" for flag, k in facts.tiles.flags.items()
        ] or ["none has a flag"]
        pairs.append(("Tiles", f"{count(n, facts.tiles.unit)}: {', '.join(flagged)}"))
    return [(term, text) for term, text in pairs if text]
