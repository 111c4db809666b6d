"""What the workflow refuses before it lays out a job, and what its rules depend on."""

import pytest
from lowmag.errors import UserError
from lowmag.plan import Plan
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


@pytest.mark.parametrize("section", ["teacher", "students"])
def test_weights_count_by_content(tmp_path, images, section):
    weights = tmp_path / "weights.safetensors"
    weights.write_bytes(b"first")
    content = {"images": str(images), section: {"weights": str(weights)}}
    before = Plan(content).weights(section)
    assert Plan(content).weights(section) == before
    weights.write_bytes(b"other")
    assert Plan(content).weights(section) != before
    assert Plan({"images": str(images)}).weights(section) == ""
    with pytest.raises(UserError, match=rf"{section}\.weights: there is no file"):
        Plan({"images": str(images), section: {"weights": str(tmp_path / "gone.pt")}})
