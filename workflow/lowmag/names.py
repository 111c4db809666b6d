"""What no name may hold, be it of a class, a patient, a file or a folder: the rest is passed on as it is."""

import re
import unicodedata

LONGEST = 500  # characters
FILLED_IN = re.compile(r"[{}]|<[a-z][a-z0-9_]*>")  # wildcards and path variables of Snakemake
TURNED = {*"\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"}  # they turn the writing round

REPEATED = re.compile(r"(.+)\1{19,}$")  # what Snakemake takes for an endless recursion

ADDRESS = re.compile(
    r"^([a-z][a-z0-9+.-]+):/{1,2}(?=[^/])"
)  # of a slide in an object store, as s3://bucket/a.svs


def address_of(path: object) -> str | None:
    """The address of a slide in an object store, also where a Path has joined its slashes; else None."""
    found = ADDRESS.match(str(path))
    return f"{found[1]}://{str(path)[found.end() :]}" if found else None


def problem_of_name(name: str) -> str | None:
    """Why a name cannot be used, or None: control characters, those that turn the writing, its length."""
    for sign in name:
        if unicodedata.category(sign) in ("Cc", "Cs") or sign in TURNED:
            return f"holds the character {sign!a}, which names may not; take it out"
    if len(name) > LONGEST:
        return f"{name[:20]!r}... has {len(name)} characters; use at most {LONGEST}"
    return None


def problem_of_path(name: str) -> str | None:
    """Why Snakemake cannot take a path, or None: as of a name, and what it fills in itself."""
    if sign := FILLED_IN.search(name):
        shown = "a brace" if sign[0] in "{}" else sign[0]
        return f"{name!r} has {shown}, which Snakemake takes for a wildcard; rename the file or its folder"
    return None if len(name) > LONGEST else problem_of_name(name)
