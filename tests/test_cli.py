"""The command line: help for everything, errors without tracebacks, exit statuses."""

import argparse
import json
import subprocess
import sys

import pytest
from lowmag import __version__, cli, slides
from lowmag.cli import build_parser, main
from lowmag.splits import read_splits


def commands() -> list[str]:
    actions = build_parser()._actions
    return [name for a in actions if isinstance(a, argparse._SubParsersAction) for name in a.choices]


def test_there_is_a_command_for_every_stage():
    assert {"demo", "check", "tissue", "tiles", "pictures", "splits", "teacher", "targets", "student"} <= {
        *commands()
    }
    assert {"predict", "evaluate", "figures", "gallery", "report"} <= {*commands()}


@pytest.mark.parametrize("command", commands())
def test_every_command_explains_itself(command, capsys):
    with pytest.raises(SystemExit) as caught:
        main([command, "--help"])
    assert caught.value.code == 0
    shown = capsys.readouterr().out
    assert f"usage: lowmag {command}" in shown
    assert len(shown.split("\n\n")[1]) > 10  # the summary


def test_version(capsys):
    with pytest.raises(SystemExit):
        main(["--version"])
    assert capsys.readouterr().out == f"lowmag {__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["splits", "--slides", "{folder}/none.csv", "--out", "{folder}/o.csv"], "none.csv does not exist"),
        (
            ["check", "--slides", "{folder}/s.csv", "--out", "{folder}/o.tsv", "--options", "{{"],
            "is not JSON",
        ),
        (["splits", "--slides", "{folder}/s.csv", "--out", "{folder}/o.csv"], "row 2, column mpp"),
        (["check", "--slides", "{folder}/s.csv", "--out", "{folder}/o.tsv"], "row 2, column mpp"),
        (
            ["check", "--slides", "{folder}/s.csv", "--out", "{folder}/o.tsv", "--options", '{{"x": 1}}'],
            "x: unknown key",
        ),
        (
            ["check", "--slides", "{folder}/s.csv", "--estimate", "--tiles", '{{"x": 1}}'],
            "--tiles is not valid:\n  x: unknown key",
        ),
    ],
)
def test_a_problem_of_the_user_ends_with_2_and_one_message(tmp_path, arguments, expected):
    """In a process of its own: what a person sees on the terminal."""
    (tmp_path / "s.csv").write_text("slide_id,path,mpp\nA,s.csv,coarse\n")
    line = [argument.format(folder=tmp_path) for argument in arguments]
    result = subprocess.run([sys.executable, "-m", "lowmag.cli", *line], capture_output=True, text=True)
    assert result.returncode == 2
    assert result.stderr.startswith(f"lowmag {arguments[0]}: ")
    assert expected in result.stderr
    assert "Traceback" not in result.stderr
    assert result.stdout == ""
    assert [path.name for path in tmp_path.iterdir()] == ["s.csv"]


def test_bugs_keep_their_traceback(monkeypatch, tmp_path):
    def broken(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("lowmag.splits.write_splits", broken)
    (tmp_path / "s.csv").write_text("slide_id,path\nA,s.csv\n")
    with pytest.raises(ZeroDivisionError):
        main(["splits", "--slides", str(tmp_path / "s.csv"), "--out", str(tmp_path / "o.csv")])


def test_the_result_of_a_stage_is_the_exit_status(monkeypatch, tmp_path):
    sheet = tmp_path / "s.csv"
    sheet.write_text("slide_id,path\nA,s.csv\n")
    line = ["check", "--slides", str(sheet), "--out", str(tmp_path / "check.tsv")]
    assert main(line) == 0
    assert main([*line, "--on-bad-slide", "fail"]) == 1
    assert "A\tunsupported" in (tmp_path / "check.tsv").read_text()


def test_splits_come_from_either_sheet(tmp_path):
    rows = [(f"S{i}", f"P{i // 2}", "ab"[i % 2 if i < 4 else i // 2 % 2]) for i in range(24)]
    (tmp_path / "slides.csv").write_text(
        "slide_id,path,patient_id,label\n" + "".join(f"{s},{s}.png,{p},{c}\n" for s, p, c in rows)
    )
    (tmp_path / "images.csv").write_text(
        "case,file,label\n" + "".join(f"{p},{s}.png,{c}\n" for s, p, c in rows)
    )
    for slide_id, _, _ in rows:
        (tmp_path / f"{slide_id}.png").touch()
    out = tmp_path / "splits.csv"
    options = ["--out", str(out), "--options", json.dumps({"val": 0.3, "test": 0.3})]
    assert main(["splits", "--slides", str(tmp_path / "slides.csv"), *options]) == 0
    of_slides = {row.patient_id: row.split for row in read_splits(out)}
    columns = json.dumps({"columns": {"image": "file", "patient_id": "case"}})
    assert main(["splits", "--images", str(tmp_path / "images.csv"), "--pictures", columns, *options]) == 0
    of_pictures = {row.patient_id: row.split for row in read_splits(out)}
    assert of_slides == of_pictures
    assert set(of_slides.values()) == {"train", "val", "test"}


def test_schemas_are_written(tmp_path):
    assert main(["schema", "--of", "slides", "--out", str(tmp_path / "slides.json")]) == 0
    assert json.loads((tmp_path / "slides.json").read_text()) == slides.schema()
    assert main(["schema", "--out", str(tmp_path / "config.json")]) == 0
    assert "tiles" in json.loads((tmp_path / "config.json").read_text())["properties"]


def test_starting_imports_no_stage():
    heavy = "('numpy', 'pydantic', 'torch', 'h5py', 'openslide')"
    loaded = (
        f"import sys, lowmag.cli; lowmag.cli.build_parser(); print([m for m in {heavy} if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", loaded], capture_output=True, text=True).stdout == "[]\n"
    assert cli.build_parser().prog == "lowmag"


@pytest.mark.parametrize("text", ["[a", '"normal"', "[]", "[1, 2]", "{}"])
def test_classes_that_are_no_list_of_names_are_refused(text, capsys):
    """A text alone would pass for a list of its letters."""
    with pytest.raises(SystemExit):
        main(["splits", "--slides", "s.csv", "--out", "o.csv", "--classes", text])
    assert f'argument --classes: found {text}, expected names as \'["normal", "tumour"]\'' in (
        capsys.readouterr().err
    )
