"""Splits by patient: shares, what they depend on, and what is refused."""

import csv
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from lowmag.errors import UserError
from lowmag.pictures import PictureRow, read_pictures
from lowmag.sections import Pictures, Splits
from lowmag.slides import SlideRow
from lowmag.splits import (
    Member,
    members_of_pictures,
    members_of_slides,
    patient_labels,
    read_splits,
    split_patients,
    write_splits,
)

DATA = Path(__file__).parents[1] / "../shared/data"


def member(slide_id: str, patient_id: str, label: str = "", split: str | None = None) -> Member:
    return Member(slide_id, patient_id, label, split, (label,) if label else ())


def cohort(**patients: int) -> list[Member]:
    """Two slides per patient, the second unlabelled; as many patients of each class as asked for."""
    return [
        member(f"{label}{i}-{slide}", f"{label}{i}", label if slide == 0 else "")
        for label, n in patients.items()
        for i in range(n)
        for slide in range(2)
    ]


def written(tmp_path: Path, members: list[Member], options: Splits | None = None) -> list[tuple[str, ...]]:
    write_splits(tmp_path / "splits.csv", members, options or Splits())
    return [
        (row.slide_id, row.patient_id, row.label, row.split) for row in read_splits(tmp_path / "splits.csv")
    ]


def refused(tmp_path: Path, members: list[Member], options: Splits | None = None) -> str:
    with pytest.raises(UserError) as caught:
        write_splits(tmp_path / "splits.csv", members, options or Splits())
    assert not (tmp_path / "splits.csv").exists()
    return str(caught.value)


def test_every_class_gets_its_share_of_patients():
    labels = patient_labels(cohort(a=50, b=20, c=10))
    split = split_patients(labels, Splits(val=0.2, test=0.3))
    found = Counter((patient[0], name) for patient, name in split.items())
    assert [found[c, "val"] for c in "abc"] == [10, 4, 2]
    assert [found[c, "test"] for c in "abc"] == [15, 6, 3]
    assert [found[c, "train"] for c in "abc"] == [25, 10, 5]


@pytest.mark.parametrize("n", range(3, 12))
@pytest.mark.parametrize(("val", "test"), [(0.2, 0.2), (0.05, 0.05), (0.15, 0.25), (0.45, 0.45)])
def test_small_classes_reach_every_split_and_shares_are_off_by_less_than_one_patient(n, val, test):
    found = Counter(split_patients(patient_labels(cohort(a=n, b=n)), Splits(val=val, test=test)).values())
    assert sum(found.values()) == 2 * n
    for name, share in (("train", 1 - val - test), ("val", val), ("test", test)):
        assert found[name] >= 2
        # one patient of each class at most, unless the class needed one to be there at all
        assert abs(found[name] - 2 * n * share) <= 2 or min(found.values()) == 2


def test_all_slides_of_a_patient_go_together(tmp_path):
    rows = written(tmp_path, cohort(a=9, b=9))
    assert len(rows) == 36
    assert all(len({split for _, patient, _, split in rows if patient == p}) == 1 for _, p, _, _ in rows)
    assert {split for _, _, label, split in rows if not label} == {"train", "val", "test"}


def test_order_of_the_sheet_does_not_matter(tmp_path):
    members = cohort(a=9, b=14)
    shuffled = random.Random(1).sample(members, len(members))
    assert written(tmp_path, members) == written(tmp_path, shuffled)
    assert [row[0] for row in written(tmp_path, members)] == sorted(member.slide_id for member in members)


def test_another_seed_splits_otherwise(tmp_path):
    splits = {tuple(written(tmp_path, cohort(a=9, b=9), Splits(seed=seed))) for seed in range(4)}
    assert len(splits) == 4


def test_a_patient_more_moves_few_others():
    before = split_patients(patient_labels(cohort(a=40, b=40)), Splits())
    after = split_patients(patient_labels(cohort(a=41, b=40)), Splits())
    assert sum(before[patient] != after[patient] for patient in before) <= 2


def test_patients_without_label_go_to_train(tmp_path):
    rows = written(tmp_path, [*cohort(a=3, b=3), member("u1", "U"), member("u2", "U")])
    assert [row for row in rows if row[1] == "U"] == [("u1", "U", "", "train"), ("u2", "U", "", "train")]


