"""Requests to the generation server as JSON, with every value validated."""

import reprlib
from dataclasses import asdict, dataclass, fields
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    FailFast,
    Field,
    StringConstraints,
    TypeAdapter,
    ValidationError,
    ValidationInfo,
)

from nora_studio.errors import StudioError
from nora_studio.options.number_ranges import checked_number
from nora_studio.options.paths import check_text

TEXT_LIMIT = 20_000
"""Characters of a prompt, a path or a label: far more than is ever used."""

Item = TypeVar("Item")
Precision = Literal["auto", "fp32", "bf16", "fp16"]


def _check_readable(text: str, info: ValidationInfo) -> str:
    check_text(text, info.field_name or "text")
    return text


def _check_unique(items: tuple[Item, ...]) -> tuple[Item, ...]:
    repeated = next((one for one in items if items.count(one) > 1), None)
    if repeated is not None:
        raise ValueError(f"{reprlib.repr(repeated)} is given more than once. Give each once.")
    return items


def _check_labels(columns: "tuple[Column, ...]") -> "tuple[Column, ...]":
    if len({column.label for column in columns}) < len(columns):
        raise ValueError("two columns have the same label. Give each one of its own.")
    return columns


Text = Annotated[
    str,
    StringConstraints(strict=True, strip_whitespace=True, min_length=1, max_length=TEXT_LIMIT),
    AfterValidator(_check_readable),
]
OptionalText = Annotated[Text | None, BeforeValidator(lambda text: None if text == "" else text)]
Whole = Annotated[
    int,
    Field(strict=True),
    # A page sends 25.0 for 25.
    BeforeValidator(lambda n: int(n) if isinstance(n, float) and n.is_integer() else n),
]
Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Seed = Annotated[Whole, AfterValidator(lambda seed: checked_number(seed, "seeds", "seeds"))]
Several = Annotated[
    tuple[Item, ...], FailFast(), BeforeValidator(lambda items: () if items is None else items)
]
Some = Annotated[tuple[Item, ...], FailFast(), Field(min_length=1)]


@dataclass(frozen=True)
class AdapterChoice:
    """An adapter by its path, and its strength."""

    path: Text
    """Run folder, adapter folder, checkpoint or adapter file."""
    strength: Annotated[Number, Field(ge=-10, le=10)] = 1.0
    """Factor on its change: 1 is as trained, 0 is the base."""
    __pydantic_config__ = ConfigDict(extra="forbid")


@dataclass(frozen=True)
class Column:
    """One column of an image job."""

    label: Text
    adapters: Several[AdapterChoice] = ()
    """Empty: the bare base, without an adapter. Several: their changes add up."""
    rare_word: OptionalText = None
    """Word that replaces "[V]" for the bare base. None: "[V]" is left out; "auto": the word that
    the trainer would choose."""
    __pydantic_config__ = ConfigDict(extra="forbid")


@dataclass(frozen=True)
class ImageRequest:
    """A request for images: every column with every prompt and every seed."""

    columns: Annotated[Some[Column], AfterValidator(_check_labels)]
    prompts: Annotated[Some[Text], AfterValidator(_check_unique)]
    """With "[V]" for the subject."""
    seeds: Annotated[Some[Seed], AfterValidator(_check_unique)] = (0,)
    model: OptionalText = None
    """Base: "embedded", a diffusers directory or a Hub name. None: the first adapter's own."""
    steps: Annotated[Whole, Field(ge=1, le=1000)] = 25
    """Denoising steps."""
    guidance: Annotated[Number, Field(ge=0, le=100)] = 5.0
    """Classifier-free guidance; at 1 or below there is none."""
    size: Annotated[Whole, Field(ge=8, le=8192)] | None = None
    """Side in pixels, a multiple of 8. None: as trained."""
    negative: OptionalText = None
    """Negative prompt."""
    precision: Precision = "auto"
    """auto: bf16 on a GPU, fp32 on a CPU."""
    score: Annotated[bool, Field(strict=True)] = False
    """Whether the images are scored once all are finished."""
    references: Several[Text] = ()
    """Photos of the subject for CLIP-I."""
    clip: OptionalText = None
    """Judge of the images: "embedded", an open_clip folder, hf-hub:owner/name, or a name such as
    ViT-B-32:openai. None: the server's own, or the embedded one on the embedded base."""
    __pydantic_config__ = ConfigDict(extra="forbid")

    @property
    def count(self) -> int:
        """Number of images."""
        return len(self.columns) * len(self.prompts) * len(self.seeds)

    def as_json(self) -> dict[str, Any]:
        """Return the values that `parse_request` reads."""
        return asdict(self)


_READER = TypeAdapter(ImageRequest)
_UNKNOWN = ("unexpected_keyword_argument", "invalid_key")
_EXPECTED = {
    "bool_type": "true or false",
    "dataclass_type": "a table",
    "finite_number": "a finite number",
    "float_type": "a number",
    "greater_than_equal": "at least {ge:g}",
    "int_type": "a whole number",
    "less_than_equal": "at most {le:g}",
    "literal_error": "{expected}",
    "string_too_long": "at most {max_length:,} characters",
    "string_too_short": "some words",
    "string_type": "some words",
    "string_unicode": "Unicode text (UTF-8)",
    "too_short": "at least one",
    "tuple_type": "a list",
}
"""The expected value in words, by pydantic's type of error."""


def parse_request(values: Any) -> ImageRequest:
    """Read a request.

    Raises:
        StudioError: a name is unknown, or a value has the wrong type or is out of range; the error
            names its place, such as "columns.0.label".
    """
    try:
        return _READER.validate_python(values)
    except ValidationError as error:
        raise StudioError(_first_problem(error)) from error


def _first_problem(error: ValidationError) -> str:
    problems = error.errors(include_url=False)
    # A misspelt name also leads to a missing one; report the spelling.
    problem = next((one for one in problems if one["type"] in _UNKNOWN), problems[0])
    kind, place = problem["type"], problem["loc"]
    if kind in _UNKNOWN:
        owners = {"columns": Column, "adapters": AdapterChoice}
        owner = [ImageRequest, *(owners[part] for part in place[:-1] if part in owners)][-1]
        known = ", ".join(field.name for field in fields(owner))
        where = ".".join(map(str, place[:-1])) or "the request"
        return f"{where}: there is no {reprlib.repr(place[-1])}; expected {known}."
    where = ".".join(map(str, place)) or "the request"
    if kind == "missing":
        return f"{where}: expected a value; got none."
    facts = problem.get("ctx", {})
    if kind == "value_error":
        cause = facts["error"]
        return str(cause) if isinstance(cause, StudioError) else f"{where}: {cause}"
    expected = _EXPECTED[kind].format(**facts) if kind in _EXPECTED else problem["msg"]
    return f"{where}: expected {expected}; got {reprlib.repr(problem['input'])}."
