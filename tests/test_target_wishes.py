"""What methods ask of stored targets: what they read and nothing else, each on its own grid."""

import pytest
from lowmag.config import parse_config
from lowmag.study import TargetOptions
from lowmag.target_wishes import target_options, targets_name
from pydantic import ValidationError


def wishes(methods: dict) -> TargetOptions:
    return target_options(parse_config({"methods": methods}))


def test_targets_hold_what_cached_methods_read_and_nothing_else():
    assert wishes({"labels": {"cross_entropy": 1}}) == TargetOptions(views=1)
    soft = wishes({"labels": {"cross_entropy": 1}, "soft": {"soft_labels": 1}})
    assert soft.reads == {name: ["logits"] for name in ("5x", "2.5x", "1.25x", "0.625x")}
    every = target_options(parse_config({})).reads["1.25x"]  # of the three methods of the demo
    assert every == ["attention/inside", "features/area", "features/bicubic", "features/maxpool", "logits"]
    head = wishes({"head": {"softmax_regression": {"map": "spatial"}}})
    assert head.reads["5x"] == ["features/area"]  # the head is in every file


def test_nothing_is_stored_for_students_that_ask_the_teacher():
    online = {"targets": "online", "stride": 16}
    methods = {
        "asking": {"features": 1, "attention": {"stage": -2}, "training": online},
        "soft": {"soft_labels": 1},
    }
    options = wishes(methods)
    assert options.grids == {"5x": 8, "2.5x": 4, "1.25x": 2, "0.625x": 1}
    assert options.earlier == {}
    assert set(options.reads["5x"]) == {"logits"}
    everyone = target_options(parse_config({"students": {"targets": "online"}}))
    assert everyone == TargetOptions(views=1)


def test_targets_hold_earlier_attention_only_where_a_method_asks_for_it():
    assert target_options(parse_config({})).earlier == {}
    options = wishes({"early": {"attention": {"stage": -2, "relu": "outside"}}})
    assert options.grids == {"5x": 8, "2.5x": 4, "1.25x": 2, "0.625x": 1}
    assert options.earlier == {"outside-2": {"5x": 16, "2.5x": 8, "1.25x": 4, "0.625x": 2}}


def test_targets_of_another_grid_are_written_for_methods_that_compare_maps():
    own = {"features": 1, "training": {"stride": 16}}
    early = {"attention": {"stage": -2}, **own}
    config = parse_config({"methods": {"own": own, "early": early, "plain": {"features": 1}}})
    options = target_options(config)
    usual = {"5x": 8, "2.5x": 4, "1.25x": 2, "0.625x": 1}
    assert options.grids == usual | {"5x-16": 16, "2.5x-8": 8, "1.25x-4": 4, "0.625x-2": 2}
    assert options.earlier["inside-2"] == {"5x-16": 32, "2.5x-8": 16, "1.25x-4": 8, "0.625x-2": 4}
    assert targets_name(config, "own", 1.25) == "1.25x-4"
    assert targets_name(config, "plain", 1.25) == "1.25x"
    of_labels = parse_config({"methods": {"own": {"soft_labels": 1, "training": {"stride": 16}}}})
    assert targets_name(of_labels, "own", 1.25) == "1.25x"
    assert target_options(of_labels).grids == usual


def test_grids_of_sections_that_round_otherwise_are_not_mixed():
    """Of 100 px vgg16 makes 6 cells and a resnet 7: a method more changes no other's."""
    whole = {"batch_size": 4, "accumulate": 4}
    sections = {"tiles": {"unit": "section", "students": [1.25]}, "teacher": whole, "students": whole}
    methods = {
        "usual": {"attention": 1, "training": {"stride": 16}},
        "vgg": {"attention": 1, "training": {"model": "vgg16", "stride": 16}},
    }
    options = target_options(parse_config(sections | {"methods": methods}))
    told = {name: (network.model, network.stride) for name, network in options.sections.items()}
    assert told["1.25x-16"] == ("resnet10gn", 16)
    assert told["1.25x-16-vgg16"] == ("vgg16", 16)
    methods["wide"] = {"attention": 1, "training": {"model": "resnet18", "stride": 16}}
    assert target_options(parse_config(sections | {"methods": methods})).sections == options.sections


def test_options_by_hand_that_do_not_fit_each_other_are_named():
    with pytest.raises(ValidationError, match=r"grids and reads name other students: 1.25x"):
        TargetOptions(grids={"2.5x": 2, "1.25x": 1}, reads={"2.5x": ["logits"]})
    with pytest.raises(ValidationError, match=r"reads of 2.5x asks for attention/inside-2: give its cells"):
        TargetOptions(grids={"2.5x": 2}, reads={"2.5x": ["attention/inside-2"]})


@pytest.mark.parametrize(("dihedral", "views"), [(True, 8), ("flips", 4), ("horizontal", 2), (False, 1)])
def test_targets_hold_the_views_that_students_are_shown(dihedral, views):
    found = parse_config({"students": {"augment": {"dihedral": dihedral}}})
    assert target_options(found).views == views


def test_targets_hold_no_views_for_students_that_ask_the_teacher():
    methods = {
        "asking": {"soft_labels": 1, "training": {"targets": "online"}},
        "flipped": {"soft_labels": 1, "training": {"augment": {"dihedral": "flips"}}},
    }
    assert wishes(methods).views == 4
