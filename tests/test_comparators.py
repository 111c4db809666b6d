"""Terms of other papers: their equations by hand, what they must not see, and slopes at the corners."""

import math

import pytest
import torch
from lowmag import comparators, losses


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def gradient_of(loss: torch.Tensor, tensor: torch.Tensor) -> torch.Tensor:
    (gradient,) = torch.autograd.grad(loss, tensor)
    return gradient


def logits_of(*rows: tuple[float, ...]) -> torch.Tensor:
    """Logits whose softmax has these rows."""
    return torch.tensor(rows).log()


@pytest.mark.parametrize("power", [1.0, 2.0, 4.0])
def test_attention_transfer_is_its_equation(power):
    student, teacher = random(3, 4, 5, 2), random(3, 7, 5, 2, seed=1)
    total = 0.0
    for a, b in zip(student, teacher, strict=True):
        a, b = (m.abs().pow(power).sum(0).flatten() for m in (a, b))
        total += torch.linalg.vector_norm(a / a.norm() - b / b.norm()).item()
    found = comparators.attention_transfer(student, teacher, power, "norm")
    assert math.isclose(found.item(), total / 3, rel_tol=1e-5)


def test_attention_transfer_by_hand():
    """Squares of two channels over two cells: (9 + 16, 0) against (0, 1)."""
    student = torch.tensor([[3.0, 0.0], [-4.0, 0.0]]).view(1, 2, 1, 2)
    teacher = torch.tensor([[0.0, 1.0]]).view(1, 1, 1, 2)
    assert comparators.attention_transfer(student, teacher, 2.0, "norm").item() == pytest.approx(math.sqrt(2))
    assert comparators.attention_transfer(student, teacher, 2.0, "mse").item() == pytest.approx(1.0)


def test_attention_transfer_of_the_released_code_is_the_square_over_the_cells():
    student, teacher = random(1, 4, 3, 5), random(1, 4, 3, 5, seed=1)
    norm, square = (comparators.attention_transfer(student, teacher, 2.0, d) for d in ("norm", "mse"))
    torch.testing.assert_close(square, norm.square() / 15)


def test_attention_transfer_sees_neither_scale_nor_sign_nor_order_of_channels():
    maps = random(3, 4, 5, 5)
    other = -torch.tensor([2.0, 0.5, 7.0]).view(3, 1, 1, 1) * maps[:, [2, 0, 3, 1]]
    assert comparators.attention_transfer(other, maps, 2.0, "norm").item() < 1e-6
    assert comparators.attention_transfer(maps.flip(3), maps, 2.0, "norm").item() > 0.1


def test_attention_transfer_says_nothing_of_a_single_cell():
    student = random(3, 4, 1, 1).requires_grad_()
    loss = comparators.attention_transfer(student, random(3, 4, 1, 1, seed=1), 2.0, "mse")
    assert loss.item() < 1e-12
    assert gradient_of(loss, student).abs().max() < 1e-6


@pytest.mark.parametrize("distance", ["mse", "norm"])
def test_attention_transfer_of_an_empty_map_has_finite_gradient(distance):
    student = torch.zeros(2, 3, 4, 4, requires_grad=True)
    loss = comparators.attention_transfer(student, random(2, 3, 4, 4), 2.0, distance)
    assert loss.item() > 0
    assert gradient_of(loss, student).isfinite().all()


def test_decoupled_by_hand():
    """Target 0.7 against 0.5; among the others (2/3, 1/3) against (1/2, 1/2)."""
    student, teacher = logits_of((0.5, 0.25, 0.25)), logits_of((0.7, 0.2, 0.1))
    of_target, of_others = comparators.decoupled(student, teacher, torch.tensor([0]), 1.0)
    assert of_target.item() == pytest.approx(0.7 * math.log(0.7 / 0.5) + 0.3 * math.log(0.3 / 0.5), rel=1e-5)
    expected = 2 / 3 * math.log(4 / 3) + 1 / 3 * math.log(2 / 3)
    assert of_others.item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
