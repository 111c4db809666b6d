"""The config: messages of a bad one, what follows from a good one, and that every key is explained."""

from pathlib import Path

import jsonschema
import pytest
import torch
from lowmag import config
from lowmag.config import parse_config
from lowmag.errors import UserError
from lowmag.networks import build
from lowmag.parsing import parse_options
from lowmag.recipe import StudentTraining
from lowmag.sections import Check, Pictures, Splits, Tiles
from lowmag.study import Run
from lowmag.target_wishes import target_options
from lowmag.terms import Method

REPOSITORY = Path(__file__).parents[1]


FREE_NAMES = {"methods", "columns"}  # the user makes up the keys below these


def complaint(content: dict) -> str:
    with pytest.raises(UserError) as caught:
        parse_config(content)
    return str(caught.value)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ({"outdirr": "x"}, "  outdirr: unknown key, found 'x'; see config.yaml for the keys there are"),
        ({"tiles": {"field": 3}}, "  tiles.field: unknown key, found 3"),
        ({"tiles": {"field_um": "wide"}}, "  tiles.field_um: Input should be a valid number"),
        (
            {"tiles": {"students": [5, 3]}},
            "students: 10x is not a whole multiple of 3x; every student magnification",
        ),
        ({"tiles": {"students": [20]}}, "students: 10x is not a whole multiple of 20x"),
        ({"tiles": {"students": [5, 5]}}, "students: magnification given twice"),
        ({"tiles": {"field_um": 500}}, "field_um 500 is not a whole number of pixels at 0.625x"),
        ({"splits": {"val": 0.5, "test": 0.5}}, "val 0.5 and test 0.5 leave no patients to train on"),
        ({"splits": {"val": 0}}, "splits.val: Input should be greater than 0, found 0"),
        (
            {"students": {"unlabelled": [150]}},
            "students.unlabelled.0: Input should be less than or equal to 100",
        ),
        ({"students": {"seeds": []}}, "students.seeds: List should have at least 1 item"),
        (
            {"teacher": {"model": "resnet50"}},
            "teacher.model: expected resnet18, resnet10gn, vgg16, torchvision/NAME or timm/NAME",
        ),
        ({"teacher": {"model": "vgg16"}}, "stride of vgg16 is 16"),
        ({"methods": {"a/b": {"cross_entropy": 1}}}, "method name 'a/b': use letters"),
        ({"methods": {"teacher": {"cross_entropy": 1}}}, "method name 'teacher': taken by the teacher"),
        (
            {"methods": {"kd": {"soft_labels": {"temperature": float("inf")}}}},
            "methods.kd.soft_labels.temperature: Input should be a finite number",
        ),
        ({"methods": {"none": {}}}, "a method needs at least one loss term"),
        (
            {"students": {"augment": {"rotation": 45}}},
            "students, method dipalma2021: augment.rotation, zoom and shift make endless views",
        ),
        (
            {
                "students": {"augment": {"zoom": [0.9, 1]}, "targets": "online"},
                "tiles": {"lowres": "pyramid"},
            },
            "made from the teacher's tiles, but tiles.lowres is pyramid: set it to derived",
        ),
        (
            {"teacher": {"augment": {"zoom": [1.2, 0.9]}}},
            "zoom goes from 1.2 to 0.9: put the smaller one first",
        ),
        ({"methods": {"x": {"entropy": 1}}}, "methods.x.entropy: unknown key"),
        (
            {"methods": {"x": {"cross_entropy": 1, "training": {"epochs": 0}}}},
            "methods.x.training: epochs: Input should be greater than or equal to 1, found 0",
        ),
        ({"methods": {"x": {"cross_entropy": 1, "training": {"seeds": [1]}}}}, "seeds: unknown key"),
        (
            {"methods": {"x": {"cross_entropy": 1, "training": {"initial": "teacher", "model": "resnet18"}}}},
            "method x begins with the teacher's weights, so teacher.model (resnet10gn)",
        ),
        (
            {"students": {"cell_um": 64, "input": "upsampled"}},
            "magnification, and input is upsampled: set cell_um: null, or input: native",
        ),
        (
            {
                "teacher": {"model": "vgg16", "stride": 16},
                "students": {"model": "vgg16", "stride": 16},
                "methods": {"x": {"cross_entropy": 1, "training": {"initial": "higher", "cell_um": 64}}},
            },
            "cell_um chooses among strides, and vgg16 has one alone (16): set cell_um: null here",
        ),
        ({"teacher": {"patch_gmac": 60}}, "a network trained here is counted: set it to null"),
        ({"students": {"initial": "higher", "weights": "a.pt"}}, "both say where to begin"),
        ({"on_bad_slide": "stop"}, "on_bad_slide: Input should be 'skip' or 'fail', found 'stop'"),
        ({"students": {"model": "resnet18"}}, "must be the same network"),
        ({"students": {"batch_size": 6, "accumulate": 4}}, "not a whole multiple of accumulate 4"),
        (
            {"compute": {"slide": {"threads": 4}}},
            "compute.slide.threads: a slide is read by one thread; snakemake --cores",
        ),
        ({"students": {"accumulate": 2}}, "students.accumulate: method delamor2024: features is no mean"),
        (
            {"students": {"model": "resnet18", "batch_size": 1}, "teacher": {"model": "resnet18"}},
            "students: BatchNorm of resnet18 needs more than one value per channel",
        ),
        (
            {
                "teacher": {"model": "resnet18", "batch_size": 4, "accumulate": 4},
                "students": {"model": "resnet18"},
            }
            | {"tiles": {"field_um": 32, "students": [5]}},
            "its last map at 10x is 1 x 1: raise batch_size",
        ),
    ],
)
def test_bad_keys_are_named_with_what_was_found(content, expected):
    message = complaint(content)
    assert message.startswith("config is not valid:\n")
    assert expected in message


