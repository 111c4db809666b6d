"""Sections of the config about loss terms, and what each needs: labels, and which parts of the targets."""

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

from pydantic import ConfigDict, Field, model_validator

from lowmag.recipe import Augment, StudentTraining
from lowmag.sections import Section

Relu = Literal["inside", "outside"]
LAST_STAGE = -1
LOGITS, HEAD, FEATURES, ATTENTION = "logits", "head", "features", "attention"


class Term(Section):
    """A loss term: its weight, and what has to be there for it."""

    weight: float = Field(default=1.0, gt=0)

    # Settings that weigh its parts: one of them has to be above 0.
    shares: ClassVar[tuple[str, ...]] = ()

    @model_validator(mode="after")
    def _some_share(self) -> "Term":
        if self.shares and not any(getattr(self, name) for name in self.shares):
            raise ValueError(
                f"{' and '.join(self.shares)} are both 0, which leaves nothing: raise one of them"
            )
        return self

    def weight_in(self, epoch: int) -> float:
        """Its weight in an epoch, counted from 0."""
        return self.weight

    @property
    def reads(self) -> tuple[str, ...]:
        """Datasets of the targets that it compares with; empty when it needs no teacher."""
        return ()

    @property
    def needs_label(self) -> bool:
        """Whether pictures without a label are left out."""
        return False

    @property
    def needs_same_network(self) -> bool:
        """Whether the channels of student and teacher must be the same ones."""
        return False

    @property
    def has_projector(self) -> bool:
        """Whether the student's map goes through a projector that is learned with it."""
        return False

    @property
    def is_mean(self) -> bool:
        """Whether it is a mean over pictures, so that a batch in parts gives the same as a whole one."""
        return True

    @property
    def is_of_places(self) -> bool:
        """Whether it compares cells of a map with one another alone: always 0 where there is one cell."""
        return False


class CrossEntropy(Term):
    @property
    def needs_label(self) -> bool:
        return True


class SoftLabels(Term):
    temperature: float = Field(default=1.0, gt=0, description="softmax temperature")
    softened: Literal["both", "teacher"] = Field(
        default="both", description="whose logits it divides; teacher: as del Amor's code does"
    )
    scaled: bool = Field(default=True, description="times the square of the temperature, as Hinton 2015")

    @property
    def reads(self) -> tuple[str, ...]:
        return (LOGITS,)


class Features(Term):
    distance: Literal["mse", "l1", "rmse"] = Field(
        default="mse", description="rmse: one root over the whole batch"
    )
    resize: Literal["maxpool", "bicubic", "maxpool+bicubic", "released", "area"] = Field(
        default="maxpool+bicubic",
        description="how the teacher's map comes to the student's grid; released: half of maxpool, which is "
        "what DiPalma's code computes for maxpool+bicubic",
    )

    @property
    def forms(self) -> Sequence[str]:
        """Resized forms of the teacher's map that are compared."""
        return ["maxpool"] if self.resize == "released" else self.resize.split("+")

    @property
    def divisor(self) -> int:
        """What the sum over the forms is divided by: their number; the released code left one of two out."""
        return 2 if self.resize == "released" else len(self.forms)

    @property
    def reads(self) -> tuple[str, ...]:
        return tuple(f"{FEATURES}/{form}" for form in self.forms)

    @property
    def needs_same_network(self) -> bool:
        return True

    @property
    def is_mean(self) -> bool:
        return self.distance != "rmse"


class Attention(Term):
    classes: Literal["all", "label", "teacher"] = Field(default="all", description="class maps compared")
    relu: Relu = Field(default="inside", description="inside: AT+ of del Amor 2024; outside: Grad-CAM")
    distance: Literal["rmse", "mse"] = Field(default="rmse", description="per picture")
    normalise: Literal["minmax", "minmax_class", "softmax", "none"] = Field(
        default="minmax",
        description="per picture, jointly over classes, but minmax_class: every map by itself",
    )
    temperature: float = Field(default=1.0, gt=0, description="temperature of normalise: softmax")
    stage: Literal[-1, -2, -3] = Field(
        default=-1,
        description="map it is taken from, -1 the last; earlier ones cost a backward pass per class",
    )

    @property
    def form(self) -> str:
        """Name of the teacher's maps that are compared."""
        return self.relu if self.stage == LAST_STAGE else f"{self.relu}{self.stage}"

    @property
    def reads(self) -> tuple[str, ...]:
        logits = (LOGITS,) if self.classes == "teacher" else ()
        return (f"{ATTENTION}/{self.form}", *logits)

    @property
    def needs_label(self) -> bool:
        return self.classes == "label"

    @property
    def is_of_places(self) -> bool:
        is_one_map = self.classes != "all" and self.normalise in ("minmax", "softmax")
        return self.stage == LAST_STAGE and (is_one_map or self.normalise == "minmax_class")


