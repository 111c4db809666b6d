"""What the workflow refuses before it lays out a job, and what its rules depend on."""

import json
import re
from pathlib import Path

import pytest
from lowmag.config import parse_config
from lowmag.errors import UserError
from lowmag.plan import Plan
from lowmag.study import Run
from lowmag.target_wishes import target_options
from PIL import Image


@pytest.fixture
def images(tmp_path):
    """Six pictures of 64 x 64 px in two classes."""
    rows = []
    for number in range(6):
        Image.new("RGB", (64, 64)).save(tmp_path / f"{number}.png")
        rows.append(f"{number}.png,P{number},{'ab'[number % 2]}")
    sheet = tmp_path / "images.csv"
    sheet.write_text("image,patient_id,label\n" + "\n".join(rows) + "\n")
    return sheet


@pytest.mark.parametrize("kind", ["slides", "images"])
def test_label_that_is_no_class_is_refused_at_once(tmp_path, images, kind):
    if kind == "slides":
        images.write_text("slide_id,path,label\nA,0.png,a\nB,1.png,c\n")
    classes = ["a", "c" if kind == "images" else "b"]
    with pytest.raises(UserError, match=r"row 3, column label: found '[bc]', expected one of a, [bc]"):
        list(Plan({kind: str(images), "classes": classes}).slides)


def test_pictures_too_small_for_a_network_are_refused_at_once(images):
    network = {"model": "resnet18"}
    content = {"images": str(images), "teacher": network, "students": {**network, "batch_size": 1}}
    with pytest.raises(UserError, match=r"BatchNorm of resnet18 .* at 0\.625x is 1 x 1"):
        Plan(content)
    assert Plan(content | {"students": network}).config.tiles.field_um == 64


def test_network_for_tissue_counts_by_content(tmp_path, images):
    model = tmp_path / "model.onnx"
    model.write_bytes(b"first")
    content = {"images": str(images), "tissue": {"model": str(model)}}
    before = Plan(content).tissue_model
    assert Plan(content).tissue_model == before
    model.write_bytes(b"other")
    assert Plan(content).tissue_model != before
    assert Plan({"images": str(images)}).tissue_model == ""
    model.unlink()
    with pytest.raises(UserError, match=r"tissue\.model: there is no file"):
        Plan(content)


@pytest.mark.parametrize("section", ["teacher", "students"])
def test_weights_count_by_content(tmp_path, images, section):
    weights = tmp_path / "weights.safetensors"
    weights.write_bytes(b"first")
    content = {"images": str(images), section: {"weights": str(weights)}}

    def digest(content):
        plan = Plan(content)
        return plan.teacher_weights() if section == "teacher" else plan.student_weights("labels-only")

    before = digest(content)
    assert digest(content) == before
    weights.write_bytes(b"other")
    assert digest(content) != before
    assert digest({"images": str(images)}) == ""
    with pytest.raises(UserError, match=rf"{section}\.weights.*: there is no file"):
        Plan({"images": str(images), section: {"weights": str(tmp_path / "gone.pt")}})


def test_a_run_begins_with_its_teacher_or_with_the_student_above(images):
    ways = {
        f"from-{way}": {"cross_entropy": 1, "training": {"initial": way}}
        for way in ("noise", "teacher", "higher")
    }
    plan = Plan({"images": str(images), "methods": ways})
    found = {name: [plan.initial(Run(name, m, 50, 3)) for m in (5, 2.5)] for name in ways}
    assert found["from-noise"] == [None, None]
    assert found["from-teacher"] == ["teacher/seed3", "teacher/seed3"]
    assert found["from-higher"] == ["teacher/seed3", "students/from-higher/5x/u50/seed3"]


@pytest.fixture
def on_features(tmp_path):
    """Config of three slides, of which A and B have features."""
    for name in ("A.svs", "B.svs", "C.svs", "A.h5", "B.h5"):
        (tmp_path / name).write_bytes(name.encode())
    (tmp_path / "slides.csv").write_text("slide_id,path,label\nA,A.svs,x\nB,B.svs,y\nC,C.svs,x\n")
    own = {"soft_labels": 1, "training": {"initial": "higher"}}
    others = {"labels-only": None, "dipalma2021": None, "delamor2024": None}
    teacher = {"features": str(tmp_path)}
    return {"slides": str(tmp_path / "slides.csv"), "teacher": teacher, "methods": {**others, "own": own}}


def test_students_of_a_teacher_on_features_begin_with_noise_and_one_another(on_features):
    plan = Plan(on_features)
    runs = [Run("own", m, 0, 3) for m in (5, 2.5)]
    assert [plan.initial(run) for run in runs] == [None, "students/own/5x/u0/seed3"]
    assert [json.loads(plan.student_options(run))["initial"] for run in runs] == ["noise", "higher"]


