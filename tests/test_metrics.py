import numpy as np
import pytest
from lowmag import metrics
from lowmag.metrics import Truth
from sklearn import metrics as reference

N, K = 200, 4


def probabilities_like(random, labels, n_classes, *, sharpness=1.0):
    logits = random.normal(size=(len(labels), n_classes)) + sharpness * np.eye(n_classes)[labels]
    p = np.exp(logits)
    return p / p.sum(axis=1, keepdims=True)


@pytest.fixture(params=[2, 4])
def case(request):
    """Truth and probabilities of 2 and 4 classes; the probabilities are coarse, so that scores tie."""
    random = np.random.default_rng(request.param)
    labels = random.integers(request.param, size=N)
    truth = Truth(labels, np.sort(random.integers(12, size=N)), request.param)
    p = np.round(probabilities_like(random, labels, request.param), 1) + 0.01
    return truth, p / p.sum(axis=1, keepdims=True)


def point(truth, p, teacher=None):
    sums = metrics.patient_sums(truth, p, teacher)
    found = metrics.scores(sums, np.ones((1, truth.n_patients)), truth.present, ordinal=True)
    return {name: float(values[0]) for name, values in found.items()}


def of_rows(truth, p, weights):
    """The same scores by repeating items as often as their patient was drawn, as a resample is defined."""
    repeats = weights[truth.patients].astype(int)
    repeated = Truth(np.repeat(truth.labels, repeats), np.repeat(truth.patients, repeats), truth.n_classes)
    return point(repeated, np.repeat(p, repeats, axis=0))


def test_values_are_those_of_scikit_learn(case):
    truth, p = case
    y, choice = truth.labels, p.argmax(axis=1)
    binary = truth.n_classes == 2
    expected = {
        "accuracy": reference.accuracy_score(y, choice),
        "balanced_accuracy": reference.balanced_accuracy_score(y, choice),
        "macro_f1": reference.f1_score(y, choice, average="macro"),
        "auroc": reference.roc_auc_score(y, p[:, 1])
        if binary
        else reference.roc_auc_score(y, p, multi_class="ovr"),
        "kappa_quadratic": reference.cohen_kappa_score(y, choice, weights="quadratic"),
        "log_loss": reference.log_loss(y, p),
        "brier": sum(reference.brier_score_loss(y == c, p[:, c]) for c in range(truth.n_classes)),
    }
    found = point(truth, p)
    assert {name: found[name] for name in expected} == pytest.approx(expected, abs=1e-12)


def test_one_vs_rest_accuracy_is_the_mean_of_binary_accuracies_and_flatters_as_known(case):
    truth, p = case
    choice = p.argmax(axis=1)
    binary = [reference.accuracy_score(truth.labels == c, choice == c) for c in range(truth.n_classes)]
    found = point(truth, p)
    assert found["ovr_accuracy"] == pytest.approx(np.mean(binary), abs=1e-12)
    assert found["ovr_accuracy"] == pytest.approx(
        1 - 2 * (1 - found["accuracy"]) / truth.n_classes, abs=1e-12
    )


def test_ece_by_hand():
    """Two tiles at 0.9 of which one is right, two at 0.6 both right: (|1.8 - 1| + |1.2 - 2|) / 4."""
    p = np.array([[0.9, 0.1], [0.9, 0.1], [0.4, 0.6], [0.4, 0.6]])
    truth = Truth(np.array([0, 1, 1, 1]), np.array([0, 1, 0, 1]), 2)
    assert point(truth, p)["ece"] == pytest.approx(0.4, abs=1e-12)