def forms_of(reads: Sequence[str], kind: str) -> list[Any]:
    """Forms of one kind of map, of the last stage, among what is read: [area] of features/area."""
    found = [name.split("/")[1] for name in reads if name.startswith(f"{kind}/")]
    return [form for form in found if "-" not in form]


def earlier_forms(reads: Sequence[str]) -> list[str]:
    """Forms of attention at earlier stages among what is read: [inside-2] of attention/inside-2."""
    found = [name.split("/")[1] for name in reads if name.startswith(f"{ATTENTION}/")]
    return [form for form in found if "-" in form]


def earlier_form(form: str) -> tuple[Relu, int]:
    """Where the ReLU stands and which stage it is, from the name of an earlier map (`Attention.form`)."""
    return ("inside" if form.startswith("inside") else "outside"), int(form[form.index("-") :])


class SoftmaxRegression(Term):
    map: Literal["last", "spatial"] = Field(
        default="last",
        description="last: the teacher's head on the student's mean map; spatial: logits of every cell, the "
        "student's through a learned projector",
    )
    distance: Literal["rmse", "mse"] = Field(
        default="rmse", description="rmse: one root over the whole batch (del Amor 2024)"
    )

    @property
    def reads(self) -> tuple[str, ...]:
        return (LOGITS, HEAD) if self.map == "last" else (f"{FEATURES}/area", HEAD)

    @property
    def needs_same_network(self) -> bool:
        return self.map == "last"

    @property
    def has_projector(self) -> bool:
        return self.map == "spatial"

    @property
    def is_mean(self) -> bool:
        return self.distance == "mse"


class AttentionTransfer(Term):
    power: float = Field(default=2.0, ge=1, description="of the activations that are summed over channels")
    distance: Literal["mse", "norm"] = Field(
        default="mse", description="mse: released code, weight 1000; norm: equation 2, weight beta / 2"
    )
    resize: Literal["maxpool", "bicubic", "area"] = Field(
        default="area", description="how the teacher's map comes to the student's grid"
    )

    @property
    def reads(self) -> tuple[str, ...]:
        return (f"{FEATURES}/{self.resize}",)

    @property
    def is_of_places(self) -> bool:
        return True


class Decoupled(Term):
    shares = ("alpha", "beta")

    alpha: float = Field(default=1.0, ge=0, description="weight of target against the rest (TCKD)")
    beta: float = Field(default=8.0, ge=0, description="weight of the other classes among themselves (NCKD)")
    temperature: float = Field(default=4.0, gt=0, description="softmax temperature")
    target: Literal["label", "teacher"] = Field(
        default="label", description="what the target is; teacher: its decision, which needs no label"
    )
    warmup: int = Field(
        default=0,
        ge=0,
        description="epochs over which the weight rises to its whole, linearly (Zhao 2022: 20)",
    )

    def weight_in(self, epoch: int) -> float:
        return self.weight * min((epoch + 1) / max(self.warmup, 1), 1.0)

    @property
    def reads(self) -> tuple[str, ...]:
        return (LOGITS,)

    @property
    def needs_label(self) -> bool:
        return self.target == "label"


class Correlation(Term):
    shares = ("beta", "gamma")

    beta: float = Field(default=1.0, ge=0, description="weight of the classes of one picture (inter)")
    gamma: float = Field(default=1.0, ge=0, description="weight of one class across pictures (intra)")
    temperature: float = Field(default=1.0, gt=0, description="softmax temperature")

    @property
    def reads(self) -> tuple[str, ...]:
        return (LOGITS,)

    @property
    def is_mean(self) -> bool:
        return self.gamma == 0


