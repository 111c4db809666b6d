"""What the demo slides show, and what their colour must not tell."""

from dataclasses import replace

import numpy as np
import pytest
from lowmag import demo, drawing
from lowmag.sections import Demo
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score
from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

SLIDE = demo.DemoSlide("D001", "P001", "", "slides/D001.tiff", growth="acinar", mpp=1.0, seed=3)
FIELD_PX = 512


def test_picture_and_truth_have_the_true_size():
    for mpp in (1.0, 0.97):
        picture, truth = drawing.draw(replace(SLIDE, mpp=mpp), 1100)
        assert (picture.width, picture.height, picture.bands) == (round(1100 / mpp), round(1100 / mpp), 3)
        assert (truth.width, truth.height) == (138, 138)  # 1100 um in pixels of 8 um, rounded up


def test_the_same_tissue_at_another_mpp():
    coarse, fine = (
        drawing.draw(replace(SLIDE, mpp=mpp), 1024)[0].numpy().astype(float) for mpp in (1.0, 0.5)
    )
    means = [p.reshape(128, n, 128, n, 3).mean((1, 3)) for p, n in ((coarse, 8), (fine, 16))]
    assert np.abs(means[0] - means[1]).mean() < 1.5  # grey levels
    shifted = np.roll(means[1], 1, axis=0)
    assert np.abs(means[0] - shifted).mean() > 5


def test_truth_is_where_the_stain_is():
    picture, truth = drawing.draw(SLIDE, 1536)
    green = picture.numpy()[..., 1].reshape(192, 8, 192, 8).mean((1, 3))
    inside = truth.numpy() > 0
    assert 0.55 < inside.mean() < 0.75
    assert green[inside].mean() < 190
    assert np.quantile(green[~inside], 0.05) > 225


def test_default_slide_is_mostly_background():
    truth = drawing.draw(SLIDE, Demo().size_um)[1].numpy()
    assert 0.25 < (truth > 0).mean() < 0.42


def test_bare_slide_has_background_only():
    picture, truth = drawing.draw(replace(SLIDE, has_tissue=False), 1024)
    assert not truth.numpy().any()
    assert picture.numpy().min() > 215


def test_ink_hides_tissue_and_leaves_the_truth():
    (plain, truth), (inked, same_truth) = (
        drawing.draw(replace(SLIDE, has_ink=has_ink), 1024) for has_ink in (False, True)
    )
    assert np.array_equal(truth.numpy(), same_truth.numpy())
    changed = np.abs(plain.numpy().astype(int) - inked.numpy()).max(-1) > 60
    over_tissue = changed[4::8, 4::8] & (truth.numpy() > 0)
    assert 0.03 < changed.mean() < 0.35
    assert over_tissue.mean() > 0.01


@pytest.fixture(scope="module")
def colours():
    """Mean and standard deviation of RGB of tiles of 48 patients, their class and patient."""
    features, classes, patients = [], [], []
    for slide in demo.cohort(Demo(slides=48, patients=48)):
        if slide.has_tissue and not slide.has_ink:
            picture, truth = drawing.draw(replace(slide, mpp=1.0), 2 * FIELD_PX)
            for tile in _tiles(picture.numpy(), truth.numpy()):
                features.append([*tile.mean((0, 1)), *tile.std((0, 1))])
                classes.append(slide.growth)
                patients.append(slide.patient_id)
    return np.array(features), np.array(classes), np.array(patients)


def _tiles(picture, truth):
    for top in range(0, len(picture), FIELD_PX):
        for left in range(0, len(picture), FIELD_PX):
            window = np.s_[top : top + FIELD_PX, left : left + FIELD_PX]
            if truth[top // 8 : (top + FIELD_PX) // 8, left // 8 : (left + FIELD_PX) // 8].mean() > 127:
                yield picture[window].astype(np.float32)


def test_colour_does_not_tell_the_class(colours):
    features, classes, patients = colours
    assert len(classes) > 120
    scores = []
    for seed in range(3):
        folds = StratifiedGroupKFold(5, shuffle=True, random_state=seed)
        model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
        guess = cross_val_predict(model, features, classes, groups=patients, cv=folds)
        scores.append(balanced_accuracy_score(classes, guess))
    assert abs(np.mean(scores) - 1 / 3) <= 0.1, scores
