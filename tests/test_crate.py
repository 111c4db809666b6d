"""The RO-Crate of a study, held against the profiles by the validator of the RO-Crate community."""

import errno
import json
import os
from pathlib import Path
from types import SimpleNamespace

import pytest
from lowmag import cli
from lowmag.lineage import Made, write_lineage

rocrate = pytest.importorskip("rocrate", reason="rocrate is not installed")
MODELS = ["teacher/seed0"]
LICENCE = "https://creativecommons.org/licenses/by/4.0/"


@pytest.fixture
def results(tmp_path):
    """A finished study as far as the crate looks at it."""
    folder = tmp_path / "results"
    for name in (
        "report.html",
        "splits.csv",
        "evaluation/metrics.tsv",
        "figures/a.svg",
        "teacher/seed0/model.safetensors",
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    run = {"role": "teacher", "seed": 0, "seconds": 1.0, "sessions": 2, "data": {"secret": 1}}
    (folder / "teacher/seed0/run.json").write_text(json.dumps(run))
    write_lineage(
        folder / "provenance.json",
        Made(folder, {"slides": "/secret/place/s.csv"}, MODELS, None, tmp_path / "none"),
    )
    return folder


@pytest.fixture
def offline(monkeypatch):
    """The validator with the vocabulary that the library brings along, in place of the one on the web."""
    http = pytest.importorskip("rocrate_validator.utils.http", reason="roc-validator is not installed")
    content = json.loads((Path(rocrate.__file__).parent / "data/ro-crate.jsonld").read_text())
    headers = {"Content-Type": "application/ld+json"}
    answer = SimpleNamespace(status_code=200, headers=headers, json=lambda: content, text=json.dumps(content))
    asked: list[str] = []

    def get(_self, url, **_options):
        asked.append(url)
        assert url.endswith("/context"), f"{url} is asked for"
        return answer

    monkeypatch.setattr(http.HttpRequester, "get", get, raising=False)
    return asked


def issues(crate, profile):
    from rocrate_validator import models, services

    settings = services.ValidationSettings(
        rocrate_uri=str(crate), profile_identifier=profile, requirement_severity=models.Severity.REQUIRED
    )
    return [str(issue.message) for issue in services.validate(settings).get_issues()]


def write(results, out, *options):
    return cli.main(["crate", "--results", str(results), "--out", str(out), "--license", LICENCE, *options])


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("profile", ["ro-crate-1.1", "process-run-crate-0.5"])
def test_crate_keeps_to_its_profiles(results, tmp_path, offline, profile):
    assert write(results, tmp_path / "crate") == 0
    assert issues(tmp_path / "crate", profile) == []
    assert offline


@pytest.mark.filterwarnings("ignore")
def test_validator_finds_what_is_wrong(results, tmp_path, offline):
    assert write(results, tmp_path / "crate") == 0
    path = tmp_path / "crate/ro-crate-metadata.json"
    content = json.loads(path.read_text())
    content["@graph"] = [entity for entity in content["@graph"] if entity["@type"] != "SoftwareApplication"]
    path.write_text(json.dumps(content))
    assert issues(tmp_path / "crate", "process-run-crate-0.5")


def test_crate_holds_results_and_no_names_of_slides(results, tmp_path):
    assert write(results, tmp_path / "crate") == 0
    names = {
        path.relative_to(tmp_path / "crate").as_posix()
        for path in (tmp_path / "crate").rglob("*")
        if path.is_file()
    }
    assert {
        "provenance.json",
        "report.html",
        "evaluation/metrics.tsv",
        "teacher/seed0/model.safetensors",
    } <= names
    assert "splits.csv" not in names
    (tmp_path / "crate.zip").exists()
    assert write(results, tmp_path / "crate.zip") == 0
    assert (tmp_path / "crate.zip").stat().st_size > 0


def test_model_that_is_no_longer_of_the_study_stays_out(results, tmp_path):
    old = results / "students/old-method/1.25x/u0/seed0"
    old.mkdir(parents=True)
    for name in ("run.json", "model.safetensors"):
        (old / name).write_text('{"role": "student"}')
    made = Made(results, {}, MODELS, None, tmp_path / "none")
    write_lineage(results / "provenance.json", made)
    assert write(results, tmp_path / "crate") == 0
    assert not list((tmp_path / "crate").rglob("*old-method*"))
    assert "old-method" not in (tmp_path / "crate/ro-crate-metadata.json").read_text()
    assert (tmp_path / "crate/teacher/seed0/model.safetensors").is_file()


def test_result_made_anew_after_provenance_is_refused(results, tmp_path, capsys):
    """The crate would tell another origin of it, and a digest that is not its own."""
    (results / "evaluation/metrics.tsv").write_text("of other options")
    assert write(results, tmp_path / "crate") == 2
    assert "evaluation/metrics.tsv in " in capsys.readouterr().err
    assert not (tmp_path / "crate").exists()


@pytest.mark.parametrize("name", ["crate", "crate.zip"])
def test_crate_is_there_whole_or_not_at_all(results, tmp_path, monkeypatch, capsys, name):
    def full(*_args, **_options):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    before = sorted(tmp_path.iterdir())
    with monkeypatch.context() as patched:
        patched.setattr("rocrate.model.metadata.Metadata.write", full)
        patched.setattr("rocrate.model.metadata.Metadata.stream", full)
        assert write(results, tmp_path / name) == 2
    assert "make room there" in capsys.readouterr().err
    assert sorted(tmp_path.iterdir()) == before
    assert write(results, tmp_path / name) == 0


def test_unfinished_study_and_taken_place_are_refused(results, tmp_path, capsys):
    assert write(results, results) == 2
    assert "is there already" in capsys.readouterr().err
    (results / "evaluation/metrics.tsv").unlink()
    assert write(results, tmp_path / "crate") == 2
    assert "lacks evaluation/metrics.tsv" in capsys.readouterr().err
    (results / "report.html").unlink()
    assert write(results, tmp_path / "crate") == 2
    assert "lacks report.html" in capsys.readouterr().err
