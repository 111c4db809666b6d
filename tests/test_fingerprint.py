"""What changes the fingerprint of code, and what does not."""

import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from lowmag import fingerprint
from lowmag.fingerprint import PACKAGE, code_fingerprint, import_closure

MODULES = {
    "__init__": '"""A package."""\n\n__version__ = "1"\n',
    "losses": (
        '"""Losses."""\n\n\ndef distance(a, b):\n'
        '    """Of two maps."""\n    return abs(a - b)  # city block\n'
    ),
    "train": "from package.losses import distance\nfrom package import data\n\nprint(distance(1, data.N))\n",
    "data": "N = 2\n",
    "tiles": "import numpy\nimport package.data\n",
    "late": "def run():\n    from package import train\n\n    return train\n",
    "relative": "from .data import N\nfrom . import losses\n",
    "typed": (
        "from typing import TYPE_CHECKING\n\nif TYPE_CHECKING:\n    from package.losses import distance\n"
        "else:\n    from package import data\n"
    ),
    "deep/__init__": "",
    "deep/inner": "from ..losses import distance\nfrom package.deep import other\n",
    "deep/other": "X = 1\n",
    "circular": "import package.circle\n",
    "circle": "import package.circular\n",
}


@pytest.fixture
def package_with(tmp_path):
    """Makes a package of MODULES with some of their sources replaced."""
    made = []

    def make(**changed: str) -> Path:
        package = tmp_path / str(len(made)) / "package"
        made.append(package)
        for name, source in (MODULES | changed).items():
            path = package / f"{name}.py"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(source, encoding="utf-8")
        return package

    return make


@pytest.mark.parametrize(
    ("module", "closure"),
    [
        ("data", ["data"]),
        ("train", ["data", "losses", "train"]),
        ("tiles", ["data", "tiles"]),
        ("late", ["data", "late", "losses", "train"]),
        ("relative", ["data", "losses", "relative"]),
        ("typed", ["data", "typed"]),
        ("deep.inner", ["deep", "deep.inner", "deep.other", "losses"]),
        ("circle", ["circle", "circular"]),
    ],
)
def test_imports_are_followed(package_with, module, closure):
    assert import_closure(module, package=package_with()) == closure


@pytest.mark.parametrize(
    "losses",
    [
        MODULES["losses"].replace("city block", "Manhattan"),
        MODULES["losses"].replace("  # city block", ""),
        MODULES["losses"].replace("Of two maps.", "Between two maps, per cell."),
        MODULES["losses"].replace('    """Of two maps."""\n', ""),
        MODULES["losses"].replace('"""Losses."""\n', ""),
        MODULES["losses"].replace("abs(a - b)", "(\n        abs(a\n            - b)\n    )"),
        MODULES["losses"].replace("    return", "    '''A remark.'''\n    return"),
    ],
)
def test_remarks_and_layout_do_not_count(package_with, losses):
    assert losses != MODULES["losses"]
    before, after = package_with(), package_with(losses=losses)
    assert code_fingerprint("train", package=before) == code_fingerprint("train", package=after)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("a - b", "b - a"),
        ("a - b", "a + b"),
        ("(a, b)", "(a, b=0)"),
        ("(a, b)", "(a, *, b)"),
        ("(a, b)", "(a, /, b)"),
        ("def distance", "@cache\ndef distance"),
        ("return abs(a - b)", 'return "abs(a - b)"'),
    ],
)
def test_code_counts(package_with, old, new):
    assert old in MODULES["losses"]
    changed = [MODULES["losses"].replace(old, other) for other in (old, new)]
    prints = [code_fingerprint("train", package=package_with(losses=source)) for source in changed]
    assert prints[0] != prints[1]


def test_all_kinds_of_returned_constants_differ(package_with):
    constants = [
        "1",
        "1.0",
        "True",
        "None",
        "''",
        "[]",
        "[[]]",
        "()",
        "{}",
        "b''",
        "f'{a}'",
        "f'{a!r}'",
        "...",
    ]
    sources = [f"def distance(a, b):\n    return {constant}\n" for constant in constants]
    prints = {code_fingerprint("train", package=package_with(losses=source)) for source in sources}
    assert len(prints) == len(constants)


def test_only_what_imports_the_edited_module_changes(package_with):
    before = package_with()
    after = package_with(losses=MODULES["losses"].replace("a - b", "b + a"))
    for module, changes in [("train", True), ("late", True), ("tiles", False), ("typed", False)]:
        same = code_fingerprint(module, package=before) == code_fingerprint(module, package=after)
        assert same != changes, module


def test_moving_code_between_modules_counts(package_with):
    swapped = package_with(losses=MODULES["data"], data=MODULES["losses"])
    assert code_fingerprint("train", package=swapped) != code_fingerprint("train", package=package_with())


def test_version_does_not_count(package_with):
    newer = package_with(__init__='__version__ = "2"\n')
    assert code_fingerprint("train", package=newer) == code_fingerprint("train", package=package_with())


def test_several_modules_in_any_order(package_with):
    package = package_with()
    both = code_fingerprint("tiles", "train", package=package)
    assert both == code_fingerprint("train", "tiles", package=package)
    assert both not in {code_fingerprint(name, package=package) for name in ("tiles", "train")}


def test_unknown_module_is_named(package_with):
    with pytest.raises(ValueError, match="package package has no module 'trian'"):
        code_fingerprint("trian", package=package_with())


def test_init_of_the_package_holds_the_version_alone():
    """The fingerprint leaves it out on the strength of this."""
    lines = (PACKAGE / "__init__.py").read_text(encoding="utf-8").splitlines()
    code = [line for line in lines if line and not line.startswith('"""')]
    assert len(code) == 1
    assert code[0].startswith("__version__")


def test_losses_of_the_package_reach_training_and_not_tiles(tmp_path):
    copy = tmp_path / "lowmag"
    shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    path = copy / "losses.py"
    path.write_text(path.read_text(encoding="utf-8") + "\nEDITED = True\n", encoding="utf-8")
    changed = {
        name
        for name in ("train", "tiles", "tissue", "check", "splits", "pictures", "predict")
        if code_fingerprint(name, package=copy) != code_fingerprint(name)
    }
    assert changed == {"train"}


def test_another_process_and_folder_agree(tmp_path):
    copy = tmp_path / "elsewhere" / "lowmag"
    shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    command = "from lowmag.fingerprint import *; print(PACKAGE, code_fingerprint('tiles'), end='')"
    result = subprocess.run(
        [sys.executable, "-c", command], cwd=copy.parent, capture_output=True, text=True, check=True
    )
    assert result.stdout == f"{copy} {code_fingerprint('tiles')}"


def test_whole_package_is_read_fast():
    fingerprint._read.cache_clear()
    modules = [path.stem for path in PACKAGE.glob("*.py") if path.stem != "__init__"]
    start = time.process_time()
    code_fingerprint(*modules)
    assert time.process_time() - start < 3  # 0.25 s on the machine of the project
