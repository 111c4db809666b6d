"""What the workflow plans before it runs anything."""

import re

import pytest
import yaml

from tests.workflow.study_folder import N_SLIDES, REPOSITORY

GPU_RULES = {"teacher", "targets", "student", "predictions"}


def test_dry_run_lists_jobs(study):
    planned = study.planned()
    assert planned["tiles"] == planned["tissue"] == planned["inspect"] == planned["demo_slide"] == N_SLIDES
    assert planned["teacher"] == planned["targets"] == planned["report"] == 1
    # labels-only at two magnifications, delamor2024 at two magnifications and two shares
    assert planned["student"] == 6
    assert planned["predictions"] == 7


def test_config_of_the_demo_study_lists_jobs(tmp_path, study):
    (study.folder / "tiny.yaml").write_text("{}")
    planned = study.planned()
    assert planned["tiles"] >= 36
    assert planned["student"] == 20


def test_students_that_ask_the_teacher_need_no_targets(study):
    study.configure(students={"targets": "online", "augment": {"rotation": 45}})
    planned = study.planned()
    assert "targets" not in planned
    assert planned["teacher"] == 1
    assert planned["student"] == 6


def test_attention_over_tiles_is_one_head_per_model(study):
    study.configure(evaluation={"slide_score": "attention"})
    planned = study.planned()
    assert planned["slide_head"] == planned["predictions"] == 7
    result = study.snakemake("-n", "-p", "--", "results/predictions/teacher/seed0/tiles.parquet")
    said = result.stdout + result.stderr
    assert "--seed 0 --out results/teacher/seed0/slide_head.safetensors" in said
    assert "--slide-head results/teacher/seed0/slide_head.safetensors" in said


def test_gpu_is_asked_for_by_gpu_work_alone(study):
    result = study.snakemake("-n")
    assert result.returncode == 0, result.stderr
    jobs = re.findall(
        r"^(?:local)?rule (\w+):\n((?: .*\n)+)", result.stdout + result.stderr, flags=re.MULTILINE
    )
    assert {name for name, _ in jobs} >= {*GPU_RULES, "tiles", "evaluate"}
    for name, body in jobs:
        (resources,) = [line for line in body.splitlines() if line.strip().startswith("resources:")]
        assert ("gpu=1" in resources) == (name in GPU_RULES), (name, resources)
        assert ("nodes=1" in resources) == (name == "teacher")  # SLURM would spread several GPUs
        if name != "all":
            assert "mem_mb=" in resources, name
            assert "runtime=" in resources, name


@pytest.mark.parametrize("name", ["ebhi", "osteosarcoma"])
def test_picture_studies_list_jobs(study, name):
    content = yaml.safe_load((REPOSITORY / "workflow/studies" / f"{name}.yaml").read_text())
    manifest = REPOSITORY / content["images"]
    if not manifest.exists():
        pytest.skip(f"shared/data/{manifest.parent.name} is not there")
    content["images"] = str(manifest)
    (study.folder / "tiny.yaml").write_text(yaml.safe_dump(content))
    planned = study.planned()
    assert planned["pictures"] == 1
    assert planned["teacher"] == 1
    assert "tissue" not in planned
    assert planned["student"] == 3 * len(content.get("tiles", {}).get("students", [5, 2.5, 1.25, 0.625]))


def test_a_student_may_begin_with_the_one_above_it(study):
    """Its own command names the weights, and its own options the stride; other methods are as they were."""
    own = {"cross_entropy": 1, "training": {"initial": "higher", "cell_um": 64}}
    study.configure(methods={"chain": own})
    result = study.snakemake("-n", "-p")
    assert result.returncode == 0, result.stderr
    commands = re.findall(r"lowmag student .*", result.stdout + result.stderr)
    begun = {
        re.search(r"--out (\S+)", command)[1]: re.search(r"--initial (\S+)", command) for command in commands
    }
    of_chain = {out: found[1] for out, found in begun.items() if found}
    assert of_chain == {
        "results/students/chain/5x/u0/seed0": "results/teacher/seed0/model.safetensors",
        "results/students/chain/1.25x/u0/seed0": "results/students/chain/5x/u0/seed0/model.safetensors",
    }
    assert len(begun) == 8


def test_bad_config_is_named_without_a_traceback(study):
    study.configure(tiles={"field_um": 500})
    result = study.snakemake("-n")
    assert result.returncode != 0
    assert "field_um 500 is not a whole number of pixels at 1.25x" in result.stdout + result.stderr
    assert "Traceback" not in result.stdout + result.stderr


def test_keys_can_be_given_on_the_command_line(study):
    planned = study.planned("--config", "students={seeds: [0, 1]}", "outdir=elsewhere")
    assert planned["teacher"] == 2
    assert planned["student"] == 12


def test_slurm_profile_names_rules_that_exist():
    profile = yaml.safe_load((REPOSITORY / "profiles/slurm/profile.yaml").read_text())
    assert set(profile["set-resources"]) == GPU_RULES | {"slide_head"}  # which is there where it is asked for
    assert profile["retries"] >= 1
    for rules in (REPOSITORY / "workflow/rules").glob("*.smk"):
        assert "retries:" not in rules.read_text(), (
            "retries of a rule multiply under SLURM: they stand in profiles"
        )


@pytest.mark.parametrize(("visible", "asked"), [("0,1", 2), ("", 2)])
def test_teacher_asks_for_its_gpus(study, visible, asked):
    study.configure(teacher={"gpus": 2})
    target = "results/teacher/seed0/model.safetensors"
    result = study.snakemake("-n", "-p", "--", target, CUDA_VISIBLE_DEVICES=visible)
    assert result.returncode == 0, result.stderr
    text = result.stdout + result.stderr
    assert f"gpu={asked}" in text
    assert f"--gpus {asked}" in text
    assert '"gpus"' not in text  # of the options that decide on reruns


@pytest.mark.parametrize("visible", ["0,1", ""])
def test_workstation_counts_its_gpus(study, visible):
    """Without any, as many jobs run as there are cores."""
    sheet = study.snakemake("--", "results/demo/slides.csv", CUDA_VISIBLE_DEVICES=visible)
    assert sheet.returncode == 0, sheet.stderr
    text = sheet.stdout + sheet.stderr
    assert bool(re.search(r"Provided resources: gpu\D+2", text)) == bool(visible)
    assert ("No GPU was found here" in text) == (not visible)