class Relational(Term):
    shares = ("distances", "angles")

    distances: float = Field(default=1.0, ge=0, description="weight of the distances between pictures")
    angles: float = Field(default=2.0, ge=0, description="weight of the angles of three pictures")

    @property
    def reads(self) -> tuple[str, ...]:
        return (f"{FEATURES}/area",)

    @property
    def is_mean(self) -> bool:
        return False


class Cosine(Term):
    local: float = Field(default=0.5, ge=0, description="weight of the cells against the pictures' means")
    projector: Literal["linear", "none"] = Field(
        default="linear", description="learned map from the student's channels to the teacher's"
    )

    @property
    def reads(self) -> tuple[str, ...]:
        return (f"{FEATURES}/area",)

    @property
    def needs_same_network(self) -> bool:
        return not self.has_projector

    @property
    def has_projector(self) -> bool:
        return self.projector == "linear"


def _takes_vectors(term: Term) -> bool:
    """Whether a teacher's logits and mean features are all that a term compares with."""
    if isinstance(term, Cosine):
        return term.has_projector and not term.local
    return isinstance(term, Relational) or term.reads == (LOGITS,)


def _allow_bare_weights(schema: dict[str, Any]) -> None:
    for name, term in schema["properties"].items():
        if name == "training":
            keys = StudentTraining.model_json_schema()["properties"]
            keys["augment"] = Augment.model_json_schema()  # in place of a reference
            term.update({"properties": keys, "additionalProperties": False})
            continue
        term["anyOf"].insert(0, {"type": "number", "exclusiveMinimum": 0, "description": "weight"})


class Method(Section):
    """A weighted set of loss terms; a bare number is the weight of a term with its defaults."""

    model_config = ConfigDict(json_schema_extra=_allow_bare_weights)

    training: dict[str, Any] = Field(
        default={},
        description="keys of `students` that hold for this method alone, as {stride: 8}",
    )
    cross_entropy: CrossEntropy | None = None
    soft_labels: SoftLabels | None = None
    features: Features | None = None
    attention: Attention | None = None
    softmax_regression: SoftmaxRegression | None = None
    attention_transfer: AttentionTransfer | None = None
    decoupled: Decoupled | None = None
    correlation: Correlation | None = None
    relational: Relational | None = None
    cosine: Cosine | None = None

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
    def terms(self) -> dict[str, Term]:
        """The terms in use by name."""
        return {
            name: term for name in type(self).model_fields if isinstance(term := getattr(self, name), Term)
        }

    @property
    def reads(self) -> list[str]:
        """Datasets of the targets that its terms compare with, each once."""
        return list(dict.fromkeys(name for term in self.terms.values() for name in term.reads))

    @property
    def reads_maps(self) -> bool:
        """Whether any term compares maps, so that the targets must be on the student's grid."""
        return any(name.startswith((FEATURES, ATTENTION)) for name in self.reads)

    @property
    def needing_maps(self) -> list[str]:
        """Names of the terms that a teacher of one vector per tile, on features, does not serve."""
        return [name for name, term in self.terms.items() if term.reads and not _takes_vectors(term)]

    @property
    def needs_teacher(self) -> bool:
        """Whether any term compares with the teacher."""
        return bool(self.reads)

    @property
    def uses_unlabelled(self) -> bool:
        """Whether any term works without a label."""
        return any(not term.needs_label for term in self.terms.values())

    @property
    def needs_same_network(self) -> bool:
        """Whether any term compares channel by channel."""
        return any(term.needs_same_network for term in self.terms.values())

    @property
    def projected(self) -> list[str]:
        """Names of the terms with a projector."""
        return [name for name, term in self.terms.items() if term.has_projector]

    def accumulation_problem(self, parts: int) -> str | None:
        """Why a batch cannot be passed in so many parts; None when the sum is that of the whole batch."""
        names = [name for name, term in self.terms.items() if not term.is_mean]
        if parts == 1 or not names:
            return None
        roots = [name for name in names if getattr(self.terms[name], "distance", "") == "rmse"]
        return (
            f"{', '.join(names)} is no mean over pictures, so {parts} parts of a batch do not add up to it: "
            "set accumulate: 1" + (f", or distance: mse for {', '.join(roots)}" if roots == names else "")
        )