def test_a_perfect_run_has_perfect_scores():
    labels = np.arange(30) % 3
    found = point(Truth(labels, np.arange(30) // 5, 3), np.eye(3)[labels])
    best = {"accuracy": 1, "balanced_accuracy": 1, "macro_f1": 1, "auroc": 1, "kappa_quadratic": 1}
    calibrated = {"ovr_accuracy": 1, "log_loss": 0, "brier": 0, "ece": 0}
    assert found == pytest.approx(best | calibrated, abs=1e-12)


def test_a_certain_mistake_costs_what_float32_resolves():
    truth = Truth(np.array([0, 1]), np.array([0, 0]), 2)
    found = point(truth, np.array([[0.0, 1.0], [0.0, 1.0]]))
    assert found["log_loss"] == pytest.approx(-np.log(np.finfo(np.float32).eps) / 2)


def test_agreement_with_the_teacher_counts_equal_choices(case):
    truth, p = case
    other = np.roll(p, 1, axis=0)
    assert point(truth, p, p)["teacher_agreement"] == 1
    expected = np.mean(p.argmax(axis=1) == other.argmax(axis=1))
    assert point(truth, p, other)["teacher_agreement"] == pytest.approx(expected)
    assert "teacher_agreement" not in point(truth, p)


def test_a_weighted_resample_equals_repeating_the_patients_tiles(case):
    truth, p = case
    weights = np.random.default_rng(3).multinomial(
        truth.n_patients, [1 / truth.n_patients] * truth.n_patients, 5
    )
    found = metrics.scores(metrics.patient_sums(truth, p), weights.astype(float), truth.present, ordinal=True)
    for b, row in enumerate(weights):
        # Numbers of one size added in another order: 1e-12 is some thousand roundings.
        assert {name: v[b] for name, v in found.items()} == pytest.approx(of_rows(truth, p, row), abs=1e-12)


def test_scores_do_not_depend_on_the_order_of_rows(case):
    truth, p = case
    order = np.random.default_rng(0).permutation(N)
    shuffled = Truth(truth.labels[order], truth.patients[order], truth.n_classes)
    assert point(shuffled, p[order]) == pytest.approx(point(truth, p), abs=1e-12)


def test_a_class_without_items_is_left_out_of_macro_averages():
    random = np.random.default_rng(5)
    labels = random.integers(2, size=N) * 2  # classes 0 and 2 of three
    truth = Truth(labels, np.arange(N) // 10, 3)
    p = probabilities_like(random, labels, 3)
    choice = p.argmax(axis=1)
    found = point(truth, p)
    assert truth.present.tolist() == [0, 2]
    assert found["macro_f1"] == pytest.approx(
        reference.f1_score(labels, choice, labels=[0, 2], average="macro")
    )
    recalls = reference.recall_score(labels, choice, labels=[0, 2], average="macro")
    assert found["balanced_accuracy"] == pytest.approx(recalls)
    areas = [reference.roc_auc_score(labels == c, p[:, c]) for c in (0, 2)]
    assert found["auroc"] == pytest.approx(np.mean(areas))
    binary = [reference.accuracy_score(labels == c, choice == c) for c in (0, 2)]
    assert found["ovr_accuracy"] == pytest.approx(np.mean(binary))
    kappa = reference.cohen_kappa_score(labels, choice, labels=[0, 1, 2], weights="quadratic")
    assert found["kappa_quadratic"] == pytest.approx(kappa)


def test_kappa_has_no_value_where_all_agree_on_one_class_and_counts_grades_apart():
    one_class = np.zeros((1, 3, 3))
    one_class[0, 1, 1] = 5
    assert np.isnan(metrics.kappa_quadratic(one_class)[0])
    labels, far, near = np.array([0, 0, 2, 2]), np.array([0, 2, 2, 2]), np.array([0, 1, 2, 2])
    for choice in (far, near):
        confusion = np.zeros((1, 3, 3))
        np.add.at(confusion[0], (labels, choice), 1)
        expected = reference.cohen_kappa_score(labels, choice, labels=[0, 1, 2], weights="quadratic")
        assert metrics.kappa_quadratic(confusion)[0] == pytest.approx(expected)


def test_a_resample_that_lost_a_class_has_no_macro_average_but_has_an_accuracy():
    labels = np.array([0, 0, 1, 1])
    truth = Truth(labels, np.array([0, 0, 1, 1]), 2)
    p = np.array([[0.8, 0.2], [0.4, 0.6], [0.3, 0.7], [0.1, 0.9]])
    only_first = np.array([[2.0, 0.0]])
    found = metrics.scores(metrics.patient_sums(truth, p), only_first, truth.present, ordinal=False)
    undefined = {name for name, values in found.items() if np.isnan(values[0])}
    assert undefined == {"balanced_accuracy", "macro_f1", "auroc"}
    assert found["accuracy"][0] == 0.5


def test_patient_classes_are_majorities():
    truth = Truth(np.array([0, 2, 2, 1, 0]), np.array([0, 0, 0, 1, 2]), 3)
    assert truth.patient_classes().tolist() == [2, 1, 0]
