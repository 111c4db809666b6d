"""Sections from what a person or a rule wrote, with one line per problem where it does not fit."""

import json
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from lowmag.errors import UserError

SectionType = TypeVar("SectionType", bound=BaseModel)
# Keys of the config whose values stay text.
TEXT_KEYS = ("outdir", "slides", "images", "classes", "columns", "folder", "weights")


def parse_options(section: type[SectionType], text: str | None, option: str = "--options") -> SectionType:
    """A section from the JSON of an option of a command, or its defaults when there is none."""
    try:
        content = json.loads(text) if text else {}
    except json.JSONDecodeError as error:
        raise UserError(f"{option} is not JSON ({error}); expected an object such as '{{}}'") from error
    return validated(section, content, option)


def validated(model: type[SectionType], content: Any, source: str) -> SectionType:
    """The content as a model; raises UserError with one line per problem, `source` says where it stood."""
    try:
        return model.model_validate(content)
    except ValidationError as error:
        lines = [line_of(problem) for problem in error.errors()]
        raise UserError(f"{source} is not valid:\n" + "\n".join(lines)) from error


def line_of(problem: Any) -> str:
    """One of pydantic's problems as a person reads it: key, message and what was found."""
    key = ".".join(str(part) for part in problem["loc"]) or "(whole)"
    message = problem["msg"].removeprefix("Value error, ")
    found = problem.get("input")
    shown = "" if isinstance(found, dict | BaseModel) else f", found {found!r}"
    if problem["type"] == "extra_forbidden":
        return f"  {key}: unknown key{shown}; see config.yaml for the keys there are"
    return f"  {key}: {message}{shown}"


def from_command_line(content: Any, key: str = "") -> Any:
    """The content with nulls and numbers for text, as nested values of Snakemake's `--config` arrive."""
    if isinstance(content, dict):
        return {k: from_command_line(v, key if key in TEXT_KEYS else k) for k, v in content.items()}
    if isinstance(content, list):
        return [from_command_line(value, key) for value in content]
    if not isinstance(content, str):
        return content
    if content == "null":
        return None
    return content if key in TEXT_KEYS else _number_or_text(content)


def _number_or_text(text: str) -> int | float | str:
    for number in (int, float):
        try:
            return number(text)
        except ValueError:
            continue
    return text
