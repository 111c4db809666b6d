"""Methods: weights and sums, the two papers written out, and terms that must not read labels."""

import pytest
import torch
from lowmag import comparators, losses, relational
from lowmag.cam import attention, normalise_minmax, normaliser
from lowmag.config import DEFAULT_METHODS
from lowmag.methods import StudentBatch, TargetsBatch, combine
from lowmag.projectors import build_projectors
from lowmag.terms import CrossEntropy, Decoupled, Method
from synthetic_outputs import (
    CELLS,
    EVERYTHING,
    LABEL_FREE,
    LABELS,
    MEANS,
    C,
    K,
    N,
    Outputs,
    parts_of,
    targets_of,
)
from torch import nn
from torch.nn import functional


def test_loss_is_the_sum_of_the_weighted_parts():
    student, batch = Outputs(0), targets_of(Outputs(1))
    parts = parts_of(EVERYTHING, student, batch)
    assert list(parts) == ["cross_entropy", "soft_labels", "features", "attention", "loss"]
    torch.testing.assert_close(parts["loss"], sum(v for k, v in parts.items() if k != "loss"))
    for name, weight in (("cross_entropy", 0.5), ("soft_labels", 2), ("features", 0.7), ("attention", 10)):
        term = EVERYTHING[name]
        alone = {name: {**term, "weight": 1} if isinstance(term, dict) else 1}
        torch.testing.assert_close(parts[name], weight * parts_of(alone, student, batch)["loss"])


def test_labels_only_needs_nothing_of_a_teacher():
    student = Outputs(0)
    found = parts_of(DEFAULT_METHODS["labels-only"], student, TargetsBatch(LABELS))
    known = LABELS >= 0
    torch.testing.assert_close(found["loss"], functional.cross_entropy(student.logits[known], LABELS[known]))


def test_dipalma2021_is_its_equation():
    """KL(teacher || student) + mean of the squared errors against the max-pooled and the bicubic map."""
    student, teacher = Outputs(0), Outputs(1, cells=7)
    log_p, log_q = teacher.logits.log_softmax(1), student.logits.log_softmax(1)
    pooled = functional.adaptive_max_pool2d(teacher.features, CELLS)
    resized = functional.interpolate(teacher.features, (CELLS, CELLS), mode="bicubic", align_corners=False)
    expected = (log_p.exp() * (log_p - log_q)).sum(1).mean() + sum(
        (student.features - g).square().mean() / 2 for g in (pooled, resized)
    )
    found = parts_of(DEFAULT_METHODS["dipalma2021"], student, targets_of(teacher))
    torch.testing.assert_close(found["loss"], expected)


def test_delamor2024_is_its_equation():
    """CE + 0.1 root of the mean squared feature error + 10 mean over pictures of the AT+ root mean square."""
    student, teacher = Outputs(0), Outputs(1)
    maps = [
        normalise_minmax((o.weight[None, :, :, None, None] * o.features[:, None]).relu().sum(2))
        for o in (student, teacher)
    ]
    known = LABELS >= 0
    expected = (
        functional.cross_entropy(student.logits[known], LABELS[known])
        + 0.1 * (student.features - teacher.features).square().mean().sqrt()
        + 10 * (maps[0] - maps[1]).square().mean((1, 2, 3)).sqrt().mean()
    )
    found = parts_of(DEFAULT_METHODS["delamor2024"], student, targets_of(teacher))
    torch.testing.assert_close(found["loss"], expected)


def test_resize_released_is_half_of_the_loss_with_the_maxpooled_map():
    student, teacher = Outputs(0), Outputs(1, cells=7)
    pooled = functional.adaptive_max_pool2d(teacher.features, CELLS)
    for distance, expected in (
        ("mse", (student.features - pooled).square().mean() / 2),
        ("l1", (student.features - pooled).abs().mean() / 2),
    ):
        method = {"features": {"resize": "released", "distance": distance}}
        torch.testing.assert_close(parts_of(method, student, targets_of(teacher))["loss"], expected)


