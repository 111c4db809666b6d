"""Digests of what a study is made from: they are those of the files, and change with each."""

import hashlib

import pytest
from lowmag.inputs import DIGESTS, inputs_of
from lowmag.record import WHOLE_BYTES, digest_of
from lowmag.trust import sha256_of
from synthetic_sicap import make_sicap


def lines_digest(files) -> str:
    lines = sorted(f"{sha256_of(file)}  {name}\n" for name, file in files.items())
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def test_folder_of_pictures_tells_its_spreadsheets_and_pictures(tmp_path):
    folder = make_sicap(tmp_path / "SICAPv2", px=16)
    found = inputs_of({"images": "SICAPv2"}, folder, [])
    assert found["sheets"] == {
        name: sha256_of(folder / name)
        for name in (
            "partition/Validation/Val1/Train.xlsx",
            "partition/Validation/Val1/Test.xlsx",
            "partition/Test/Test.xlsx",
            "wsi_labels.xlsx",
        )
    }
    pictures = {path.name: path for path in (folder / "images").iterdir()}
    assert found["pictures"] == {"n": len(pictures), "digest": lines_digest(pictures)}
    other = next(iter(pictures.values()))
    content = bytearray(other.read_bytes())
    content[-1] ^= 1  # as many bytes, another picture
    other.write_bytes(content)
    assert inputs_of({"images": "SICAPv2"}, folder, [])["pictures"]["digest"] != found["pictures"]["digest"]


def test_sheet_of_pictures_tells_them_and_their_features(tmp_path):
    (tmp_path / "p").mkdir()
    (tmp_path / "features").mkdir()
    for name in ("a", "b"):
        (tmp_path / f"p/{name}.png").write_bytes(name.encode())
        (tmp_path / f"features/{name}.h5").write_bytes(name.encode())
    (tmp_path / "features/of another study.h5").write_bytes(b"c")
    sheet = tmp_path / "images.csv"
    sheet.write_text("image,slide_id\np/a.png,a\np/b.png,b\n")
    config = {"images": "images.csv", "teacher": {"features": str(tmp_path / "features")}}
    found = inputs_of(config, sheet, [])
    assert found["sheets"] == {"images.csv": sha256_of(sheet)}
    assert found["pictures"]["digest"] == lines_digest({f"p/{n}.png": tmp_path / f"p/{n}.png" for n in "ab"})
    features = {f"{n}.h5": tmp_path / f"features/{n}.h5" for n in "ab"}
    assert found["features"] == {"n": 2, "digest": lines_digest(features)}


def test_files_beside_slides_are_told_with_them(tmp_path):
    for name in ("a.xml", "m.png", "c.h5"):
        (tmp_path / name).write_text(name)
    sheet = tmp_path / "slides.csv"
    sheet.write_text("slide_id,path,annotations,mask,coords\nA,a.svs,a.xml,m.png,c.h5\nB,b.svs,,,\n")
    records = [{"slide_id": "A", "source_digest": "x"}, {"slide_id": "B"}]
    first, second = inputs_of({"slides": "slides.csv"}, sheet, records)["slides"]
    assert first["source_digest"] == "x"
    assert {key: first.get(f"{key}_digest") for key in ("annotations", "mask", "coords")} == {
        "annotations": sha256_of(tmp_path / "a.xml"),
        "mask": sha256_of(tmp_path / "m.png"),
        "coords": sha256_of(tmp_path / "c.h5"),
    }
    assert not [key for key in second if key.endswith("_digest") and second[key]]


def test_networks_given_as_files_are_told_by_their_keys(tmp_path):
    files = {name: tmp_path / name for name in ("teacher.pt", "students.pt", "own.pt", "tissue.onnx")}
    for name, file in files.items():
        file.write_text(name)
    config = {
        "tissue": {"model": str(files["tissue.onnx"])},
        "teacher": {"weights": str(files["teacher.pt"]), "model": "resnet18"},
        "students": {"weights": str(files["students.pt"])},
        "methods": {
            "own": {"training": {"weights": str(files["own.pt"])}},
            "downloaded": {"training": {"weights": "pretrained"}},
        },
    }
    assert inputs_of(config, None, [])["files"] == {
        "tissue.model": sha256_of(files["tissue.onnx"]),
        "teacher.weights": sha256_of(files["teacher.pt"]),
        "students.weights": sha256_of(files["students.pt"]),
        "methods.own.training.weights": sha256_of(files["own.pt"]),
    }


@pytest.mark.parametrize("more", [-1, 0, 1, 1000])
def test_large_file_is_known_by_its_ends(tmp_path, monkeypatch, more):
    """And a file up to the limit by the whole of it, as `sha256sum` has it."""
    monkeypatch.setattr("lowmag.record.WHOLE_BYTES", 64)
    content = bytes(range(64)) + bytes(more) if more >= 0 else bytes(range(64 + more))
    file = tmp_path / "a.tif"
    file.write_bytes(content)
    ends = content if more <= 0 else content[:32] + content[-32:]
    assert digest_of(file) == hashlib.sha256(ends).hexdigest()


def test_limit_is_told():
    assert f"over {WHOLE_BYTES >> 20} MiB" in DIGESTS
