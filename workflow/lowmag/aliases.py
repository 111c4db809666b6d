"""What slides are called on a page: by their ids, or by numbers that do not tell whose they are."""

import hashlib
import re
from collections.abc import Iterable
from pathlib import Path

from lowmag.record import SlideRecord
from lowmag.wording import without_folders

_WORD = re.compile(r"[A-Za-z0-9](?:[\w.-]*\w)?")
_PRIVATE = 0xE000  # first code point that no text has a meaning for
_SHORTEST = 4  # a shorter number or letter may be any number or letter of a message


class Aliases:
    """Names of slides for people; with `anonymise`, numbers in place of ids and of names of files.

    Numbers follow the digests of the slides, so neither the sheet's order nor that of the ids shows in them,
    and a cohort keeps its numbers from one run to the next.
    """

    def __init__(self, records: Iterable[SlideRecord], *, anonymise: bool) -> None:
        records = list(records)
        self.anonymise = anonymise
        ranked = sorted(records, key=_digest) if anonymise else []
        width = len(str(len(ranked)))
        self.numbers = {record.slide_id: f"{n:0{width}d}" for n, record in enumerate(ranked, start=1)}
        self._of_slide = {record.slide_id: self._replacements(record) for record in ranked}
        self._of_any = {old: new for pairs in self._of_slide.values() for old, new in pairs.items()}

    def name(self, slide_id: str) -> str:
        """What a slide is called."""
        return self.numbers.get(slide_id, slide_id)

    def text(self, message: str, slide_id: str) -> str:
        """A message about a slide without folders and, where names are hidden, without any slide's names."""
        if not self.anonymise:
            return without_folders(message)
        own = self._of_slide[slide_id]
        marked = {chr(_PRIVATE + n): old for n, old in enumerate(sorted(own, key=len, reverse=True))}
        for mark, old in marked.items():  # a mark, because a number may be another slide's id
            before = "(?<=slide )" if _is_vague(old) else "(?<![A-Za-z0-9])"
            message = re.sub(before + re.escape(old) + "(?![A-Za-z0-9])", mark, message)
        message = _WORD.sub(self._other, without_folders(message))
        return "".join(own[marked[character]] if character in marked else character for character in message)

    def _other(self, word: re.Match[str]) -> str:
        found = word[0]
        return found if _is_vague(found) else self._of_any.get(found, found)

    def _replacements(self, record: SlideRecord) -> dict[str, str]:
        number = self.numbers[record.slide_id]
        found = {record.slide_id: number}
        for path in (record.path, record.file or ""):
            name = Path(path).name
            if name:
                found |= {Path(name).stem: number, name: number + Path(name).suffix}
        return found


def _is_vague(name: str) -> bool:
    return len(name) < _SHORTEST and (name.isdigit() or name.isalpha())


def _digest(record: SlideRecord) -> str:
    """Of what the page does not show, so that the order cannot be found out from a list of ids."""
    facts = (record.slide_id, record.source_quickhash, record.source_size, record.source_mtime)
    return hashlib.sha256(repr(facts).encode()).hexdigest()
