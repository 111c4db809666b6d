"""A whole study whose teacher is a head on features that another program computed of the same slides."""

import csv
import html
import json
import re

import h5py
import numpy as np
import pandas as pd
import pytest
import torch
from lowmag import cli
from lowmag.answer import answer
from lowmag.store import TileFile, decode

from tests.workflow.study_folder import N_SLIDES, TINY, StudyFolder


def write_features(tiles, folder) -> None:
    """What a small network with random weights says of every tile, laid out as TRIDENT lays it out."""
    torch.manual_seed(0)
    network = torch.nn.Sequential(
        torch.nn.Conv2d(3, 16, 7, stride=4),
        torch.nn.ReLU(),
        torch.nn.Conv2d(16, 24, 5, stride=4),
        torch.nn.ReLU(),
    )
    folder.mkdir()
    for path in sorted(tiles.glob("*.h5")):
        with TileFile(path) as file:
            if not file.n:  # the slide without tissue
                continue
            pictures = np.stack([decode(blob) for blob in file.jpegs(10.0)])
            coords, attributes = file.column("coords"), {"patch_size_level0": 256}
        with torch.no_grad():
            maps = network(torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 255)
        with h5py.File(folder / path.name, "w") as out:
            out["features"] = maps.mean((2, 3)).numpy()
            out["coords"] = coords
            out["coords"].attrs.update(attributes)


def test_from_features_to_the_report(tmp_path):
    study = StudyFolder(tmp_path)
    demo = json.dumps(TINY["demo"])
    assert cli.main(["demo", "--out", str(tmp_path / "cohort"), "--options", demo]) == 0
    methods = {
        "labels-only": {"cross_entropy": 1},
        "dipalma2021": None,
        "delamor2024": None,
        "from-features": {"soft_labels": 1, "cosine": {"local": 0}, "training": {"initial": "higher"}},
    }
    # Not `configure`: a method set to null leaves out those of config.yaml.
    common = {"slides": "cohort/slides.csv", "methods": methods}
    study.configure(**common)
    result = study.snakemake("--", "results/tiles.tsv")
    assert result.returncode == 0, result.stdout + result.stderr
    write_features(tmp_path / "results" / "tiles", tmp_path / "features")
    teacher = {"features": "features", "epochs": 30, "require": "nothing"}
    study.configure(**common, teacher=teacher, evaluation={"slide_score": "attention"})
    result = study.snakemake()
    assert result.returncode == 0, result.stdout + result.stderr

    results = tmp_path / "results"
    with (results / "evaluation" / "cost.tsv").open(newline="") as lines:
        cost = list(csv.DictReader(lines, delimiter="\t"))
    assert {row["role"]: bool(row["gmac_per_mm2"]) for row in cost} == {"teacher": False, "student": True}
    assert not any(row["compute_saving"] for row in cost)
    said = pd.read_parquet(results / "predictions" / "teacher" / "seed0" / "tiles.parquet")
    assert said.groupby("slide_id").attention.sum().to_numpy() == pytest.approx(1)
    run = json.loads((results / "students/from-features/1.25x/u100/seed0/run.json").read_text())
    assert run["teacher_sha256"]
    inputs = json.loads((results / "provenance.json").read_text())["inputs"]
    assert inputs["features"]["n"] == len(list((tmp_path / "features").glob("*.h5")))
    report = html.unescape((results / "report.html").read_text())
    summary = json.loads((results / "evaluation" / "summary.json").read_text())
    for sentence in answer(summary).sentences:
        assert sentence in report
    assert "nor is its computation known: state it as teacher.patch_gmac" in report
    assert "reading was not timed" not in report
    # The slide without tissue has no features, and need have none.
    assert f"1 of {N_SLIDES} slides have no file there" in result.stdout + result.stderr

    # What the network behind the features costs is told, and no teacher, target or student made anew.
    study.configure(**common, teacher=teacher | {"patch_gmac": 60}, evaluation={"slide_score": "attention"})
    result = study.snakemake()
    assert result.returncode == 0, result.stdout + result.stderr
    jobs = dict(re.findall(r"^(\w+) +(\d+)$", result.stdout + result.stderr, re.MULTILINE))
    assert jobs["predictions"] == "1"
    assert not {"teacher", "targets", "student", "slide_head"} & set(jobs)
    with (results / "evaluation" / "cost.tsv").open(newline="") as lines:
        cost = {row["role"]: row for row in csv.DictReader(lines, delimiter="\t")}
    assert float(cost["teacher"]["gmac_per_tile"]) == 60, "one patch a tile"
    saved = float(cost["teacher"]["gmac_per_mm2"]) / float(cost["student"]["gmac_per_mm2"])
    assert float(cost["student"]["compute_saving"]) == pytest.approx(saved, rel=1e-3)
    assert not cost["student"]["time_saving"]
    report = html.unescape((results / "report.html").read_text())
    assert "its computation is what the config states of that network" in report

    # Features made anew make teacher and students anew, and no tile.
    with h5py.File(next((tmp_path / "features").glob("*.h5")), "a") as file:
        file.attrs["made"] = "again"
    planned = study.planned()
    assert planned["teacher"] == 1
    assert "tiles" not in planned
