import re
from pathlib import Path

import pytest
from html_page import Page
from lowmag import cohort, evaluate, figures, report, tile_table
from lowmag.cohort import MOST_OVERLAYS
from lowmag.errors import UserError
from lowmag.provenance import timing_conditions
from lowmag.publish import write_json, write_text
from lowmag.store import Layout, TileFile, writing
from lowmag.study import Study
from PIL import Image
from synthetic_predictions import Shape, make_predictions, make_reading, make_study
from synthetic_tiles import CLASSES, LOW, Cohort, make_cohort

HOSTILE = "<script>alert(1)</script>"
CHECK = "slide_id\tverdict\treason\tcure\tpath\twidth\theight\tmpp_x\tmpp_y\tmpp_source\tvendor"


def small_study(**changes: object) -> Study:
    content = {"students": [LOW], "seeds": [0], "classes": list(CLASSES), "evaluation": {"bootstrap": 100}}
    return make_study(**(content | changes))


def make_results(folder: Path, study: Study, *, pictures: bool = False, label: str = CLASSES[0]) -> Path:
    """A folder of results as the workflow leaves it; `label` takes the place of the first class."""
    make_predictions(
        folder / "predictions", study, Shape(patients=4, tiles_per_slide=4, mixed_slides=pictures)
    )
    reading = folder / "evaluation/reading.tsv"
    make_reading(reading, study, slides=0 if pictures else 2)
    evaluate.write_tables(folder / "predictions", reading, folder / "evaluation", study)
    for name in report.FIGURES:  # the shared fixture draws the real ones
        write_text(folder / f"figures/{name}.svg", "<svg xmlns='http://www.w3.org/2000/svg'/>")
    _, splits = make_cohort(folder, Cohort(tiles_per_slide=2))
    splits.write_text(splits.read_text().replace(f",{CLASSES[0]},", f",{label},"))
    for name in ["teacher/seed0", *(f"students/{run.folder}" for run in study.runs())]:
        write_run(folder / name, role=name.split("/")[0].removesuffix("s"))
    Image.new("RGB", (1290, 2000), "pink").save(folder / "figures/gallery.png")
    if not pictures:
        write_check(folder, ["train0", "val0"], bad=["<b>bold</b>", "gone"])
    return folder


def write_check(folder: Path, good: list[str], bad: list[str]) -> None:
    rows = [
        (s, "ok", "", "", f"/data/secret/{s}.tif", 2048, 2048, 1.0, 1.0, "openslide.mpp", "x") for s in good
    ]
    reason, cure = "/data/secret/b.svs states no scale", "add mpp to slides.csv"
    rows += [(slide, "no_mpp", reason, cure, f"/data/secret/{slide}.svs", *[""] * 6) for slide in bad]
    lines = [CHECK, *("\t".join(map(str, row)) for row in rows)]
    (folder / "check.tsv").write_text("\n".join(lines) + "\n")
    (folder / "tissue").mkdir(exist_ok=True)
    for slide in [*good, *bad]:
        if "/" not in slide:
            Image.new("RGB", (400, 300), "pink").save(folder / f"tissue/{slide}.png")


def write_run(folder: Path, *, role: str) -> None:
    options = {
        "model": "resnet10gn",
        "stride": 32,
        "epochs": 3,
        "lr": 0.001,
        "balance": True,
        "weights": None,
    }
    term = {"features": {"weight": 0.1, "distance": "rmse", "resize": "area"}}
    machine = {"versions": {"torch": "2.15.0", "python": "3.12.3"}, "device": "cpu", "threads": 2}
    run = {
        "role": role,
        "options": options,
        "method": term,
        "steps": 120,
        "seconds": 61.5,
        "code": "0123456789abcdef",
    }
    write_json(folder / "run.json", run | machine)
    (folder / "metrics.csv").write_text(
        "epoch,val_balanced_accuracy,val_loss\n1,0.5,1.1\n2,0.7,0.9\n3,nan,nan\n"
    )


@pytest.fixture(scope="module")
def study() -> Study:
    return small_study()


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory, study: Study) -> Path:
    folder = make_results(tmp_path_factory.mktemp("results"), study)
    figures.write_figures(folder / "predictions", folder / "evaluation", folder / "figures", study)
    return folder


