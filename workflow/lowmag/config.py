"""The config of a study: every key with its unit, default and bounds.

The same sections are what the commands take as `--options` (JSON), so that a rule passes on exactly the
slice it depends on. `workflow/schemas/config.schema.json` is exported from here (`lowmag schema`).
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from lowmag.errors import UserError
from lowmag.magnification import factor_between, mpp_of, name_of

Magnification = Annotated[float, Field(gt=0, le=80)]
Share = Annotated[int, Field(ge=0, le=100)]
Network = Literal["resnet18", "resnet10gn", "vgg16"]
VGG16_STRIDE = 16


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Demo(Section):
    slides: int = Field(default=48, ge=5, description="slides in the demo cohort")
    patients: int = Field(default=32, ge=3, description="patients they come from")
    size_um: float = Field(default=3072, ge=1024, description="edge of a slide, micrometres")
    seed: int = Field(default=0, ge=0, description="the cohort is a function of this number")


class Check(Section):
    assume_mpp: float | None = Field(
        default=None, gt=0, description="mpp of slides that state none; null refuses them"
    )
    min_mpp: float = Field(
        default=0.1, gt=0, description="level 0 finer than this is implausible, micrometres per pixel"
    )
    max_mpp: float = Field(
        default=100.0, gt=0, description="level 0 coarser than this is implausible, micrometres per pixel"
    )
    max_anisotropy: float = Field(
        default=0.1, gt=0, description="largest relative difference of mpp along x and y"
    )


class Tissue(Section):
    mpp: float = Field(default=8.0, gt=0, description="scale the outline is found at, micrometres per pixel")
    min_piece_um: float = Field(
        default=200.0, ge=0, description="pieces smaller than this square are dropped, micrometres"
    )
    max_hole_um: float = Field(
        default=190.0, ge=0, description="holes smaller than this square are filled, micrometres"
    )
    saturation_floor: int = Field(
        default=10, ge=0, le=255, description="least saturation of tissue, grey levels"
    )


class Tiles(Section):
    field_um: float = Field(default=512.0, gt=0, description="edge of a tile's field of view, micrometres")
    teacher: Magnification = Field(default=10.0, description="magnification of the teacher")
    students: list[Magnification] = Field(
        default=[5.0, 2.5, 1.25, 0.625], description="magnifications of the students"
    )
    min_tissue: float = Field(default=0.5, ge=0, le=1, description="least share of a tile that is tissue")
    max_per_slide: int | None = Field(
        default=None, ge=1, description="at most so many tiles of one slide, null for all"
    )
    jpeg_quality: int = Field(
        default=90, ge=50, le=100, description="quality of the teacher's tiles (4:4:4 JPEG)"
    )
    mpp_tolerance: float = Field(
        default=0.02, ge=0, le=0.1, description="relative scale error read without resampling"
    )

    @model_validator(mode="after")
    def _whole_pixels(self) -> "Tiles":
        for magnification in self.students:
            try:
                factor_between(self.teacher, magnification)
            except ValueError as error:
                raise ValueError(
                    f"students: {error}; every student magnification must divide the teacher's"
                ) from error
        if len(set(self.students)) != len(self.students):
            raise ValueError(f"students: magnification given twice in {self.students}")
        lowest = min([self.teacher, *self.students])
        if abs(self.field_um / mpp_of(lowest) % 1) > 1e-9:
            raise ValueError(
                f"field_um {self.field_um:g} is not a whole number of pixels at {name_of(lowest)}"
            )
        return self

    @property
    def magnifications(self) -> list[float]:
        """The teacher's and the students' magnifications, highest first, each once."""
        return sorted({self.teacher, *self.students}, reverse=True)

    def tile_px(self, magnification: float) -> int:
        """Edge of a tile in pixels at a magnification."""
        return round(self.field_um / mpp_of(magnification))


class Pictures(Section):
    folder: str | None = Field(
        default=None, description="folder that paths in images.csv are relative to; null: its own"
    )
    columns: dict[str, str] = Field(
        default={}, description="images.csv columns by their own names, as {image: file}"
    )
    mpp: float | None = Field(default=None, gt=0, description="mpp of pictures whose row states none")
    border_px: int = Field(default=0, ge=0, description="pixels cut from every edge before the centre crop")


class Splits(Section):
    val: float = Field(default=0.2, gt=0, lt=1, description="share of labelled patients for validation")
    test: float = Field(default=0.2, gt=0, lt=1, description="share of labelled patients for testing")
    seed: int = Field(default=0, ge=0, description="seed of the split")

    @model_validator(mode="after")
    def _leaves_training(self) -> "Splits":
        if self.val + self.test >= 1:
            raise ValueError(f"val {self.val} and test {self.test} leave no patients to train on")
        return self


class Augment(Section):
    dihedral: bool = Field(default=True, description="the 8 exact flips and rotations")
    brightness: float = Field(default=0.1, ge=0, lt=1, description="largest relative change of brightness")
    contrast: float = Field(default=0.1, ge=0, lt=1, description="largest relative change of contrast")
    saturation: float = Field(default=0.1, ge=0, lt=1, description="largest relative change of saturation")
    stain: float = Field(
        default=0.1, ge=0, lt=1, description="largest relative change of optical density per channel"
    )


class Architecture(Section):
    model: Network = Field(
        default="resnet10gn", description="resnet18, resnet10gn (DiPalma 2021) or vgg16 (del Amor 2024)"
    )
    stride: Literal[8, 16, 32] = Field(default=32, description="pixels of the tile per cell of the last map")
    weights: str | None = Field(
        default=None, description="local file of initial backbone weights (.safetensors or state dict .pt)"
    )

    @model_validator(mode="after")
    def _possible_stride(self) -> "Architecture":
        if self.model == "vgg16" and self.stride != VGG16_STRIDE:
            raise ValueError(
                f"stride of vgg16 is {VGG16_STRIDE} (its map before pool5): set stride: {VGG16_STRIDE}"
            )
        return self


class Training(Architecture):
    epochs: int = Field(default=20, ge=1, description="passes over the training tiles")
    batch_size: int = Field(default=16, ge=1, description="tiles per step")
    optimizer: Literal["adam", "adamw"] = Field(
        default="adamw", description="adam adds weight decay to the gradient"
    )
    lr: float = Field(default=1e-3, gt=0, description="peak learning rate")
    weight_decay: float = Field(default=0.05, ge=0, description="weight decay")
    schedule: Literal["cosine", "constant"] = Field(
        default="cosine", description="learning rate over the run"
    )
    warmup: float = Field(default=0.1, ge=0, lt=1, description="share of the steps with rising learning rate")
    clip: float = Field(default=1.0, gt=0, description="largest norm of the gradient")
    balance: bool = Field(default=True, description="draw labelled tiles class-balanced")
    select: Literal["balanced_accuracy", "accuracy", "loss", "kappa", "last"] = Field(
        default="balanced_accuracy",
        description="what chooses the epoch on validation tiles; last takes the final one",
    )
    augment: Augment = Field(default=Augment(), description="what a tile may look like")
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        default="auto", description="auto: bfloat16 on a GPU, else float32"
    )


class Teacher(Training):
    pass


class StudentTraining(Training):
    """How one student is trained: what the `student` command takes as options."""

    input: Literal["native", "upsampled"] = Field(
        default="native", description="upsampled: back to the teacher's size (del Amor)"
    )


class Students(StudentTraining):
    seeds: list[Annotated[int, Field(ge=0)]] = Field(
        default=[0], min_length=1, description="one teacher and one set of students each"
    )
    unlabelled: list[Share] = Field(
        default=[0, 100], min_length=1, description="per cent of the unlabelled slides used"
    )


class CrossEntropy(Section):
    weight: float = Field(default=1.0, gt=0)


class SoftLabels(Section):
    weight: float = Field(default=1.0, gt=0)
    temperature: float = Field(default=1.0, gt=0, description="softmax temperature of both distributions")


class Features(Section):
    weight: float = Field(default=1.0, gt=0)
    distance: Literal["mse", "l1", "rmse"] = Field(
        default="mse", description="rmse: one root over the whole batch"
    )
    resize: Literal["maxpool", "bicubic", "maxpool+bicubic", "area"] = Field(
        default="maxpool+bicubic", description="how the teacher's map comes to the student's grid"
    )


class Attention(Section):
    weight: float = Field(default=1.0, gt=0)
    classes: Literal["all", "label", "teacher"] = Field(default="all", description="class maps compared")
    relu: Literal["inside", "outside"] = Field(
        default="inside", description="inside: AT+ of del Amor 2024; outside: Grad-CAM"
    )
    distance: Literal["rmse", "mse"] = Field(default="rmse", description="per picture")
    normalise: Literal["minmax", "none"] = Field(
        default="minmax", description="per picture, jointly over classes"
    )


def _allow_bare_weights(schema: dict[str, Any]) -> None:
    for term in schema["properties"].values():
        term["anyOf"].insert(0, {"type": "number", "exclusiveMinimum": 0, "description": "weight"})


class Method(Section):
    """A weighted set of loss terms; a bare number is the weight of a term with its defaults."""

    model_config = ConfigDict(json_schema_extra=_allow_bare_weights)

    cross_entropy: CrossEntropy | None = None
    soft_labels: SoftLabels | None = None
    features: Features | None = None
    attention: Attention | None = None

    @model_validator(mode="before")
    @classmethod
    def _bare_weights(cls, terms: Any) -> Any:
        if not isinstance(terms, dict):
            return terms
        return {k: {"weight": v} if isinstance(v, int | float) else v for k, v in terms.items()}

    @model_validator(mode="after")
    def _some_term(self) -> "Method":
        if not self.terms:
            raise ValueError("a method needs at least one loss term")
        return self

    @property
    def terms(self) -> dict[str, Section]:
        """The terms in use by name."""
        return {name: term for name in type(self).model_fields if (term := getattr(self, name)) is not None}

    @property
    def needs_teacher(self) -> bool:
        """Whether any term compares with the teacher."""
        return set(self.terms) != {"cross_entropy"}

    @property
    def uses_unlabelled(self) -> bool:
        """Whether any term works without a label."""
        return self.needs_teacher


class Evaluation(Section):
    bootstrap: int = Field(default=10_000, ge=100, description="patient-level resamples")
    seed: int = Field(default=0, ge=0, description="seed of the resamples")
    margin: float = Field(
        default=0.05, gt=0, lt=1, description="a student within this much balanced accuracy is not worse"
    )
    slide_score: Literal["mean"] = Field(
        default="mean", description="a slide's probabilities: mean of its tiles'"
    )
    reading_slides: int = Field(default=3, ge=1, description="slides read at every magnification to time it")


class Job(Section):
    """What a job of one kind asks for; changing it reruns nothing."""

    threads: int = Field(default=2, ge=1, description="CPU threads")
    mem_mb: int = Field(default=8000, ge=500, description="memory, megabytes")
    runtime: int = Field(
        default=720, ge=1, description="time limit, minutes; training saves and stops before it"
    )


class Compute(Section):
    slide: Job = Job(threads=1, mem_mb=2000, runtime=60)
    teacher: Job = Job()
    targets: Job = Job(runtime=120)
    students: Job = Job()
    predictions: Job = Job(runtime=120)


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


class TargetOptions(Section):
    """What the teacher says of a tile and in which shape: what the `targets` command takes as options."""

    grids: dict[str, int] = Field(
        description="cells per edge of the student's last map, by magnification name (1.25x)"
    )
    resizes: list[Literal["maxpool", "bicubic", "area"]] = Field(
        default=[], description="forms of the feature map to store"
    )
    attention: list[Literal["inside", "outside"]] = Field(
        default=[], description="forms of the attention map to store"
    )
    views: Literal[1, 8] = Field(default=8, description="exact flips and rotations of every tile")


class Study(Section):
    """The grid of runs and how it is evaluated: what `evaluate`, `figures` and `report` take as `--study`."""

    teacher: Magnification
    students: list[Magnification]
    methods: dict[str, bool] = Field(description="whether the method uses unlabelled slides, by name")
    seeds: list[int]
    unlabelled: list[Share]
    classes: list[str]
    ordinal: bool = False
    evaluation: Evaluation = Evaluation()

    def shares(self, method: str) -> list[int]:
        """Unlabelled shares a method is run with, in per cent, ascending."""
        return sorted(set(self.unlabelled)) if self.methods[method] else [0]

    def runs(self) -> list[Run]:
        """Every student of the study."""
        return [
            Run(method, magnification, share, seed)
            for method in self.methods
            for magnification in sorted(self.students, reverse=True)
            for share in self.shares(method)
            for seed in self.seeds
        ]


def _allow_null_methods(schema: dict[str, Any]) -> None:
    schema["additionalProperties"] = {"anyOf": [schema["additionalProperties"], {"type": "null"}]}


class Config(Section):
    outdir: str = Field(default="results", description="folder of everything the workflow writes")
    slides: str | None = Field(
        default="demo", description="path of slides.csv, or `demo` for the built-in cohort"
    )
    images: str | None = Field(
        default=None, description="path of images.csv (pre-cut pictures); takes the place of slides"
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
            if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
                raise ValueError(f"method name {name!r}: use letters, digits, '.', '_' and '-'")
        return methods

    @field_validator("methods", mode="before")
    @classmethod
    def _dropped_methods(cls, methods: Any) -> Any:
        """A method set to null is taken out, so that a second config file can shorten the list."""
        return {k: v for k, v in methods.items() if v is not None} if isinstance(methods, dict) else methods

    @model_validator(mode="after")
    def _same_network(self) -> "Config":
        compared = [name for name, method in self.methods.items() if method.features]
        if compared and self.teacher.model != self.students.model:
            raise ValueError(
                f"methods {', '.join(compared)} compare feature maps, so teacher.model ({self.teacher.model})"
                f" and students.model ({self.students.model}) must be the same network"
            )
        return self

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
            evaluation=self.evaluation,
        )

    def student_training(self) -> StudentTraining:
        """The part of `students` that one run depends on."""
        return StudentTraining.model_validate(self.students.model_dump(exclude={"seeds", "unlabelled"}))

    def target_options(self) -> TargetOptions:
        """What the methods of this study need the teacher to say."""
        upsampled = self.students.input == "upsampled"
        grids = {
            name_of(m): grid_cells(self.students, self.tiles.tile_px(self.tiles.teacher if upsampled else m))
            for m in self.tiles.students
        }
        features = [method.features for method in self.methods.values() if method.features]
        attention = [method.attention for method in self.methods.values() if method.attention]
        resizes = sorted({form for term in features for form in term.resize.split("+")})
        relus = sorted({term.relu for term in attention})
        return TargetOptions.model_validate({"grids": grids, "resizes": resizes, "attention": relus})


def grid_cells(architecture: Architecture, tile_px: int) -> int:
    """Cells per edge of the last map of a network for a tile of `tile_px` pixels."""
    if architecture.model == "vgg16":
        return tile_px // VGG16_STRIDE
    return -(-tile_px // architecture.stride)


SectionType = TypeVar("SectionType", bound=BaseModel)


def parse_config(content: dict[str, Any]) -> Config:
    """The validated config of a study; raises UserError with one line per problem."""
    return _validated(Config, _with_nulls(content), "config")


def _with_nulls(content: Any) -> Any:
    """`null` given on Snakemake's command line arrives as text."""
    if isinstance(content, dict):
        return {key: _with_nulls(value) for key, value in content.items()}
    return None if content == "null" else content


def parse_options(section: type[SectionType], text: str | None) -> SectionType:
    """A section from the JSON of `--options`, or its defaults when there is none."""
    try:
        content = json.loads(text) if text else {}
    except json.JSONDecodeError as error:
        raise UserError(f"--options is not JSON ({error}); expected an object such as '{{}}'") from error
    return _validated(section, content, "--options")


def schema() -> dict[str, Any]:
    """JSON Schema of `config.yaml`."""
    return Config.model_json_schema()


def _validated(model: type[SectionType], content: Any, source: str) -> SectionType:
    try:
        return model.model_validate(content)
    except ValidationError as error:
        lines = [_line(problem) for problem in error.errors()]
        raise UserError(f"{source} is not valid:\n" + "\n".join(lines)) from error


def _line(problem: Any) -> str:
    key = ".".join(str(part) for part in problem["loc"]) or "(whole)"
    message = problem["msg"].removeprefix("Value error, ")
    found = problem.get("input")
    shown = "" if isinstance(found, dict | BaseModel) else f", found {found!r}"
    if problem["type"] == "extra_forbidden":
        return f"  {key}: unknown key{shown}; see config.yaml for the keys there are"
    return f"  {key}: {message}{shown}"
