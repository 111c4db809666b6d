"""Loss terms in the config: what each needs, and that it says so truly."""

import pytest
from lowmag.terms import Method, earlier_form
from pydantic import ValidationError


def method(**terms) -> Method:
    return Method.model_validate(terms)


@pytest.mark.parametrize(
    ("terms", "reads"),
    [
        ({"cross_entropy": 1}, []),
        ({"soft_labels": 1}, ["logits"]),
        ({"features": {"resize": "maxpool+bicubic"}}, ["features/maxpool", "features/bicubic"]),
        ({"features": {"resize": "area"}}, ["features/area"]),
        ({"attention": {"relu": "outside"}}, ["attention/outside"]),
        ({"attention": {"stage": -3}}, ["attention/inside-3"]),
        ({"softmax_regression": 1}, ["logits", "head"]),
        ({"softmax_regression": {"map": "spatial"}}, ["features/area", "head"]),
        ({"attention_transfer": {"resize": "maxpool"}}, ["features/maxpool"]),
        ({"decoupled": 1, "correlation": 1}, ["logits"]),
        ({"relational": 1, "cosine": 1}, ["features/area"]),
        ({"attention": {"classes": "teacher"}, "soft_labels": 1}, ["logits", "attention/inside"]),
    ],
    ids=str,
)
def test_a_method_says_which_parts_of_the_targets_it_reads(terms, reads):
    assert method(**terms).reads == reads
    assert method(**terms).needs_teacher == bool(reads)


@pytest.mark.parametrize(
    ("terms", "expected"),
    [
        ({"cross_entropy": 1}, False),
        ({"attention": {"classes": "label"}}, False),
        ({"cross_entropy": 1, "attention": {"classes": "label"}}, False),
        ({"attention": {"classes": "teacher"}}, True),
        ({"cross_entropy": 1, "decoupled": 1}, False),
        ({"decoupled": {"target": "teacher"}}, True),
        ({"cross_entropy": 1, "soft_labels": 1}, True),
    ],
    ids=str,
)
def test_unlabelled_slides_are_used_by_terms_without_labels_alone(terms, expected):
    assert method(**terms).uses_unlabelled is expected


def test_only_terms_that_compare_channels_need_the_same_network():
    assert method(features=1, soft_labels=1).needs_same_network
    assert method(softmax_regression=1).needs_same_network
    assert method(cosine={"projector": "none"}).needs_same_network
    assert not method(attention=1, soft_labels=1, softmax_regression={"map": "spatial"}).needs_same_network
    assert not method(
        attention_transfer=1, decoupled=1, correlation=1, relational=1, cosine=1
    ).needs_same_network


@pytest.mark.parametrize("relu", ["inside", "outside"])
@pytest.mark.parametrize("stage", [-2, -3])
def test_the_name_of_an_earlier_map_says_what_it_is(relu, stage):
    attention = method(attention={"relu": relu, "stage": stage}).attention
    assert attention is not None
    assert earlier_form(attention.form) == (relu, stage)


def test_terms_with_a_projector_are_named():
    assert method(softmax_regression={"map": "spatial"}, features=1).projected == ["softmax_regression"]
    assert method(softmax_regression=1, cosine=1).projected == ["cosine"]
    assert method(softmax_regression=1, cosine={"projector": "none"}).projected == []


@pytest.mark.parametrize(
    ("terms", "expected"),
    [
        ({"decoupled": {"alpha": 0, "beta": 0}}, "alpha and beta are both 0"),
        ({"correlation": {"beta": 0, "gamma": 0}}, "beta and gamma are both 0"),
        ({"relational": {"distances": 0, "angles": 0}}, "distances and angles are both 0"),
        ({"attention_transfer": {"power": 0.5}}, "greater than or equal to 1"),
        ({"decoupled": {"beta": -1}}, "greater than or equal to 0"),
        ({"correlation": {"temperature": 0}}, "greater than 0"),
        ({"cosine": {"local": -0.5}}, "greater than or equal to 0"),
        ({"relational": {"weight": 0}}, "greater than 0"),
    ],
    ids=str,
)
def test_settings_out_of_bounds_are_refused(terms, expected):
    with pytest.raises(ValidationError, match=expected):
        method(**terms)


@pytest.mark.parametrize(
    ("terms", "exact"),
    [
        ({"relational": 1}, False),
        ({"correlation": 1}, False),
        ({"correlation": {"gamma": 0}}, True),
        ({"softmax_regression": 1}, False),
        ({"decoupled": 1, "attention_transfer": {"distance": "norm"}, "cosine": 1, "attention": 1}, True),
    ],
    ids=str,
)
def test_terms_across_the_batch_cannot_be_accumulated(terms, exact):
    assert (method(**terms).accumulation_problem(2) is None) is exact