def test_a_class_of_two_patients_is_refused(tmp_path):
    message = refused(tmp_path, cohort(a=5, b=2, c=1))
    assert "at least 3 labelled ones: b has 2, c has 1; add patients, empty the labels" in message


def test_a_cohort_without_labels_is_refused(tmp_path):
    assert "no slide is labelled" in refused(tmp_path, [member("u", "U")])


def given_cohort() -> list[Member]:
    splits = ["train", "val", "test"]
    return [member(f"{c}{i}", f"{c}{i}", c, splits[i % 3]) for c in "ab" for i in range(6)]


def test_given_splits_are_kept(tmp_path):
    unlabelled = [member("u1", "U1"), member("u2", "U2", "", "test"), member("a0-2", "a0")]
    rows = written(tmp_path, [*given_cohort(), *unlabelled])
    found = {slide_id: split for slide_id, _, _, split in rows}
    assert {m.slide_id: found[m.slide_id] for m in given_cohort()} == {
        m.slide_id: m.split for m in given_cohort()
    }
    assert (found["u1"], found["u2"], found["a0-2"]) == ("train", "test", "train")


def test_a_split_given_to_unlabelled_patients_alone_leaves_the_rest_to_be_split(tmp_path):
    rows = written(tmp_path, [*cohort(a=3, b=3), member("u", "U", "", "val")])
    assert ("u", "U", "", "val") in rows
    assert {split for _, patient, _, split in rows if patient != "U"} == {"train", "val", "test"}


def test_splits_given_to_some_patients_are_refused_with_the_others_named(tmp_path):
    message = refused(tmp_path, [*given_cohort(), member("z", "Z", "a")])
    assert (
        "filled for 12 of 13 labelled patients, not for Z; fill it for all labelled patients or for none"
        in message
    )


@pytest.mark.parametrize("name", ["train", "val", "test"])
def test_given_splits_that_lack_one_are_refused(tmp_path, name):
    message = refused(tmp_path, [m for m in given_cohort() if m.split != name])
    assert f"the given splits have no labelled patient in {name}, found 4 in" in message


def test_given_splits_without_a_class_in_train_are_refused(tmp_path):
    message = refused(tmp_path, [m for m in given_cohort() if (m.label, m.split) != ("b", "train")])
    assert "no train patient of class b" in message


def test_a_patient_given_two_splits_is_refused(tmp_path):
    message = refused(tmp_path, [member("s1", "P", "a", "train"), member("s2", "P", "a", "val")])
    assert "patient P is in train and in val" in message


def picture(slide_id: str, label: str | None, split: str | None = None) -> PictureRow:
    return PictureRow(Path(f"{label}.png"), f"{label}.png", slide_id, "P" + slide_id, label, split, None)


def test_pictures_of_a_slide_share_a_label_only_when_all_carry_it():
    rows = [picture("1", "a"), picture("1", "a"), picture("2", "a"), picture("2", "b", "val")]
    rows += [picture("3", "a"), picture("3", None), picture("4", None)]
    assert members_of_pictures(rows) == [
        Member("1", "P1", "a", None, ("a", "a")),
        Member("2", "P2", "", "val", ("a", "b")),
        Member("3", "P3", "", None, ("a",)),
        Member("4", "P4", "", None, ()),
    ]


def test_mixed_patients_are_drawn_until_every_class_is_everywhere():
    """c is never a patient's most frequent label, so no stratum looks after it."""
    rows = [picture(f"{label}{i}", label) for label in "ab" for i in range(20) for _ in range(3)]
    rows += [picture(f"{label}{i}", "c") for label in "ab" for i in range(2)]
    labels = patient_labels(members_of_pictures(rows))
    for seed in range(10):
        split = split_patients(labels, Splits(seed=seed))
        assert {split[patient] for patient, counts in labels.items() if "c" in counts} == {
            "train",
            "val",
            "test",
        }


def test_classes_that_no_draw_brings_everywhere_are_refused():
    """Of 400 patients val and test get 2 each, and all but never one of the three with b."""
    members = [Member(str(i), str(i), "", None, ("a", "a", "b") if i < 3 else ("a",)) for i in range(400)]
    with pytest.raises(UserError, match="no split of the 400 labelled patients has every class"):
        split_patients(patient_labels(members), Splits(val=0.005, test=0.005))


