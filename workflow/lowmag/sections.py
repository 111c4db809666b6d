"""Sections of the config about slides: demo, check, tissue, tiles, annotations, qc, pictures, splits.

Kept apart from those about training, so that an edit to these reruns no slide.
"""

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from lowmag.magnification import NAME_PRECISION, factor_between, mpp_of, name_of

NONE, SLIDE = "none", "slide"  # words of the section annotations in the place of a class

# As its name says it, so that a magnification read back from a file's name is the same number.
Magnification = Annotated[float, Field(gt=0, le=80), AfterValidator(lambda value: float(f"{value:g}"))]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


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
        default=10,
        ge=0,
        le=255,
        description="least colour of tissue: brightest minus darkest channel on white glass, grey levels",
    )
    model: str | None = Field(
        default=None, description="TorchScript or ONNX file that finds the tissue instead; null: classical"
    )
    model_sha256: str | None = Field(
        default=None,
        pattern="^[0-9a-fA-F]{64}$",
        description="SHA-256 of that file; required of TorchScript, which is a program: you say you trust it",
    )


class Tiles(Section):
    field_um: float = Field(
        default=512.0, gt=0, allow_inf_nan=False, description="edge of a tile's field of view, micrometres"
    )
    teacher: Magnification = Field(default=10.0, description="magnification of the teacher")
    students: list[Magnification] = Field(
        default=[5.0, 2.5, 1.25, 0.625], min_length=1, description="magnifications of the students"
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
    unit: Literal["tile", "section"] = Field(
        default="tile", description="one picture is a square tile, or a connected piece of tissue (section)"
    )
    overlap: float = Field(
        default=0.0, ge=0, lt=1, description="share of its edge that a tile shares with the next one"
    )
    max_section_px: int = Field(
        default=8192,
        ge=256,
        le=65_500,  # of a JPEG
        description="longest edge of a section at the teacher's magnification, pixels",
    )
    lowres: Literal["derived", "pyramid"] = Field(
        default="derived",
        description="students' pixels: means of the teacher's, or the slide's own coarse levels",
    )
    icc: Literal["keep", "srgb"] = Field(
        default="keep", description="colours as stored, or converted by the slide's ICC profile to sRGB"
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
        return self

    @property
    def magnifications(self) -> list[float]:
        """The teacher's and the students' magnifications, highest first, each once."""
        return sorted({self.teacher, *self.students}, reverse=True)

    def tile_px(self, magnification: float) -> int:
        """Edge of a tile in pixels at a magnification."""
        return round(self.field_um / mpp_of(magnification))

    def field_problem(self) -> str | None:
        """Why fields of this size cannot be cut at every magnification, or None."""
        for magnification in reversed(self.magnifications):
            edge = self.field_um / mpp_of(magnification)
            if abs(edge / max(round(edge), 1) - 1) > NAME_PRECISION:
                name = name_of(magnification)
                return f"tiles.field_um {self.field_um:g} is not a whole number of pixels at {name}"
        return None


class Annotations(Section):
    """Regions drawn by a person (column `annotations` of slides.csv) to labels of tiles."""

    classes: dict[str, str] = Field(
        default={},
        description="class of the study by the name in the file, none to cut out; empty: the same names",
    )
    min_overlap: float = Field(
        default=0.5, gt=0, le=1, description="least share of a tile that regions of one class cover"
    )
    outside: str = Field(
        default="none", description="label of other tiles of an annotated slide: none, slide, or a class"
    )
    origin: Literal["bounds", "level0"] = Field(
        default="bounds",
        description="where x, y of GeoJSON start: at the scanned part, as QuPath has it, or at level 0",
    )

    def problem(self, classes: Sequence[str]) -> str | None:
        """Why these options do not go with the classes of a study, or None."""
        listed = ", ".join(classes)
        if reserved := sorted({NONE, SLIDE} & {*classes}):
            return f"classes: {', '.join(reserved)} means something else in annotations; rename the class"
        if unknown := sorted({*self.classes.values()} - {NONE, *classes}):
            return (
                f"annotations.classes: found {', '.join(unknown)}, expected {NONE} or one of the classes "
                f"{listed}; the name in the file comes first, as {{Tumor: tumour}}"
            )
        if self.outside not in {NONE, SLIDE, *classes}:
            return (
                f"annotations.outside: found {self.outside!r}, expected {NONE}, {SLIDE} or one of the "
                f"classes {listed}"
            )
        return None


class QC(Section):
    """The page about the cohort."""

    anonymise: bool = Field(default=False, description="replace slide ids and file names by numbers")
    samples: int = Field(default=4, ge=1, le=20, description="tiles shown of every slide")


class Pictures(Section):
    folder: str | None = Field(
        default=None, description="folder that paths in images.csv are relative to; null: its own"
    )
    fold: int = Field(
        default=1, ge=1, le=4, description="of a folder laid out as SICAPv2: partition/Validation/Val{fold}"
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
