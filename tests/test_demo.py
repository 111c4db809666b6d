"""The demo cohort: who is in it, and files that OpenSlide reads at their true scale."""

import subprocess
import sys
from collections import Counter, defaultdict

import numpy as np
import openslide
import pytest
import pyvips
from lowmag import demo
from lowmag.errors import UserError
from lowmag.sections import Demo

TINY = Demo(slides=5, patients=3, size_um=1024)


@pytest.mark.parametrize(
    ("slides", "patients"), [(5, 3), (5, 5), (6, 4), (12, 12), (40, 30), (48, 32), (48, 48)]
)
@pytest.mark.parametrize("seed", [0, 7])
def test_cohort_has_every_class_labelled_and_a_third_unlabelled(slides, patients, seed):
    rows = demo.cohort(Demo(slides=slides, patients=patients, seed=seed))
    labels = Counter(row.label for row in rows if row.label)
    assert set(labels) == set(demo.GROWTH_PATTERNS)
    assert max(labels.values()) - min(labels.values()) <= 2
    assert len(rows) - labels.total() == round(slides / 3)
    assert len({row.patient_id for row in rows}) == patients
    assert len({row.slide_id for row in rows}) == len({row.seed for row in rows}) == slides


def test_patients_have_one_growth_pattern_and_labels_tell_it():
    growth = defaultdict(set)
    for row in demo.cohort(Demo()):
        growth[row.patient_id].add(row.growth)
        assert row.label in ("", row.growth)
    assert {len(patterns) for patterns in growth.values()} == {1}


def test_unlabelled_slides_are_of_both_kinds_of_patients():
    rows = demo.cohort(Demo())
    labelled = {row.patient_id for row in rows if row.label}
    unlabelled = {row.patient_id for row in rows if not row.label}
    assert len(unlabelled - labelled) >= 3
    assert len(unlabelled & labelled) >= 3
    assert len(labelled) >= 24


@pytest.mark.parametrize("options", [Demo(), TINY])
def test_one_slide_is_bare_and_one_has_ink(options):
    rows = demo.cohort(options)
    bare = [row for row in rows if not row.has_tissue]
    assert len(bare) == 1
    assert not bare[0].label
    assert sum(row.has_ink for row in rows) == 1
    assert {row.mpp for row in rows} == {1.0, 0.5, 0.97}


def test_cohort_is_a_function_of_the_seed():
    assert demo.cohort(Demo()) == demo.cohort(Demo())
    assert demo.cohort(Demo()) != demo.cohort(Demo(seed=1))


def test_more_patients_than_slides_are_refused():
    with pytest.raises(UserError, match=r"40 patients and 36 slides.*set demo\.slides"):
        demo.cohort(Demo(slides=36, patients=40))


def test_cohort_imports_no_numerics():
    code = (
        "import sys; from lowmag import demo, config; demo.cohort(config.Demo());"
        "print([name for name in ('numpy', 'pyvips') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_sheet_lists_the_cohort(tmp_path):
    demo.write_sheet(tmp_path, TINY)
    lines = (tmp_path / "slides.csv").read_text().splitlines()
    rows = demo.cohort(TINY)
    assert lines[0] == "slide_id,path,label,patient_id"
    assert lines[1:] == [f"{row.slide_id},{row.path},{row.label},{row.patient_id}" for row in rows]


@pytest.fixture(scope="module")
def tiny_slides(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    demo.write_slides(folder, TINY)
    return folder


def test_openslide_reads_the_true_scale(tiny_slides):
    for row in demo.cohort(TINY):
        with openslide.OpenSlide(tiny_slides / row.path) as slide:
            edge = round(TINY.size_um / row.mpp)
            assert slide.dimensions == (edge, edge)
            assert float(slide.properties["openslide.mpp-x"]) == pytest.approx(row.mpp, rel=1e-4)
            assert float(slide.properties["openslide.mpp-y"]) == pytest.approx(row.mpp, rel=1e-4)
            assert slide.level_downsamples == pytest.approx(
                [2**i for i in range(slide.level_count)], rel=0.01
            )
            assert max(slide.level_dimensions[-1]) <= demo.SLIDE_TILE_PX
            assert slide.properties["openslide.level[0].tile-width"] == str(demo.SLIDE_TILE_PX)


def test_slide_compression_is_jpeg(tiny_slides):
    row = demo.cohort(TINY)[0]
    fields = pyvips.Image.new_from_file(str(tiny_slides / row.path))
    assert fields.get("n-pages") == 3  # 1024, 512 and 256 px
    assert (tiny_slides / row.path).stat().st_size < 0.2 * fields.width * fields.height * 3


def test_one_slide_alone_is_the_same_pixels(tiny_slides, tmp_path):
    row = demo.cohort(TINY)[0]
    demo.write_slide(tmp_path, row.slide_id, TINY)
    again = pyvips.Image.new_from_file(str(tmp_path / row.path)).numpy()
    assert np.array_equal(again, pyvips.Image.new_from_file(str(tiny_slides / row.path)).numpy())
    assert sorted(path.name for path in (tmp_path / "slides").iterdir()) == ["D001.tiff", "D001.truth.png"]


def test_another_seed_is_another_picture(tiny_slides, tmp_path):
    other = TINY.model_copy(update={"seed": 1})
    demo.write_slide(tmp_path, "D001", other)
    pictures = [
        pyvips.Image.new_from_file(str(f / "slides/D001.tiff")).numpy() for f in (tmp_path, tiny_slides)
    ]
    assert np.abs(pictures[0].astype(int) - pictures[1]).mean() > 10


def test_unknown_slide_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"no slide 'D999'.*D001 to D005"):
        demo.write_slide(tmp_path, "D999", TINY)
    assert list(tmp_path.iterdir()) == []