def slide(slide_id: str, label: str | None = None) -> SlideRow:
    return SlideRow(slide_id, Path("x"), label, "P" + slide_id, None, None, None)


def test_slides_that_the_check_rejects_are_left_out(tmp_path):
    check = tmp_path / "check.tsv"
    check.write_text("slide_id\tverdict\nA\tok\nB\tno_mpp\n")
    assert members_of_slides([slide("A", "x"), slide("B", "x")], check) == [
        Member("A", "PA", "x", None, ("x",))
    ]
    assert len(members_of_slides([slide("A"), slide("B")], None)) == 2
    with pytest.raises(UserError, match="has no row for slide C"):
        members_of_slides([slide("C")], check)
    with pytest.raises(UserError, match="accepts no slide"):
        members_of_slides([slide("B")], check)


def test_annotated_slides_count_as_labelled_with_what_is_drawn(tmp_path):
    """They reach validation and test; their label stays empty, and one of their own does not count."""
    names = [f"S{i}" for i in range(9)]
    rows = [slide(name, "a" if name == "S0" else None) for name in names]
    regions = {name: ("a", "b") if i % 2 else ("b",) for i, name in enumerate(names)}
    members = members_of_slides(rows, None, regions)
    assert members[:2] == [Member("S0", "PS0", "a", None, ("b",)), Member("S1", "PS1", "", None, ("a", "b"))]
    found = written(tmp_path, members)
    assert {split for *_, split in found} == {"train", "val", "test"}
    assert [label for _, _, label, _ in found] == ["a", *[""] * 8]
    for split in ("train", "val", "test"):
        assert any("a" in regions[name] for name, *_, of_slide in found if of_slide == split)


def test_regions_outside_of_which_nothing_is_known_leave_a_slide_unlabelled(tmp_path):
    members = members_of_slides([slide("A", "a")], None, {"A": ()})
    assert "no slide is labelled" in refused(tmp_path, members)


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        (["A,P,x,train", "B,P,,test"], r"patient P is in train \(slide A\) and in test \(slide B\)"),
        (["A,P,x,training"], "slide A has split 'training', expected train, val or test"),
    ],
)
def test_a_split_file_changed_by_hand_is_checked_again(tmp_path, rows, expected):
    path = tmp_path / "splits.csv"
    path.write_text("slide_id,patient_id,label,split\n" + "\n".join(rows) + "\n")
    with pytest.raises(UserError, match=expected):
        read_splits(path)


def test_files_that_are_no_splits_are_refused(tmp_path):
    with pytest.raises(UserError, match="does not exist; make it with `lowmag splits`"):
        read_splits(tmp_path / "splits.csv")
    (tmp_path / "splits.csv").write_text("slide_id,split\nA,train\n")
    with pytest.raises(UserError, match="lacks the columns patient_id, label"):
        read_splits(tmp_path / "splits.csv")


def test_the_file_is_plain_csv(tmp_path):
    write_splits(tmp_path / "splits.csv", cohort(a=3, b=3), Splits())
    with (tmp_path / "splits.csv").open(newline="") as file:
        header, *rows = csv.reader(file)
    assert header == ["slide_id", "patient_id", "label", "split"]
    assert len(rows) == 12


def test_reading_splits_imports_nothing_heavy():
    heavy = "('numpy', 'pydantic', 'torch', 'h5py', 'pandas')"
    loaded = f"import sys, lowmag.splits; print([m for m in {heavy} if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", loaded], capture_output=True, text=True).stdout == "[]\n"


@pytest.mark.skipif(not (DATA / "ebhi").is_dir(), reason="shared/data/ebhi is not there")
def test_ebhi_cases_bring_every_class_into_every_split():
    rows = read_pictures(
        DATA / "ebhi/manifest.csv", Pictures(columns={"image": "file", "patient_id": "case_id"})
    )
    labels = patient_labels(members_of_pictures(rows))
    split = split_patients(labels, Splits(val=0.15, test=0.25))
    assert len(split) == 354
    assert abs(sum(name == "test" for name in split.values()) - 0.25 * 354) < 3
    for name in ("train", "val", "test"):
        assert len({c for patient, counts in labels.items() if split[patient] == name for c in counts}) == 6
