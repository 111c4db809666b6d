"""Two hundred damaged slides: each is cut rightly, flagged or refused, and none crashes, hangs or lies.

LOWMAG_FUZZ=2000 goes through so many places of every slide.
"""

import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import simplejpeg
import tifffile
from damage import FIELD_UM, Case, Damage, damages, run
from lowmag.store import FLAGS
from synthetic_slides import REAL_SLIDES, noise, reduced
from synthetic_tiffs import Form, write_jpeg_tiff

PLACES = {"svs": 75, "deflate": 75, "real": 50}
APERIO = "Aperio Image Library v11\r\n512x448 (32x32) JPEG/RGB Q=92|AppMag = 10|MPP = 1.0"
FLAGGED = FLAGS["read_error"] | FLAGS["transparent"]
VERDICTS = {
    "truncated",
    "unreadable",
    "unsupported",
    "no_mpp",
    "implausible_mpp",
    "anisotropic",
    "too_coarse",
}
SURE_BYTES = 128  # so many zeroes in JPEG do not decode (benchmarks/fuzz.py)


@dataclass(frozen=True)
class Run:
    """A slide, what was done to it, and what became of the whole and of each damaged one."""

    path: Path
    damages: list[Damage]
    whole: dict
    found: list[dict]

    def pairs(self):
        return zip(self.damages, self.found, strict=True)


def tissue_picture():
    """Stained noise of 10 x 12 fields in a frame of glass."""
    stain = np.array([200, 120, 180]) + (noise(224, 256).repeat(2, 0).repeat(2, 1) - 128.0) * 0.35
    picture = np.full((448, 512, 3), 245, np.uint8)
    picture[64:-64, 64:-64] = stain.clip(0, 255)[64:-64, 64:-64]
    return picture


def write_svs(path):
    picture, form = tissue_picture(), Form(tile=FIELD_UM, tables=True, mpp=None, description=APERIO)
    write_jpeg_tiff(path, [picture, reduced(picture, 4)], form)


def write_deflate(path):
    picture = tissue_picture()
    with tifffile.TiffWriter(path) as file:
        for factor in (1, 2, 4):
            file.write(
                reduced(picture, factor), tile=(FIELD_UM, FIELD_UM), photometric="rgb", compression="zlib",
                subfiletype=int(factor > 1), metadata=None, resolution=(1e4, 1e4), resolutionunit=3,
            )  # fmt: skip