@pytest.mark.parametrize(
    ("students", "alone"),
    [
        ({"batch_size": 1}, True),
        ({"batch_size": 2}, False),
        ({"batch_size": 1, "stride": 16}, False),
        ({"batch_size": 1, "input": "upsampled"}, False),
        ({"batch_size": 1, "model": "resnet10gn"}, False),
    ],
)
def test_what_the_config_says_of_one_tile_at_a_time_is_what_the_network_does(students, alone):
    """A tile of 32 px at 0.625x: stride 32 leaves one value per channel."""
    content = {
        "students": {"model": "resnet18", **students},
        "methods": {"labels-only": {"cross_entropy": 1}},
    }
    content["methods"] |= {"dipalma2021": None, "delamor2024": None}
    options = StudentTraining(**content["students"])
    px = 512 if options.input == "upsampled" else 32
    pictures = torch.zeros(options.batch_size, 3, px, px)
    if alone:
        assert "BatchNorm" in complaint(content)
        with pytest.raises(ValueError, match="more than 1 value per channel"):
            build(options, 2).train()(pictures)
    else:
        parse_config(content)
        build(options, 2).train()(pictures)


def test_all_problems_come_in_one_message():
    message = complaint({"tiles": {"teacher": -1}, "splits": {"seed": "x"}, "extra": 1})
    assert {line.split(":")[0].strip() for line in message.splitlines()[1:]} == {
        "tiles.teacher",
        "splits.seed",
        "extra",
    }


def test_options_are_json_of_one_section():
    assert parse_options(Check, None) == Check()
    assert parse_options(Check, '{"assume_mpp": 0.5}').assume_mpp == 0.5
    with pytest.raises(UserError, match="--options is not JSON"):
        parse_options(Check, "assume_mpp: 0.5")
    with pytest.raises(UserError, match=r"--options is not valid:\n  mpp: unknown key, found 0.5"):
        parse_options(Check, '{"mpp": 0.5}')


@pytest.mark.parametrize("section", [Check, Pictures, Splits, Tiles])
def test_options_survive_the_command_line(section):
    options = section()
    assert parse_options(section, options.model_dump_json()) == options


def test_one_field_at_every_magnification():
    tiles = Tiles(field_um=512, teacher=10, students=[0.625, 5, 2.5, 1.25])
    assert tiles.magnifications == [10, 5, 2.5, 1.25, 0.625]
    assert [tiles.tile_px(m) for m in tiles.magnifications] == [512, 256, 128, 64, 32]


