"""What a term adds: the paired gain of every pair, its map, and its figure."""

from pathlib import Path
from xml.etree import ElementTree

import pytest
from lowmag import evaluate, figures, scores
from lowmag.bootstrap import holm
from lowmag.scores import pick, read_table
from lowmag.study import Addition, Study
from synthetic_predictions import Shape, make_predictions, make_study

CELLS = {"labels-only": {"2.5x": 4, "1.25x": 2}, "dipalma2021": {"2.5x": 8, "1.25x": 4}}


@pytest.fixture(scope="module")
def study() -> Study:
    added = [
        Addition(method="delamor2024", reference=reference, term="attention", cells=cells)
        for reference, cells in CELLS.items()
    ]
    return make_study(evaluation={"bootstrap": 200}, additions=added)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory, study: Study) -> Path:
    folder = tmp_path_factory.mktemp("study")
    make_predictions(folder / "predictions", study, Shape(patients=6, tiles_per_slide=4))
    evaluate.write_tables(folder / "predictions", None, folder, study)
    return folder


def test_gains_are_differences_of_the_means_at_the_same_share(results: Path, study: Study) -> None:
    gains, metrics = (read_table(results / f"{name}.tsv") for name in ("added_terms", "metrics"))
    assert len(gains) == 16  # 2 levels, 2 references, 2 magnifications, 2 shares
    for row in gains:
        of = {"magnification": row["magnification"], "level": row["level"]}
        mean = scores.headline(metrics, row["level"], "student")
        (own,) = pick(mean, method="delamor2024", unlabelled=row["unlabelled"], **of)
        share = row["unlabelled"] if row["reference"] == "dipalma2021" else 0
        (other,) = pick(mean, method=row["reference"], unlabelled=share, **of)
        assert row["difference"] == pytest.approx(own["value"] - other["value"], abs=1e-5)
        assert row["cells"] == CELLS[row["reference"]][f"{row['magnification']:g}x"]
        assert row["low"] <= row["difference"] <= row["high"]
    of_tiles = pick(gains, level="tile")
    assert [r["p_holm"] for r in of_tiles] == pytest.approx(holm([r["p"] for r in of_tiles]), rel=1e-4)  # pyright: ignore


def test_the_figure_has_a_point_for_every_map(results: Path, study: Study) -> None:
    gains = read_table(results / "added_terms.tsv")
    figure = figures.added_terms(gains, study)
    panels = figure.axes
    assert [axes.get_title(loc="left") for axes in panels] == ["per tile", "per slide"]
    for axes, level in zip(panels, ("tile", "slide"), strict=True):
        assert [text.get_text() for text in axes.get_xticklabels()] == ["2 × 2", "4 × 4", "8 × 8"]
        lines = {c.get_label(): c.lines[0].get_ydata() for c in axes.containers}  # pyright: ignore
        assert set(lines) == {"attention, 2.5x", "attention, 1.25x"}
        for magnification in (2.5, 1.25):
            wanted = pick(gains, level=level, magnification=magnification, unlabelled=100)
            expected = [row["difference"] for row in sorted(wanted, key=lambda row: row["cells"])]
            assert list(lines[f"attention, {magnification:g}x"]) == pytest.approx(expected)


def test_without_pairs_the_figure_says_how_to_get_some(tmp_path: Path, study: Study) -> None:
    figures.save(figures.added_terms([], study), tmp_path / "none.svg")
    assert "attention_by_map.yaml" in "".join(ElementTree.parse(tmp_path / "none.svg").getroot().itertext())