@pytest.fixture(scope="module")
def content(results: Path, study: Study) -> str:
    report.write_report(results, results / "report.html", study)
    return (results / "report.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(content: str) -> Page:
    return Page(content)


def test_the_page_opens_with_the_answer_and_its_limits(page: Page) -> None:
    before_cohort = page.text.split("Cohort", 2)[1]
    assert "balanced accuracy of 0." in before_cohort
    assert "the margin of 0.05" in before_cohort
    assert "times less computation than the 10x teacher" in before_cohort
    assert "4 test patients" in before_cohort
    assert "Only 4 test patients" in page.text


def test_every_figure_is_inside_the_page(page: Page) -> None:
    shown = {picture["alt"]: picture["src"] or "" for picture in page.all("img")}
    assert set(report.ALTERNATIVES.values()) <= set(shown)
    assert all(source.startswith("data:image/") for source in shown.values())


def test_nothing_is_fetched(content: str, page: Page) -> None:
    assert not re.search(r"https?:|//\w+\.|@import|url\(", content)
    assert not page.all("link")
    assert not page.all("iframe")
    assert all((a["href"] or "").startswith("#") or a["href"] == "qc.html" for a in page.all("a"))
    assert all("src" not in script for script in page.all("script"))


def test_links_of_the_contents_lead_somewhere(page: Page) -> None:
    targets = {f"#{attributes['id']}" for _, attributes in page.tags if "id" in attributes}
    assert {a["href"] for a in page.all("a")} == {*targets, "qc.html"}


def test_no_path_of_a_machine_is_told(content: str, results: Path) -> None:
    assert str(results) not in content
    assert "secret" not in content
    assert "b.svs states no scale. Cure: add mpp to slides.csv." in Page(content).text


def test_rejected_slides_come_first_and_are_text(content: str, page: Page) -> None:
    assert "<b>" not in content
    assert page.text.index("<b>bold</b>") < page.text.index("val0")
    assert "2 of 4 slides can be used; 2 no_mpp." in page.text


def test_the_cohort_is_counted_by_split(page: Page) -> None:
    assert "10 slides of 10 patients, 20 tiles" in page.text
    for row in ("training 4 4 8 4 (2) 4 (2)", "training, unlabelled 2 2 4 – –", "test 2 2 4 2 (1) 2 (1)"):
        assert row in page.text, row


def test_tables_hold_the_numbers_of_the_evaluation(results: Path, page: Page, study: Study) -> None:
    for level in ("tile", "slide"):
        for line in (results / "evaluation/metrics.tsv").read_text().splitlines():
            if line.startswith(f"{level}\ttest\tteacher") and "\tmean\tauroc\t" in line:
                value, low, high = (f"{float(x):.2f}" for x in line.split("\t")[8:11])
                assert f"{value} [{low}, {high}]" in page.text
    assert "one-vs-rest accuracy" in page.text
    assert "difference to labels-only" in page.text
    assert "quadratic" not in page.text  # kappa is for ordinal classes


def test_methods_are_told_from_the_runs(page: Page) -> None:
    for part in (
        "resnet10gn",
        "0.1 × features (distance rmse, resize area)",
        "torch 2.15.0",
        "62 s",
        "optimiser",
    ):
        assert (part in page.text) == (part != "optimiser"), part  # an option no run has is left out


def test_names_from_outside_stay_text(tmp_path: Path) -> None:
    study = small_study(classes=[HOSTILE, CLASSES[1]], ordinal=True)
    make_results(tmp_path, study, label=HOSTILE)
    report.write_report(tmp_path, tmp_path / "report.html", study)
    content = (tmp_path / "report.html").read_text(encoding="utf-8")
    page = Page(content)
    assert "alert(1)" in page.text
    assert len(page.all("script")) == 1
    assert "alert" not in content.split("<script>", 1)[1]
    assert "quadratic kappa" in page.text


def test_pictures_have_neither_check_nor_overlays_nor_reading(tmp_path: Path) -> None:
    study = small_study(unlabelled=[0])
    make_results(tmp_path, study, pictures=True)
    (tmp_path / "figures/gallery.png").unlink()
    report.write_report(tmp_path, tmp_path / "report.html", study)
    page = Page((tmp_path / "report.html").read_text(encoding="utf-8"))
    for part in (
        "came as pre-cut pictures",
        "no scores per slide",
        "reading was not timed",
        "Only one share of unlabelled slides was run",
        "There is no gallery",
        "no slide was read",
    ):
        assert part in page.text, part
    assert "Tissue found" not in page.text


@pytest.mark.parametrize(
    ("sizes", "unit", "expected"),
    [
        ((16, 1024), "tile", "in batches of 16 to 1\u202f024 tiles"),
        ((1, 1), "section", "in batches of 1 section"),
    ],
)
def test_how_many_at_a_time_were_timed_is_said(tmp_path: Path, sizes, unit: str, expected: str) -> None:
    study = small_study(unit=unit)
    for model, size in zip(study.models, sizes, strict=False):
        write_json(
            tmp_path / "predictions" / model / "cost.json",
            {"device": "CPU", "threads": 1, "batch_size": size, "precision": "float32"},
        )
    assert timing_conditions(tmp_path, study) == f"CPU (1 thread, float32), {expected}"


def test_overlays_are_capped_and_the_rest_is_counted(results: Path, study: Study, tmp_path: Path) -> None:
    for name in ("splits.csv", "tiles", "evaluation", "figures", "predictions"):
        (tmp_path / name).symlink_to(results / name)
    write_check(tmp_path, ["val0"], bad=[f"bad{i}" for i in range(MOST_OVERLAYS + 1)])
    report.write_report(tmp_path, tmp_path / "report.html", study)
    page = Page((tmp_path / "report.html").read_text(encoding="utf-8"))
    overlays = [picture for picture in page.all("img") if "Tissue outline" in (picture["alt"] or "")]
    assert len(overlays) == MOST_OVERLAYS
    assert "the first 60 are shown and 2 more" in page.text


def test_slide_found_unreadable_while_cut_shows_why(results: Path, study: Study, tmp_path: Path) -> None:
    """Its record says ok: only the tile file knows, and the table of tile files."""
    (tmp_path / "tiles").mkdir()
    for file in (results / "tiles").iterdir():
        (tmp_path / "tiles" / file.name).symlink_to(file)
    (tmp_path / "splits.csv").symlink_to(results / "splits.csv")
    write_check(tmp_path, ["train0", "val0"], bad=[])
    (tmp_path / "tiles/val0.h5").unlink()
    with TileFile(tmp_path / "tiles/train0.h5") as file:
        layout = Layout(file.magnifications, {m: file.tile_px(m) for m in file.magnifications})
    found = {"slide_id": "val0", "verdict": "unreadable", "reason": "3 of 9 fields", "cure": "copy it again"}
    with writing(tmp_path / "tiles/val0.h5", layout, found):
        pass
    tile_table.write_table(tmp_path / "tiles.tsv", tmp_path / "tiles", ["train0", "val0"])
    read = cohort.read_cohort(tmp_path, study)
    first = cohort.check_rows(read).rows[0]
    assert [cell.text for cell in first[:3]] == [
        "val0", "unreadable", "3 of 9 fields. Cure: copy it again.",
    ]  # fmt: skip
    assert cohort.check_summary(read) == "1 of 2 slides can be used; 1 unreadable."


def test_notes_on_usable_slides_are_shown(results: Path, study: Study, tmp_path: Path) -> None:
    (tmp_path / "tiles").symlink_to(results / "tiles")
    (tmp_path / "splits.csv").symlink_to(results / "splits.csv")
    write_check(tmp_path, ["train0", "val0"], bad=[])
    lines = (tmp_path / "check.tsv").read_text().splitlines()
    noted = [f"{line}\t{note}" for line, note in zip(lines, ("notes", "", "one level only"), strict=True)]
    (tmp_path / "check.tsv").write_text("\n".join(noted) + "\n")
    rows = cohort.check_rows(cohort.read_cohort(tmp_path, study)).rows
    assert [row[2].text for row in rows] == ["", "one level only."]


def test_missing_tables_are_named_with_the_cure(study: Study, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"lacks splits\.csv, evaluation/metrics\.tsv.*run `snakemake`"):
        report.write_report(tmp_path, tmp_path / "report.html", study)