def test_bare_numbers_are_weights():
    method = Method.model_validate({"cross_entropy": 2, "soft_labels": {"temperature": 4}})
    assert {name: term.model_dump() for name, term in method.terms.items()} == {
        "cross_entropy": {"weight": 2},
        "soft_labels": {"weight": 1, "temperature": 4, "softened": "both", "scaled": True},
    }
    assert method.needs_teacher
    assert not Method.model_validate({"cross_entropy": 1}).needs_teacher


def test_a_method_set_to_null_is_taken_out():
    names = list(
        parse_config({"methods": {"labels-only": {"cross_entropy": 1}, "dipalma2021": None}}).methods
    )
    assert names == ["labels-only"]


def test_the_grid_of_runs_is_methods_times_magnifications_times_shares_times_seeds():
    study = parse_config(
        {"tiles": {"students": [5, 1.25]}, "students": {"seeds": [0, 1], "unlabelled": [50, 0]}}
    )
    runs = study.study(["a", "b"]).runs()
    # labels-only has no use for unlabelled slides: one share. The other two methods have both.
    assert len(runs) == len(set(runs)) == 2 * 2 * (1 + 2 + 2)
    assert Run("labels-only", 5, 0, 1) in runs
    assert Run("labels-only", 5, 50, 1) not in runs
    assert Run("dipalma2021", 1.25, 50, 0).folder == "dipalma2021/1.25x/u50/seed0"


def test_a_run_of_a_student_does_not_depend_on_the_grid():
    one = parse_config({"students": {"seeds": [0]}}).student_training("labels-only")
    other = parse_config({"students": {"seeds": [0, 1], "unlabelled": [0, 25]}})
    assert one == other.student_training("labels-only")


OWN = {"cross_entropy": 1, "training": {"stride": 8, "initial": "teacher", "augment": {"stain": 0.3}}}


def test_a_method_may_be_trained_in_its_own_way():
    """What it says holds for it alone, and what it does not say is that of `students`."""
    students = {"epochs": 7, "augment": {"contrast": 0}}
    config = parse_config({"methods": {"own": OWN, "plain": {"cross_entropy": 1}}, "students": students})
    common = StudentTraining.model_validate(students)
    assert config.student_training("plain") == common
    training = config.student_training("own")
    assert (training.stride, training.initial, training.epochs) == (8, "teacher", 7)
    assert (training.augment.stain, training.augment.contrast) == (0.3, 0)
    assert list(config.methods["own"].terms) == ["cross_entropy"]


def test_cells_of_a_size_decide_on_the_stride_of_every_magnification():
    """64 um are 32 px at 5x, 16 at 2.5x, 8 at 1.25x and 4 at 0.625x, where 8 is the least there is."""
    training = StudentTraining.model_validate({"cell_um": 64, "stride": 16})
    strides = [training.at(10 / magnification).stride for magnification in (5, 2.5, 1.25, 0.625)]
    assert strides == [32, 16, 8, 8]
    assert training.at(2).at(4).stride == 32  # decided once
    assert StudentTraining(stride=16).at(8).stride == 16
    config = parse_config({"methods": {"own": {"features": 1, "training": {"cell_um": 64}}}})
    grids = target_options(config).grids  # of 512-um fields: its own, but for 5x, whose cells are usual
    assert grids == {"5x": 8, "2.5x-8": 8, "1.25x-8": 8, "0.625x-4": 4}


@pytest.mark.parametrize(
    "content",
    [
        {"methods": {"mine": {"cross_entropy": 1, "features": 0.5}, "dipalma2021": None}},
        {"methods": {"mine": {"soft_labels": {"weight": 2, "temperature": 4}}}},
        {"methods": {"mine": {"cross_entropy": 0}}},
        {"methods": {"mine": {"cross_entropy": "much"}}},
        {"methods": {"mine": {"entropy": 1}}},
        {"methods": {"mine": {"cross_entropy": 1, "training": {"stride": 8, "augment": {"stain": 0}}}}},
        {"methods": {"mine": {"cross_entropy": 1, "training": {"stride": 99}}}},
        {"methods": {"mine": {"cross_entropy": 1, "training": {"seeds": [1]}}}},
        {"tiles": {"field_um": 1024, "students": [2.5]}},
        {"tiles": {"field": 1024}},
        {"splits": {"val": 1}},
        {"slides": None, "images": "images.csv"},
    ],
)
def test_schema_and_model_agree(content):
    valid = jsonschema.Draft202012Validator(config.schema()).is_valid(content)
    if valid:
        parse_config(content)
    else:
        complaint(content)


