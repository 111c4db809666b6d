"""What the workflow knows before it runs: config, sheet, classes, and the slice each rule depends on."""

import hashlib
import json
import os
import re
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from lowmag import demo, pictures, slides
from lowmag.compute import Job
from lowmag.config import Config, parse_config
from lowmag.errors import UserError
from lowmag.fingerprint import code_fingerprint
from lowmag.magnification import name_of
from lowmag.names import address_of, problem_of_path
from lowmag.recipe import StudentTraining, is_file
from lowmag.record import size_of
from lowmag.sections import NONE, SLIDE, Tissue
from lowmag.slides import SlideRow
from lowmag.study import Run, Study
from lowmag.target_wishes import reads_targets, target_options, targets_name
from lowmag.trust import require_trust, sha256_of

TEXT = re.compile(r'"(?:[^"\\]|\\.)*"')  # of JSON
ESCAPED = str.maketrans({sign: f"\\u{ord(sign):04x}" for sign in "{}<>"})


@dataclass(frozen=True)
class SlideEntry:
    """One slide of the sheet: where it is, its scale (micrometres per pixel) if the sheet gives it, and files
    that go with it; `tissue` is the config's section where the sheet says nothing else.
    """

    path: Path
    mpp: float | None
    tissue: Tissue
    annotations: Path | None = None
    mask: Path | None = None
    coords: Path | None = None


