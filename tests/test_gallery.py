from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from lowmag import cam, gallery, models
from lowmag.errors import UserError
from lowmag.gallery import Viewer
from lowmag.index import TileIndex, index_tiles
from lowmag.networks import build
from lowmag.recipe import Architecture
from lowmag.splits import read_splits
from PIL import Image
from synthetic_tiles import CLASSES, HIGH, LOW, PX, Cohort, make_cohort

FIELD_UM = PX[HIGH] * 1.0


def save_network(path: Path, role: str, magnification: float, *, favours: int | None = None) -> Path:
    """An untrained network; `favours` fixes its prediction by the bias of its head."""
    torch.manual_seed(0)
    network = build(Architecture(), len(CLASSES))
    if favours is not None:
        with torch.no_grad():
            network.head.bias[favours] += 100
    size = {"tile_px": PX[magnification], "field_um": FIELD_UM, "teacher_px": PX[HIGH]}
    colours = {"mean": (0.6, 0.5, 0.6), "std": (0.2, 0.2, 0.2)}
    spec = models.ModelSpec(
        role=role, model="resnet10gn", stride=32, classes=CLASSES, magnification=magnification,
        input="native", **size, **colours,
    )  # fmt: skip
    models.save_model(path, network, spec)
    return path


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return make_cohort(tmp_path_factory.mktemp("cohort"))


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("models")
    return (
        save_network(folder / "teacher.safetensors", "teacher", HIGH),
        save_network(folder / "student.safetensors", "student", LOW, favours=0),
    )


@pytest.fixture(scope="module")
def viewers(paths: tuple[Path, Path]) -> list[Viewer]:
    return [Viewer(*models.load_model(path)) for path in paths]


@pytest.fixture(scope="module")
def index(cohort: tuple[Path, Path]) -> TileIndex:
    tiles, splits = cohort
    return index_tiles(tiles, [row for row in read_splits(splits) if row.split == "test"], CLASSES)


def test_the_gallery_is_a_picture_the_page_wide_and_repeatable(
    cohort: tuple[Path, Path], paths: tuple[Path, Path], tmp_path: Path
) -> None:
    for name in ("a.png", "b.png"):
        gallery.write_gallery(paths[0], [paths[1]], *cohort, tmp_path / name)
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.width == 1290
        assert np.asarray(picture.convert("L")).std() > 10
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_a_tile_of_every_class_is_shown_and_one_the_lowest_student_gets_wrong(
    index: TileIndex, viewers: list[Viewer]
) -> None:
    of_class, wrong = gallery.choose_tiles(index, viewers)
    assert sorted(index.labels[of_class]) == [0, 1]
    assert [index.labels[i] for i in wrong] == [1]  # this student always says class 0
    assert not set(of_class) & set(wrong)


def test_a_student_that_is_always_right_leaves_no_wrong_tile(tmp_path: Path, viewers: list[Viewer]) -> None:
    tiles, splits = make_cohort(tmp_path, Cohort(test=("calm",)))
    rows = [row for row in read_splits(splits) if row.split == "test"]
    of_class, wrong = gallery.choose_tiles(index_tiles(tiles, rows, CLASSES), viewers)
    assert len(of_class) == 1
    assert wrong == []


def test_a_view_is_what_the_network_says(index: TileIndex, viewers: list[Viewer]) -> None:
    viewer, ids = viewers[0], np.array([5, 1])
    view = gallery.look(viewer, index, ids)
    pictures = torch.from_numpy(np.stack(view.pictures))
    assert pictures.shape == (2, PX[HIGH], PX[HIGH], 3)
    with torch.no_grad():
        features, logits = viewer.network(models.prepare(pictures, viewer.spec))
        maps = cam.attention(features, viewer.network.head.weight, "inside")
    np.testing.assert_allclose(view.probabilities, logits.softmax(1), atol=1e-6)
    for n in range(2):
        expected = maps[n, logits[n].argmax()]
        # float32 convolutions of a batch of two and of eight may differ in the last digits
        np.testing.assert_allclose(view.attention[n], expected / expected.max(), atol=1e-5)


def test_titles_give_magnification_prediction_and_scale(index: TileIndex, viewers: list[Viewer]) -> None:
    views = [gallery.look(viewer, index, np.array([7])) for viewer in viewers]
    probabilities = [np.array([[0.2, 0.8]]), np.array([[0.7, 0.3]])]
    views = [replace(v, probabilities=p) for v, p in zip(views, probabilities, strict=True)]
    figure = gallery.draw(viewers, views, np.array([1]), ["label: busy"])
    part = figure.subfigs[0]
    assert part.get_suptitle() == "label: busy"
    titles = [axes.get_title() for axes in part.axes]
    assert {"teacher, 10x", "student, 2.5x", "attention, 2 × 2 cells", "attention, 1 cell"} <= set(titles)
    says = {axes.get_xlabel(): axes.xaxis.label.get_color() for axes in part.axes if axes.get_xlabel()}
    assert set(says) == {"busy: 0.80", "calm: 0.70 (wrong)"}
    assert says["calm: 0.70 (wrong)"] == gallery.WRONG_COLOUR
    assert [text.get_text() for text in part.axes[0].texts] == [
        "20 µm"
    ]  # a field of 64 µm has no room for 100


def test_sections_are_shown_in_their_own_shapes(tmp_path: Path, viewers: list[Viewer]) -> None:
    tiles, splits = make_cohort(tmp_path, Cohort(sections=[(64, 128), (4096, 64)]))
    index = index_tiles(tiles, [r for r in read_splits(splits) if r.split == "test"], CLASSES)
    of_any_size = [Viewer(v.network, replace(v.spec, tile_px=0, field_um=0, teacher_px=0)) for v in viewers]
    views = [gallery.look(viewer, index, np.array([0, 3])) for viewer in of_any_size]
    assert [p.shape for p in views[0].pictures] == [(128, 64, 3), (16, 1024, 3)]  # drawn no wider than that
    assert [a.shape for a in views[0].attention] == [(4, 2), (2, 128)]
    assert views[0].fields_um == views[1].fields_um == [[64.0, 128.0], [4096.0, 64.0]]
    figure = gallery.draw(of_any_size, views, np.array([0, 1]), ["label: calm", "label: busy"])
    picture, attention = figure.subfigs[0].axes[0], figure.subfigs[0].axes[3]
    assert picture.get_images()[0].get_extent() == attention.get_images()[1].get_extent() == [0, 64, 128, 0]
    assert attention.get_title() == "attention, 4 × 2 cells"
    assert [text.get_text() for text in figure.subfigs[1].axes[0].texts] == ["1000 µm"]


def test_without_a_labelled_test_tile_it_says_what_to_do(paths: tuple[Path, Path], tmp_path: Path) -> None:
    tiles, splits = make_cohort(tmp_path, Cohort(test=()))
    with pytest.raises(UserError, match=r"no labelled test tile.*give some patients the split `test`"):
        gallery.write_gallery(paths[0], [], tiles, splits, tmp_path / "gallery.png")
    assert not (tmp_path / "gallery.png").exists()


def test_the_report_tells_how_many_tiles_are_shown() -> None:
    template = Path(gallery.__file__).parent / "templates/report.html.j2"
    assert gallery.MOST_TILES == 4
    assert "At most four test tiles" in template.read_text(encoding="utf-8")
