"""Relations within a batch: the papers' equations written out, their invariances, and degenerate batches."""

import math

import pytest
import torch
from lowmag import relational
from torch.nn import functional


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def gradient_of(loss: torch.Tensor, tensor: torch.Tensor) -> torch.Tensor:
    (gradient,) = torch.autograd.grad(loss, tensor)
    return gradient


def huber(difference: float) -> float:
    return 0.5 * difference**2 if abs(difference) <= 1 else abs(difference) - 0.5


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_correlation_is_pearsons_of_rows_and_columns(temperature):
    student, teacher = random(6, 4), random(6, 4, seed=1)
    p, q = ((z / temperature).softmax(1).double() for z in (student, teacher))
    rows = [torch.corrcoef(torch.stack([a, b]))[0, 1].item() for a, b in zip(p, q, strict=True)]
    columns = [torch.corrcoef(torch.stack([a, b]))[0, 1].item() for a, b in zip(p.T, q.T, strict=True)]
    inter, intra = relational.correlation(student, teacher, temperature)
    assert inter.item() == pytest.approx(temperature**2 * (1 - sum(rows) / 6), rel=1e-4)
    assert intra.item() == pytest.approx(temperature**2 * (1 - sum(columns) / 4), rel=1e-4)


def test_correlation_allows_any_rising_line():
    """Rows drawn towards even probabilities, each by its own amount; all rows drawn towards one row."""
    teacher = random(6, 4).softmax(1)
    amounts = torch.linspace(0.1, 0.7, 6)[:, None]
    inter, intra = relational.correlation(((1 - amounts) * teacher + amounts / 4).log(), teacher.log(), 1.0)
    assert abs(inter.item()) < 1e-5
    assert intra.item() > 1e-3
    towards = 0.6 * teacher + 0.4 * torch.tensor([0.1, 0.2, 0.3, 0.4])
    inter, intra = relational.correlation(towards.log(), teacher.log(), 1.0)
    assert abs(intra.item()) < 1e-5
    assert inter.item() > 1e-3


def test_probabilities_that_fall_where_the_others_rise_cost_two():
    student = torch.tensor([[0.1, 0.3, 0.6]])
    falling = (0.7 - student) / 1.1
    assert relational.correlation(student.log(), falling.log(), 1.0)[0].item() == pytest.approx(2.0, abs=1e-5)


def test_correlation_of_two_classes_counts_disagreements_and_teaches_nothing():
    student, teacher = random(8, 2).requires_grad_(), random(8, 2, seed=1)
    inter, intra = relational.correlation(student, teacher, 1.0)
    disagreeing = (student.argmax(1) != teacher.argmax(1)).float().mean().item()
    assert inter.item() == pytest.approx(2 * disagreeing, abs=1e-5)
    assert gradient_of(inter, student).abs().max() < 1e-4
    assert gradient_of(relational.correlation(student, teacher, 1.0)[1], student).abs().max() > 1e-3
    assert intra.item() > 0


def test_correlation_of_one_picture_and_of_even_probabilities_is_finite():
    for student in (random(1, 3).requires_grad_(), torch.zeros(4, 3, requires_grad=True)):
        inter, intra = relational.correlation(student, random(len(student), 3, seed=1), 1.0)
        assert gradient_of(inter + intra, student).isfinite().all()
        assert (inter + intra).isfinite()


def test_distances_are_their_equation():
    student, teacher = random(5, 3), random(5, 7, seed=1)
    pairs = [(i, j) for i in range(5) for j in range(5) if i != j]
    relative = []
    for vectors in (student, teacher):
        lengths = [(vectors[i] - vectors[j]).norm().item() for i, j in pairs]
        relative.append([length / (sum(lengths) / len(lengths)) for length in lengths])
    expected = sum(huber(a - b) for a, b in zip(*relative, strict=True)) / len(pairs)
    assert relational.distances(student, teacher).item() == pytest.approx(expected, rel=1e-5)


def test_angles_are_their_equation():
    student, teacher = random(5, 3), random(5, 7, seed=1)
    total, n = 0.0, 0
    for i in range(5):
        for j in range(5):
            for k in range(5):
                if len({i, j, k}) == 3:
                    a, b = (
                        functional.cosine_similarity(v[i] - v[j], v[k] - v[j], dim=0).item()
                        for v in (student, teacher)
                    )
                    total, n = total + huber(a - b), n + 1
    assert relational.angles(student, teacher).item() == pytest.approx(total / n, rel=1e-4)


def test_a_line_against_a_triangle_by_hand():
    """0, 1, 3 on a line against equal sides: lengths 1/2, 1, 3/2 against 1; cosines 1, -1, 1 against 1/2."""
    line = torch.tensor([[0.0], [1.0], [3.0]])
    triangle = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.5, math.sqrt(3) / 2]])
    assert relational.distances(line, triangle).item() == pytest.approx(0.25 / 3, rel=1e-5)
    assert relational.angles(line, triangle).item() == pytest.approx((0.125 + 1.0 + 0.125) / 3, rel=1e-5)


@pytest.mark.parametrize("term", [relational.distances, relational.angles])
def test_turning_moving_and_scaling_change_nothing(term):
    vectors = random(6, 4)
    turn = torch.linalg.qr(random(4, 4, seed=2)).Q
    moved = 3 * vectors @ turn + random(1, 4, seed=3)
    assert term(moved, vectors).item() < 1e-6
    assert term(moved * torch.tensor([1.0, 5.0, 1.0, 1.0]), vectors).item() > 1e-2


@pytest.mark.parametrize("term", [relational.distances, relational.angles])
def test_equal_vectors_cost_nothing_and_have_zero_gradient(term):
    student = random(5, 3).requires_grad_()
    loss = term(student, student.detach().clone())
    assert loss.item() == 0
    assert torch.equal(gradient_of(loss, student), torch.zeros(5, 3))


@pytest.mark.parametrize("term", [relational.distances, relational.angles])
@pytest.mark.parametrize("student", [torch.ones(1, 3), torch.ones(2, 3), torch.ones(4, 3)])
def test_degenerate_batches_have_finite_loss_and_gradient(term, student):
    """One picture, and pictures that are all the same: balanced drawing may show a tile twice."""
    student = student.clone().requires_grad_()
    loss = term(student, random(len(student), 3))
    assert loss.isfinite()
    assert gradient_of(loss, student).isfinite().all()


def test_a_tile_shown_twice_has_finite_gradient():
    student = random(4, 3)[[0, 1, 2, 0]].requires_grad_()
    loss = relational.distances(student, random(4, 3, seed=1)) + relational.angles(
        student, random(4, 3, seed=1)
    )
    assert gradient_of(loss, student).isfinite().all()