class Plan:
    """A study ready to be laid out as rules; reads the sheet, opens no slide.

    Raises UserError when the config or the sheet is not valid, or when fewer than two classes are labelled.
    """

    def __init__(self, content: dict[str, Any]) -> None:
        self.config: Config = parse_config(content)
        self.outdir = os.path.normpath(self.config.outdir)
        for key, name in self._paths().items():
            if problem := problem_of_path(name):
                raise UserError(f"{key}: {problem}")
            if name.startswith("-"):
                raise UserError(f"{key} begins with '-', which commands take for an option; rename {name}")
        if self.outdir == ".":
            raise UserError("outdir is this folder itself; name a folder of its own for what is written")
        if not self.sheet:
            raise UserError(
                "the config names no cohort; set slides to a slides.csv (or demo), or images to an images.csv"
            )
        for key, file in (
            ("teacher.weights", self.config.teacher.weights),
            *(
                (f"students.weights, method {name}", self._training(name).weights)
                for name in self.config.methods
            ),
            ("tissue.model", self.config.tissue.model),
        ):
            if file and is_file(file) and not Path(file).is_file():
                raise UserError(f"{key}: there is no file {file}; correct the path or set it to null")
        if self.config.tissue.model:
            require_trust(self.config.tissue.model, self.config.tissue.model_sha256)
        if self.from_pictures:
            self.config = self._with_field_of_pictures()
        if self.config.teacher.features and len(self.without_features) == len(self.slides):
            raise UserError(
                f"teacher.features: none of the {len(self.slides)} slides has a file in "
                f"{self.config.teacher.features} ({next(iter(self.slides))}.h5 and so on); give the folder "
                "of features that TRIDENT or CLAM wrote, named as the sheet names its slides, or set null"
            )

    def _paths(self) -> dict[str, str]:
        """The files and folders that the config names, by key."""
        config = self.config
        named = {
            "outdir": self.outdir,
            "slides": config.slides,
            "images": config.images,
            "pictures.folder": config.pictures.folder,
            "teacher.weights": config.teacher.weights,
            "students.weights": config.students.weights,
            "teacher.features": config.teacher.features,
            "tissue.model": config.tissue.model,
        }
        return {key: name for key, name in named.items() if name}

    @property
    def is_demo(self) -> bool:
        """Whether the cohort is the built-in one."""
        return self.config.images is None and self.config.slides == "demo"

    @property
    def from_pictures(self) -> bool:
        """Whether the cohort is pre-cut pictures."""
        return self.config.images is not None

    @property
    def sheet(self) -> str:
        """Path of slides.csv or images.csv."""
        if self.is_demo:
            return f"{self.outdir}/demo/slides.csv"
        return self.config.images or self.config.slides or ""

    def sheet_files(self) -> list[str]:
        """The files the sheet is read from: several when it is a folder of pictures with spreadsheets."""
        if not self.from_pictures:
            return [self.sheet]
        return [str(path) for path in pictures.sheet_files(Path(self.sheet), self.config.pictures)]

    @cached_property
    def slides(self) -> dict[str, SlideEntry]:
        """The slides of the cohort by id; of pictures, the ids they are grouped by, without a path."""
        if self.is_demo:
            folder = Path(self.outdir, "demo")
            drawn = demo.cohort(self.config.demo)
            return {s.slide_id: SlideEntry(folder / s.path, None, self.config.tissue) for s in drawn}
        if self.from_pictures:
            return {row.slide_id: SlideEntry(row.image, row.mpp, self.config.tissue) for row in self._rows}
        return {
            row.slide_id: SlideEntry(
                row.path, row.mpp, self._tissue(row), row.annotations, row.mask, row.coords
            )
            for row in self._rows
        }

    def _tissue(self, row: SlideRow) -> Tissue:
        return Tissue.model_validate(self.config.tissue.model_dump() | dict(row.tissue))

    @cached_property
    def is_annotated(self) -> bool:
        """Whether any slide has regions drawn by a person."""
        return any(slide.annotations for slide in self.slides.values())

    @cached_property
    def classes(self) -> list[str]:
        """Class names in order: the config's, or the labels of the sheet, sorted."""
        if self.is_annotated:
            self._check_annotations()
        if self.config.classes:
            found = self.config.classes
        elif self.is_demo:
            found = sorted({s.label for s in demo.cohort(self.config.demo)} - {""})
        else:
            found = sorted({row.label for row in self._rows if row.label})
        if len(found) < 2:
            raise UserError(
                f"{self.sheet}: column label holds {len(found)} classes ({', '.join(found) or 'none'}), "
                "expected at least 2; fill in the labels of the slides that have one"
            )
        return list(found)

    def _check_annotations(self) -> None:
        """Raise UserError unless the config says how names in annotation files become classes."""
        options, classes = self.config.annotations, self.config.classes
        if not classes:
            raise UserError(
                f"{self.sheet}: column annotations is filled, so the config must name the classes; set "
                "classes, as [normal, tumour], and annotations.classes where the files call them otherwise"
            )
        if problem := options.problem(classes):
            raise UserError(problem)

    @cached_property
    def _rows(self) -> list[Any]:
        if self.from_pictures:
            return pictures.read_pictures(Path(self.sheet), self.config.pictures, self.config.classes)
        return slides.read_slides(Path(self.sheet), self.config.classes)

    def _with_field_of_pictures(self) -> Config:
        """The config with `tiles.field_um` of the pictures, which decide on the size of a tile."""
        from lowmag.crops import picture_field_um  # h5py and Pillow: not for cohorts of slides

        tiles = self.config.tiles
        field_um = picture_field_um(self._rows[0], self.config.pictures, tiles)
        config = self.config.model_copy(update={"tiles": tiles.model_copy(update={"field_um": field_um})})
        if problem := config.size_problem():
            raise UserError(problem)
        return config

    @cached_property
    def study(self) -> Study:
        """The grid of runs; where every slide is labelled there is no share of unlabelled ones to vary."""
        study = self.config.study(self.classes)
        return study if self._has_unlabelled else study.model_copy(update={"unlabelled": [0]})

    @property
    def _has_unlabelled(self) -> bool:
        if self.is_demo or self.from_pictures:
            rows = demo.cohort(self.config.demo) if self.is_demo else self._rows
            return any(not row.label for row in rows)
        outside = self.config.annotations.outside
        if self.is_annotated and outside == NONE:
            return True
        return not all(row.label for row in self._rows if not row.annotations or outside == SLIDE)

    @property
    def models(self) -> list[str]:
        """Folders below `outdir` of every model of the study, teachers first."""
        return self.study.models

    @property
    def gallery(self) -> list[str]:
        """Folders of the students to show, one per magnification: last method with a teacher, first seed."""
        shown = [name for name, method in self.config.methods.items() if method.needs_teacher]
        method = (shown or list(self.config.methods))[-1]
        seed, share = self.study.seeds[0], self.study.shares(method)[-1]
        return [
            f"students/{Run(method, m, share, seed).folder}"
            for m in sorted(self.study.students, reverse=True)
        ]

    @property
    def class_names(self) -> str:
        """The class names in order, as JSON."""
        return _compact(self.classes)

    def whole_config(self) -> str:
        """The config as JSON, but for what jobs ask for and tell, which changes no result."""
        return _compact(self.config.model_dump(mode="json", exclude={"compute", "tensorboard"}))

    def options(self, section: str) -> str:
        """A config section as the JSON that a command takes."""
        return _compact(getattr(self.config, section).model_dump())

    def tissue_options(self, slide: str) -> str:
        """The section tissue as the sheet has it for a slide, as JSON."""
        return _compact(self.slides[slide].tissue.model_dump())

    def teacher_options(self) -> str:
        """How a teacher is trained, as JSON, on however many GPUs and whatever its network costs."""
        return _compact(self.config.teacher.model_dump(exclude={"gpus", "patch_gmac"}))

    def student_options(self, run: Run) -> str:
        """How a student is trained, as JSON; it begins with noise where there is no model to begin with."""
        begins = {} if self.initial(run) else {"initial": "noise"}
        return _compact(self._training(run.method).model_dump() | begins)

    def student_weights(self, method: str) -> str:
        """Digest of the file of a method's initial weights; empty where there is none."""
        return _digest(self._training(method).weights)

    def initial(self, run: Run) -> str | None:
        """Folder below `outdir` of the model that a run begins with; None where it begins with noise."""
        initial = self._training(run.method).initial
        if initial == "noise":
            return None
        above = [m for m in self.config.tiles.students if m > run.magnification]
        if initial == "teacher" or not above:  # one on features has no network: noise
            return None if self.config.teacher.features else f"teacher/seed{run.seed}"
        return f"students/{replace(run, magnification=min(above)).folder}"

    def _training(self, method: str) -> StudentTraining:
        return self.config.student_training(method)

    def targets_folder(self, method: str, magnification: float, seed: int | str) -> str:
        """Folder below `outdir` of the targets of a method's students."""
        return f"targets/seed{seed}/{targets_name(self.config, method, magnification)}"

    def target_options(self) -> str:
        """What the teacher has to say, as JSON."""
        return _compact(target_options(self.config).model_dump())

    def study_options(self) -> str:
        """The grid of runs and how it is evaluated, as JSON; methods in the config's order."""
        return _compact(self.study.model_dump(), sort_keys=False)

    def method(self, name: str) -> str:
        """The loss terms of a method as JSON."""
        return _compact(self.config.methods[name].model_dump(exclude={"training"}, exclude_none=True))

    def needs_teacher(self, method: str) -> bool:
        """Whether a method compares with the teacher."""
        return self.config.methods[method].needs_teacher

    def reads_targets(self, method: str) -> bool:
        """Whether the students of a method compare with stored targets; the others ask the teacher itself."""
        return reads_targets(self.config, method)

    def student_names(self) -> list[str]:
        """Names of the students' magnifications, highest first."""
        return [name_of(m) for m in sorted(self.config.tiles.students, reverse=True)]

    def job(self, kind: str) -> Job:
        """What a job of a kind asks for."""
        return getattr(self.config.compute, kind)

    @cached_property
    def is_remote(self) -> bool:
        """Whether any slide lies in an object store."""
        return not self.from_pictures and any(self.address(slide) for slide in self.slides)

    def address(self, slide: str) -> str | None:
        """Where a slide lies in an object store, as s3://bucket/a.svs; None of a file."""
        return address_of(self.slides[slide].path)

    def slide_size(self, slide: str) -> int:
        """Bytes of a slide's file or folder, so that a new one reruns its stages; 0 before it is drawn."""
        path = self.slides[slide].path
        return 0 if self.is_demo or not path.exists() else size_of(path)

    def teacher_weights(self) -> str:
        """Digest of the file of the teacher's initial weights; empty where there is none."""
        return _digest(self.config.teacher.weights)

    def teacher_code(self) -> str:
        """Fingerprint of the code that trains the teacher."""
        return self.code("feature_teacher" if self.config.teacher.features else "train")

    @cached_property
    def without_features(self) -> list[str]:
        """Slides without a file of features, where a teacher is to rest on them: they must have no tiles."""
        folder = self.config.teacher.features
        return [name for name in self.slides if not Path(folder, f"{name}.h5").is_file()] if folder else []

    @cached_property
    def features(self) -> str:
        """Digest of the names, sizes and times of the files of features; empty where there are none."""
        if not self.config.teacher.features:
            return ""
        files = sorted(Path(self.config.teacher.features).glob("*.h5"))
        found = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]
        return hashlib.sha256(_compact(found).encode()).hexdigest()[:16]

    @cached_property
    def tissue_model(self) -> str:
        """Digest of the file of the network that finds tissue; empty where there is none."""
        return _digest(self.config.tissue.model)

    def pictures(self) -> str:
        """Digest of the pictures' names and sizes, so that a replaced one is stored again."""
        sizes = [(str(row.image), row.image.stat().st_size) for row in self._rows]
        return hashlib.sha256(_compact(sizes).encode()).hexdigest()[:16]

    def template(self, *names: str) -> str:
        """Digest of a template and the parts it includes: the fingerprint of the code sees Python alone."""
        parts = [(Path(__file__).parent / "templates" / name).read_bytes() for name in names]
        return hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]

    def code(self, *modules: str) -> str:
        """Fingerprint of the code a rule runs."""
        return _fingerprint(modules)


@cache  # asked for once per slide and rule
def _fingerprint(modules: tuple[str, ...]) -> str:
    return code_fingerprint(*modules)


def _digest(path: str | None) -> str:
    if not path or not is_file(path):
        return path or ""
    return sha256_of(path)[:16]


def _compact(content: Any, *, sort_keys: bool = True) -> str:
    """JSON in whose texts Snakemake finds nothing to fill in: neither braces nor angle brackets."""
    text = json.dumps(content, sort_keys=sort_keys, separators=(",", ":"))
    return TEXT.sub(lambda found: found[0].translate(ESCAPED), text)
