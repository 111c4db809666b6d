"""Tiles and bytes foretold, held against what is then cut."""

import csv
from pathlib import Path

import h5py
import numpy as np
import pytest
import shapely
from lowmag import demo, tiles, tissue
from lowmag.check import SlideToCheck, write_record
from lowmag.cli import main
from lowmag.estimate import INTERVAL, SAMPLES, Estimate, Wanted, estimate_cohort, total_of
from lowmag.estimate_tables import cohort_table
from lowmag.magnification import name_of
from lowmag.outline import geojson
from lowmag.sections import Check, Demo, Tiles, Tissue
from synthetic_slides import REAL_SLIDES, write_slide

OPTIONS = Tiles(field_um=128, students=[5, 1.25])
CMU = REAL_SLIDES / "CMU-1-Small-Region.svs"


@pytest.fixture(scope="module")
def sheet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two slides of the demo and one that is no slide."""
    folder = tmp_path_factory.mktemp("demo")
    options = Demo(slides=5, patients=3, size_um=1536)
    rows = ["slide_id,path"]
    for slide in demo.cohort(options)[:2]:
        demo.write_slide(folder, slide.slide_id, options)
        rows.append(f"{slide.slide_id},{slide.path}")
    (folder / "text.svs").write_text("no slide")
    (folder / "slides.csv").write_text("\n".join([*rows, "T,text.svs"]) + "\n")
    return folder / "slides.csv"


def cut(folder: Path, slide: SlideToCheck, options: Tiles) -> tuple[int, dict[float, int]]:
    """Tiles, and bytes of the pictures by magnification, as the stages give them."""
    record, outline, out = (folder / f"{slide.slide_id}{end}" for end in (".json", ".geojson", ".h5"))
    write_record(record, slide, options.teacher, Check())
    tissue.write_outline(record, outline, folder / "overlay.png", Tissue())
    tiles.write_tiles(record, outline, out, options)
    with h5py.File(out) as file:
        sizes = {}
        for magnification in options.magnifications:
            group = file[f"mag/{name_of(magnification)}"]
            sizes[magnification] = sum(
                group[name].nbytes for name in ("jpeg", "imgs", "pixels") if name in group
            )
        return int(file.attrs["n_tiles"]), sizes


def slides_of(sheet: Path) -> list[SlideToCheck]:
    rows = list(csv.DictReader(sheet.read_text().splitlines()))
    return [SlideToCheck(row["slide_id"], sheet.parent / row["path"]) for row in rows]


def test_tiles_and_raw_bytes_are_exact_and_jpegs_close(sheet, tmp_path):
    found = list(estimate_cohort(sheet, None, Wanted(tiles=OPTIONS)))
    assert [estimate.verdict for estimate in found] == ["ok", "ok", "unsupported"]
    for estimate, slide in zip(found[:2], slides_of(sheet), strict=False):
        n, sizes = cut(tmp_path, slide, OPTIONS)
        assert n > 2 * SAMPLES
        assert estimate.n == n
        assert estimate.sampled == SAMPLES
        assert [estimate.n_bytes[m] for m in (5, 1.25)] == [sizes[m] for m in (5, 1.25)]
        assert estimate.n_bytes[10] == pytest.approx(sizes[10], rel=0.1)
        assert abs(estimate.n_bytes[10] - sizes[10]) < 2 * INTERVAL * estimate.error
        assert estimate.error < 0.1 * sizes[10]
    assert found[2] == Estimate("T", "unsupported")


def test_few_tiles_are_all_encoded_and_the_bytes_exact(sheet, tmp_path):
    options = Tiles(field_um=256, students=[5], max_per_slide=5)
    found = next(iter(estimate_cohort(sheet, None, Wanted(tiles=options))))
    n, sizes = cut(tmp_path, slides_of(sheet)[0], options)
    assert (found.n, found.sampled, found.error) == (n, 5, 0)
    assert dict(found.n_bytes) == sizes


def test_sections_are_estimated_by_blocks(sheet, tmp_path):
    options = Tiles(unit="section", students=[5, 1.25])
    found = next(iter(estimate_cohort(sheet, None, Wanted(tiles=options))))
    n, sizes = cut(tmp_path, slides_of(sheet)[0], options)
    assert found.n == n
    assert [found.n_bytes[m] for m in (5, 1.25)] == [sizes[m] for m in (5, 1.25)]
    assert found.n_bytes[10] == pytest.approx(sizes[10], rel=0.1)
    assert found.error > 0


@pytest.mark.skipif(not CMU.is_file(), reason="the shared slides are not on this machine")
def test_real_slide_is_foretold_within_a_tenth(tmp_path):
    (tmp_path / "slides.csv").write_text(f"slide_id,path\nC,{CMU.resolve()}\n")
    (found,) = estimate_cohort(tmp_path / "slides.csv", None, Wanted(tiles=OPTIONS))
    n, sizes = cut(tmp_path, SlideToCheck("C", CMU), OPTIONS)
    assert found.n == n > SAMPLES
    assert found.total == pytest.approx(sum(sizes.values()), rel=0.1)


def test_what_the_sheet_says_of_a_slide_counts(sheet, tmp_path):
    first = slides_of(sheet)[0]
    (tmp_path / "slides.csv").write_text(
        f"slide_id,path,min_piece_um,saturation_floor,mpp\n"
        f"{first.slide_id},{first.path},1400,12,\nB,{first.path}.copy,,,2\n"
    )
    Path(f"{first.path}.copy").write_bytes(first.path.read_bytes())
    found = list(estimate_cohort(tmp_path / "slides.csv", None, Wanted(tiles=OPTIONS)))
    assert [(estimate.n, estimate.verdict) for estimate in found] == [(0, "ok"), (0, "too_coarse")]


def test_a_mask_of_the_sheet_takes_the_place_of_the_tissue_found(sheet, tmp_path):
    first = slides_of(sheet)[0]
    (tmp_path / "mask.geojson").write_text(geojson([shapely.box(0, 0, 512, 256)], first.slide_id))
    (tmp_path / "slides.csv").write_text(f"slide_id,path,mask\n{first.slide_id},{first.path},mask.geojson\n")
    (found,) = estimate_cohort(tmp_path / "slides.csv", None, Wanted(tiles=OPTIONS))
    assert found.n == 4 * 2
    assert found.area_mm2 == pytest.approx(0.512 * 0.256)


def test_records_are_taken_as_they_are(sheet, tmp_path):
    first = slides_of(sheet)[0]
    write_record(
        tmp_path / f"{first.slide_id}.json", SlideToCheck(first.slide_id, first.path, 3), 10, Check()
    )
    verdicts = [estimate.verdict for estimate in estimate_cohort(sheet, tmp_path, Wanted(tiles=OPTIONS))]
    assert verdicts == ["too_coarse", "ok", "unsupported"]


def test_an_empty_slide_gives_nothing(tmp_path):
    write_slide(tmp_path / "white.tiff", np.full((512, 512, 3), 245, np.uint8), mpp=1)
    (tmp_path / "slides.csv").write_text("slide_id,path\nW,white.tiff\n")
    (found,) = estimate_cohort(tmp_path / "slides.csv", None, Wanted(tiles=OPTIONS))
    assert (found.verdict, found.n, found.total, found.error) == ("ok", 0, 0, 0)
    assert "0 tiles of 128 µm" in cohort_table([found], OPTIONS)


def test_slides_add_up_and_their_errors_do_not():
    one = Estimate("a", "ok", 10, 1.0, {10.0: 100.0, 5.0: 50.0}, 30.0, 4)
    two = Estimate("b", "ok", 20, 2.0, {10.0: 300.0, 5.0: 70.0}, 40.0, 5)
    total = total_of([one, two, Estimate("c", "missing")])
    assert (total.n, total.area_mm2, total.sampled, total.error) == (30, 3.0, 9, 50.0)
    assert dict(total.n_bytes) == {10.0: 400.0, 5.0: 120.0}
    assert total.total == 520


def test_the_interval_covers_the_truth_as_often_as_it_says():
    """Of tiles whose JPEGs depend on their tissue, as those of slides do."""
    from lowmag.estimate import _bytes
    from lowmag.fields import Cut
    from lowmag.grid import Field

    random = np.random.default_rng(0)
    options, covered, wrong = Tiles(field_um=128, students=[5]), 0, []
    for _ in range(300):
        shares = np.sort(random.uniform(0.5, 1, 400))
        sizes = 2000 + 6000 * shares + random.normal(0, 800, 400)
        chosen = [int((k + 0.5) * 400 / SAMPLES) for k in range(SAMPLES)]
        cut = Cut([Field(0, 0, 0, 0, 1.0)] * 400, [(128, 128)] * 400, (1.0, 1.0))
        n_bytes, error = _bytes(cut, [(128 * 128, int(sizes[k])) for k in chosen], options)
        covered += abs(n_bytes[10] - sizes.sum()) < INTERVAL * error
        wrong.append(abs(n_bytes[10] / sizes.sum() - 1))
    assert 0.9 < covered / 300 <= 1
    assert np.quantile(wrong, 0.95) < 0.06


def test_the_command_prints_the_cohort_and_keeps_the_slides(sheet, tmp_path, capsys):
    out = tmp_path / "estimate.tsv"
    line = ["check", "--slides", str(sheet), "--estimate", "--estimate-out", str(out)]
    assert main([*line, "--tiles", OPTIONS.model_dump_json(), "--tissue", '{"min_piece_um": 150}']) == 0
    told = capsys.readouterr().out
    rows = list(csv.DictReader(out.read_text().splitlines(), delimiter="\t"))
    assert [row["slide_id"] for row in rows][-1] == "T"
    assert rows[0]["verdict"] == "ok"
    assert float(rows[0]["bytes_10x_low"]) < float(rows[0]["bytes_10x"]) < float(rows[0]["bytes_10x_high"])
    assert float(rows[0]["bytes_5x"]) == int(rows[0]["tiles"]) * 64 * 64 * 3
    assert rows[2] == {**dict.fromkeys(rows[0], "0"), "slide_id": "T", "verdict": "unsupported"}
    n = sum(int(row["tiles"]) for row in rows)
    assert f"3 slides, 2 can be used: {n} tiles of 128 µm from " in told
    assert [line.split()[0] for line in told.splitlines()[2:7]] == ["edge", "10x", "5x", "1.25x", "all"]
    assert "exact" in told
    assert f"from {2 * SAMPLES} tiles read and encoded" in told


def test_without_anything_to_do_the_command_says_so(sheet, capsys):
    assert main(["check", "--slides", str(sheet)]) == 2
    assert "name the table to write (--out), or ask for an --estimate" in capsys.readouterr().err
