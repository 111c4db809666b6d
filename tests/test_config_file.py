"""config.yaml and the studies: valid, complete, explained, and with the defaults that they say."""

import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from lowmag import config
from lowmag.config import parse_config
from lowmag.errors import UserError
from lowmag.recipe import Augment, Students, Teacher
from lowmag.target_wishes import target_options
from pydantic import BaseModel
from snakemake.common.configfile import load_configfile
from snakemake.utils import update_config

REPOSITORY = Path(__file__).parents[1]


FREE_NAMES = {"methods", "columns"}  # the user makes up the keys below these


def test_schema_file_is_up_to_date():
    stored = (REPOSITORY / "workflow/schemas/config.schema.json").read_text(encoding="utf-8")
    assert json.loads(stored) == config.schema(), (
        "run: lowmag schema --out workflow/schemas/config.schema.json"
    )


@pytest.fixture(scope="module")
def config_yaml() -> str:
    return (REPOSITORY / "config.yaml").read_text(encoding="utf-8")


def test_config_file_is_valid_by_model_and_by_schema(config_yaml):
    content = yaml.safe_load(config_yaml)
    parse_config(content)
    jsonschema.Draft202012Validator(config.schema()).validate(content)


def keys_of(model: BaseModel, prefix: str = "") -> list[str]:
    keys = []
    for name in type(model).model_fields:
        value = getattr(model, name)
        keys.append(prefix + name)
        if isinstance(value, BaseModel):
            keys += keys_of(value, f"{prefix}{name}.")
    return keys


def commented_keys(text: str) -> dict[str, str]:
    """Comment of every key at the start of a line, by its dotted name; empty when it has none."""
    found, path = {}, []
    for line in text.splitlines():
        match = re.match(r"^( *)([\w-]+):(?:[^#]|(?<! )#)*(?: #\s*(.*))?$", line)
        if match:
            depth = len(match[1]) // 2
            path = [*path[:depth], match[2]]
            found[".".join(path)] = match[3] or ""
    return found


def explanation(key: str, comments: dict[str, str]) -> str:
    """Comment of a key, of the one line its section stands on, or of the teacher's key of that name."""
    line = key if key in comments else key.rpartition(".")[0]
    return comments.get(line) or comments.get(re.sub("^students[.]", "teacher.", key), "")


def test_every_key_stands_in_the_config_file_with_a_comment(config_yaml):
    content, comments = yaml.safe_load(config_yaml), commented_keys(config_yaml)
    missing, bare = [], []
    for key in keys_of(config.Config()):
        value = content
        for part in key.split("."):
            value = value.get(part, "absent") if isinstance(value, dict) else "absent"
        if value == "absent":
            missing.append(key)
        elif not isinstance(value, dict) and not explanation(key, comments):
            bare.append(key)
    assert not missing, "add these keys to config.yaml"
    assert not bare, "explain these keys in config.yaml, with unit and default"


def test_every_setting_of_a_loss_term_stands_in_the_config_file(config_yaml):
    methods = yaml.safe_load(config_yaml)["methods"] | methods_in_comments(config_yaml)
    shown = {
        (term, key)
        for terms in methods.values()
        for term, of in terms.items()
        if isinstance(of, dict)
        for key in of
    }
    for term in set(config.Method.model_fields) - {"training"}:
        fields = config.Method.model_validate({term: 1}).terms[term]
        settings = {(term, key) for key in type(fields).model_fields}
        assert settings <= shown or term == "cross_entropy"


def methods_in_comments(text: str) -> dict[str, Any]:
    """Methods that stand in a comment of one line below `methods`, ready to be used without their `#`."""
    lines = re.findall(r"^  # ([\w-]+: \{.*\})(?:  # .*)?$", text, re.MULTILINE)
    return yaml.safe_load("\n".join(lines))


def test_methods_in_comments_of_the_config_file_are_valid(config_yaml):
    found = methods_in_comments(config_yaml)
    assert len(found) == len(re.findall(r"^  # [\w-]+: \{", config_yaml, re.MULTILINE)) > 0
    parse_config({"methods": found})


def test_defaults_said_in_the_config_file_are_the_defaults(config_yaml):
    """`(default 20)` in a comment is checked against the model; words such as `none` are not."""
    checked = 0
    for key, comment in commented_keys(config_yaml).items():
        match = re.search(r"[(]default ([^)]*)[)]", comment)
        if not match or FREE_NAMES & set(key.split(".")):
            continue
        value = config.Config()
        for part in key.split("."):
            value = getattr(value, part)
        said = yaml.safe_load(match[1])
        if isinstance(value, bool | int | float | str) or value is None:
            assert said == value, key
            checked += 1
    assert checked > 40