def write_real(path):
    """Four by four tiles from the middle of a scanned slide, as the scanner encoded them."""
    with tifffile.TiffFile(REAL_SLIDES / "CMU-1-Small-Region.svs") as file:
        page, tiles = file.pages[0], []
        across = -(-page.imagewidth // page.tilewidth)
        for index in [row * across + column for row in range(3, 7) for column in range(3, 7)]:
            file.filehandle.seek(page.dataoffsets[index])
            tile = file.filehandle.read(page.databytecounts[index])
            tiles.append(tile[:2] + page.jpegtables[2:-2] + tile[2:])
        edge, description = page.tilewidth, page.description
    form = Form(tile=edge, tables=True, mpp=None, description=description, photometric=2)
    write_jpeg_tiff(path, [np.zeros((4 * edge, 4 * edge, 3), np.uint8)], form, [tiles])


def gone_through(folder, name, write, reader=None):
    path = folder / f"{name}.tif"
    write(path)
    places = damages(path.stat().st_size, int(os.environ.get("LOWMAG_FUZZ", PLACES[name])), seed=len(name))
    whole, *found = run(folder, [Case(str(path), place, reader) for place in (None, *places)])
    return Run(path, places, whole, found)


@pytest.fixture(scope="module")
def svs(tmp_path_factory):
    return gone_through(tmp_path_factory.mktemp("svs"), "svs", write_svs)


@pytest.fixture(scope="module")
def deflate(tmp_path_factory):
    return gone_through(tmp_path_factory.mktemp("deflate"), "deflate", write_deflate)


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    if not REAL_SLIDES.is_dir():
        pytest.skip("the shared slides are not on this machine")
    return gone_through(tmp_path_factory.mktemp("real"), "real", write_real)


@pytest.fixture(params=["svs", "deflate", "real"])
def fuzzed(request):
    return request.getfixturevalue(request.param)


def wrong_places(run: Run, found: dict) -> set[str]:
    """Places of tiles that differ from the whole slide's without being flagged, are missing or new."""
    if found["verdict"] != "ok":
        return set()
    return differing_places(run, found) | (run.whole["tiles"].keys() ^ found["tiles"].keys())


def differing_places(run: Run, found: dict) -> set[str]:
    before, after = run.whole["tiles"], found["tiles"]
    return {
        place
        for place in before.keys() & after.keys()
        if before[place][1:] != after[place][1:] and not after[place][0] & FLAGGED
    }


def test_whole_slides_are_cut_by_segment(fuzzed):
    whole = fuzzed.whole
    assert (whole["verdict"], whole["reader"]) == ("ok", "segments")
    assert len(whole["tiles"]) >= 120


def test_nothing_crashes_hangs_or_is_left_behind(fuzzed):
    for damage, found in fuzzed.pairs():
        assert "signal" not in found, (damage, found)
        assert "trace" not in found, (damage, found["trace"])
        assert "refused" not in found, (damage, found)
        assert not found["hidden"], damage


def test_refused_slides_have_a_verdict_with_reason_and_cure(fuzzed):
    for damage, found in fuzzed.pairs():
        if found["verdict"] != "ok":
            assert found["verdict"] in VERDICTS, (damage, found)
            assert found["reason"], damage
            assert found["cure"], damage
            assert not found["tiles"], damage


def test_file_cut_short_is_truncated_wherever_it_ends(fuzzed):
    for damage, found in fuzzed.pairs():
        if damage.kind == "truncate":
            assert found["verdict"] in ("truncated", "unsupported"), (damage, found["verdict"])


def test_all_outcomes_occur(svs, deflate):
    """Else the damage would be too small or too great to test anything."""
    for fuzzed in (svs, deflate):
        seen = Counter(found["verdict"] for found in fuzzed.found)
        flagged = [any(t[0] & FLAGS["read_error"] for t in found["tiles"].values()) for found in fuzzed.found]
        n = len(fuzzed.found)
        assert seen["ok"] >= n / 4
        assert seen["truncated"] >= n / 4
        assert sum(flagged) >= n / 8


def test_no_tile_of_a_deflated_slide_is_silently_wrong(deflate):
    """Its checksums tell."""
    for damage, found in deflate.pairs():
        assert not wrong_places(deflate, found), damage


@pytest.mark.parametrize("name", ["svs", "real"])
def test_silently_wrong_tiles_of_jpeg_are_valid_jpeg(request, name):
    """JPEG has no checksum: a flipped bit may decode to another picture, of which nothing can tell.

    That is the only way to a wrong tile: all lie on one segment, which the strict decoder takes, and long
    stretches of zeroes do not pass. (Tissue may be found otherwise elsewhere, too: its threshold is of all.)
    """
    fuzzed = request.getfixturevalue(name)
    wrong = [(damage, found) for damage, found in fuzzed.pairs() if wrong_places(fuzzed, found)]
    for damage, found in wrong:
        assert damage.length < SURE_BYTES, damage
        (hit,) = segments_hit(fuzzed.path, damage)
        simplejpeg.decode_jpeg(hit.content)
        places = differing_places(fuzzed, found)
        assert all(hit.overlaps(place, fuzzed.whole["mpp"]) for place in places), (damage, places)
    assert len(wrong) < len(fuzzed.found) / 3, "more than the single bits"


@dataclass(frozen=True)
class Segment:
    """A damaged tile of a TIFF: its JPEG with tables, and its level-0 box x0, y0, x1, y1."""

    content: bytes
    box: tuple[float, ...]

    def overlaps(self, place: str, mpp: list[float]) -> bool:
        edge = FIELD_UM / mpp[0] + 1
        x, y = map(int, place.split(","))
        return x < self.box[2] and y < self.box[3] and x + edge > self.box[0] and y + edge > self.box[1]


def segments_hit(path: Path, damage: Damage) -> list[Segment]:
    """The segments that a damage lies in; asserts that it touches nothing else."""
    damaged, found = damage.apply(path.read_bytes()), []
    with tifffile.TiffFile(path) as file:
        full = file.pages[0].imagewidth
        for page in file.pages:
            scale, across = full / page.imagewidth, -(-page.imagewidth // page.tilewidth)
            for index, (start, n) in enumerate(zip(page.dataoffsets, page.databytecounts, strict=True)):
                if start <= damage.start and damage.start + damage.length <= start + n:
                    tables, own = page.jpegtables, damaged[start : start + n]
                    x, y = index % across * page.tilewidth, index // across * page.tilelength
                    box = [scale * n for n in (x, y, x + page.tilewidth, y + page.tilelength)]
                    found.append(Segment(own[:2] + tables[2:-2] + own[2:], tuple(box)))
    return found


def test_openslide_alone_would_pass_over_most_damage(tmp_path, svs):
    """Why segments are decoded strictly. What that means for formats it alone reads is in docs/inputs.md."""
    at = [n for n, damage in enumerate(svs.damages) if damage.kind == "zero" and damage.length >= SURE_BYTES]
    cases = [Case(str(svs.path), damage, "openslide") for damage in (None, *(svs.damages[n] for n in at))]
    whole, *found = run(tmp_path, cases)
    by_openslide = Run(svs.path, [], whole, [])
    assert sum(bool(wrong_places(by_openslide, result)) for result in found) > len(at) / 2
    assert not any(wrong_places(svs, svs.found[n]) for n in at)
