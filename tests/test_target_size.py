"""Bytes of stored targets foretold, held against what is then written."""

from pathlib import Path

import h5py
import pytest
from lowmag.cli import main
from lowmag.config import parse_config
from lowmag.errors import UserError
from lowmag.estimate import Estimate
from lowmag.models import save_model
from lowmag.networks import build
from lowmag.sections import Demo
from lowmag.slides import read_slides
from lowmag.target_size import bytes_per_tile, read_config, targets_text
from lowmag.target_wishes import target_options
from lowmag.targets import Source, write_targets
from synthetic_tiles import TEACHER, make_cohort

SMALL = {
    "tiles": {"field_um": 64, "students": [5, 2.5]},
    "teacher": {"stride": 8},
    "students": {"stride": 8, "augment": {"dihedral": "flips"}},
}
EVERY = {"dipalma2021": {"soft_labels": 1, "features": 1}, "early": {"attention": {"stage": -2}}}


@pytest.mark.parametrize(
    ("methods", "students"),
    [
        ({"soft": {"soft_labels": 1}}, {}),
        (EVERY, {}),
        (EVERY, {"input": "upsampled"}),  # on the teacher's own grid both forms are one
        ({"asking": {"features": 1, "training": {"targets": "online"}}, "soft": {"soft_labels": 1}}, {}),
    ],
)
def test_bytes_of_a_tile_are_those_that_are_written(tmp_path: Path, methods: dict, students: dict) -> None:
    config = parse_config(SMALL | {"methods": methods, "students": SMALL["students"] | students})
    tiles, splits = make_cohort(tmp_path)
    save_model(tmp_path / "model.safetensors", build(config.teacher, 2), TEACHER)
    options, out = target_options(config), tmp_path / "targets"
    # The cohort's tiles are there at 10x and 2.5x; targets need the first alone.
    write_targets(Source(tmp_path / "model.safetensors", tiles, splits), out, options)
    each = bytes_per_tile(config, 2)
    assert set(each) == {"5x", "2.5x"}
    for name, foretold in each.items():
        files = {path.stat().st_ino: path for path in (out / name).iterdir()}  # links once
        found = 0
        for path in files.values():
            with h5py.File(path) as file:
                found += file["values"].nbytes / len(file["values"])  # pyright: ignore
        assert foretold == found


def test_sections_are_reckoned_by_their_area() -> None:
    whole = {"batch_size": 4, "accumulate": 4}
    content = {"tiles": {"unit": "section", "students": [5]}, "teacher": whole, "students": whole}
    config = parse_config(content | {"methods": {"own": {"features": {"resize": "area"}}}})
    channels = build(config.teacher, 2).head.in_features
    assert bytes_per_tile(config, 2, 1024 * 2048) == {"5x": 8 * 2 * channels * 16 * 32}


def test_only_what_is_trained_on_counts(tmp_path: Path) -> None:
    sheet = "slide_id,path,patient_id,label\na,a.svs,p,x\nb,b.svs,q,\n"
    (tmp_path / "slides.csv").write_text(sheet)
    rows = read_slides(tmp_path / "slides.csv", require_files=False)
    found = [Estimate("a", "ok", 100), Estimate("b", "ok", 100)]
    methods = {"soft": {"soft_labels": 1}, "labels-only": None, "dipalma2021": None, "delamor2024": None}
    config = parse_config({"methods": methods, "students": {"seeds": [0, 1, 2]}, "classes": ["x", "y"]})
    said = targets_text(found, rows, config)
    # 60 of the 100 tiles with a label, all without; 8 views of two numbers on four grids, three times.
    assert "some 160 tiles that are trained on: 256 B a tile (5x 64 B," in said
    assert "with 3 seeds 123 kB" in said
    labels = parse_config({"methods": {"labels": {"cross_entropy": 1}}})
    assert targets_text(found, rows, labels) == "No method reads stored targets."


def test_the_command_takes_the_studys_files(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    from lowmag import demo

    options = Demo(slides=5, patients=3, size_um=1536)
    slide = demo.cohort(options)[0]
    demo.write_slide(tmp_path, slide.slide_id, options)
    (tmp_path / "slides.csv").write_text(f"slide_id,path,label\n{slide.slide_id},{slide.path},x\n")
    methods = "methods: {soft: {soft_labels: 1}}"
    (tmp_path / "a.yaml").write_text("tiles: {field_um: 256, students: [5]}\n" + methods)
    (tmp_path / "b.yaml").write_text("tiles: {students: [2.5]}\nstudents: {seeds: [0, 1]}\n")
    line = ["check", "--slides", str(tmp_path / "slides.csv"), "--estimate"]
    files = ["--config", str(tmp_path / "a.yaml"), str(tmp_path / "b.yaml")]
    assert main([*line, *files]) == 0
    told = capsys.readouterr().out
    assert [row.split()[0] for row in told.splitlines()[3:6]] == ["10x", "2.5x", "all"]
    assert "64 B a tile (2.5x 64 B), with 2 seeds" in told
    for other in (["--tiles", "{}"], ["--origin", "level0"]):
        assert main([*line, *files, *other]) == 2
        assert "leave them out" in capsys.readouterr().err
    for wrong in ("- no section", "tiles: {students: [2.5"):
        (tmp_path / "b.yaml").write_text(wrong)
        with pytest.raises(UserError, match=r"b\.yaml cannot be read as a config"):
            read_config([tmp_path / "b.yaml"])
    with pytest.raises(UserError, match=r"gone\.yaml cannot be read"):
        read_config([tmp_path / "gone.yaml"])