@pytest.mark.parametrize("method", LABEL_FREE, ids=str)
def test_a_student_equal_to_its_teacher_has_no_label_free_loss(method):
    same = Outputs(0)
    loss = parts_of(method, same, targets_of(same))["loss"]
    assert loss.abs().item() < 1e-6  # the KL of equal distributions is zero but for rounding
    gradients = torch.autograd.grad(loss, (same.features, same.weight), allow_unused=True)
    assert all(g is None or (g.isfinite().all() and g.abs().max() < 1e-6) for g in gradients)
    assert parts_of(method, Outputs(2), targets_of(same))["loss"].item() > 1e-3


@pytest.mark.parametrize("method", LABEL_FREE, ids=str)
def test_label_free_terms_ignore_labels(method):
    student, teacher = Outputs(0), Outputs(1)
    other = (LABELS + 2) % K - 1
    assert not torch.equal(other, LABELS)
    found = [parts_of(method, student, targets_of(teacher, labels))["loss"] for labels in (LABELS, other)]
    assert torch.equal(*found)


def test_attention_of_the_label_leaves_unlabelled_pictures_out():
    student, teacher = Outputs(0), Outputs(1)
    method = {"attention": {"weight": 1, "classes": "label"}}
    known = LABELS >= 0
    batch = targets_of(teacher)
    student_maps = attention(student.features, student.weight, "inside")
    expected = losses.attention_distance(
        student_maps[known],
        batch.attention["inside"][known],
        distance="rmse",
        normalise=normaliser("minmax", 1.0),
        chosen=LABELS[known],
    )
    torch.testing.assert_close(parts_of(method, student, batch)["loss"], expected)


def test_attention_of_the_teacher_follows_its_decision():
    student, teacher = Outputs(0), Outputs(1)
    by_teacher = parts_of({"attention": {"classes": "teacher"}}, student, targets_of(teacher))
    decided = teacher.logits.argmax(1)
    by_label = parts_of({"attention": {"classes": "label"}}, student, targets_of(teacher, decided))
    assert torch.equal(by_teacher["loss"], by_label["loss"])


def test_softmax_regression_asks_the_teachers_head_about_the_students_map():
    student, teacher = Outputs(0), Outputs(1)
    said = functional.linear(student.features.mean((2, 3)), teacher.weight, teacher.bias)
    expected = (said - teacher.logits).square().mean().sqrt()
    found = parts_of({"softmax_regression": 1}, student, targets_of(teacher))["loss"]
    torch.testing.assert_close(found, expected)


def test_softmax_regression_of_every_cell_goes_through_a_projector():
    """Two 1x1 convolutions; the teacher's logits of a cell are the mean of those of its finer cells."""
    student, teacher = Outputs(0), Outputs(1, cells=2 * CELLS)
    method = Method(**{"softmax_regression": {"map": "spatial", "distance": "mse"}})
    projectors = build_projectors(method, C, C, K)
    own = StudentBatch(student.features, student.logits, student.weight, dict(projectors.items()))
    found = combine(method, own, targets_of(teacher))["loss"]
    fine = torch.einsum("nchw,kc->nkhw", teacher.features, teacher.weight) + teacher.bias.view(-1, 1, 1)
    expected = fine.reshape(N, K, CELLS, 2, CELLS, 2).mean((3, 5))
    first, second = projectors["softmax_regression"]
    mixed = torch.einsum("nchw,dc->ndhw", student.features, first.weight[..., 0, 0])
    said = torch.einsum("ndhw,kd->nkhw", mixed + first.bias.view(-1, 1, 1), second.weight[..., 0, 0])
    torch.testing.assert_close(found, (said + second.bias.view(-1, 1, 1) - expected).square().mean())
    for gradient in torch.autograd.grad(found, [student.features, *projectors.parameters()]):
        assert gradient.isfinite().all()
        assert gradient.abs().max() > 0


