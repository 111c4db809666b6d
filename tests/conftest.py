"""What tests of several modules ask for."""

from pathlib import Path

import pytest
import torch
from lowmag.models import ModelSpec
from skips import pytest_make_collect_report, pytest_runtest_makereport  # noqa: F401


@pytest.fixture(scope="module")
def one_thread():
    """Sums are the same bit for bit only with the same number of threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiles, splits, a teacher of one epoch and its targets."""
    from synthetic_training import make_taught_cohort  # slow to import

    return make_taught_cohort(tmp_path_factory.mktemp("cohort"))


@pytest.fixture
def seeded() -> None:
    """Fresh weights and noise are the same in every run."""
    torch.manual_seed(0)


@pytest.fixture
def spec() -> ModelSpec:
    """What a model file says of a student at 1.25x."""
    return ModelSpec(
        role="student",
        model="resnet10gn",
        stride=16,
        classes=("A", "B", "C"),
        magnification=1.25,
        tile_px=32,
        field_um=256.0,
        input="native",
        teacher_px=128,
        mean=(0.7, 0.5, 0.6),
        std=(0.2, 0.25, 0.1),
    )
