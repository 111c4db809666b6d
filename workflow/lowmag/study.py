"""The grid of runs of a study: the students, what they need of the teacher, how they are evaluated."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from lowmag.magnification import name_of
from lowmag.recipe import Architecture, Share
from lowmag.sections import Magnification, Section
from lowmag.terms import earlier_forms


class Evaluation(Section):
    bootstrap: int = Field(default=10_000, ge=100, description="patient-level resamples")
    seed: int = Field(default=0, ge=0, description="seed of the resamples")
    margin: float = Field(
        default=0.05, gt=0, lt=1, description="a student within this much balanced accuracy is not worse"
    )
    references: list[str] = Field(
        default=["labels-only"], description="methods that the others are compared with, beside the teacher"
    )
    class_balanced: bool = Field(
        default=False,
        description="also DiPalma 2021's intervals: class-balanced resamples of pictures, not of patients",
    )
    slide_score: Literal["mean", "attention"] = Field(
        default="mean",
        description="a slide's probabilities: mean of its tiles'; attention: those of a head with gated "
        "attention over its tiles (Ilse 2018), trained by the labels of slides on each model as it is",
    )
    reading_slides: int = Field(default=3, ge=1, description="slides read at every magnification to time it")


@dataclass(frozen=True, order=True)
class Run:
    """One student: method x magnification x unlabelled share (per cent) x seed."""

    method: str
    magnification: float
    unlabelled: int
    seed: int

    @property
    def folder(self) -> str:
        """Path of the run below `students/` and `predictions/students/`."""
        return f"{self.method}/{name_of(self.magnification)}/u{self.unlabelled}/seed{self.seed}"


class MeasuredGrid(Section):
    """A student's network of torchvision or timm, whose map is measured, and the pixels it is given."""

    model: str
    stride: int
    px: int = Field(description="edge of its pictures, pixels")


Dataset = Annotated[
    str,
    Field(pattern=r"^(logits|features/(maxpool|bicubic|area)|attention/(inside|outside)(-[23])?)$"),
]


class TargetOptions(Section):
    """What the teacher says of a tile and in which shape: what the `targets` command takes as options."""

    grids: dict[str, int] = Field(
        default={}, description="cells per edge of the student's last map, by magnification name (1.25x)"
    )
    features: str | None = Field(
        default=None, description="folder of the features that the teacher's head is on, in place of pictures"
    )
    measured: dict[str, MeasuredGrid] = Field(
        default={}, description="networks whose grid is not known before they are there, by the same names"
    )
    reads: dict[str, list[Dataset]] = Field(
        default={},
        description="what is stored, by the same names: logits, features/FORM, attention/FORM",
    )
    earlier: dict[str, dict[str, int]] = Field(
        default={},
        description="attention maps of earlier stages to store: cells per edge by form (inside-2) and "
        "magnification name",
    )
    sections: dict[str, Architecture] = Field(
        default={},
        description="of sections: the students' network by magnification name, which gives each its grid",
    )
    views: Literal[1, 2, 4, 8] = Field(
        default=8, description="exact flips and rotations of every tile: the first so many of `augment`"
    )

    @model_validator(mode="after")
    def _of_the_same_students(self) -> "TargetOptions":
        if other := sorted(self.grids.keys() ^ self.reads.keys()):
            raise ValueError(f"grids and reads name other students: {', '.join(other)}")
        for name, datasets in self.reads.items():
            for form in earlier_forms(datasets):
                if name not in self.earlier.get(form, {}):
                    raise ValueError(
                        f"reads of {name} asks for attention/{form}: give its cells as `earlier`"
                    )
        return self


class Addition(Section):
    """Two methods that differ by a loss term that one of them has more (`added_terms`)."""

    method: str
    reference: str
    term: str
    cells: dict[str, int] = Field(description="cells per edge of the last map by magnification name, or 0")


class Study(Section):
    """The grid of runs and how it is evaluated: what `evaluate`, `figures` and `report` take as `--study`."""

    teacher: Magnification
    students: list[Magnification]
    methods: dict[str, bool] = Field(description="whether the method uses unlabelled slides, by name")
    seeds: list[int]
    unlabelled: list[Share]
    classes: list[str]
    ordinal: bool = False
    unit: Literal["tile", "section"] = "tile"
    evaluation: Evaluation = Evaluation()
    additions: list[Addition] = Field(default=[], description="pairs of methods that one term sets apart")

    def shares(self, method: str) -> list[int]:
        """Unlabelled shares a method is run with, in per cent, ascending."""
        return sorted(set(self.unlabelled)) if self.methods[method] else [0]

    @property
    def references(self) -> list[str]:
        """Methods of the study that the others are compared with."""
        return [name for name in dict.fromkeys(self.evaluation.references) if name in self.methods]

    def runs(self) -> list[Run]:
        """Every student of the study."""
        return [
            Run(method, magnification, share, seed)
            for method in self.methods
            for magnification in sorted(self.students, reverse=True)
            for share in self.shares(method)
            for seed in self.seeds
        ]

    @property
    def models(self) -> list[str]:
        """Folders below the results of every model of the study, teachers first."""
        return [f"teacher/seed{n}" for n in self.seeds] + [f"students/{run.folder}" for run in self.runs()]


def additions(
    terms: Mapping[str, Mapping[str, Any]],
    training: Mapping[str, Any],
    cells: Callable[[str], Mapping[str, int]],
) -> list[Addition]:
    """Every pair of methods that are trained alike and differ by one term more.

    `terms` and `training` are by the method's name, as is what `cells` says: cells per edge of the last map
    by name of the magnification, 0 where that is not known beforehand.
    """
    found = []
    for method, own in terms.items():
        for reference, others in terms.items():
            added = [name for name in own if name not in others]
            alike = all(own.get(name) == term for name, term in others.items())
            if len(added) == 1 and alike and training[method] == training[reference]:
                found.append(
                    Addition(method=method, reference=reference, term=added[0], cells=dict(cells(method)))
                )
    return found