@pytest.mark.parametrize("target", [0, 2, 4])
def test_soft_labels_are_the_coupled_parts(temperature, target):
    """Equation 6 of the paper: KD = TCKD + (1 - p_target) NCKD."""
    student, teacher = random(1, 5), random(1, 5, seed=1)
    parts = comparators.decoupled(student, teacher, torch.tensor([target]), temperature)
    left = 1 - (teacher / temperature).softmax(1)[0, target]
    expected = losses.soft_labels(student, teacher, temperature)
    torch.testing.assert_close(parts[0] + left * parts[1], expected)


def test_decoupled_with_two_classes_is_the_soft_labels_alone():
    student, teacher = random(4, 2), random(4, 2, seed=1)
    of_target, of_others = comparators.decoupled(student, teacher, torch.tensor([0, 1, 1, 0]), 2.0)
    torch.testing.assert_close(of_target, losses.soft_labels(student, teacher, 2.0))
    assert of_others.item() == 0


def test_decoupled_leaves_pictures_without_target_out():
    student, teacher = random(4, 3).requires_grad_(), random(4, 3, seed=1)
    target = torch.tensor([2, -1, 0, -1])
    found = comparators.decoupled(student, teacher, target, 3.0)
    known = target >= 0
    expected = comparators.decoupled(student[known], teacher[known], target[known], 3.0)
    for part, of_known in zip(found, expected, strict=True):
        torch.testing.assert_close(part, of_known)
    assert torch.equal(gradient_of(found[0] + found[1], student).abs().sum(1) > 0, known)


def test_decoupled_without_any_target_is_zero_and_still_differentiable():
    student = random(2, 3).requires_grad_()
    parts = comparators.decoupled(student, random(2, 3, seed=1), torch.tensor([-1, -1]), 4.0)
    assert (parts[0] + parts[1]).item() == 0
    assert torch.equal(gradient_of(parts[0] + parts[1], student), torch.zeros(2, 3))


def test_decoupled_sees_no_offset_and_is_zero_for_equal_logits():
    logits = random(4, 3).requires_grad_()
    parts = comparators.decoupled(logits + 7, logits.detach(), torch.tensor([0, 1, 2, 1]), 4.0)
    assert max(part.abs().item() for part in parts) < 1e-5
    assert gradient_of(parts[0] + 8 * parts[1], logits).abs().max() < 1e-5


@pytest.mark.parametrize("target", [0, 1])
def test_decoupled_stays_finite_for_a_certain_teacher(target):
    student = torch.tensor([[0.0, 200.0, -50.0]], requires_grad=True)
    teacher = torch.tensor([[200.0, -200.0, 0.0]])
    parts = comparators.decoupled(student, teacher, torch.tensor([target]), 1.0)
    assert all(part.isfinite() for part in parts)
    assert gradient_of(parts[0] + parts[1], student).isfinite().all()


def test_cosine_of_equal_opposite_and_right_angled_vectors():
    vectors = torch.tensor([[1.0, 2.0], [-3.0, 1.0]])
    turned = torch.tensor([[-2.0, 1.0], [1.0, 3.0]])
    for student, expected in ((vectors, 0.0), (-vectors, 2.0), (turned, 1.0), (5 * vectors, 0.0)):
        assert comparators.cosine(student, vectors).item() == pytest.approx(expected, abs=1e-6)


def test_cosine_of_maps_is_the_mean_over_cells():
    student, teacher = random(2, 6, 3, 4), random(2, 6, 3, 4, seed=1)
    expected = 1 - torch.nn.functional.cosine_similarity(student, teacher, dim=1).mean()
    torch.testing.assert_close(comparators.cosine(student, teacher), expected)


def test_cosine_of_a_vector_of_zeros_has_finite_gradient():
    student = torch.zeros(2, 3, requires_grad=True)
    loss = comparators.cosine(student, random(2, 3))
    assert loss.item() == 1
    assert torch.equal(gradient_of(loss, student), torch.zeros(2, 3))


def test_terms_are_float32_for_half_precision_inputs():
    student, teacher = random(2, 4, 3, 3).bfloat16(), random(2, 4, 3, 3, seed=1).bfloat16()
    for function in (
        lambda a, b: comparators.attention_transfer(a, b, 2.0, "mse"),
        comparators.cosine,
        lambda a, b: comparators.decoupled(a.mean((2, 3)), b.mean((2, 3)), torch.tensor([1, 3]), 4.0)[0],
    ):
        assert function(student, teacher).dtype == torch.float32
