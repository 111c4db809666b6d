"""The methods section of the report, from the `run.json` of the runs: what was trained, how, and on what."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lowmag.magnification import name_of
from lowmag.page import Table
from lowmag.study import Run, Study
from lowmag.wording import NONE, count, seconds, three_digits, whole

Record = Mapping[str, Any]
OPTIONS = {
    "model": "network",
    "stride": "stride (px per cell of the last map)",
    "input": "input",
    "weights": "initial weights",
    "epochs": "epochs",
    "batch_size": "tiles per step",
    "accumulate": "parts a batch is passed in",
    "optimizer": "optimiser",
    "lr": "peak learning rate",
    "schedule": "learning rate",
    "weight_decay": "weight decay",
    "clip": "largest gradient norm",
    "balance": "class-balanced drawing",
    "select": "epoch selected by (validation)",
    "precision": "precision",
}


def read_runs(results: Path, study: Study) -> list[Record]:
    """The run.json of the teachers and of every student of the study; those there are."""
    paths = [results / model / "run.json" for model in study.models]
    return [json.loads(path.read_text("utf-8")) for path in paths if path.is_file()]


def option_table(runs: Sequence[Record]) -> Table:
    """How teacher and students were trained, one row per option."""
    first = {
        role: next((run for run in runs if run["role"] == role), None) for role in ("teacher", "student")
    }
    shown = {f"{role}s": run for role, run in first.items() if run}
    table = Table(["", *shown], 3)
    for key, title in OPTIONS.items():
        values = [run["options"].get(key) for run in shown.values()]
        if any(value is not None for value in values):
            table.add(title, *map(_plain, values))
    table.add("steps", *(whole(run["steps"]) for run in shown.values()))
    table.add(
        "training time, shortest to longest", *(_training_time(runs, run["role"]) for run in shown.values())
    )
    return table


def _plain(value: Any) -> str:
    if isinstance(value, Mapping):
        return str(value.get("name", NONE))
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return three_digits(value)
    return NONE if value is None else str(value)


def _training_time(runs: Sequence[Record], role: str) -> str:
    times = sorted(run["seconds"] for run in runs if run["role"] == role)
    return seconds(times[0]) if len(times) == 1 else f"{seconds(times[0])} to {seconds(times[-1])}"


def method_terms(results: Path, study: Study) -> dict[str, list[str]]:
    """The loss terms of every method in words, from the first of its runs."""
    found = {}
    for method in study.methods:
        share, seed = study.shares(method)[-1], study.seeds[0]
        path = results / "students" / Run(method, study.students[0], share, seed).folder / "run.json"
        if path.is_file():
            terms = json.loads(path.read_text("utf-8"))["method"]
            found[method] = [_term(name, term) for name, term in terms.items()]
    return found


def _term(name: str, term: Mapping[str, Any]) -> str:
    rest = ", ".join(f"{key} {_plain(value)}" for key, value in term.items() if key != "weight")
    return f"{_plain(float(term['weight']))} × {name.replace('_', ' ')}" + (f" ({rest})" if rest else "")


def software(runs: Sequence[Record]) -> str:
    """Versions, machine and code of the runs in one sentence; mixed ones are all named."""
    versions = _distinct(", ".join(f"{k} {v}" for k, v in sorted(run["versions"].items())) for run in runs)
    machines = _distinct(f"{run['device']} ({count(run['threads'], 'thread')})" for run in runs)
    codes = _distinct(str(run["code"])[:12] for run in runs)
    return f"Trained with {' and '.join(versions)} on {' and '.join(machines)}; code {' and '.join(codes)}."


def timing_conditions(results: Path, study: Study) -> str:
    """Where the networks were timed, from cost.json of the predictions."""
    paths = [results / "predictions" / model / "cost.json" for model in study.models]
    found = [json.loads(path.read_text("utf-8")) for path in paths if path.is_file()]
    timed = [cost for cost in found if "device" in cost]
    sizes = sorted({cost["batch_size"] for cost in timed})
    batches = f"{sizes[0]} to " if len(sizes) > 1 else ""
    conditions = _distinct(
        f"{cost['device']} ({count(cost['threads'], 'thread')}, {cost.get('precision', 'float32')})"
        for cost in timed
    )
    of = f", in batches of {batches}{count(sizes[-1], study.unit)}" if sizes else ""
    return " and ".join(conditions) + of


def _distinct(texts: Any) -> list[str]:
    return list(dict.fromkeys(texts))


def grid(study: Study) -> str:
    """The grid of runs in words."""
    ladder = ", ".join(name_of(m) for m in sorted(study.students, reverse=True))
    shares = {share for method in study.methods for share in study.shares(method)}
    return (
        f"{count(len(study.seeds), 'teacher')} at {name_of(study.teacher)} "
        f"({'seed' if len(study.seeds) == 1 else 'seeds'} {', '.join(map(str, study.seeds))}) and "
        f"{len(study.runs())} students: methods {', '.join(study.methods)}; magnifications {ladder}; "
        f"{' and '.join(map(str, sorted(shares)))} % of the unlabelled slides."
    )
