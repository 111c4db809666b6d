"""The loss terms: zero where nothing differs, their equations, masks, and slopes at the corners."""

import math
from typing import Any

import pytest
import torch
from lowmag import cam, losses
from torch.nn import functional

NORMALISERS = ("minmax", "minmax_class", "softmax", "none")


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def gradient_of(loss: torch.Tensor, tensor: torch.Tensor) -> torch.Tensor:
    (gradient,) = torch.autograd.grad(loss, tensor)
    return gradient


def test_cross_entropy_is_the_mean_over_labelled_pictures():
    logits, labels = random(6, 3), torch.tensor([0, -1, 2, -1, 1, 1])
    known = labels >= 0
    expected = functional.cross_entropy(logits[known], labels[known])
    torch.testing.assert_close(losses.cross_entropy(logits, labels), expected)


def test_cross_entropy_gives_pictures_without_label_no_gradient():
    logits, labels = random(4, 3).requires_grad_(), torch.tensor([0, -1, 2, -1])
    gradient = gradient_of(losses.cross_entropy(logits, labels), logits)
    assert torch.equal(gradient.abs().sum(1) > 0, labels >= 0)


def test_cross_entropy_without_any_label_is_zero_and_still_differentiable():
    logits = random(4, 3).requires_grad_()
    loss = losses.cross_entropy(logits, torch.full((4,), -1))
    assert loss.item() == 0
    assert torch.equal(gradient_of(loss, logits), torch.zeros(4, 3))


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_soft_labels_is_its_equation(temperature):
    student, teacher = random(5, 3), random(5, 3, seed=1)
    p, q = ((z / temperature).softmax(1) for z in (teacher, student))
    expected = temperature**2 * (p * (p / q).log()).sum(1).mean()
    torch.testing.assert_close(losses.soft_labels(student, teacher, temperature), expected)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_soft_labels_ignores_an_offset_of_all_logits(temperature):
    logits = random(5, 3)
    assert losses.soft_labels(logits + 7, logits, temperature).abs().item() < 1e-6


def test_soft_labels_keeps_the_size_of_the_gradient_at_high_temperature():
    """Without T^2 the gradient would fall as 1 / T^2; with it, it tends to that of matched logits."""
    student, teacher = random(5, 3).requires_grad_(), random(5, 3, seed=1)
    found = gradient_of(losses.soft_labels(student, teacher, 1000.0), student)
    difference = student.detach() - teacher
    expected = (difference - difference.mean(1, keepdim=True)) / 3 / 5
    torch.testing.assert_close(found, expected, rtol=0.01, atol=1e-4)


def test_soft_labels_of_delamor2024_is_their_cross_entropy_less_the_teachers_entropy():
    """mean_i sum_c -softmax(z_T / T) log softmax(z_S): no T for the student, no T^2."""
    student, teacher = random(5, 3).requires_grad_(), random(5, 3, seed=1)
    found = losses.soft_labels(student, teacher, 2.0, softened="teacher", scaled=False)
    said = (teacher / 2).softmax(1)
    released = (-said * student.log_softmax(1)).sum(1).mean()
    entropy = -(said * said.log()).sum(1).mean()
    torch.testing.assert_close(found, released - entropy)
    torch.testing.assert_close(gradient_of(found, student), gradient_of(released, student))


def test_soft_labels_are_scaled_by_the_square_of_the_temperature_or_not():
    student, teacher = random(5, 3), random(5, 3, seed=1)
    plain = losses.soft_labels(student, teacher, 3.0, scaled=False)
    torch.testing.assert_close(losses.soft_labels(student, teacher, 3.0), 9 * plain)


@pytest.mark.parametrize("shape", [(5, 3), (5, 3, 4, 4)], ids=["last", "spatial"])
def test_softmax_regression_is_the_distance_of_logits(shape):
    student, teacher = random(*shape), random(*shape, seed=1)
    expected = (student - teacher).square().mean()
    torch.testing.assert_close(losses.softmax_regression(student, teacher, "mse"), expected)
    torch.testing.assert_close(losses.softmax_regression(student, teacher, "rmse"), expected.sqrt())


def test_soft_labels_stays_finite_for_a_certain_teacher():
    student = torch.tensor([[0.0, 200.0]], requires_grad=True)
    loss = losses.soft_labels(student, torch.tensor([[200.0, -200.0]]), 1.0)
    assert math.isclose(loss.item(), 200.0)
    assert gradient_of(loss, student).isfinite().all()


def test_feature_distances_are_their_equations():
    student, teacher = random(2, 4, 3, 3), random(2, 4, 3, 3, seed=1)
    difference = student - teacher
    n = difference.numel()
    mean_square = difference.square().sum() / n
    torch.testing.assert_close(losses.features(student, teacher, "mse"), mean_square)
    torch.testing.assert_close(losses.features(student, teacher, "rmse"), mean_square.sqrt())
    torch.testing.assert_close(losses.features(student, teacher, "l1"), difference.abs().sum() / n)


@pytest.mark.parametrize("distance", ["mse", "l1", "rmse"])
def test_identical_features_cost_nothing_and_have_zero_gradient(distance):
    student = random(2, 4, 3, 3).requires_grad_()
    loss = losses.features(student, student.detach().clone(), distance)
    assert loss.item() == 0
    assert torch.equal(gradient_of(loss, student), torch.zeros(2, 4, 3, 3))


