"""One tiny study run to its report, then what a change reruns, and only that."""

import csv
import json
import re
import shutil
import uuid
from contextlib import contextmanager
from pathlib import Path

import pytest
from lowmag import cli
from lowmag.fingerprint import whole_package
from lowmag.store import TileFile

from tests.workflow.study_folder import N_SLIDES, REPOSITORY, TINY, StudyFolder

SLIDE_RULES = {"inspect", "tissue", "tiles"}
STUDENT_RULES = {"student", "predictions", "evaluate", "figures", "gallery", "report", "provenance", "all"}
TRAINING_RULES = {"teacher", "targets", *STUDENT_RULES}

# What is measured by a clock.
TIMED = {"seconds", "tiles_per_s", "mm2_per_s", "read_s_per_slide", "network_s_per_slide"}
TIMED |= {"seconds_per_slide", "time_saving"}
GPUS = [f"GPU-{uuid.uuid4()}" for _ in range(2)]


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> StudyFolder:
    """A study on a sheet of its own, run to the end once, on two GPUs that are only said to be there."""
    study = StudyFolder(tmp_path_factory.mktemp("study"))
    study.configure()
    demo = json.dumps(TINY["demo"])
    assert cli.main(["demo", "--out", str(study.folder / "cohort"), "--options", demo]) == 0
    study.configure(slides="cohort/slides.csv")
    result = study.snakemake(CUDA_VISIBLE_DEVICES=",".join(GPUS))
    assert result.returncode == 0, result.stdout + result.stderr
    return study


def results(study: StudyFolder) -> Path:
    return study.folder / "results"


def test_says_once_that_there_is_no_gpu(finished):
    result = finished.snakemake("--forcerun", "provenance", CUDA_VISIBLE_DEVICES="")
    assert result.returncode == 0, result.stderr
    assert (result.stdout + result.stderr).count("No GPU was found") == 1


def test_every_run_had_a_gpu_of_its_own(finished):
    folders = [
        results(finished) / "logs" / name for name in ("teacher", "targets", "students", "predictions")
    ]
    logs = [log.read_text() for folder in folders for log in folder.rglob("*.log")]
    used = [re.findall(r"using GPU (\S+)$", log, re.MULTILINE) for log in logs]
    assert len(used) > 10
    assert all(len(found) == 1 for found in used), used
    assert {found[0] for found in used} == {*GPUS}  # two students at once


def test_every_stage_left_its_files(finished):
    folder = results(finished)
    verdicts = list(csv.DictReader((folder / "check.tsv").read_text().splitlines(), delimiter="\t"))
    assert len(verdicts) == N_SLIDES
    assert {row["verdict"] for row in verdicts} == {"ok"}
    with TileFile(folder / "tiles" / f"{verdicts[0]['slide_id']}.h5") as tiles:
        assert tiles.magnifications == [10, 5, 1.25]
    for row in verdicts:
        outline = json.loads((folder / "tissue" / f"{row['slide_id']}.geojson").read_text())
        assert outline["type"] == "FeatureCollection"
    for table in ("metrics", "comparisons", "cost"):
        assert len((folder / f"evaluation/{table}.tsv").read_text().splitlines()) > 1
    run = json.loads((folder / "students/delamor2024/1.25x/u100/seed0/run.json").read_text())
    assert "attention" in json.dumps(run)


def test_report_is_one_page_without_paths(finished):
    page = (results(finished) / "report.html").read_text()
    assert not re.search(r'(?:src|href)="(?!data:|#|qc\.html")', page)
    assert str(finished.folder) not in page
    assert str(REPOSITORY) not in page


def test_page_of_the_slides_is_there(finished):
    page = (results(finished) / "qc.html").read_text()
    assert f"{N_SLIDES} of {N_SLIDES} slides can be used" in page
    assert not re.search(r'(?:src|href)="(?!data:|#)', page)
    assert str(finished.folder) not in page


def test_options_of_the_page_redraw_it_alone(finished):
    assert set(finished.planned("--config", "qc={samples: 2}")) == {"qc", "provenance", "all"}
    assert set(finished.planned("--config", "qc={anonymise: true}")) == {"qc", "provenance", "all"}


def test_provenance_tells_every_rule_from_records_and_no_folder(finished):
    text = (results(finished) / "provenance.json").read_text()
    assert str(finished.folder) not in text
    assert str(REPOSITORY) not in text
    found = json.loads(text)
    assert {*SLIDE_RULES, "check", "splits", "qc"} | TRAINING_RULES - {"provenance", "all"} <= set(
        found["rules"]
    )
    assert found["rules"]["tiles"]["jobs"] == N_SLIDES
    assert found["rules"]["student"]["jobs"] == 6
    assert len(found["runs"]) == 7
    assert found["runs"]["teacher/seed0"]["sessions"] >= 1
    for rule, jobs in found["rules"].items():
        assert jobs["jobs_silent"] == 0, rule
        assert jobs["code"] == [whole_package()]
        assert jobs["hardware"] == [found["hardware"]]
    (torch,) = found["rules"]["student"]["software"]["torch"]
    assert torch.split("+")[0] == found["software"]["torch"].split("+")[0]
    assert "torch" not in found["rules"]["tiles"]["software"]


