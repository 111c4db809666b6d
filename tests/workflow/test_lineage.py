"""A study that has lost a method and a slide: what the folder of results still holds of them is not told."""

import json

import pytest
from lowmag import cli

from tests.workflow.study_folder import N_SLIDES, TINY, StudyFolder

FEW = {"slides": "cohort/slides.csv", "tiles": {"students": [1.25]}, "students": {"unlabelled": [100]}}
GONE = "delamor2024"
LICENCE = "https://creativecommons.org/licenses/by/4.0/"


@pytest.fixture(scope="module")
def lessened(tmp_path_factory) -> tuple[StudyFolder, str, dict]:
    """A study run to its end, and again without a method and a slide; the slide, and what was told before."""
    study = StudyFolder(tmp_path_factory.mktemp("study"))
    assert (
        cli.main(["demo", "--out", str(study.folder / "cohort"), "--options", json.dumps(TINY["demo"])]) == 0
    )
    study.configure(**FEW)
    run(study)
    before = json.loads((study.folder / "results/provenance.json").read_text())
    sheet = study.folder / "cohort/slides.csv"
    *rows, last = sheet.read_text().splitlines()
    sheet.write_text("\n".join(rows) + "\n")
    study.configure(**FEW, methods={GONE: None})
    run(study)
    return study, last.split(",")[0], before


def run(study: StudyFolder) -> None:
    result = study.snakemake()
    assert result.returncode == 0, result.stdout + result.stderr


def test_provenance_tells_of_what_is_left_alone(lessened):
    study, slide, before = lessened
    results = study.folder / "results"
    assert (results / "students" / GONE).is_dir()  # Snakemake deletes nothing
    assert (results / f"tiles/{slide}.h5").is_file()
    assert len(before["runs"]) == 3
    text = (results / "provenance.json").read_text()
    found = json.loads(text)
    assert slide not in text
    assert GONE not in json.dumps(found | {"config": None})
    assert sorted(found["runs"]) == ["students/labels-only/1.25x/u0/seed0", "teacher/seed0"]
    assert len(found["inputs"]["slides"]) == N_SLIDES - 1
    assert found["rules"]["tiles"]["jobs"] == N_SLIDES - 1
    assert found["rules"]["student"]["jobs"] == 1


def test_crate_holds_what_is_left_alone(lessened, tmp_path):
    study, slide, _ = lessened
    pytest.importorskip("rocrate", reason="rocrate is not installed")
    out = tmp_path / "crate"
    command = ["crate", "--results", str(study.folder / "results"), "--out", str(out), "--license", LICENCE]
    assert cli.main(command) == 0
    metadata = (out / "ro-crate-metadata.json").read_text()
    assert "students/labels-only/1.25x/u0/seed0/model.safetensors" in metadata
    assert GONE not in metadata
    assert slide not in metadata
    assert not list(out.rglob(f"*{GONE}*"))
