from typing import Any

from lowmag.answer import answer

ENOUGH = {"enough_patients": True, "can_tell": True, "effective_patients": 66.0, "needed_patients": 59}
FEW = {"enough_patients": False, "can_tell": False, "effective_patients": 7.6, "needed_patients": 59}


def student(magnification: float, **changes: Any) -> dict[str, Any]:
    content = {
        "method": "dipalma2021",
        "magnification": magnification,
        "unlabelled": 100,
        "difference": -0.02,
        "difference_low": -0.049,
        "difference_high": 0.01,
        "lower_bound": -0.045,
        "not_worse": True,
        "p_worse_holm": 0.01,
        "value": 0.86,
        "low": 0.80,
        "high": 0.91,
        "compute_saving": 64.0,
        "bytes_saving": 30.0,
        "time_saving": 11.2,
        "seconds_per_slide": 0.28,
    }
    return content | changes


def summary(recommended: dict[str, Any] | None, *others: dict[str, Any], **changes: Any) -> dict[str, Any]:
    content = {
        "level": "slide",
        "metric": "balanced_accuracy",
        "margin": 0.05,
        "confidence": 0.95,
        "bootstrap": 10_000,
        "seeds": 3,
        "classes": 3,
        "classes_in_test": 3,
        "test": {"patients": 40, "slides": 52, "tiles": 900} | ENOUGH,
        "teacher": student(10.0, value=0.88, low=0.82, high=0.93, seconds_per_slide=3.1, compute_saving=1.0),
        "n_students": 20,
        "chosen_on": "val",
        "n_not_worse": 1 if recommended else 0,
        "recommended": recommended,
        "as_measured": recommended,
        "best_per_magnification": [recommended, *others] if recommended else list(others),
    }
    return content | changes


def test_a_firm_answer_is_two_sentences_of_loss_and_saving() -> None:
    found = answer(summary(student(1.25)))
    assert len(found.sentences) == 2
    first, second = found.sentences
    assert first.startswith("One can go down to 1.25x: per slide, the 1.25x student (dipalma2021, 100 %")
    for part in ("0.86 [0.80, 0.91]", "0.88 [0.82, 0.93]", "−0.02 [−0.05, +0.01]", "margin of 0.05"):
        assert part in first
    for part in (
        "64 times less computation",
        "reads 30 times less data from the slide",
        "11 times less time",
        "0.28 s instead of 3.1 s",
    ):
        assert part in second
    for part in ("40 test patients", "52 slides", "900 tiles", "3 training seeds", "1 of 20 students"):
        assert part in found.basis
    assert found.cautions == []


def test_too_few_patients_leave_what_was_measured_and_say_so() -> None:
    few = {"patients": 8, "slides": 16, "tiles": 128} | FEW
    seen = student(1.25, lower_bound=-0.31, not_worse=False)
    found = answer(summary(None, seen, test=few, as_measured=seen))
    assert found.sentences[0].startswith(
        "The test patients are too few to show how low one can go; by the differences as measured it is 1.25x"
    )
    assert "within the margin of 0.05, but a loss of 0.31 cannot be ruled out" in found.sentences[0]
    assert "Only 8 test patients" in found.cautions[0]
    assert "they weigh as 8" in found.cautions[1]
    assert "59 are needed" in found.cautions[1]


def test_too_few_patients_and_a_loss_measured_leave_the_closest() -> None:
    far = student(5.0, difference=-0.2, lower_bound=-0.4)
    found = answer(summary(None, far, test={"patients": 8, "slides": 16, "tiles": 128} | FEW))
    assert found.sentences[0].startswith("No magnification below 10x could be shown to be good enough")


def test_students_chosen_on_the_test_split_make_the_answer_provisional() -> None:
    found = answer(summary(student(1.25), chosen_on="test"))
    assert found.sentences[0].startswith("1.25x looks low enough, provisionally")
    assert "chosen on the test split" in found.cautions[0]


def test_the_basis_says_how_several_tests_are_reckoned_with() -> None:
    assert (
        "from the highest magnification down until one fails; so the 5 %"
        in answer(summary(None, student(5.0))).basis
    )


def test_when_no_student_qualifies_the_closest_is_named() -> None:
    near, far = student(5.0, lower_bound=-0.06, compute_saving=4.0), student(2.5, lower_bound=-0.2)
    first, second = answer(summary(None, far, near)).sentences
    assert first.startswith("No magnification below 10x could be shown to be good enough; 5x comes closest")
    assert "cannot be ruled out" in first
    assert "4 times less computation" in second


def test_a_slower_student_is_called_slower() -> None:
    assert "2 times more time" in answer(summary(student(1.25, time_saving=0.5))).sentences[1]


def test_a_dearer_student_and_an_equal_one_are_said_as_such() -> None:
    dearer = answer(summary(student(1.25, compute_saving=0.3, time_saving=1.0))).sentences[1]
    assert dearer.startswith("It needs 3.3 times more computation than the 10x teacher, reads")
    assert "as measured, about as much time per slide" in dearer
    equal = answer(summary(student(1.25, compute_saving=0.999))).sentences[1]
    assert equal.startswith("It needs about as much computation as the 10x teacher")


def test_a_teacher_of_unknown_cost_is_said_as_such() -> None:
    unknown = {"compute_saving": None, "bytes_saving": None, "time_saving": None}
    said = answer(summary(student(1.25, **unknown))).sentences[1]
    assert said.startswith("How much it saves is not known: the teacher's features were computed elsewhere")
    assert "(teacher.patch_gmac)" in said


def test_a_teacher_of_stated_cost_saves_computation_alone() -> None:
    stated = {"compute_saving": 150.0, "bytes_saving": None, "time_saving": None}
    said = answer(summary(student(1.25, **stated))).sentences[1]
    assert said.startswith(
        "It needs 150 times less computation than the 10x teacher, going by what the config"
    )
    assert "neither its time nor what it read was measured" in said


def test_pictures_have_no_seconds_per_slide() -> None:
    second = answer(summary(student(1.25, seconds_per_slide=None))).sentences[1]
    assert "11 times less time in the network (no slide was read)" in second


def test_one_seed_is_warned_of() -> None:
    found = answer(summary(student(1.25), seeds=1))
    assert any("One training seed" in caution for caution in found.cautions)


def test_a_teacher_at_chance_gives_no_answer() -> None:
    found = answer(summary(student(1.25), teacher=student(10.0, value=0.4, low=0.3, high=0.5)))
    assert found.sentences[0].startswith("This study has no answer: per slide, the teacher itself reaches")
    assert "chance (0.33)" in found.sentences[0]
    assert "1.25x" not in " ".join(found.sentences)


def test_chance_is_that_of_the_classes_the_test_has() -> None:
    teacher = student(10.0, value=0.45, low=0.4, high=0.5)
    assert answer(summary(student(1.25), teacher=teacher)).sentences[0].startswith("One can go")
    two_of_three = answer(summary(student(1.25), teacher=teacher, classes_in_test=2))
    assert "chance (0.50)" in two_of_three.sentences[0]
    assert "averaged over the 2 of 3 classes in the test split" in two_of_three.basis
