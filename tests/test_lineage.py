import base64
import json
import re

import pytest
from lowmag.errors import UserError
from lowmag.job_records import rules_of
from lowmag.lineage import Made, write_lineage
from lowmag.trust import sha256_of

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
    nothing_told = {"jobs_silent": 2, "code": [], "hardware": [], "software": {}}
    assert rules_of(tmp_path, "out") == {
        "tiles": {"jobs": 2, "first_start": 10.0, "last_end": 21.0, "seconds": 5.5} | nothing_told
    }
    assert rules_of(tmp_path / "none", "out") == {}


def test_rules_tell_every_code_hardware_and_version_that_their_jobs_told(tmp_path):
    stamps = {
        "1": {"code": "a" * 16, "hardware": {"cpus": 2}, "software": {"numpy": "2.0"}},
        "2": {"code": "b" * 16, "hardware": {"cpus": 64}, "software": {"numpy": "2.0", "pyvips": "3.0"}},
        "3": {"code": "b" * 16, "hardware": {"cpus": 64}, "software": {"numpy": "2.1"}},
    }
    metadata = tmp_path / ".snakemake/metadata"
    for name in ("1", "2", "3", "older", "gone"):
        log = f"out/logs/{name}.log"
        record(metadata, f"out/{name}.h5", rule="tiles", starttime=0, endtime=1, log=[log])
        said = f"12:00:00 made by {json.dumps(stamps[name])}\n" if name in stamps else "no word\n"
        if name != "gone":
            (tmp_path / "out/logs").mkdir(parents=True, exist_ok=True)
            (tmp_path / log).write_text(f"{'a line' * 10_000}\n12:00:00 made by {{oddly}}\n{said}")
    found = rules_of(metadata, "out")["tiles"]
    assert found["code"] == ["a" * 16, "b" * 16]
    assert found["hardware"] == [{"cpus": 2}, {"cpus": 64}]
    assert found["software"] == {"numpy": ["2.0", "2.1"], "pyvips": ["3.0"]}
    assert (found["jobs"], found["jobs_silent"]) == (5, 2)


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


def test_its_own_job_is_not_told_of_the_last_time(results, tmp_path):
    """Snakemake takes the log of that away when it begins anew."""
    for name, rule in (("provenance.json", "provenance"), ("check.tsv", "check")):
        record(tmp_path / "m", f"{results}/{name}", rule=rule, starttime=1, endtime=2, log=[rule])
    found, _ = written(results, {}, metadata=tmp_path / "m")
    assert list(found["rules"]) == ["check"]


def test_everything_needed_to_tell_a_study_is_there(results, tmp_path):
    (tmp_path / "s.csv").write_text("slide_id,path\npatient-A,a.svs\npatient-B,b.svs\n")
    found, _ = written(results, {"slides": "s.csv"}, sheet=tmp_path / "s.csv")
    assert found["inputs"]["sheets"] == {"s.csv": sha256_of(tmp_path / "s.csv")}
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
    assert found["inputs"]["files"] == {"teacher.weights": None}  # not there any more


@pytest.mark.parametrize("is_anonymous", [False, True])
def test_anonymised_study_names_no_slide_but_tells_whether_it_is_the_same(results, tmp_path, is_anonymous):
    """An annotation counts, as the slide's own file does."""
    sheet = tmp_path / "s.csv"
    sheet.write_text("slide_id,path,annotations\npatient-A,a.svs,a.xml\npatient-B,b.svs,\n")
    (tmp_path / "a.xml").write_text("<a/>")
    config = {"qc": {"anonymise": is_anonymous}}
    found, text = written(results, config, sheet=sheet)
    if not is_anonymous:
        first, second = found["inputs"]["slides"]
        assert first["annotations_digest"] == sha256_of(tmp_path / "a.xml")
        assert "annotations_digest" not in second
        return
    assert "patient" not in text
    assert found["inputs"]["n_slides"] == 2
    assert "sheets" not in found["inputs"]
    before = found["inputs"]["slides_sha256"]
    (tmp_path / "a.xml").write_text("<b/>")
    other = written(results, config, sheet=sheet)[0]["inputs"]["slides_sha256"]
    (results / "slides/patient-A.json").write_text(json.dumps({"slide_id": "patient-A", "source_size": 8}))
    assert len({before, other, written(results, config, sheet=sheet)[0]["inputs"]["slides_sha256"]}) == 3


@pytest.mark.parametrize("name", ["students/a/1.25x/u0/seed0/run.json", "slides/patient-B.json"])
def test_study_that_is_partly_deleted_is_not_told_as_whole(results, name):
    (results / name).unlink()
    with pytest.raises(UserError, match=f"lacks {name}, of which its study was made"):
        written(results, {})
    assert not (results / "provenance.json").exists()


def test_missing_results_are_named(tmp_path):
    with pytest.raises(UserError, match="there is no folder of results"):
        write_lineage(tmp_path / "p.json", Made(tmp_path / "none", {}, []))