def test_decoupled_warms_up_over_epochs():
    student, teacher = Outputs(0), Outputs(1)
    terms = Method(cross_entropy=CrossEntropy(), decoupled=Decoupled(weight=2, warmup=4))
    own, said = StudentBatch(student.features, student.logits, student.weight), targets_of(teacher)
    parts = [combine(terms, own, said, epoch) for epoch in (0, 1, 3, 9)]
    whole = combine(Method(decoupled=Decoupled(weight=2)), own, said)["loss"]
    for found, share in zip(parts, (0.25, 0.5, 1, 1), strict=True):
        torch.testing.assert_close(found["decoupled"], share * whole)
        torch.testing.assert_close(found["cross_entropy"], parts[0]["cross_entropy"])


def test_decoupled_by_label_or_by_the_teachers_decision():
    student, teacher = Outputs(0), Outputs(1)
    options = {"alpha": 0.5, "beta": 3, "temperature": 2}
    for by, target in (("label", LABELS), ("teacher", teacher.logits.argmax(1))):
        parts = comparators.decoupled(student.logits, teacher.logits, target, 2.0)
        found = parts_of({"decoupled": {**options, "target": by}}, student, targets_of(teacher))["loss"]
        torch.testing.assert_close(found, 0.5 * parts[0] + 3 * parts[1])


def test_parts_of_correlation_and_relations_are_weighed():
    student, teacher = Outputs(0), Outputs(1)
    batch = targets_of(teacher)
    inter, intra = relational.correlation(student.logits, teacher.logits, 2.0)
    found = parts_of({"correlation": {"beta": 2, "gamma": 3, "temperature": 2}}, student, batch)["loss"]
    torch.testing.assert_close(found, 2 * inter + 3 * intra)
    vectors = student.features.mean((2, 3)), teacher.features.mean((2, 3))
    found = parts_of({"relational": {"distances": 25, "angles": 50}}, student, batch)["loss"]
    expected = 25 * relational.distances(*vectors) + 50 * relational.angles(*vectors)
    torch.testing.assert_close(found, expected)


def test_cosine_of_means_and_cells_goes_through_a_linear_projector():
    student, teacher = Outputs(0), Outputs(1)
    method = Method(**{"cosine": {"local": 0.25}})
    projector = build_projectors(method, C, C, K)["cosine"]
    own = StudentBatch(student.features, student.logits, student.weight, {"cosine": projector})
    found = combine(method, own, targets_of(teacher))["loss"]
    weight, bias = projector.weight[..., 0, 0], projector.bias.view(-1, 1, 1)
    cells = torch.einsum("nchw,dc->ndhw", student.features, weight) + bias
    similar = functional.cosine_similarity
    of_means = 1 - similar(cells.mean((2, 3)), teacher.features.mean((2, 3))).mean()
    torch.testing.assert_close(found, of_means + 0.25 * (1 - similar(cells, teacher.features).mean()))
    for gradient in torch.autograd.grad(found, [student.features, *projector.parameters()]):
        assert gradient.abs().max() > 0


@pytest.mark.parametrize(
    "method",
    [{"attention_transfer": 1}, {"relational": 1}, {"cosine": 1}, {"softmax_regression": {"map": "spatial"}}],
)
def test_a_teacher_of_other_channels_will_do(method):
    student, teacher = Outputs(0), Outputs(1)
    wide = torch.cat([teacher.features, teacher.features.flip(1)], 1)
    head = torch.cat([teacher.weight, teacher.weight], 1)
    batch = TargetsBatch(LABELS, teacher.logits, {"area": wide}, head=(head, teacher.bias))
    projectors = dict(build_projectors(Method(**method), C, 2 * C, K).items())
    own = StudentBatch(student.features, student.logits, student.weight, projectors)
    assert not Method(**method).needs_same_network
    assert combine(Method(**method), own, batch)["loss"].isfinite()


def test_attention_reaches_features_and_head():
    student = Outputs(0)
    loss = parts_of({"attention": 1}, student, targets_of(Outputs(1)))["loss"]
    for gradient in torch.autograd.grad(loss, (student.features, student.weight)):
        assert gradient.abs().max() > 0


