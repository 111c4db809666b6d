"""Loss terms in the config: what each needs, and that it says so truly."""

import pytest
from lowmag.terms import Method


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
        ({"softmax_regression": 1}, ["logits", "head"]),
        ({"softmax_regression": {"map": "spatial"}}, ["features/area", "head"]),
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
        ({"cross_entropy": 1, "soft_labels": 1}, True),
    ],
    ids=str,
)
def test_unlabelled_slides_are_used_by_terms_without_labels_alone(terms, expected):
    assert method(**terms).uses_unlabelled is expected


def test_only_terms_that_compare_channels_need_the_same_network():
    assert method(features=1, soft_labels=1).needs_same_network
    assert method(softmax_regression=1).needs_same_network
    assert not method(attention=1, soft_labels=1, softmax_regression={"map": "spatial"}).needs_same_network


def test_terms_with_a_projector_are_named():
    assert method(softmax_regression={"map": "spatial"}, features=1).projected == ["softmax_regression"]
    assert method(softmax_regression=1, features=1).projected == []
