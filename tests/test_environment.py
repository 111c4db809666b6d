"""The conda environment and the package ask for the same dependencies."""

import tomllib
from pathlib import Path

import yaml

REPOSITORY = Path(__file__).parents[1]


def test_conda_environment_equals_pyproject():
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    environment = yaml.safe_load((REPOSITORY / "envs/lowmag.yaml").read_text())
    (pip,) = [entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict)]
    assert sorted(pip) == sorted(project["dependencies"])


def test_package_version_equals_pyproject():
    import lowmag

    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    assert lowmag.__version__ == project["version"]