def test_a_missing_target_is_named():
    with pytest.raises(KeyError, match="maxpool"):
        parts_of({"features": 1}, Outputs(0), TargetsBatch(LABELS))
    with pytest.raises(AssertionError, match="teacher's logits"):
        parts_of({"soft_labels": 1}, Outputs(0), TargetsBatch(LABELS))


def test_teacher_attention_is_averaged_after_the_relu():
    teacher = Outputs(1, cells=8)
    said = targets_of(teacher)
    fine = attention(teacher.features, teacher.weight, "outside")
    blocks = fine.reshape(N, K, CELLS, 2, CELLS, 2).mean((3, 5))
    torch.testing.assert_close(said.attention["outside"], blocks)
    assert said.features["area"].shape == (N, C, CELLS, CELLS)


def test_mean_of_the_gradients_of_single_tiles_is_that_of_the_batch():
    """With GroupNorm, batches of one accumulate to the large batch, as DiPalma et al. train."""
    torch.manual_seed(0)
    convolution = nn.Conv2d(3, C, 3, stride=2, padding=1)
    backbone = nn.Sequential(convolution, nn.GroupNorm(2, C), nn.ReLU())
    head = nn.Linear(C, K)
    pictures, teacher = torch.randn(N, 3, 2 * CELLS, 2 * CELLS), targets_of(Outputs(1))

    def gradient(rows: slice) -> torch.Tensor:
        maps = backbone(pictures[rows])
        said = {form: maps_of[rows] for form, maps_of in teacher.features.items()}
        assert teacher.logits is not None
        batch = TargetsBatch(LABELS[rows], teacher.logits[rows], said)
        method = Method(**DEFAULT_METHODS["dipalma2021"])
        student = StudentBatch(maps, head(maps.mean((2, 3))), head.weight)
        loss = combine(method, student, batch)["loss"]
        return torch.autograd.grad(loss, convolution.weight)[0]

    singles = torch.stack([gradient(slice(i, i + 1)) for i in range(N)]).mean(0)
    torch.testing.assert_close(singles, gradient(slice(0, N)), rtol=1e-4, atol=1e-6)


def part_of(batch: TargetsBatch, rows: slice) -> TargetsBatch:
    """Some pictures of a batch, with their share of it."""
    n_labelled = (batch.labels >= 0).sum()
    return TargetsBatch(
        batch.labels[rows],
        None if batch.logits is None else batch.logits[rows],
        {form: maps[rows] for form, maps in batch.features.items()},
        {relu: maps[rows] for relu, maps in batch.attention.items()},
        batch.head,
        share=len(batch.labels[rows]) / len(batch.labels),
        labelled_share=(batch.labels[rows] >= 0).sum() / n_labelled,
    )


@pytest.mark.parametrize("method", MEANS, ids=str)
def test_the_parts_of_a_batch_add_up_to_it(method):
    """Parts with two, one and no labelled pictures."""
    student, batch = Outputs(0), targets_of(Outputs(1))
    total = torch.zeros(())
    for rows in (slice(0, 2), slice(2, 3), slice(3, 5)):
        own = StudentBatch(student.features[rows], student.logits[rows], student.weight)
        total = total + combine(Method(**method), own, part_of(batch, rows))["loss"]
    whole = parts_of(method, student, batch)["loss"]
    torch.testing.assert_close(total, whole)
    for own, of_whole in zip(
        *(
            torch.autograd.grad(
                loss, (student.features, student.weight), allow_unused=True, retain_graph=True
            )
            for loss in (total, whole)
        ),
        strict=True,
    ):
        torch.testing.assert_close(own, of_whole, rtol=1e-4, atol=1e-6)


def test_a_root_over_the_batch_is_no_sum_of_its_parts():
    assert "set accumulate: 1, or distance: mse for features" in str(
        Method(**{"features": {"distance": "rmse"}}).accumulation_problem(2)
    )
    assert Method(**{"features": {"distance": "rmse"}}).accumulation_problem(1) is None
    both = Method(**{"features": {"distance": "rmse"}, "softmax_regression": 1}).accumulation_problem(2)
    assert "features, softmax_regression is no mean" in str(both)