def test_root_has_the_slope_of_sqrt_away_from_zero_and_none_at_it():
    square = torch.tensor([0.0, 1e-30, 0.25, 4.0], requires_grad=True)
    found = losses.root(square)
    torch.testing.assert_close(found, torch.tensor([0.0, 1e-15, 0.5, 2.0]))
    torch.testing.assert_close(gradient_of(found.sum(), square), torch.tensor([0.0, 5e14, 1.0, 0.25]))


def test_losses_are_float32_for_half_precision_inputs():
    student, teacher = random(2, 4, 3, 3).bfloat16(), random(2, 4, 3, 3, seed=1).bfloat16()
    exact = losses.features(student.float(), teacher.float(), "mse")
    assert torch.equal(losses.features(student, teacher, "mse"), exact)
    assert losses.soft_labels(student.mean((2, 3)), teacher.mean((2, 3)), 1.0).dtype == torch.float32


@pytest.mark.parametrize("form", ["maxpool", "bicubic", "area"])
@pytest.mark.parametrize(
    ("size", "cells"), [((7, 7), 4), ((16, 16), 3), ((5, 9), (2, 3)), ((2, 2), 4), ((4, 4), 1)]
)
def test_resized_maps_have_the_student_grid_and_keep_a_constant(form, size, cells):
    expected = (cells, cells) if isinstance(cells, int) else cells
    found = losses.resize_map(torch.full((2, 3, *size), 1.5), cells, form)
    torch.testing.assert_close(found, torch.full((2, 3, *expected), 1.5))


@pytest.mark.parametrize("form", ["maxpool", "bicubic", "area"])
def test_maps_on_the_student_grid_are_left_alone(form):
    maps = random(2, 3, 5, 5)
    assert losses.resize_map(maps, 5, form) is maps


def test_area_is_the_mean_and_maxpool_the_maximum_of_a_block():
    blocks = random(2, 3, 4, 2, 4, 2)
    maps = blocks.reshape(2, 3, 8, 8)
    torch.testing.assert_close(losses.resize_map(maps, 4, "area"), blocks.mean((3, 5)))
    assert torch.equal(losses.resize_map(maps, 4, "maxpool"), blocks.amax((3, 5)))


def attention_distance(student, teacher, chosen=None, **options):
    paper: dict[str, Any] = {"distance": "rmse", "normalise": "minmax"}
    given = {**paper, **options}
    given["normalise"] = cam.normaliser(given["normalise"], temperature=0.5)
    return losses.attention_distance(student, teacher, chosen=chosen, **given)


def test_attention_distance_is_its_equation():
    """del Amor et al. 2024: maps of all classes, min-max per picture, one root per picture."""
    student, teacher = random(3, 4, 5, 5).relu(), random(3, 4, 5, 5, seed=1).relu()
    total = 0.0
    for a, b in zip(student, teacher, strict=True):
        a, b = ((m - m.min()) / (m.max() - m.min()) for m in (a, b))
        total += (a - b).square().mean().sqrt().item()
    assert math.isclose(attention_distance(student, teacher).item(), total / 3, rel_tol=1e-5)


def test_attention_distance_without_normalising_sees_the_scale():
    maps = random(3, 4, 5, 5).relu()
    assert attention_distance(maps * 3, maps).item() < 1e-6
    found = attention_distance(maps * 3, maps, distance="mse", normalise="none")
    torch.testing.assert_close(found, (2 * maps).square().mean())


@pytest.mark.parametrize("normalise", NORMALISERS)
@pytest.mark.parametrize("distance", ["rmse", "mse"])
def test_identical_attention_costs_nothing_and_has_finite_gradient(distance, normalise):
    student = random(3, 4, 5, 5).relu().requires_grad_()
    loss = attention_distance(student, student.detach().clone(), distance=distance, normalise=normalise)
    assert loss.item() == 0
    assert torch.equal(gradient_of(loss, student), torch.zeros(3, 4, 5, 5))


@pytest.mark.parametrize("normalise", NORMALISERS)
def test_a_student_without_any_evidence_has_finite_loss_and_gradient(normalise):
    student = torch.zeros(2, 3, 4, 4, requires_grad=True)
    loss = attention_distance(student, random(2, 3, 4, 4).relu(), normalise=normalise)
    assert loss.item() > 0
    assert gradient_of(loss, student).isfinite().all()


def test_the_chosen_class_alone_is_compared():
    student, teacher = random(3, 4, 5, 5), random(3, 4, 5, 5, seed=1)
    chosen = torch.tensor([2, 0, 3])
    index = torch.arange(3)
    expected = attention_distance(student[index, chosen][:, None], teacher[index, chosen][:, None])
    torch.testing.assert_close(attention_distance(student, teacher, chosen), expected)


def test_pictures_without_a_chosen_class_do_not_count():
    student, teacher = random(3, 4, 5, 5).requires_grad_(), random(3, 4, 5, 5, seed=1)
    loss = attention_distance(student, teacher, torch.tensor([2, -1, 3]))
    expected = attention_distance(student[[0, 2]], teacher[[0, 2]], torch.tensor([2, 3]))
    torch.testing.assert_close(loss, expected)
    assert torch.equal(gradient_of(loss, student)[1], torch.zeros(4, 5, 5))


def test_no_chosen_class_at_all_is_zero_and_still_differentiable():
    student = random(2, 4, 5, 5).requires_grad_()
    loss = attention_distance(student, random(2, 4, 5, 5, seed=1), torch.tensor([-1, -1]))
    assert loss.item() == 0
    assert torch.equal(gradient_of(loss, student), torch.zeros(2, 4, 5, 5))