@pytest.mark.parametrize(
    ("terms", "is_refused"),
    [
        ({"attention_transfer": 1000}, True),
        ({"attention": {"classes": "label"}}, True),
        ({"attention": {"classes": "teacher", "normalise": "softmax"}}, True),
        ({"attention": {"normalise": "minmax_class"}}, True),
        ({"attention": 1, "attention_transfer": 1000}, False),  # jointly over classes
        ({"attention": {"classes": "label", "normalise": "none"}}, False),
        ({"cross_entropy": 1, "attention_transfer": 1000}, False),
    ],
)
def test_a_method_that_can_say_nothing_of_a_single_cell_is_refused(terms, is_refused):
    content = {"methods": {"m": terms}, "tiles": {"field_um": 512, "students": [1.25, 0.625]}}
    if is_refused:
        assert "at 0.625x the map is a single cell, so that there is nothing to learn" in complaint(content)
        content["tiles"]["students"] = [1.25]
    parse_config(content)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ({"ordinal": True}, "need the classes in order"),
        ({"teacher": {"select": "kappa"}}, "need the classes in order"),
        ({"classes": ["a", "b", "a"]}, "a name is given twice"),
        ({"students": {"seeds": [0, 0]}}, "one is given twice"),
        ({"tiles": {"students": []}}, "tiles.students: List should have at least 1 item"),
        (
            {
                "tiles": {"field_um": 128},
                "teacher": {"model": "vgg16", "stride": 16},
                "students": {"model": "vgg16", "stride": 16},
            },
            "smaller than one cell of vgg16",
        ),
    ],
)
def test_what_would_fail_or_mislead_later_is_refused_at_once(content, expected):
    assert expected in complaint(content)


def test_text_of_the_command_line_becomes_numbers_but_not_in_names():
    config = parse_config(
        {
            "students": {"stride": "8", "seeds": ["0", "1"]},
            "methods": {"labels-only": {"cross_entropy": "2"}},
            "tiles": {"max_per_slide": "null"},
            "classes": ["1", "2"],
            "outdir": "2026",
        }
    )
    assert config.students.stride == 8
    assert config.methods["labels-only"].terms["cross_entropy"].model_dump() == {"weight": 2.0}
    assert config.tiles.max_per_slide is None
    assert config.classes == ["1", "2"]
    assert config.outdir == "2026"


def test_ladder_of_thirds_keeps_its_names():
    tiles = parse_config({"tiles": {"teacher": 20, "students": [20 / 3], "field_um": 480}}).tiles
    assert [float(f"{m:g}") for m in tiles.magnifications] == tiles.magnifications
    assert tiles.tile_px(tiles.students[0]) == 320


def test_pictures_decide_on_their_own_field():
    assert parse_config({"images": "images.csv", "tiles": {"teacher": 20, "students": [10, 4]}}).images


SECTIONS = {
    "tiles": {"unit": "section", "field_um": 333},
    "teacher": {"batch_size": 32, "accumulate": 32},
    "students": {"batch_size": 32, "accumulate": 32},
}


def test_sections_go_one_by_one_and_have_grids_of_their_own() -> None:
    coarse = {"features": 1, "training": {"stride": 16}}
    config = parse_config(SECTIONS | {"methods": {"dipalma2021": {"features": 1}, "coarse": coarse}})
    options = target_options(config)
    assert options.grids["1.25x"] == options.grids["1.25x-16"] == 0
    assert {name: network.stride for name, network in options.sections.items() if "1.25x" in name} == {
        "1.25x": 32,
        "1.25x-16": 16,
    }
    assert config.study(["a", "b"]).unit == "section"
    for section in ("teacher", "students"):
        with pytest.raises(
            UserError, match=rf"{section}.*sections differ in size.*set accumulate to batch_size"
        ):
            parse_config(SECTIONS | {section: {"batch_size": 32, "accumulate": 16}})
    with pytest.raises(UserError, match="sections keep their size: set input: native"):
        parse_config(SECTIONS | {"students": {**SECTIONS["students"], "input": "upsampled"}})
