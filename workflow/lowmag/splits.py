"""`splits.csv`: every slide's patient, label and split; patients are never parted."""

import csv
import hashlib
import io
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lowmag.errors import UserError
from lowmag.publish import write_text

if TYPE_CHECKING:  # reading splits.csv, all that training does here, needs none of these
    from lowmag.pictures import PictureRow
    from lowmag.sections import Splits
    from lowmag.slides import SlideRow

COLUMNS = ("slide_id", "patient_id", "label", "split")
SPLITS = ("train", "val", "test")
ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")  # as in sheet, whose edits are not to retrain anything
DRAWS = 1000
SHOWN = 10


@dataclass(frozen=True)
class SplitRow:
    """One slide of splits.csv; label is empty when it has none or, with pictures, several."""

    slide_id: str
    patient_id: str
    label: str
    split: str


@dataclass(frozen=True)
class Member:
    """One slide to be split; `labels` are those of its pictures or regions, or of a slide its one label."""

    slide_id: str
    patient_id: str
    label: str
    split: str | None
    labels: tuple[str, ...]


def members_of_slides(
    rows: Iterable["SlideRow"],
    check_tsv: Path | None,
    regions: Mapping[str, tuple[str, ...]] | None = None,
) -> list[Member]:
    """The slides that the check accepts, all of them without a check.

    `regions` are the classes of annotated slides by id: such a slide counts as labelled with each of them,
    and with nothing else, since its own label does not reach its tiles. Raises UserError when check.tsv
    lacks a slide of the sheet, or accepts none.
    """
    verdicts = _verdicts(check_tsv) if check_tsv else None
    members = []
    for row in rows:
        if verdicts is not None and row.slide_id not in verdicts:
            raise UserError(f"{check_tsv} has no row for slide {row.slide_id}; run `lowmag check` again")
        if verdicts is None or verdicts[row.slide_id] == "ok":
            label = row.label or ""
            labels = (regions or {}).get(row.slide_id, (label,) if label else ())
            members.append(Member(row.slide_id, row.patient_id, label, row.split, labels))
    if not members:
        raise UserError(f"{check_tsv} accepts no slide; cure the slides as its column cure says and rerun")
    return members


def members_of_pictures(rows: Iterable["PictureRow"]) -> list[Member]:
    """One member per slide id; its label is empty unless every picture carries the same one."""
    by_slide: dict[str, list[PictureRow]] = {}
    for row in rows:
        by_slide.setdefault(row.slide_id, []).append(row)
    members = []
    for slide_id, pictures in by_slide.items():
        labels = {row.label or "" for row in pictures}
        given = {row.split for row in pictures if row.split}  # at most one: the sheet was checked
        members.append(
            Member(
                slide_id=slide_id,
                patient_id=pictures[0].patient_id,
                label=labels.pop() if len(labels) == 1 else "",
                split=given.pop() if given else None,
                labels=tuple(row.label for row in pictures if row.label),
            )
        )
    return members


def write_splits(out: Path, members: Sequence[Member], options: "Splits") -> None:
    """Write splits.csv, ordered by slide id: given splits as they are, else `split_patients`.

    A patient without a label goes to train, unless the sheet gives another split. Raises UserError when only
    some labelled patients have a given split, when given splits leave train, val or test without labelled
    patients or train without a class, or when a class has too few patients.
    """
    labels = patient_labels(members)
    given = _given_splits(members)
    ungiven = sorted(patient for patient in labels if patient not in given)
    if any(patient in given for patient in labels):
        _require_whole_given_split(labels, given, ungiven)
        drawn = given
    else:
        drawn = given | split_patients(labels, options)
    lines = [
        (member.slide_id, member.patient_id, member.label, drawn.get(member.patient_id, "train"))
        for member in sorted(members, key=lambda member: member.slide_id)
    ]
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([COLUMNS, *lines])
    write_text(out, text.getvalue())


def patient_labels(members: Iterable[Member]) -> dict[str, Counter[str]]:
    """How often a patient carries each label, of the patients that carry any."""
    labels: dict[str, Counter[str]] = {}
    for member in members:
        if member.labels:
            labels.setdefault(member.patient_id, Counter()).update(member.labels)
    return labels


def split_patients(labels: Mapping[str, Counter[str]], options: "Splits") -> dict[str, str]:
    """The split of every labelled patient, stratified by the patient's most frequent label.

    Every stratum is shared out by largest remainders, and one of at least 3 patients reaches every split.
    Where patients carry several labels that alone does not bring every class into every split, so the draw
    is repeated until it does. It depends on the seed and the ids, not on the order of the sheet, and a
    patient more moves few others. Raises UserError when a class has fewer than 3 patients, or no draw
    succeeds.
    """
    patients_of = Counter(label for counts in labels.values() for label in counts)
    _require_three_patients(patients_of)
    strata: dict[str, list[str]] = {}
    for patient, counts in labels.items():
        label = max(counts, key=lambda name: (counts[name], -patients_of[name], name))
        strata.setdefault(label, []).append(patient)
    for draw in range(DRAWS):
        split = {}
        for stratum in strata.values():
            split.update(_deal(stratum, options, draw))
        if not _classes_missing(labels, split):
            return split
    raise UserError(
        f"no split of the {len(labels)} labelled patients has every class in train, val and test "
        f"({DRAWS} draws; {_listed(_classes_missing(labels, split))} in the last); "
        "raise splits.val and splits.test, or give the column split"
    )


