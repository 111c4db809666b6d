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

SCHEMES = {"s3": "s3://", "fs": "fs:///"}  # in an object store; on a disk from which it is to be fetched
ADDRESS = re.compile(rf"^({'|'.join(SCHEMES)}):/+(?=[^/])")
OTHER_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
EXPECTED = "give s3://bucket/folder/slide.svs, fs:///folder/slide.svs or a path"


def address_of(path: object) -> str | None:
    """The address of a slide in a store, also where a Path has joined its slashes; else None."""
    name = str(path)
    found = ADDRESS.match(name)
    return SCHEMES[found[1]] + name[found.end() :] if found else None


def problem_of_address(name: str) -> str | None:
    """Why a slide cannot be fetched from an address, or None; also of a path, which is no address.

    Storage plugins put the copy where the address says, below a folder of their own: what led out of that
    would be written over, and removed afterwards. They leave out what stands behind `?` and `#`, so that two
    addresses would be one slide.
    """
    address = address_of(name)
    if address is None:
        is_other = OTHER_ADDRESS.match(name)
        return f"{name!r} is an address of a kind unknown here; {EXPECTED}" if is_other else None
    scheme, _, place = address.partition("://")
    segments = place.removeprefix("/").split("/")
    if odd := {"", ".", ".."}.intersection(segments):
        return f"{name!r} has the segment {min(odd)!r}; {EXPECTED}, whole and without such segments"
    if scheme == "s3" and (len(segments) == 1 or set("?#") & set(place)):
        return f"{name!r} names no single object of a store; {EXPECTED}, without ? and #"
    return None


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
