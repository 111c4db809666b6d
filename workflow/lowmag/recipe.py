"""Sections of the config about training: networks, schedules, augmentation."""

import re
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from lowmag.sections import Section

Share = Annotated[int, Field(ge=0, le=100)]
Scale = Annotated[float, Field(gt=0.25, lt=4)]
Fraction = Annotated[float, Field(ge=0, lt=1)]
OWN_NETWORKS = ("resnet18", "resnet10gn", "vgg16")
OWN_STRIDES = (8, 16, 32)
LIBRARY_NETWORK = r"(torchvision|timm)/[A-Za-z0-9_.]+(\?[A-Za-z0-9_=&.-]+)?"
PRETRAINED, HUB = "pretrained", "hf-hub:"
VGG16_STRIDE = 16


def is_library(model: str) -> bool:
    """Whether a network is torchvision's or timm's, not one written out here."""
    return model not in OWN_NETWORKS


def is_file(weights: str) -> bool:
    """Whether initial weights are a file, not ones that a library downloads."""
    return weights != PRETRAINED and not weights.startswith(HUB)


class Augment(Section):
    dihedral: bool | Literal["flips", "horizontal"] = Field(
        default=True,
        description="the 8 exact flips and rotations; flips: the 4 without quarter turns; horizontal: 2",
    )
    brightness: float = Field(default=0.1, ge=0, lt=1, description="largest relative change of brightness")
    contrast: float = Field(default=0.1, ge=0, lt=1, description="largest relative change of contrast")
    saturation: float = Field(default=0.1, ge=0, lt=1, description="largest relative change of saturation")
    stain: float = Field(
        default=0.1, ge=0, lt=1, description="largest relative change of optical density per channel"
    )
    hue: float = Field(default=0.0, ge=0, le=0.5, description="largest turn of the colour circle, turns")
    rotation: float = Field(default=0.0, ge=0, le=180, description="largest turn about the centre, degrees")
    zoom: tuple[Scale, Scale] = Field(default=(1.0, 1.0), description="smallest and largest enlargement")
    shift: tuple[Fraction, Fraction] = Field(
        default=(0.0, 0.0), description="largest shift sideways and up or down, share of the edge"
    )
    border: Literal["reflect", "black"] = Field(
        default="reflect", description="what rotation, zoom and shift bring in from outside the picture"
    )
    probability: float = Field(
        default=1.0,
        gt=0,
        le=1,
        description="chance that a tile is changed, of colours (all at once), rotation, zoom and shift each",
    )

    @model_validator(mode="after")
    def _zoom_in_order(self) -> "Augment":
        if self.zoom[0] > self.zoom[1]:
            raise ValueError(
                f"zoom goes from {self.zoom[0]:g} to {self.zoom[1]:g}: put the smaller one first"
            )
        return self

    @property
    def n_views(self) -> int:
        """How many exact views are drawn from: the first 1, 2, 4 or 8 in the numbering of `augment`."""
        return {True: 8, "flips": 4, "horizontal": 2, False: 1}[self.dihedral]

    @property
    def changes_colour(self) -> bool:
        """Whether any colour is changed."""
        return any((self.brightness, self.contrast, self.saturation, self.stain, self.hue))

    @property
    def resamples(self) -> bool:
        """Whether pictures are turned, enlarged or shifted by anything that is no exact view."""
        return bool(self.rotation) or self.zoom != (1, 1) or self.shift != (0, 0)


class Architecture(Section):
    model: str = Field(
        default="resnet10gn",
        description="resnet18, resnet10gn (DiPalma 2021), vgg16 (del Amor 2024), torchvision/NAME, timm/NAME",
        json_schema_extra={"pattern": rf"^({'|'.join(OWN_NETWORKS)}|{LIBRARY_NETWORK})$"},
    )
    stride: int = Field(
        default=32,
        ge=1,
        le=64,
        description="pixels of the tile per cell of the last map: 8, 16, 32; another network's is its own",
    )
    weights: str | None = Field(
        default=None,
        description="local file of initial backbone weights (.safetensors or state dict .pt); torchvision, "
        "timm: also pretrained, timm: hf-hub:OWNER/NAME",
    )

    @field_validator("model")
    @classmethod
    def _known_model(cls, model: str) -> str:
        if model not in OWN_NETWORKS and not re.fullmatch(LIBRARY_NETWORK, model):
            raise ValueError(f"expected {', '.join(OWN_NETWORKS)}, torchvision/NAME or timm/NAME")
        return model

    @model_validator(mode="after")
    def _possible_stride(self) -> "Architecture":
        if self.model == "vgg16" and self.stride != VGG16_STRIDE:
            raise ValueError(
                f"stride of vgg16 is {VGG16_STRIDE} (its map before pool5): set stride: {VGG16_STRIDE}"
            )
        if not is_library(self.model) and self.stride not in OWN_STRIDES:
            raise ValueError(f"stride of {self.model} is one of 8, 16, 32, found {self.stride}")
        return self

    @model_validator(mode="after")
    def _possible_weights(self) -> "Architecture":
        if self.weights and not is_file(self.weights):
            if not is_library(self.model):
                raise ValueError(f"weights: {self.weights} goes with torchvision/NAME or timm/NAME alone")
            if self.weights != PRETRAINED and not self.model.startswith("timm/"):
                raise ValueError(f"weights: {self.weights} goes with timm/NAME alone")
        return self


