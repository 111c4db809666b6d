"""What no name may hold, be it of a class, a patient, a file or a folder: the rest is passed on as it is."""

import re
import unicodedata

LONGEST = 500  # characters
FILLED_IN = re.compile(r"[{}]|<[a-z][a-z0-9_]*>")  # wildcards and path variables of Snakemake
UNSEEN = {
    "Cc",
    "Cf",
    "Cs",
    "Zl",
    "Zp",
}  # Unicode's categories: controls, what turns the writing or has no width, breaks

REPEATED = re.compile(r"(.+)\1{19,}$")  # what Snakemake takes for an endless recursion

ADDRESS = re.compile(r"^([a-z][a-z0-9+.-]+):/{1,2}(?=[^/])")  # in an object store, as s3://bucket/a.svs
ON_A_DISK = re.compile(r"^fs:/+(?=[^/])")  # of a file that is to be fetched, as fs:///slow disk/a.svs


def address_of(path: object) -> str | None:
    """The address of a slide in a store, also where a Path has joined its slashes; else None."""
    name = str(path)
    if found := ON_A_DISK.match(name):
        return f"fs:///{name[found.end() :]}"
    found = ADDRESS.match(name)
    return f"{found[1]}://{name[found.end() :]}" if found else None


def alike(name: str) -> str:
    """What is the same of all names that a person would read as one.

    Case, the ways in which Unicode writes one letter (an accent of its own or within), and widths of spaces.
    """
    return " ".join(unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold()).split())


def problem_of_name(name: str) -> str | None:
    """Why a name cannot be used, or None: characters that are not seen, or its length.

    Two names that look alike would be two classes or patients, and one could be shown as another.
    """
    for sign in name:
        if unicodedata.category(sign) in UNSEEN:
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