def test_second_run_elsewhere_gives_the_same_tables(finished):
    """Every table of the evaluation; only what was timed may differ."""
    targets = ["again/there/evaluation/metrics.tsv", "again/there/splits.csv"]
    result = finished.snakemake("--config", "outdir=again/there", "--", *targets)
    assert result.returncode == 0, result.stdout + result.stderr
    first, again = results(finished), finished.folder / "again/there"
    tables = sorted(path.name for path in (first / "evaluation").glob("*.tsv"))
    assert {"metrics.tsv", "comparisons.tsv", "how_low.tsv", "added_terms.tsv", "cost.tsv"} <= {*tables}
    assert tables == sorted(path.name for path in (again / "evaluation").glob("*.tsv"))
    for name in ("splits.csv", "check.tsv", *(f"evaluation/{table}" for table in tables)):
        assert untimed_table(again / name) == untimed_table(first / name), name
    summaries = [json.loads((folder / "evaluation/summary.json").read_text()) for folder in (first, again)]
    assert without_times(summaries[0]) == without_times(summaries[1])


def untimed_table(path: Path) -> str:
    """A table's text, byte by byte but for the columns that hold times."""
    text = path.read_bytes().decode()
    header, *rows = [line.split("\t") for line in text.split("\n")]
    timed = [number for number, column in enumerate(header) if column in TIMED]
    assert bool(timed) == (path.name in ("cost.tsv", "how_low.tsv", "reading.tsv"))
    for row in rows:
        for number in timed if len(row) > 1 else ():
            row[number] = "timed" if row[number] and float(row[number]) > 0 else row[number]
    return "\n".join("\t".join(row) for row in (header, *rows))


def without_times(found):
    """A value of a JSON file, without what was timed at any depth."""
    if isinstance(found, dict):
        return {key: without_times(value) for key, value in found.items() if key not in TIMED}
    return [without_times(value) for value in found] if isinstance(found, list) else found


def test_snakemake_report_works(finished):
    result = finished.snakemake("--report", "report.zip")
    assert result.returncode == 0, result.stderr
    assert (finished.folder / "report.zip").stat().st_size > 10_000


def test_nothing_is_left_to_do(finished):
    assert finished.planned() == {}


def test_student_option_reruns_students_and_what_follows(finished):
    planned = finished.planned("--config", "students={lr: 0.0005}")
    assert set(planned) == STUDENT_RULES
    assert planned["student"] == planned["predictions"] == 6


def test_more_seeds_rerun_no_finished_student(finished):
    planned = finished.planned("--config", "students={seeds: [0, 1]}")
    assert planned["teacher"] == planned["targets"] == 1
    assert planned["student"] == 6


def test_field_reruns_tiles_but_not_tissue(finished):
    planned = finished.planned("--config", "tiles={field_um: 512}")
    assert set(planned) == {"tiles", "tile_table", "reading", "qc"} | TRAINING_RULES
    assert planned["tiles"] == N_SLIDES


def test_job_sizes_rerun_nothing(finished):
    assert finished.planned("--config", "compute={students: {threads: 2, mem_mb: 9000}}") == {}


def test_margin_reruns_the_evaluation_alone(finished):
    planned = finished.planned("--config", "evaluation={margin: 0.1}")
    assert set(planned) == {"evaluate", "figures", "report", "provenance", "all"}


def test_added_slide_runs_its_own_stages_and_training(finished):
    sheet = finished.folder / "cohort/slides.csv"
    text = sheet.read_text()
    first = next(csv.DictReader(text.splitlines()))
    try:
        extra = finished.folder / "cohort/slides/extra.tiff"
        shutil.copy(finished.folder / "cohort" / first["path"], extra)
        row = {**first, "slide_id": "extra", "path": "slides/extra.tiff"}
        sheet.write_text(text.rstrip("\n") + "\n" + ",".join(row[name] for name in first) + "\n")
        planned = finished.planned()
    finally:
        sheet.write_text(text)
    assert {rule: planned[rule] for rule in SLIDE_RULES} == {"inspect": 1, "tissue": 1, "tiles": 1}
    assert set(planned) == SLIDE_RULES | {"check", "splits", "tile_table", "reading", "qc"} | TRAINING_RULES


@pytest.fixture(scope="module")
def checkout(tmp_path_factory) -> Path:
    """A copy of the code, to edit."""
    copy = tmp_path_factory.mktemp("checkout")
    shutil.copytree(REPOSITORY / "workflow", copy / "workflow", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(REPOSITORY / "Snakefile", copy)
    shutil.copy(REPOSITORY / "config.yaml", copy)
    shutil.copytree(REPOSITORY / "envs", copy / "envs")
    return copy


@contextmanager
def edited(checkout: Path, module: str, line: str):
    """The module with a line put before its first import, for as long as the block lasts."""
    path = checkout / "workflow/lowmag" / f"{module}.py"
    original = path.read_text()
    changed, n = re.subn(r"^(?=import |from )", f"{line}\n", original, count=1, flags=re.MULTILINE)
    assert n == 1
    path.write_text(changed)
    try:
        yield
    finally:
        path.write_text(original)


def test_another_checkout_of_the_same_code_reruns_nothing(finished, checkout):
    assert finished.planned(repository=checkout) == {}


@pytest.mark.parametrize("module", ["tiles", "losses", "store", "report"])
def test_comment_reruns_nothing(finished, checkout, module):
    with edited(checkout, module, "# a comment"):
        assert finished.planned(repository=checkout) == {}


def test_edit_of_losses_reruns_training_but_no_tiles(finished, checkout):
    with edited(checkout, "losses", "ADDED = 1"):
        planned = finished.planned(repository=checkout)
    assert {"student", "evaluate", "report"} <= set(planned)
    assert not set(planned) & {*SLIDE_RULES, "splits", "check"}


def test_edit_of_the_report_redraws_the_report_alone(finished, checkout):
    with edited(checkout, "report", "ADDED = 1"):
        assert set(finished.planned(repository=checkout)) == {"report", "provenance", "all"}
