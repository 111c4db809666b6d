"""What teacher and student are shown: one draw for both, the same tissue at both magnifications."""

import numpy as np
import pytest
import torch
from lowmag.recipe import Augment
from lowmag.views import Part, Views, draw, show, show_both
from torch.nn import functional

N = 12
PLAIN = {"dihedral": False, "brightness": 0, "contrast": 0, "saturation": 0, "stain": 0}
CPU = torch.device("cpu")


def part(px: int = 32, factor: int = 4) -> Part:
    """Fine tiles and their block means; blocks of one colour, so that no mean is rounded."""
    random = torch.Generator().manual_seed(0)
    own = torch.randint(40, 200, (N, px // factor, px // factor, 3), dtype=torch.uint8, generator=random)
    return Part(own, own.repeat_interleave(factor, 1).repeat_interleave(factor, 2))


def views(**changes) -> Views:
    return draw(0, 0, np.arange(N), Augment.model_validate(PLAIN | changes))


@pytest.mark.parametrize("dihedral", [True, "flips", "horizontal", False])
def test_both_are_flipped_alike(dihedral) -> None:
    """The same flips and turns at two scales, exactly: the mean of the teacher's picture is the student's."""
    own, fine = show_both(part(), views(dihedral=dihedral), 4)
    assert fine is not None
    torch.testing.assert_close(functional.avg_pool2d(fine, 4), own, rtol=0, atol=1e-6)
    turned = [not torch.equal(a, b) for a, b in zip(own, show(part().own, views()), strict=True)]
    assert any(turned) == bool(dihedral)


def test_both_get_the_same_colours() -> None:
    """Of blocks of one colour, whose means the changes, nonlinear ones too, leave alone."""
    drawn = views(brightness=0.5, contrast=0.5, saturation=0.5, stain=0.3, hue=0.2)
    own, fine = show_both(part(), drawn, 4)
    assert fine is not None
    torch.testing.assert_close(functional.avg_pool2d(fine, 4), own, rtol=0, atol=2e-6)
    assert (own - show(part().own, views())).abs().amax((1, 2, 3)).min() > 0.01, "every picture is changed"


def test_a_student_without_tiles_is_shown_means_of_the_changed_teachers_picture() -> None:
    drawn = views(dihedral=True, rotation=45, zoom=(0.95, 1.2), shift=(0.05, 0), hue=0.1)
    own, fine = show_both(Part(None, part().fine), drawn, 4)
    assert fine is not None
    torch.testing.assert_close(own, fine.reshape(N, 3, 8, 4, 8, 4).mean((3, 5)), rtol=0, atol=1e-6)
    assert own.shape == (N, 3, 8, 8)


def test_without_changes_tiles_are_shown_as_they_are() -> None:
    tiles = part().own
    assert torch.equal(show(tiles, views()), tiles.permute(0, 3, 1, 2) / 255)


def test_a_slice_of_views_is_that_of_its_tiles() -> None:
    drawn = views(dihedral=True, rotation=45, hue=0.2, brightness=0.1, probability=0.5)
    whole = show(part().fine, drawn)
    some = show(part().fine[3:7], drawn[3:7].to(CPU))
    torch.testing.assert_close(some, whole[3:7], rtol=0, atol=1e-6)
