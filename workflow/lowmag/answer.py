"""The answer a report opens with, in words: how low one can go, at what loss and what saving."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from lowmag.bootstrap import ENOUGH_PATIENTS
from lowmag.magnification import name_of
from lowmag.wording import count, score, seconds, student_name, times, whole, with_interval

Content = Mapping[str, Any]


@dataclass(frozen=True)
class Answer:
    """Two sentences, what they rest on, and what must be known before believing them."""

    sentences: list[str]
    basis: str
    cautions: list[str] = field(default_factory=list)


def answer(summary: Content) -> Answer:
    """The answer in words from `summary.json`."""
    student, teacher = summary["recommended"], summary["teacher"]
    if not has_learned(summary):
        return Answer(no_answer(summary), basis(summary), cautions(summary))
    level, margin = summary["level"], summary["margin"]
    teacher_name = f"{name_of(teacher['magnification'])} teacher"
    if student:
        lowest = name_of(student["magnification"])
        opening = (
            f"One can go down to {lowest}"
            if is_firm(summary)
            else f"{lowest} looks low enough, provisionally"
        )
        verdict = f"so it is not worse than the teacher by more than the margin of {margin:g}"
    elif summary["as_measured"] and not summary["test"]["can_tell"]:
        student = summary["as_measured"]
        opening = (
            "The test patients are too few to show how low one can go; by the differences as measured it is "
            f"{name_of(student['magnification'])}"
        )
        verdict = f"within the margin of {margin:g}, but {_possible_loss(student)}"
    else:
        student = max(summary["best_per_magnification"], key=_lower_bound)
        opening = (
            f"No magnification below {name_of(teacher['magnification'])} could be shown to be good enough; "
            f"{name_of(student['magnification'])} comes closest"
        )
        verdict = f"and {_possible_loss(student)}, with a margin of {margin:g}"
    name = student_name(student["method"], student["magnification"], student["unlabelled"])
    difference = with_interval(
        {
            "difference": student["difference"],
            "low": student["difference_low"],
            "high": student["difference_high"],
        },
        "difference",
    )
    first = (
        f"{opening}: per {level}, the {name} reaches a balanced accuracy of {with_interval(student)} "
        f"where the {teacher_name} reaches {with_interval(teacher)}, a difference of {difference}, {verdict}."
    )
    return Answer([first, saving(student, teacher, teacher_name)], basis(summary), cautions(summary))


def _possible_loss(student: Content) -> str:
    return f"a loss of {score(-_lower_bound(student))} cannot be ruled out"


def has_learned(summary: Content) -> bool:
    """Whether the teacher is better than chance: the lower end of its interval lies above it."""
    low = summary["teacher"]["low"]
    return low is not None and low > chance(summary)


def chance(summary: Content) -> float:
    """Balanced accuracy of guessing: it averages over the classes that the test split has, and no others."""
    return 1 / summary["classes_in_test"]


def no_answer(summary: Content) -> list[str]:
    """The sentences on a study whose teacher knows no more than chance."""
    return [
        f"This study has no answer: per {summary['level']}, the teacher itself reaches a balanced accuracy "
        f"of {with_interval(summary['teacher'])}, which is not better than chance "
        f"({score(chance(summary))}), so a student that is not worse than it shows nothing.",
        "Train the teacher longer, on more labelled slides or at a higher magnification, and look at its "
        "learning curve before reading on.",
    ]


def is_firm(summary: Content) -> bool:
    """Whether the tested students were chosen on validation data."""
    return summary["chosen_on"] == "val"


def saving(student: Content, teacher: Content, teacher_name: str) -> str:
    """The sentence on what the student saves."""
    if student["compute_saving"] is None:
        return (
            "How much it saves is not known: the teacher's features were computed elsewhere, and the config "
            "does not say at what cost (teacher.patch_gmac)."
        )
    compute = _amount(student["compute_saving"], "computation")
    than = "as" if compute.startswith("about") else "than"
    text = f"It needs {compute} {than} the {teacher_name}"
    if student.get("bytes_saving"):
        text += f", reads {_amount(student['bytes_saving'], 'data')} from the slide"
    if student["time_saving"] is None:
        return (
            f"{text}, going by what the config states of the network behind the teacher's features; neither "
            "its time nor what it read was measured."
        )
    quicker = _amount(student["time_saving"], "time")
    if student["seconds_per_slide"] is None or teacher["seconds_per_slide"] is None:
        return f"{text} and, as measured, {quicker} in the network (no slide was read)."
    both = f"{seconds(student['seconds_per_slide'])} instead of {seconds(teacher['seconds_per_slide'])}"
    return f"{text} and, as measured, {quicker} per slide, reading included ({both})."


def _amount(saving_ratio: float, noun: str) -> str:
    """`4 times less time`, `3.3 times more time`, and `about as much time` where the ratio is said as 1."""
    more = saving_ratio < 1
    said = times(1 / saving_ratio if more else saving_ratio)
    return f"about as much {noun}" if said == "1" else f"{said} times {'more' if more else 'less'} {noun}"


def basis(summary: Content) -> str:
    """What the answer rests on: the test split, the seeds, the margin and what the brackets are."""
    test = summary["test"]
    seeds = f"mean over {summary['seeds']} training seeds" if summary["seeds"] > 1 else "one training seed"
    inside = f"{100 * summary['confidence']:.0f} %"
    return (
        f"Measured on {count(test['patients'], 'test patient')} ({count(test['slides'], 'slide')}, "
        f"{count(test['tiles'], 'tile')}) that no training and no model selection has used; {seeds}. "
        f"Balanced accuracy is the share recognised, averaged over {_classes(summary)}. "
        f"Brackets are {inside} intervals from {whole(summary['bootstrap'])} resamples of patients. "
        f"“Not worse” means that the one-sided {inside} lower bound of the difference lies above "
        f"−{summary['margin']:g}, the margin set in the config; the bound reckons with one more patient, of "
        "the rarest class, on whom the student loses everything. Each tested by itself, "
        f"{summary['n_not_worse']} of {count(summary['n_students'], 'student')} pass. For the answer the "
        "student of each "
        "magnification that is best on validation is tested, from the highest magnification down until one "
        f"fails; so the {100 - 100 * summary['confidence']:.0f} % holds for all of these tests together."
    )


def _classes(summary: Content) -> str:
    """`the 3 classes`, or `the 2 of 3 classes that the test split has`."""
    present, every = summary["classes_in_test"], summary["classes"]
    return (
        f"the {every} classes" if present == every else f"the {present} of {every} classes in the test split"
    )


def cautions(summary: Content) -> list[str]:
    """What must be known before believing the answer, the weightiest first."""
    found, test = [], summary["test"]
    if not test["enough_patients"]:
        found.append(
            f"Only {count(test['patients'], 'test patient')}: below {ENOUGH_PATIENTS} the intervals can be "
            "narrower than they say. Take the answer as preliminary."
        )
    if not test["can_tell"]:
        found.append(
            f"With these test patients no student can be shown to be not worse by {summary['margin']:g}, "
            f"whatever it does: they weigh as {test['effective_patients']:.0f} (the classes times the "
            f"effective number of patients of the rarest one), and {test['needed_patients']} are needed, or "
            "a wider margin."
        )
    if summary["chosen_on"] != "val":
        found.append(
            "Without validation scores the tested students were chosen on the test split, which flatters "
            "them: confirm the answer on further patients."
        )
    if summary["seeds"] == 1:
        found.append("One training seed: how much a repeated training would differ is not in the intervals.")
    return found


def _lower_bound(student: Content) -> float:
    bound = student["lower_bound"]
    return float("-inf") if bound is None else bound
