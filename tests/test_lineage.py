import base64
import json
import re

import pytest
from lowmag.errors import UserError
from lowmag.job_records import rule_times
from lowmag.lineage import Made, write_lineage

MODELS = ["teacher/seed0", "students/a/1.25x/u0/seed0"]


def record(folder, output, **content):
    """A record as Snakemake keeps it."""
    name = base64.urlsafe_b64encode(output.encode()).decode()
    parts = [name[i : i + 40] for i in range(0, len(name), 40)]
    path = folder.joinpath(*[f"@{part}" for part in parts[:-1]], parts[-1])
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


@pytest.fixture
def results(tmp_path):
    folder = tmp_path / "results"
    (folder / "slides").mkdir(parents=True)
    (folder / "evaluation").mkdir()
    (folder / "evaluation/metrics.tsv").write_text("a")
    (folder / "check.tsv").write_text("slide_id\tverdict\npatient-A\tok\npatient-B\tok\n")
    for name in "AB":
        slide = {
            "slide_id": f"patient-{name}",
            "path": f"/secret/{name}.svs",
            "source_size": 7,
            "verdict": "ok",
        }
        (folder / f"slides/patient-{name}.json").write_text(json.dumps(slide))
    for model in MODELS:
        (folder / model).mkdir(parents=True)
        (folder / model / "run.json").write_text('{"role": "x"}')
    return folder


def written(results, config, **options):
    write_lineage(results / "provenance.json", Made(results, config, MODELS, **options))
    text = (results / "provenance.json").read_text()
    return json.loads(text), text


def test_rules_are_timed_by_their_records(tmp_path):
    record(tmp_path, "out/a/1.h5", rule="tiles", starttime=10.0, endtime=14.0, log=["1.log"])
    record(tmp_path, "out/a/1.png", rule="tiles", starttime=10.0, endtime=14.5, log=["1.log"])
    record(tmp_path, "out/a/" + "2" * 90 + ".h5", rule="tiles", starttime=20.0, endtime=21.0, log=["2.log"])
    record(tmp_path, "elsewhere/1.h5", rule="tiles", starttime=0.0, endtime=900.0, log=["3.log"])
    record(tmp_path, "out/b.h5", rule="teacher", starttime=1.0, endtime=None, incomplete=True)
    (tmp_path / "not base64!").write_text("{}")
    assert rule_times(tmp_path, "out") == {
        "tiles": {"jobs": 2, "first_start": 10.0, "last_end": 21.0, "seconds": 5.5}
    }
    assert rule_times(tmp_path / "none", "out") == {}


def test_what_is_no_longer_of_the_study_is_not_told(results, tmp_path):
    (results / "check.tsv").write_text("slide_id\tverdict\npatient-A\tok\n")
    for model in (*MODELS, "students/old/1.25x/u0/seed0", "students/a/1.25x/u0/seed01"):
        (results / model).mkdir(parents=True, exist_ok=True)
        (results / model / "run.json").write_text('{"role": "x"}')
        record(
            tmp_path / "m",
            f"{results}/{model}/model.safetensors",
            rule="student",
            starttime=1,
            endtime=2,
            log=model,
        )
    for slide in ("patient-A", "patient-B"):
        record(tmp_path / "m", f"{results}/tiles/{slide}.h5", rule="tiles", starttime=1, endtime=2, log=slide)
    found, text = written(results, {}, metadata=tmp_path / "m")
    assert sorted(found["runs"]) == sorted(MODELS)
    assert [slide["slide_id"] for slide in found["inputs"]["slides"]] == ["patient-A"]
    assert [name for name in found["outputs"] if "run.json" in name] == [
        f"{m}/run.json" for m in sorted(MODELS)
    ]
    assert found["rules"]["tiles"]["jobs"] == 1
    assert found["rules"]["student"]["jobs"] == len(MODELS)
    assert "old" not in text


def test_everything_needed_to_tell_a_study_is_there(results, tmp_path):
    (tmp_path / "s.csv").write_text("slide_id,path\n")
    found, _ = written(results, {"slides": "s.csv"}, sheet=tmp_path / "s.csv")
    assert re.fullmatch("[0-9a-f]{64}", found["inputs"]["sheet_sha256"])
    assert [slide["slide_id"] for slide in found["inputs"]["slides"]] == ["patient-A", "patient-B"]
    assert re.fullmatch("[0-9a-f]{64}", found["outputs"]["evaluation/metrics.tsv"])
    assert {"python", "torch", "snakemake", "openslide", "libvips", "h5py"} <= set(found["software"])
    assert found["hardware"]["cpus"] > 0
    assert found["rules_from"] == "no records were found"


def test_no_folder_of_the_machine_is_told(results):
    config = {
        "slides": "/secret/place/s.csv",
        "teacher": {"weights": "../secret/w.pt"},
        "list": ["/secret/x"],
    }
    found, text = written(results, config)
    assert "secret" not in text
    assert found["config"] == {"slides": "s.csv", "teacher": {"weights": "w.pt"}, "list": ["x"]}


def test_anonymised_study_names_no_slide_but_tells_whether_it_is_the_same(results):
    found, text = written(results, {"qc": {"anonymise": True}})
    assert "patient" not in text
    assert found["inputs"]["n_slides"] == 2
    before = found["inputs"]["slides_sha256"]
    (results / "slides/patient-A.json").write_text(json.dumps({"slide_id": "patient-A", "source_size": 8}))
    assert written(results, {"qc": {"anonymise": True}})[0]["inputs"]["slides_sha256"] != before


@pytest.mark.parametrize("name", ["students/a/1.25x/u0/seed0/run.json", "slides/patient-B.json"])
def test_study_that_is_partly_deleted_is_not_told_as_whole(results, name):
    (results / name).unlink()
    with pytest.raises(UserError, match=f"lacks {name}, of which its study was made"):
        written(results, {})
    assert not (results / "provenance.json").exists()


def test_missing_results_are_named(tmp_path):
    with pytest.raises(UserError, match="there is no folder of results"):
        write_lineage(tmp_path / "p.json", Made(tmp_path / "none", {}, []))