def test_slides_without_features_are_known_before_anything_runs(on_features, tmp_path):
    plan = Plan(on_features)
    assert plan.without_features == ["C"]
    before = plan.features, plan.teacher_options()
    stated = Plan({**on_features, "teacher": {**on_features["teacher"], "patch_gmac": 60}})
    assert (stated.features, stated.teacher_options()) == before, "what it costs trains no teacher anew"
    (tmp_path / "B.h5").write_bytes(b"another")
    assert Plan(on_features).features != before[0]
    for name in ("A.h5", "B.h5"):
        (tmp_path / name).unlink()
    with pytest.raises(UserError, match=r"none of the 3 slides has a file in .* \(A.h5 and so on\)"):
        Plan(on_features)


@pytest.fixture
def annotated(tmp_path):
    """A sheet of four slides; B is drawn on, C brings tiles, D its own options for tissue."""
    for name in ("A.svs", "B.svs", "C.svs", "D.svs", "b.xml", "c.h5"):
        (tmp_path / name).touch()
    sheet = tmp_path / "slides.csv"
    sheet.write_text(
        "slide_id,path,label,annotations,coords,min_piece_um,saturation_floor\n"
        "A,A.svs,normal,,,,\nB,B.svs,,b.xml,,,\nC,C.svs,tumour,,c.h5,,\nD,D.svs,tumour,,,50,7\n"
    )
    return {"slides": str(sheet), "classes": ["normal", "tumour"]}


def test_a_network_of_tissue_that_is_not_there_is_refused_at_once(annotated):
    with pytest.raises(UserError, match=r"tissue\.model: there is no file gone\.onnx"):
        Plan(annotated | {"tissue": {"model": "gone.onnx"}})


def test_what_the_sheet_says_of_a_slide_reaches_its_rules(tmp_path, annotated):
    plan = Plan(annotated)
    assert plan.is_annotated
    assert plan.slides["B"].annotations == tmp_path / "b.xml"
    assert plan.slides["C"].coords == tmp_path / "c.h5"
    assert json.loads(plan.tissue_options("A")) == plan.config.tissue.model_dump()
    assert json.loads(plan.tissue_options("D")) == {
        **plan.config.tissue.model_dump(),
        "min_piece_um": 50,
        "saturation_floor": 7,
    }


def test_tissue_options_of_the_sheet_are_checked_as_those_of_the_config(annotated):
    sheet = Path(annotated["slides"])
    sheet.write_text(sheet.read_text().replace(",50,7", ",50,300"))
    with pytest.raises(UserError, match="row 5, column saturation_floor: found '300'"):
        list(Plan(annotated).slides)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"classes": None}, "column annotations is filled, so the config must name the classes"),
        ({"classes": ["none", "tumour", "normal"]}, "classes: none means something else in annotations"),
        ({"annotations": {"classes": {"T": "tumor"}}}, "annotations.classes: found tumor, expected none or"),
        ({"annotations": {"outside": "stroma"}}, "annotations.outside: found 'stroma', expected none, slide"),
    ],
)
def test_annotations_that_cannot_become_classes_are_refused_at_once(annotated, changes, expected):
    with pytest.raises(UserError, match=re.escape(expected)):
        Plan(annotated | changes).classes  # noqa: B018


@pytest.mark.parametrize(
    ("outside", "label", "shares"),
    [("none", "normal", [0, 100]), ("normal", "", [0]), ("slide", "normal", [0]), ("slide", "", [0, 100])],
)
def test_tiles_outside_of_regions_count_as_unlabelled_slides_do(annotated, outside, label, shares):
    sheet = Path(annotated["slides"])
    sheet.write_text(sheet.read_text().replace("B,B.svs,,", f"B,B.svs,{label},"))
    content = annotated | {"annotations": {"outside": outside}, "students": {"unlabelled": [0, 100]}}
    assert Plan(content).study.unlabelled == shares


def test_a_folder_counts_by_all_its_files(tmp_path, annotated):
    folder = tmp_path / "series"
    folder.mkdir()
    (folder / "1.dcm").write_bytes(b"12")
    (folder / "2.dcm").write_bytes(b"345")
    sheet = Path(annotated["slides"])
    sheet.write_text(sheet.read_text().replace("A,A.svs", "A,series"))
    assert Plan(annotated).slide_size("A") == 5


def test_targets_measure_the_grid_of_library_networks_alone():
    """A method with a network of its own has targets of its own, unless it reads no map."""
    own = {"model": "torchvision/resnet50", "weights": None}
    content = {
        "tiles": {"students": [1.25]},
        "methods": {
            "ours": {"soft_labels": 1},
            "theirs": {"soft_labels": 1, "training": own},
            "aligned": {"cosine": 1, "training": own},
        },
    }
    options = target_options(parse_config(content))
    name = "1.25x-torchvision-resnet50-64"
    assert options.grids == {"1.25x": 2, name: 0}
    assert {k: v.model_dump() for k, v in options.measured.items()} == {
        name: {"model": "torchvision/resnet50", "stride": 32, "px": 64}
    }
