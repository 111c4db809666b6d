"""Ready-made studies that answer one question each: what their runs differ by."""

from pathlib import Path
from typing import Any

import pytest
from lowmag.config import parse_config
from lowmag.study import additions
from lowmag.target_wishes import target_options, targets_name
from snakemake.common.configfile import load_configfile
from snakemake.utils import update_config

REPOSITORY = Path(__file__).parents[1]


def added_to_the_demo(study: str) -> Any:
    """The config that Snakemake makes of the demo's and a study's, read by its own loader."""
    content: dict[str, Any] = {}
    for name in ("config.yaml", f"workflow/studies/{study}.yaml"):
        update_config(content, load_configfile(str(REPOSITORY / name)))
    return parse_config(content)


@pytest.mark.parametrize(("magnification", "cells"), [(2.5, [2, 4, 8]), (1.25, [1, 2, 4])])
def test_the_attention_study_differs_by_the_term_alone_on_maps_of_three_sizes(magnification, cells):
    study = added_to_the_demo("attention_by_map")
    grids = set()
    for stride in (8, 16, 32):
        plain, attention = (study.methods[f"{name}-{stride}"] for name in ("plain", "attention"))
        assert attention.attention is not None
        assert attention.model_copy(update={"attention": None}) == plain
        name = targets_name(study, f"attention-{stride}", magnification)
        grids.add(target_options(study).grids[name])
    assert sorted(grids) == cells
    assert len(study.methods) == 6


def test_the_share_study_gives_every_distilled_method_four_shares():
    study = added_to_the_demo("unlabelled_shares").study(["a", "b"])
    assert [len(study.shares(name)) for name in study.methods] == [1, 4, 4, 4, 4]


@pytest.mark.parametrize("study", ["ebhi", "unlabelled_shares"])
def test_methods_without_labels_do_not_draw_by_them(study):
    config = added_to_the_demo(study)
    assert config.students.balance is True
    for name, method in config.methods.items():
        needs_label = any(term.needs_label for term in method.terms.values())
        assert config.student_training(name).balance is needs_label
    assert config.student_training("dipalma2021").balance is False
    own = config.methods["dipalma2021"].model_copy(update={"training": {"balance": True}})
    asked = config.model_copy(update={"methods": {"dipalma2021": own}})
    assert asked.student_training("dipalma2021").balance is True


def test_pairs_that_one_term_sets_apart_are_found_with_their_maps():
    study = added_to_the_demo("attention_by_map").study(["a", "b"])
    found = {(a.method, a.reference, a.term): a.cells for a in study.additions}
    assert found == {
        ("attention-32", "plain-32", "attention"): {"2.5x": 2, "1.25x": 1},
        ("attention-16", "plain-16", "attention"): {"2.5x": 4, "1.25x": 2},
        ("attention-8", "plain-8", "attention"): {"2.5x": 8, "1.25x": 4},
    }


def test_methods_trained_otherwise_or_with_other_settings_are_no_pair():
    plain, other = {"cross_entropy": 1}, {"cross_entropy": 2, "features": 1}
    terms = {"a": plain, "b": plain | {"features": 1}, "c": other, "d": plain | {"features": 1, "more": 1}}
    alike = dict.fromkeys(terms, "same")
    found = additions(terms, alike, lambda name: {"5x": 4})
    assert [(a.reference, a.method, a.term) for a in found] == [("a", "b", "features"), ("b", "d", "more")]
    assert additions(terms, alike | {"b": "longer"}, lambda name: {}) == []