class Training(Architecture):
    epochs: int = Field(default=20, ge=1, description="passes over the training tiles")
    batch_size: int = Field(default=16, ge=1, description="tiles per step")
    accumulate: int = Field(
        default=1,
        ge=1,
        description="equal parts that a batch is passed in, their gradients added up: the same step in less "
        "memory (but BatchNorm, of resnet18, sees a part at a time)",
    )
    optimizer: Literal["adam", "adamw"] = Field(
        default="adamw", description="adam adds weight decay to the gradient"
    )
    lr: float = Field(default=1e-3, gt=0, description="peak learning rate")
    weight_decay: float = Field(default=0.05, ge=0, description="weight decay")
    schedule: Literal["cosine", "constant"] = Field(
        default="cosine", description="learning rate over the run"
    )
    warmup: float = Field(default=0.1, ge=0, lt=1, description="share of the steps with rising learning rate")
    clip: float | None = Field(default=1.0, gt=0, description="largest norm of the gradient; null: any")
    balance: bool | Literal["oversampled", "released"] = Field(
        default=True,
        description="draw labelled tiles class-balanced; oversampled: each class a whole number of times, "
        "the nearest to balance, as del Amor 2024; released: drawn once at random",
    )
    select: Literal["balanced_accuracy", "accuracy", "loss", "kappa", "last"] = Field(
        default="balanced_accuracy",
        description="what chooses the epoch on validation tiles; last takes the final one",
    )
    select_margin: float = Field(
        default=0.0,
        ge=0,
        description="an epoch takes the place of the kept one when better by more than this; 0: or equal",
    )
    ema: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="running mean of the weights, validated and kept in their place: share of its past "
        "that it keeps per step; 0: none",
    )
    augment: Augment = Field(default=Augment(), description="what a tile may look like")
    standardise: bool = Field(
        default=True,
        description="pixels less the training tiles' mean, over their standard deviation; false: 0 to 1",
    )
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        default="auto", description="auto: bfloat16 on a GPU, else float32"
    )

    @property
    def part_size(self) -> int:
        """Tiles that are passed through the network at once."""
        return self.batch_size // self.accumulate

    @property
    def normalises_one_tile(self) -> bool:
        """Whether the network normalises over a batch (BatchNorm) and gets one tile at a time."""
        return self.model == "resnet18" and self.part_size == 1

    @model_validator(mode="after")
    def _margin_of_a_figure(self) -> "Training":
        if self.select == "last" and self.select_margin:
            raise ValueError("select: last takes the final epoch whatever its figures: set select_margin: 0")
        return self

    @model_validator(mode="after")
    def _equal_parts(self) -> "Training":
        if self.batch_size % self.accumulate:
            raise ValueError(
                f"batch_size {self.batch_size} is not a whole multiple of accumulate {self.accumulate}"
            )
        return self


class Teacher(Training):
    require: Literal["better_than_chance", "nothing"] = Field(
        default="better_than_chance",
        description="what a teacher must be on validation tiles, or the study stops: better than chance by a "
        "permutation test of patients, where there are enough of them to tell",
    )
    features: str | None = Field(
        default=None,
        description="folder of {slide_id}.h5 with features that TRIDENT or CLAM computed: a linear head on "
        "them is the teacher, in place of a network",
    )
    head: Literal["linear", "attention"] = Field(
        default="linear",
        description="of a teacher on features: linear, trained tile by tile; attention: the classifier of "
        "gated attention over a slide's tiles (Ilse 2018), trained slide by slide",
    )
    patch_gmac: float | None = Field(
        default=None,
        gt=0,
        description="of a teacher on features: GMAC of the network that computed them, for one patch; the "
        "teacher's computation and what students save of it rest on it; null: not known, and so reported",
    )
    gpus: int = Field(
        default=1,
        ge=1,
        description="GPUs of one machine that train a teacher together, each an equal part of every batch "
        "(not with BatchNorm); changing it reruns nothing",
    )

    @model_validator(mode="after")
    def _equal_shares(self) -> "Teacher":
        if self.batch_size % self.gpus:
            raise ValueError(f"batch_size {self.batch_size} is not a whole multiple of gpus {self.gpus}")
        return self

    @model_validator(mode="after")
    def _head_of_features(self) -> "Teacher":
        if self.features is None and self.head != "linear":
            raise ValueError(
                f"head: {self.head} is trained on teacher.features alone: set head: linear; for scores of "
                "slides by attention over any model there is evaluation.slide_score"
            )
        return self

    @model_validator(mode="after")
    def _stated_of_features(self) -> "Teacher":
        if self.patch_gmac and self.features is None:
            raise ValueError(
                "patch_gmac is stated of teacher.features alone, a network trained here is counted: "
                "set it to null"
            )
        return self

    @model_validator(mode="after")
    def _head_without_gpus(self) -> "Teacher":
        if self.features is not None and self.gpus > 1:
            raise ValueError(
                f"a head on features is trained in seconds on the CPU: set gpus: 1, not {self.gpus}"
            )
        return self


