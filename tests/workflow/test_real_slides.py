"""Real slides, and things that only look like them, as a cohort."""

import csv

import pytest
from lowmag.store import TileFile

from tests.workflow.study_folder import REPOSITORY

SLIDES = REPOSITORY / "../shared/data/slides"
EXPECTED = {
    "CMU-1-Small-Region.svs": "ok",
    "TCGA-CR-7395-01A-01-TS1.svs": "no_mpp",
    "CMU-1-Small-Region.wrong-mpp.tiff": "implausible_mpp",
    "camelyon-overview.dcm": "too_coarse",
    "broken-not-a-slide.svs": "unsupported",
    "broken-unopenable.tiff": "unsupported",
    "broken-unreadable-tile.svs": "unreadable",
}

pytestmark = pytest.mark.skipif(not SLIDES.is_dir(), reason="the shared slides are not on this machine")


def sheet(folder, mpp: str) -> None:
    """A slides.csv of the real slides; `mpp` goes to the slide that states none."""
    rows = ["slide_id,path,label,patient_id,mpp"]
    for i, name in enumerate(EXPECTED):
        rows.append(f"S{i},{SLIDES.resolve() / name},{'ab'[i % 2]},P{i},{mpp if 'TCGA' in name else ''}")
    (folder / "my.csv").write_text("\n".join(rows) + "\n")


def verdicts(folder) -> list[str]:
    """The verdicts in the order of the sheet."""
    table = (folder / "out/check.tsv").read_text().splitlines()
    return [row["verdict"] for row in csv.DictReader(table, delimiter="\t")]


def test_every_slide_gets_its_verdict_and_the_rest_goes_on(study):
    sheet(study.folder, "")
    target = ["--config", "slides=my.csv", "outdir=out"]
    result = study.snakemake(*target, "--", "out/check.tsv")
    assert result.returncode == 0, result.stdout + result.stderr
    assert verdicts(study.folder) == list(EXPECTED.values())

    for attempt in ("made", "nothing to do"):
        refused = study.snakemake(*target, "on_bad_slide=fail", "--", "out/check.tsv")
        assert refused.returncode == 1, attempt
        assert "S1: no_mpp" in refused.stderr
        assert (study.folder / "out/check.tsv").exists()

    sheet(study.folder, "0.5")
    tiles = [f"out/tiles/S{i}.h5" for i in range(len(EXPECTED))]
    result = study.snakemake(*target, "tiles={max_per_slide: null}", "--", "out/check.tsv", *tiles)
    assert result.returncode == 0, result.stdout + result.stderr
    assert verdicts(study.folder)[1] == "ok"
    counts = []
    for path in tiles:
        with TileFile(study.folder / path) as file:
            counts.append(file.n)
    assert counts[0] > 5
    assert counts[1] > 5
    assert counts[2:] == [0] * 5
    logs = "".join(path.read_text() for path in (study.folder / "out/logs").rglob("*.log"))
    assert "Traceback" not in logs + result.stdout + result.stderr
