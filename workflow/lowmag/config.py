"""The config of a study: every key with its unit, default and bounds.

The same sections are what the commands take as `--options` (JSON), so that a rule passes on exactly the
slice it depends on. `workflow/schemas/config.schema.json` is exported from here (`lowmag schema`).
"""

import re
from collections.abc import Sequence
from typing import Any, Literal

from pydantic import Field, ValidationError, field_validator, model_validator

from lowmag.compute import SNAKEMAKE_MB, Compute
from lowmag.magnification import mpp_of, name_of
from lowmag.names import REPEATED, problem_of_name
from lowmag.parsing import from_command_line, line_of, validated
from lowmag.recipe import (
    OWN_NETWORKS,
    Architecture,
    Students,
    StudentTraining,
    Teacher,
    grid_cells,
    is_library,
)
from lowmag.sections import QC, Annotations, Check, Demo, Pictures, Section, Splits, Tiles, Tissue
from lowmag.study import Evaluation, Study, additions
from lowmag.terms import LAST_STAGE, Method

DEFAULT_METHODS: dict[str, Any] = {
    "labels-only": {"cross_entropy": 1},
    "dipalma2021": {
        "soft_labels": {"weight": 1, "temperature": 1},
        "features": {"weight": 1, "distance": "mse", "resize": "maxpool+bicubic"},
    },
    "delamor2024": {
        "cross_entropy": 1,
        "features": {"weight": 0.1, "distance": "rmse", "resize": "area"},
        "attention": {"weight": 10, "classes": "all", "relu": "inside", "distance": "rmse"},
    },
}


def _allow_null_methods(schema: dict[str, Any]) -> None:
    schema["additionalProperties"] = {"anyOf": [schema["additionalProperties"], {"type": "null"}]}