def read_splits(path: Path) -> list[SplitRow]:
    """The rows of splits.csv; raises UserError when it is not one, or parts a patient."""
    try:
        with Path(path).open(encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file)
            rows = [SplitRow(*[cells.get(name) or "" for name in COLUMNS]) for cells in reader]
            header = reader.fieldnames or []
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist; make it with `lowmag splits`") from error
    if missing := [name for name in COLUMNS if name not in header]:
        raise UserError(
            f"{path} lacks the columns {', '.join(missing)}; found {', '.join(header)}; "
            "make it again with `lowmag splits`"
        )
    _require_disjoint(path, rows)
    return rows


def _require_disjoint(path: Path, rows: Iterable[SplitRow]) -> None:
    first: dict[str, SplitRow] = {}
    for row in rows:
        if not ID.fullmatch(row.slide_id):
            raise UserError(f"{path}: slide_id {row.slide_id!r} is no name of a file in the folder of tiles")
        if row.split not in SPLITS:
            raise UserError(
                f"{path}: slide {row.slide_id} has split {row.split!r}, expected train, val or test"
            )
        other = first.setdefault(row.patient_id, row)
        if other.split != row.split:
            raise UserError(
                f"{path}: patient {row.patient_id} is in {other.split} (slide {other.slide_id}) and in "
                f"{row.split} (slide {row.slide_id}); a patient belongs to one split"
            )


def _verdicts(check_tsv: Path) -> dict[str, str]:
    try:
        with Path(check_tsv).open(encoding="utf-8", newline="") as file:
            return {row["slide_id"]: row["verdict"] for row in csv.DictReader(file, delimiter="\t")}
    except FileNotFoundError as error:
        raise UserError(f"{check_tsv} does not exist; make it with `lowmag check`") from error
    except KeyError as error:
        raise UserError(f"{check_tsv} lacks the column {error}; make it again with `lowmag check`") from error


def _given_splits(members: Iterable[Member]) -> dict[str, str]:
    """Given splits by patient; a split given for one slide holds for all slides of the patient."""
    given: dict[str, str] = {}
    for member in members:
        if member.split and given.setdefault(member.patient_id, member.split) != member.split:
            raise UserError(
                f"patient {member.patient_id} is in {given[member.patient_id]} and in {member.split}; "
                "a patient belongs to one split"
            )
    return given


def _require_whole_given_split(
    labels: Mapping[str, Counter[str]], given: Mapping[str, str], ungiven: Sequence[str]
) -> None:
    if ungiven:
        raise UserError(
            f"column split is filled for {len(labels) - len(ungiven)} of {len(labels)} labelled patients, "
            f"not for {_listed(ungiven)}; fill it for all labelled patients or for none"
        )
    found = Counter(given[patient] for patient in labels)
    if lacking := [name for name in SPLITS if not found[name]]:
        raise UserError(
            f"the given splits have no labelled patient in {' and '.join(lacking)}, found "
            f"{', '.join(f'{n} in {name}' for name, n in found.items())}; "
            "move some, or empty the column split"
        )
    everywhere = {label for counts in labels.values() for label in counts}
    trained = {label for patient, counts in labels.items() if given[patient] == "train" for label in counts}
    if lacking := sorted(everywhere - trained):
        raise UserError(
            f"the given splits have no train patient of class {_listed(lacking)}; nothing can be learnt of "
            "it: move a patient of it to train, or empty the labels"
        )


def _require_three_patients(patients_of: Mapping[str, int]) -> None:
    if not patients_of:
        raise UserError("no slide is labelled; fill the column label")
    few = [f"{label} has {n}" for label, n in sorted(patients_of.items()) if n < len(SPLITS)]
    if few:
        raise UserError(
            f"every class needs patients in train, val and test, so at least 3 labelled ones: "
            f"{', '.join(few)}; add patients, empty the labels of the class, or give the column split "
            "(with pictures, pictures.columns says which column tells the patients apart)"
        )


def _deal(patients: Sequence[str], options: "Splits", draw: int) -> dict[str, str]:
    """One stratum dealt out: patients in an order of their own, shares by largest remainders."""

    def order(patient: str) -> bytes:
        return hashlib.sha256(f"{options.seed}/{draw}/{patient}".encode()).digest()

    counts = _shares(len(patients), options)
    dealt = [name for name in SPLITS for _ in range(counts[name])]
    return dict(zip(sorted(patients, key=order), dealt, strict=True))


def _shares(n: int, options: "Splits") -> dict[str, int]:
    """How many of n patients go to each split; at least one to each when there are 3."""
    exact = {"train": n * (1 - options.val - options.test), "val": n * options.val, "test": n * options.test}
    counts = {name: math.floor(share + 1e-9) for name, share in exact.items()}
    by_remainder = sorted(SPLITS, key=lambda name: counts[name] - exact[name])
    for name in by_remainder[: n - sum(counts.values())]:
        counts[name] += 1
    for name in SPLITS:
        if n >= len(SPLITS) and not counts[name]:
            counts[max(SPLITS, key=lambda other: counts[other])] -= 1
            counts[name] = 1
    return counts


def _classes_missing(labels: Mapping[str, Counter[str]], split: Mapping[str, str]) -> list[str]:
    """Every `class in split` that has no patient."""
    there = {(label, split[patient]) for patient, counts in labels.items() for label in counts}
    classes = sorted({label for counts in labels.values() for label in counts})
    return [f"no {c} in {name}" for c in classes for name in SPLITS if (c, name) not in there]


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