class StudentTraining(Training):
    """How one student is trained: what the `student` command takes as options."""

    input: Literal["native", "upsampled", "released"] = Field(
        default="native",
        description="upsampled: back to the teacher's size (del Amor); released: with aligned corners, as "
        "their code does",
    )
    initial: Literal["noise", "teacher", "higher"] = Field(
        default="noise",
        description="weights that training begins with; teacher: those of the seed's teacher; higher: "
        "those of the method's student at the next higher magnification, at the highest the teacher's",
    )
    cell_um: float | None = Field(
        default=None,
        gt=0,
        description="largest edge of a cell of the last map, micrometres: decides on the stride, 8 at least; "
        "null: stride holds",
    )

    targets: Literal["cached", "online"] = Field(
        default="cached",
        description="cached: what the teacher says of the exact views in unchanged colours, computed once; "
        "online: what it says of the very picture, asked in every step",
    )

    @model_validator(mode="after")
    def _one_beginning(self) -> "StudentTraining":
        if self.initial != "noise" and self.weights:
            raise ValueError(
                f"initial: {self.initial} and weights both say where to begin: set weights: null"
            )
        return self

    @property
    def caching_problem(self) -> str | None:
        """Why no stored targets fit what a student of these options is shown; None when they do."""
        if self.targets == "online" or not self.augment.resamples:
            return None
        return (
            "augment.rotation, zoom and shift make endless views, and targets are stored for the exact ones "
            "alone: set students.targets: online, or rotation: 0, zoom: [1, 1] and shift: [0, 0]"
        )

    @model_validator(mode="after")
    def _free_stride(self) -> "StudentTraining":
        one_stride = self.model == "vgg16" or is_library(self.model)
        if self.cell_um and one_stride:
            raise ValueError(
                f"cell_um chooses among strides, and {self.model} has one alone ({self.stride}): set "
                "cell_um: null here (initial: higher works without it), or take resnet18 or resnet10gn for "
                "students and teacher"
            )
        if self.cell_um and self.input != "native":
            raise ValueError(
                f"cell_um chooses the stride for tiles of the student's own magnification, and input is "
                f"{self.input}: set cell_um: null, or input: native"
            )
        return self

    def at(self, mpp: float) -> "StudentTraining":
        """The same for tiles of so many micrometres per pixel, with the stride that `cell_um` asks for."""
        if self.cell_um is None:
            return self
        fitting = [stride for stride in OWN_STRIDES if stride * mpp <= self.cell_um]
        return self.model_copy(update={"stride": max(fitting, default=OWN_STRIDES[0]), "cell_um": None})


class Students(StudentTraining):
    seeds: list[Annotated[int, Field(ge=0)]] = Field(
        default=[0], min_length=1, description="one teacher and one set of students each"
    )
    unlabelled: list[Share] = Field(
        default=[0, 100], min_length=1, description="per cent of the unlabelled slides used"
    )

    @model_validator(mode="after")
    def _seeds_once(self) -> "Students":
        if len(set(self.seeds)) != len(self.seeds):
            raise ValueError(f"seeds: one is given twice in {self.seeds}, which would count one run as two")
        return self


def grid_cells(architecture: Architecture, tile_px: int, stage: int = -1) -> int:
    """Cells per edge of a network's map for a tile of `tile_px` pixels; `stage` -1 is the last map.

    Those of torchvision and timm are measured (`networks.map_cells`). Earlier stages: `stages.split`. Every
    stage but vgg16's last halves the grid.
    """
    if architecture.model == "vgg16":
        return tile_px // (VGG16_STRIDE >> max(0, -2 - stage))
    return -(-tile_px // (architecture.stride >> (-1 - stage)))