class Config(Section):
    outdir: str = Field(default="results", description="folder of everything the workflow writes")
    slides: str | None = Field(
        default="demo", description="path of slides.csv, or `demo` for the built-in cohort"
    )
    images: str | None = Field(
        default=None,
        description="path of images.csv (pre-cut pictures), or of a folder laid out as SICAPv2; takes the "
        "place of slides",
    )
    tensorboard: bool = Field(
        default=False,
        description="write TensorBoard event files below outdir/state; changing it reruns nothing",
    )
    on_bad_slide: Literal["skip", "fail"] = Field(
        default="skip", description="fail: exit non-zero at the end if a slide was rejected"
    )
    classes: list[str] | None = Field(
        default=None, description="class names in order; null: the labels found, sorted"
    )
    ordinal: bool = Field(
        default=False, description="classes are grades in order: quadratic kappa is reported"
    )
    demo: Demo = Demo()
    check: Check = Check()
    tissue: Tissue = Tissue()
    tiles: Tiles = Tiles()
    annotations: Annotations = Annotations()
    qc: QC = QC()
    pictures: Pictures = Pictures()
    splits: Splits = Splits()
    teacher: Teacher = Teacher()
    students: Students = Students()
    methods: dict[str, Method] = Field(
        default_factory=lambda: {k: Method(**v) for k, v in DEFAULT_METHODS.items()},
        min_length=1,
        description="loss terms by the method's name; null takes a method out",
        json_schema_extra=_allow_null_methods,
    )
    evaluation: Evaluation = Evaluation()
    compute: Compute = Compute()

    @field_validator("methods")
    @classmethod
    def _plain_names(cls, methods: dict[str, Method]) -> dict[str, Method]:
        for name in methods:
            if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", name) or REPEATED.search(name):
                raise ValueError(
                    f"method name {name[:100]!r}: use letters, digits, '.', '_' and '-', 100 at most, "
                    "beginning with a letter or digit"
                )
            if name == "teacher":
                raise ValueError("method name 'teacher': taken by the teacher in every table; choose another")
        return methods

    @field_validator("methods", mode="before")
    @classmethod
    def _dropped_methods(cls, methods: Any) -> Any:
        """A method set to null is taken out, so that a second config file can shorten the list."""
        return {k: v for k, v in methods.items() if v is not None} if isinstance(methods, dict) else methods

    @model_validator(mode="after")
    def _training_of_methods(self) -> "Config":
        for name in self.methods:
            try:
                self.student_training(name)
            except ValidationError as error:
                problems = "; ".join(line_of(problem).strip() for problem in error.errors())
                raise ValueError(f"methods.{name}.training: {problems}") from error
        return self

    @model_validator(mode="after")
    def _classes_in_order(self) -> "Config":
        if self.classes and len(set(self.classes)) != len(self.classes):
            raise ValueError(f"classes: a name is given twice in {self.classes}")
        for name in self.classes or ():
            if problem := problem_of_name(name):
                raise ValueError(f"classes: a name {problem}")
        selects = {self.teacher.select, *(self.student_training(name).select for name in self.methods)}
        by_grade = self.ordinal or "kappa" in selects
        if by_grade and not self.classes:
            raise ValueError(
                "ordinal, and select: kappa, need the classes in order: set classes, as [benign, low, high]"
            )
        return self

    @model_validator(mode="after")
    def _room_in_chunks(self) -> "Config":
        chunk, slide = self.compute.chunk, self.compute.slide
        if chunk.mem_mb < (needed := chunk.threads * slide.mem_mb + SNAKEMAKE_MB):
            raise ValueError(
                f"compute.chunk: {chunk.threads} slides at once need {needed} megabytes ({slide.mem_mb} each "
                f"and {SNAKEMAKE_MB}), mem_mb is {chunk.mem_mb}; raise it or lower threads"
            )
        return self

    @model_validator(mode="after")
    def _whole_pixels(self) -> "Config":
        if self.images is not None:  # the pictures decide on their size
            return self
        if self.tiles.unit == "section":
            problem = self._section_problem()
        else:
            problem = self.tiles.field_problem() or self.size_problem()
        if problem:
            raise ValueError(problem)
        return self

    def _section_problem(self) -> str | None:
        """Why sections cannot be trained on as the config says, or None."""
        trained = {"teacher": self.teacher} | {
            f"students (method {name})": self.student_training(name) for name in self.methods
        }
        for name, training in trained.items():
            if training.part_size > 1:
                return (
                    f"{name}: sections differ in size, so they go through the network one by one "
                    f"(tiles.unit: section): set accumulate to batch_size ({training.batch_size})"
                )
            if is_library(training.model):
                return f"{name}: sections of any size are for {', '.join(OWN_NETWORKS)}, not {training.model}"
            if isinstance(training, StudentTraining) and training.input != "native":
                return f"{name}: sections keep their size: set input: native, or tiles.unit: tile"
        return None

    @model_validator(mode="after")
    def _same_network(self) -> "Config":
        for name, method in self.methods.items():
            training = self.student_training(name)
            if training.model == self.teacher.model or self.teacher.features:
                continue
            of_both = f"teacher.model ({self.teacher.model}) and students.model ({training.model})"
            if method.needs_same_network:
                raise ValueError(
                    f"method {name} compares channel by channel, so {of_both} must be the same network"
                )
            if training.initial != "noise":
                raise ValueError(
                    f"method {name} begins with the teacher's weights, so {of_both} must be the same network"
                )
        return self

    @model_validator(mode="after")
    def _served_by_features(self) -> "Config":
        if self.teacher.features is None:
            return self
        if self.tiles.unit == "section":
            raise ValueError("teacher.features: patches are matched with tiles: set tiles.unit: tile")
        for name, method in self.methods.items():
            training = self.student_training(name)
            if names := method.needing_maps:
                raise ValueError(
                    f"method {name}: teacher.features gives one vector per tile and no maps, but "
                    f"{', '.join(names)} compares maps or the same network: take soft_labels, decoupled, "
                    "correlation, relational, or cosine with projector: linear and local: 0"
                )
            if method.needs_teacher and training.targets == "online":
                raise ValueError(
                    f"method {name}: teacher.features are of unchanged tiles: set targets: cached"
                )
            if training.initial == "teacher":
                raise ValueError(
                    f"method {name}: a teacher on features has no network: set initial: noise, or higher: "
                    "students then begin with one another"
                )
        return self

    @model_validator(mode="after")
    def _known_stages(self) -> "Config":
        earlier = [
            name for name, m in self.methods.items() if m.attention and m.attention.stage != LAST_STAGE
        ]
        networks = [self.teacher.model, *(self.student_training(name).model for name in earlier)]
        foreign = [model for model in networks if is_library(model)]
        if earlier and foreign:
            raise ValueError(
                f"methods {', '.join(earlier)} take attention from an earlier stage, which {foreign[0]} does "
                f"not tell: set attention.stage: {LAST_STAGE}, or take {', '.join(OWN_NETWORKS)}"
            )
        return self

    @model_validator(mode="after")
    def _exact_accumulation(self) -> "Config":
        for name, method in self.methods.items():
            if problem := method.accumulation_problem(self.student_training(name).accumulate):
                raise ValueError(f"students.accumulate: method {name}: {problem}")
        return self

    @model_validator(mode="after")
    def _fitting_views(self) -> "Config":
        for name, method in self.methods.items():
            training = self.student_training(name)
            if method.needs_teacher and (problem := training.caching_problem):
                raise ValueError(f"students, method {name}: {problem}")
            if training.augment.resamples and self.tiles.lowres == "pyramid":
                raise ValueError(
                    f"students, method {name}: turned, zoomed or shifted pictures are made from the "
                    "teacher's tiles, but tiles.lowres is pyramid: set it to derived, or rotation: 0, "
                    "zoom: [1, 1] and shift: [0, 0]"
                )
        return self

    @model_validator(mode="after")
    def _something_to_learn(self) -> "Config":
        for name, method in self.methods.items():
            if not all(term.is_of_places for term in method.terms.values()):
                continue
            training = self.student_training(name)
            single = [name_of(m) for m in self.tiles.students if self.cells(training, m) == 1]
            if single and self.images is None:
                raise ValueError(
                    f"method {name}: {', '.join(method.terms)} compares cells of a map with one another, "
                    f"and at {', '.join(single)} the map is a single cell, so that there is nothing to "
                    "learn: add a term, lower students.stride, set students.cell_um or enlarge tiles.field_um"
                )
        return self

    def size_problem(self) -> str | None:
        """Why tiles of this size cannot be trained on, or None; for pictures once theirs is known.

        What a network of torchvision or timm can take is known once it is there (`gate.check_networks`).
        """
        lowest = self.tiles.magnifications[-1]
        of_students = [self.student_training(name).at(mpp_of(lowest)) for name in self.methods]
        for training in of_students:
            if is_library(training.model):
                continue
            if grid_cells(training, self.tiles.tile_px(lowest)) < 1:
                return (
                    f"a tile at {name_of(lowest)} is smaller than one cell of {training.model}: "
                    "enlarge tiles.field_um, or leave the magnification out"
                )
        seen = [lowest if training.input == "native" else self.tiles.teacher for training in of_students]
        for section, training, magnification in (
            ("teacher", self.teacher, self.tiles.teacher),
            *(("students", training, px) for training, px in zip(of_students, seen, strict=True)),
        ):
            if is_library(training.model):
                continue
            cells = grid_cells(training, self.tiles.tile_px(magnification))
            if cells == 1 and training.normalises_one_tile:
                return (
                    f"{section}: BatchNorm of {training.model} needs more than one value per channel, and "
                    f"with one tile at a time its last map at {name_of(magnification)} is 1 x 1: "
                    "raise batch_size, lower stride, or take resnet10gn"
                )
        return None

    def study(self, classes: Sequence[str]) -> Study:
        """The grid of runs, for a list of class names."""
        return Study(
            teacher=self.tiles.teacher,
            students=self.tiles.students,
            methods={name: method.uses_unlabelled for name, method in self.methods.items()},
            seeds=self.students.seeds,
            unlabelled=self.students.unlabelled,
            classes=list(classes),
            ordinal=self.ordinal,
            unit=self.tiles.unit,
            evaluation=self.evaluation,
            additions=additions(
                {name: method.terms for name, method in self.methods.items()},
                {name: self.student_training(name) for name in self.methods},
                lambda name: {
                    name_of(m): self.cells(self.student_training(name), m) for m in self.tiles.students
                },
            ),
        )

    def student_training(self, method: str) -> StudentTraining:
        """How the students of a method are trained: `students`, and what the method says otherwise.

        Without a term that needs labels none decides on the drawing: `balance` is false.
        """
        common = self.students.model_dump(exclude={"seeds", "unlabelled"})
        own = dict(self.methods[method].training)
        if not any(term.needs_label for term in self.methods[method].terms.values()):
            common["balance"] = False
        if isinstance(own.get("augment"), dict):
            own["augment"] = common["augment"] | own["augment"]
        return StudentTraining.model_validate(common | own)

    def network_sizes(self) -> list[tuple[str, Architecture, int]]:
        """Section, network and edge of its pictures in pixels, of everything that is trained."""
        sizes: list[tuple[str, Architecture, int]] = [
            ("teacher", self.teacher, self.tiles.tile_px(self.tiles.teacher))
        ]
        for training in (self.student_training(method) for method in self.methods):
            sizes += [("students", training, self.px(training, m)) for m in self.tiles.students]
        return sizes

    def beginnings(self) -> list[tuple[Architecture, int, int]]:
        """Networks that begin with another's weights, and the edges of its pictures and their own."""
        found, descending = [], sorted(self.tiles.students, reverse=True)
        of_teacher = None if self.teacher.features else self.tiles.tile_px(self.tiles.teacher)
        for training in (self.student_training(method) for method in self.methods):
            above = of_teacher
            for px in (self.px(training, magnification) for magnification in descending):
                if training.initial != "noise" and above:
                    found.append((training, above, px))
                above = px if training.initial == "higher" else of_teacher
        return found

    def px(self, training: StudentTraining, magnification: float) -> int:
        """Edge of what a student's network sees in pixels."""
        seen = magnification if training.input == "native" else self.tiles.teacher
        return self.tiles.tile_px(seen)

    def cells(self, training: StudentTraining, magnification: float, stage: int = LAST_STAGE) -> int:
        """Cells of a student's map; 0 where it has to be measured."""
        if self.tiles.unit == "section" or is_library(training.model):
            return 0
        px = self.px(training, magnification)
        return grid_cells(training.at(mpp_of(magnification)), px, stage)


def parse_config(content: dict[str, Any]) -> Config:
    """The validated config of a study; raises UserError with one line per problem."""
    return validated(Config, from_command_line(content), "config")


def schema() -> dict[str, Any]:
    """JSON Schema of `config.yaml`."""
    return Config.model_json_schema()