@pytest.mark.parametrize(
    "path", sorted((REPOSITORY / "workflow/studies").glob("*.yaml")), ids=lambda path: path.stem
)
def test_studies_are_valid(path):
    parse_config(yaml.safe_load(path.read_text(encoding="utf-8")))


def merged(*names: str) -> dict[str, Any]:
    """What Snakemake makes of several config files, read by its own loader."""
    content: dict[str, Any] = {}
    for name in names:
        update_config(content, load_configfile(str(REPOSITORY / name)))
    return content


@pytest.mark.parametrize(
    ("base", "added"),
    [
        ("ebhi", "comparators"),
        ("dipalma2021", "dipalma2021_terms"),
        ("delamor2024", "delamor2024_terms"),
        ("delamor2024", "delamor2024_weights"),
    ],
)
def test_studies_of_terms_go_with_their_base(base, added):
    files = ("config.yaml", f"workflow/studies/{base}.yaml", f"workflow/studies/{added}.yaml")
    alone, both = parse_config(merged(*files[:2])), parse_config(merged(*files))
    assert len(both.methods) >= len(alone.methods) + 6
    assert both.model_copy(update={"methods": alone.methods}) == alone


@pytest.mark.parametrize(("base", "added"), [("", "lowmag"), ("", "demo_lowmag"), ("ebhi", "ebhi_lowmag")])
def test_the_own_method_is_added_to_a_study_with_what_it_is_held_against(base, added):
    names = ["config.yaml", *([f"workflow/studies/{base}.yaml"] if base else [])]
    alone = parse_config(merged(*names))
    both = parse_config(merged(*names, f"workflow/studies/{added}.yaml"))
    own, labels = (both.student_training(name) for name in ("lowmag", "labels-as-lowmag"))
    assert own.model_copy(update={"balance": True}) == labels  # it sees no label, so none to draw by
    assert own.cell_um == 2 * alone.teacher.stride * 10 / alone.tiles.teacher
    assert set(both.evaluation.references) <= set(both.methods)
    for name in alone.methods:
        assert both.student_training(name) == alone.student_training(name)
    of_both, of_one = target_options(both), target_options(alone)
    assert of_both.grids.items() >= of_one.grids.items()


def test_the_own_method_trains_as_long_as_the_study_it_is_added_to():
    for base in ("config.yaml", "workflow/studies/slides.yaml"):
        both = parse_config(merged("config.yaml", base, "workflow/studies/lowmag.yaml"))
        assert {both.student_training(name).epochs for name in both.methods} == {both.students.epochs}


def test_methods_of_the_demos_own_study_train_alike():
    added = ("demo_lowmag", "lowmag_losses")
    demo = parse_config(merged("config.yaml", *(f"workflow/studies/{name}.yaml" for name in added)))
    own = [demo.student_training(name) for name in demo.methods if name not in config.DEFAULT_METHODS]
    assert len(own) == 8
    assert {(training.epochs, training.cell_um) for training in own} == {(10, 64)}
    plain = parse_config(merged("config.yaml", "workflow/studies/lowmag.yaml"))
    for name in plain.methods:
        assert demo.methods[name].terms == plain.methods[name].terms


def test_terms_across_the_batch_are_refused_one_picture_at_a_time():
    files = ("config.yaml", "workflow/studies/dipalma2021.yaml", "workflow/studies/comparators.yaml")
    with pytest.raises(UserError, match="method dist: correlation is no mean over pictures"):
        parse_config(merged(*files))


@pytest.mark.parametrize("study", ["dipalma2021", "delamor2024"])
def test_a_papers_study_states_every_option_of_training(study):
    """A default that changes must not change a paper."""
    content = load_configfile(str(REPOSITORY / f"workflow/studies/{study}.yaml"))
    not_how_it_trains = {"require", "gpus", "features", "head", "patch_gmac"}
    assert set(content["teacher"]) == set(Teacher.model_fields) - not_how_it_trains
    assert set(content["students"]) == set(Students.model_fields)
    assert set(content["teacher"]["augment"]) == set(Augment.model_fields)


def test_the_papers_methods_are_the_same_in_their_study_and_by_default():
    for name in ("dipalma2021", "delamor2024"):
        study = parse_config(merged(f"workflow/studies/{name}.yaml"))
        assert study.methods[name] == config.Config().methods[name]
