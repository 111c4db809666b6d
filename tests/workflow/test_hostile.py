"""A study whose names are hostile: every rule runs, to the report, and no name is taken for anything else."""

import csv
import json
import os
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest
from lowmag import cli

from tests.workflow.study_folder import TINY, StudyFolder

TRAP = "pwned"  # what a name that gets to a shell would leave behind
CLASSES = {
    "acinar": """$(touch pwned) `touch pwned`; {wildcards.slide} "q" 'q' <b>\N{SNOWMAN}</b> $a$b$\\frac{$""",
    "cribriform": "-rf & <results>/x | {slide} </script><script>alert(1)</script> % = 日本 " + "long" * 20,
    "trabecular": "=1+1 \"; \\ ' $HOME && & {} {{x}}",
}
FILES = [
    "$(touch pwned).tiff",
    "-rf.tiff",
    "a b;touch pwned.tiff",
    "'quoted' \"twice\".tiff",
    "`touch pwned`.tiff",
    "日本語 \N{SNOWMAN} ñ.tiff",
    "x" * 240 + ".tiff",
    "&& touch pwned #.tiff",
    "*?[!a].tiff",
    "&lt;b&gt; < b > .tiff",
    "a%20b\\t.tiff",
    "--help.tiff",
    "sub/../up.tiff",
    "~root.tiff",
    "$HOME.tiff",
]
IDS = ["a.b", "0", "A_b-c.d", "ab-12345.7" * 10]  # what an id may be at its worst
OUTDIR = "out $(touch pwned) 'q' \"p\" ;& < b > ñ"


@pytest.fixture(scope="module")
def hostile(tmp_path_factory) -> StudyFolder:
    """The study, run to its end in a folder whose own name is hostile."""
    study = StudyFolder(tmp_path_factory.mktemp("study") / 'of $(touch pwned) it\'s; "odd"')
    study.folder.mkdir()
    cohort = study.folder / "cohort"
    options = json.dumps(TINY["demo"])
    assert cli.main(["demo", "--out", str(cohort), "--options", options]) == 0
    rows = list(csv.DictReader((cohort / "slides.csv").read_text().splitlines()))
    (study.folder / "sub").mkdir()
    for number, (row, name) in enumerate(zip(rows, FILES, strict=True)):
        shutil.move(cohort / row["path"], study.folder / name)
        row["path"], row["label"] = name, CLASSES.get(row["label"], "")
        row["patient_id"] = f"$(touch pwned) {{slide}} <i>{number}</i>; 'P' é"
        row["slide_id"] = IDS[number] if number < len(IDS) else row["slide_id"]
    with (study.folder / "sheet $(touch pwned).csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    study.configure(slides="sheet $(touch pwned).csv", outdir=OUTDIR)
    chunks = [[f"{OUTDIR}/tiles/{slide}.h5"] for slide in IDS[:2]]
    # Named once more where a command line would be passed on.
    result = study.in_chunks(chunks, "--config", f"outdir={OUTDIR}", outdir=OUTDIR)
    assert result.returncode == 0, result.stdout + result.stderr
    return study


class Elements(HTMLParser):
    """Which elements a page has, and with which attributes."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: set[str] = set()
        self.attributes: set[str] = set()
        self.n_scripts = 0
        self.feed(page)

    def handle_starttag(self, tag: str, attrs) -> None:
        self.found.add(tag)
        self.attributes |= {name for name, _ in attrs}
        self.n_scripts += tag == "script"


def test_no_name_was_run(hostile):
    everywhere = [path for path in hostile.folder.parent.rglob("*") if path.name == TRAP]
    assert everywhere == []


def test_chunks_made_their_slides(hostile):
    """By the rules that a cluster runs, with the names quoted for their shell as well."""
    batch = hostile.folder / OUTDIR / "chunks/1-1"
    assert sorted(path.name for path in batch.glob("*.slides")) == ["0000.slides", "0001.slides"]
    for number, slide in enumerate(IDS[:2]):
        log = hostile.folder / OUTDIR / f"logs/chunks/1-1/{number:04d}.log"
        assert f"wildcards: slide={slide}" in log.read_text()


def test_every_slide_was_used(hostile):
    table = (hostile.folder / OUTDIR / "check.tsv").read_text().splitlines()
    rows = list(csv.DictReader(table, delimiter="\t"))
    assert len(rows) == len(FILES)
    assert {row["verdict"] for row in rows} == {"ok"}
    assert {row["path"] for row in rows} == {os.path.basename(name) for name in FILES}  # noqa: PTH119


def test_labels_arrive_as_they_are(hostile):
    rows = csv.DictReader((hostile.folder / OUTDIR / "splits.csv").read_text().splitlines())
    assert {row["label"] for row in rows} - {""} == set(CLASSES.values())
    run = json.loads((hostile.folder / OUTDIR / "teacher/seed0/run.json").read_text())
    assert sorted(run["classes"]) == sorted(CLASSES.values())


@pytest.mark.parametrize("page", ["report.html", "qc.html"])
def test_pages_show_names_as_text(hostile, page):
    text = (hostile.folder / OUTDIR / page).read_text()
    elements = Elements(text)
    assert not elements.found & {"b", "i", "iframe", "object", "embed", "form", "link"}
    assert not any(name.startswith("on") for name in elements.attributes)
    assert elements.n_scripts <= 1
    assert "alert(1)</script>" not in text
    assert re.search(r"default-src 'none'", text)


def test_figures_show_names_as_text(hostile):
    for path in (hostile.folder / OUTDIR / "figures").glob("*.svg"):
        text = path.read_text()
        assert "<script" not in text, path
        assert "<b>" not in text, path


def test_nothing_was_written_outside(hostile):
    assert {path.name for path in hostile.folder.iterdir()} == {
        OUTDIR, "cohort", "sub", "tiny.yaml", "sheet $(touch pwned).csv", ".snakemake",
        *(name for name in FILES if "/" not in name), "up.tiff",
    }  # fmt: skip


def test_snakemake_report_works(hostile):
    result = hostile.snakemake("--report", "report.zip")
    assert result.returncode == 0, result.stderr
    Path(hostile.folder, "report.zip").unlink()
