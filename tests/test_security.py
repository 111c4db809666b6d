"""What files of strangers may not do, and what the code may not do with them."""

import ast
import json
import os
import re
import struct
import tracemalloc
import unicodedata
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest
import simplejpeg
import torch
from lowmag import (
    allocation,
    annotations,
    config,
    crops,
    crossings,
    dicom,
    hdf5,
    markup,
    names,
    partitions,
    qupath,
    regions,
    sheet,
    stacks,
    tiff,
    tiff_pictures,
)
from lowmag import asap as asap_format
from lowmag.errors import UserError
from lowmag.exchange import read_coords
from lowmag.initial_weights import load_initial
from lowmag.pictures import read_pictures
from lowmag.plan import Plan
from lowmag.sections import Pictures, Tiles
from lowmag.slides import read_slides
from lowmag.splits import read_splits
from lowmag.store import TileFile

REPOSITORY = Path(__file__).parents[1]
PACKAGE = REPOSITORY / "workflow/lowmag"
UNPICKLERS = {"pickle", "cPickle", "dill", "joblib", "cloudpickle", "shelve", "marshal"}
XML = {"xml.etree", "xml.dom", "xml.sax", "lxml", "xmltodict"}


def calls(tree: ast.AST):
    """Every call with its dotted name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


@pytest.fixture(scope="module", params=sorted(PACKAGE.glob("*.py")), ids=lambda path: path.stem)
def module(request):
    return request.param.stem, ast.parse(request.param.read_text())


def test_no_module_unpickles_runs_text_or_parses_xml_by_itself(module):
    name, tree = module
    imported = {alias.name for n in ast.walk(tree) if isinstance(n, ast.Import) for alias in n.names}
    imported |= {n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and n.module}
    assert not {m for m in imported if m.split(".")[0] in UNPICKLERS}
    assert not {m for m in imported if any(m.startswith(xml) for xml in XML)}
    assert "xml.parsers" not in imported or name == "markup"
    for called, call in calls(tree):
        arguments = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
        assert called not in {
            "eval",
            "exec",
            "os.system",
            "os.popen",
            "np.load",
            "yaml.load",
            "torch.hub.load",
        }
        assert arguments.get("shell") != "True", called
        if called == "torch.load":
            assert arguments.get("weights_only") == "True"
        if called == "torch.jit.load":
            assert name == "segmenter"
        if called == "h5py.File":
            assert name == "hdf5", "open_hdf5 looks at a file before it is read"


def write_h5(path, **datasets):
    with h5py.File(path, "w") as file:
        for name, values in datasets.items():
            file[name] = values
    return path


def external_storage(file, path):
    file.create_dataset("x", (16,), "u1", external=[(str(path), 0, 16)])


def virtual(file, path):
    layout = h5py.VirtualLayout((4,), "i8")
    layout[:] = h5py.VirtualSource(str(path), "y", (4,))
    file.create_virtual_dataset("x", layout)


def references(file, _path):
    file["x"] = np.array([file.ref], dtype=h5py.ref_dtype)


HOSTILE_H5 = {
    "external link": lambda file, path: file.__setitem__("x", h5py.ExternalLink(str(path), "y")),
    "soft link": lambda file, _: file.__setitem__("x", h5py.SoftLink("/mag")),
    "external storage": external_storage,
    "virtual dataset": virtual,
    "references": references,
    "opaque": lambda file, _: file.__setitem__("x", np.zeros(3, "V8")),
    "endless": lambda file, _: file.create_dataset("x", (1 << 40,), "u1", chunks=(1024,)),
    "huge chunk": lambda file, _: file.create_dataset("x", (1,), "u1", maxshape=(None,), chunks=(1 << 31,)),
    "many objects": lambda file, _: [file.create_group(f"g{n}") for n in range(hdf5.MOST_OBJECTS + 1)],
}


@pytest.mark.parametrize("kind", HOSTILE_H5)
def test_hdf5_that_is_more_than_numbers_is_refused(tmp_path, kind):
    other = write_h5(tmp_path / "other.h5", y=np.arange(4))
    path = write_h5(tmp_path / "a.h5", coords=np.zeros((1, 2), np.int64))
    with h5py.File(path, "a") as file:
        HOSTILE_H5[kind](file, other)
    with pytest.raises(UserError, match=r"tile file .*a\.h5: the file .*; delete it"):
        TileFile(path)


def write_many_texts(path, n: int, length: int):
    """Coordinates with an attribute of `n` texts, all of which are stored as the same long one."""
    with h5py.File(path, "w") as file:
        coords = file.create_dataset("coords", data=np.zeros((1, 2), np.int64))
        coords.attrs.update({"patch_size": 256, "patch_level": 0})
        coords.attrs["note"] = np.array(["x" * length, *"b" * (n - 1)], dtype=h5py.string_dtype())
    content = bytearray(path.read_bytes())
    place = content.index(length.to_bytes(4, "little"))
    while content[place + 16 : place + 20] != (1).to_bytes(4, "little"):  # the next is one letter long
        place = content.index(length.to_bytes(4, "little"), place + 1)
    content[place : place + 16 * n] = content[place : place + 16] * n
    path.write_bytes(content)


def test_texts_that_unfold_are_not_read(tmp_path):
    path = tmp_path / "a.h5"
    write_many_texts(path, 200, 100_000)
    with h5py.File(path) as file:
        assert [len(text) for text in file["coords"].attrs["note"]] == [100_000] * 200
    tracemalloc.start()
    assert read_coords(path).field_px == 256
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 5 << 20


def test_packed_values_may_be_as_many_as_packing_can_yield(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("x", data=np.zeros(4_000_000, "u1"), compression="gzip", compression_opts=9)
    with hdf5.open_hdf5(tmp_path / "a.h5", "file", "") as file:
        assert file["x"].shape == (4_000_000,)


def test_jpeg_that_claims_too_much_is_given_no_memory():
    jpeg = bytearray(simplejpeg.encode_jpeg(np.zeros((16, 16, 3), np.uint8)))
    frame = jpeg.index(b"\xff\xc0")
    jpeg[frame + 5 : frame + 9] = (65_500).to_bytes(2, "big") * 2
    tracemalloc.start()
    with pytest.raises(ValueError, match="claims 65500 x 65500"):
        stacks.decode(bytes(jpeg))
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()


def star(n: int) -> list[list[float]]:
    angles = np.arange(n + 1) * (n // 2) * 2 * np.pi / n
    return np.c_[np.cos(angles), np.sin(angles)].__mul__(1e4).tolist()


def geojson(ring) -> dict:
    return {"type": "Polygon", "coordinates": [ring]}


def test_outline_that_crosses_itself_without_end_is_refused(tmp_path):
    path = tmp_path / "a.geojson"
    path.write_text(json.dumps(geojson(star(2001))))
    with pytest.raises(UserError, match="crosses itself more than 10,000 times"):
        annotations.read_annotations(path)


def test_outline_that_crosses_itself_a_little_is_mended(tmp_path):
    path = tmp_path / "a.geojson"
    path.write_text(json.dumps(geojson(star(11))))
    assert len(annotations.read_annotations(path).regions) == 1


def test_brackets_without_end_are_refused_before_they_are_parsed(tmp_path):
    path = tmp_path / "a.geojson"
    path.write_bytes(b'{"type":"FeatureCollection","features":[' + b"[]," * 9_000_000 + b"[]]}")
    with pytest.raises(UserError, match="more than"):
        annotations.read_annotations(path)


@pytest.mark.parametrize(
    "document", ["<a>" * 200 + "</a>" * 200, '<!DOCTYPE a SYSTEM "file:///x"><a/>', "<a"]
)
def test_xml_that_nests_or_declares_is_refused(document):
    with pytest.raises(ValueError, match=r"nested|document type|no element|unclosed"):
        markup.read_elements(document.encode(), lambda *_: None)


COORDINATE = '<Coordinate Order="{0}" X="{1}" Y="{2}"/>'
OUTLINE = "".join(COORDINATE.format(n, 99 * n, 99 * n * n) for n in range(3))


def asap(*elements: str) -> str:
    return f"<ASAP_Annotations>{''.join(elements)}</ASAP_Annotations>"


def chain(n: int) -> str:
    """Groups each within the next, and an annotation in the innermost."""
    groups = [f'<Group Name="{k}" PartOfGroup="{k + 1}"/>' for k in range(n)]
    return asap(*groups, f'<Annotation Type="Polygon" PartOfGroup="0">{OUTLINE}</Annotation>')


def spline(n: int) -> str:
    points = [COORDINATE.format(k, k * 7919 % 999_983, k * 104_729 % 999_983) for k in range(n)]
    return asap(f'<Annotation Type="Spline" PartOfGroup="None">{"".join(points)}</Annotation>')


@pytest.mark.parametrize(
    ("document", "problem"),
    [
        (lambda: chain(500), "nests groups more than 100 deep"),  # annotations would hold all names
        (lambda: spline(500), "has a spline of more than 10,000 points"),
        (lambda: asap("<Annotation/>" * 20_000), "has more than 1,000 annotations and groups"),
    ],
    ids=["groups", "spline", "annotations"],
)
def test_asap_file_that_unfolds_is_given_no_memory(tmp_path, monkeypatch, document, problem):
    monkeypatch.setattr(annotations, "MOST_BYTES", 1 << 20)  # so much is read into
    monkeypatch.setattr(asap_format, "MOST_VERTICES", 10_000)
    monkeypatch.setattr(asap_format, "MOST_ANNOTATIONS", 1_000)
    path = tmp_path / "a.xml"
    path.write_text(document())
    tracemalloc.start()
    with pytest.raises(UserError, match=problem):
        annotations.read_annotations(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 6 << 20


def test_groups_may_be_as_deep_as_people_make_them(tmp_path):
    path = tmp_path / "a.xml"
    path.write_text(chain(9))
    assert annotations.read_annotations(path).regions[0].names == tuple("0123456789")


def write_sheet(folder, cell: str, column: str = "label"):
    (folder / "a.svs").touch()
    row = {"slide_id": "A", "path": "a.svs", "label": "x", "patient_id": "P"} | {column: cell}
    quoted = ",".join('"' + value.replace('"', '""') + '"' for value in row.values())
    (folder / "s.csv").write_text(",".join(row) + "\n" + quoted + "\n")
    return folder / "s.csv"


@pytest.mark.parametrize("column", ["label", "patient_id", "path"])
@pytest.mark.parametrize("sign", ["\n", "\0", "\x1b[2J", "\u202e", "\u200f", "\u061c", "\u2028", "\u200b"])
def test_names_with_control_characters_are_refused(tmp_path, column, sign):
    with pytest.raises(UserError, match=f"column {column}: holds the character|NUL"):
        read_slides(write_sheet(tmp_path, f"a{sign}b", column))


def test_no_character_that_is_not_seen_is_let_through():
    refused = {n for n in range(0x110000) if names.problem_of_name(f"a{chr(n)}b")}
    unseen = {n for n in range(0x110000) if unicodedata.category(chr(n)) in ("Cc", "Cf", "Cs", "Zl", "Zp")}
    assert refused == unseen
    turned = {0x061C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A)}
    assert refused >= turned | {0x00AD, 0x200B, 0x2028, 0x2029, 0x2060, 0xFEFF, 0xE0041}
    assert not any(names.problem_of_name(name) for name in ("日本語", "café", "Zürich x", "a\u00a0b", "☃"))


@pytest.mark.parametrize(
    "slide", ["../x", "/etc/passwd", "a/b", "a..b", ".x", "-x", "a b", "$(x)", "x" * 101, "A" * 40]
)
def test_ids_that_are_no_file_names_are_refused(tmp_path, slide):
    with pytest.raises(UserError, match="column slide_id"):
        read_slides(write_sheet(tmp_path, slide, "slide_id"))
    (tmp_path / "splits.csv").write_text(f"slide_id,patient_id,label,split\n{slide},P,,train\n")
    if not re.fullmatch(r"[A-Za-z0-9.]+", slide) or slide.startswith("."):
        with pytest.raises(UserError, match="no name of a file"):
            read_splits(tmp_path / "splits.csv")


@pytest.mark.parametrize(
    ("address", "problem"),
    [
        ("fs:///disk/../../../../../etc/hostname", "segment '..'"),
        ("fs:/disk/../x.svs", "segment '..'"),
        ("s3://../x.svs", "segment '..'"),
        ("s3://bucket/./x.svs", "segment '.'"),
        ("s3://bucket//x.svs", "segment ''"),
        ("s3://bucket", "no single object"),
        ("s3://bucket/x.svs?versionId=1", "no single object"),
        ("s3://bucket/x.svs#1", "no single object"),
        ("http://169.254.169.254/x.svs", "of a kind unknown"),
        ("file:///etc/passwd", "of a kind unknown"),
        ("S3://bucket/x.svs", "of a kind unknown"),
    ],
)
def test_addresses_that_lead_elsewhere_are_refused(tmp_path, address, problem):
    with pytest.raises(UserError, match=rf"column path: .*{problem}.*give s3://bucket/folder/slide.svs"):
        read_slides(write_sheet(tmp_path, address, "path"))


@pytest.mark.parametrize("address", ["s3://bucket/a folder/x..y.%2e.svs", "fs:///disk/a b?.svs"])
def test_addresses_of_slides_are_taken_as_they_are(tmp_path, address):
    (row,) = read_slides(write_sheet(tmp_path, address, "path"))
    assert names.address_of(row.path) == address


@pytest.mark.parametrize("column", ["annotations", "mask", "coords"])
def test_slides_alone_are_fetched(tmp_path, column):
    with pytest.raises(UserError, match=rf"column {column}: .* is an address; give a file"):
        read_slides(write_sheet(tmp_path, "s3://bucket/a", column))


@pytest.mark.parametrize("column", ["path", "annotations", "mask", "coords"])
@pytest.mark.parametrize("by_link", [False, True])
def test_pipes_and_devices_are_no_files(tmp_path, column, by_link):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("pipe")
    path = write_sheet(tmp_path, "link" if by_link else "pipe", column)
    with pytest.raises(UserError, match=rf"column {column}: .* is neither a file nor a folder"):
        read_slides(path)
    with pytest.raises(UserError, match=rf"column {column}: /dev/zero is neither a file nor a folder"):
        read_slides(write_sheet(tmp_path, "/dev/zero", column))


def test_pictures_and_sheets_are_no_pipes(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "images.csv").write_text("image,label\npipe,x\n")
    with pytest.raises(UserError, match=r"column image: .* is neither a file nor a folder"):
        read_pictures(tmp_path / "images.csv", Pictures())
    with pytest.raises(UserError, match="pipe does not exist or is no file"):
        read_slides(tmp_path / "pipe")


def test_large_files_are_not_read_whole(tmp_path):
    """Of pictures to compare, and of a DICOM file whose series claims more than a name has."""
    for name in ("a.png", "b.png"):
        with (tmp_path / name).open("wb") as file:
            file.truncate(256 << 20)
    (tmp_path / "images.csv").write_text("image,label\na.png,x\nb.png,y\n")
    head = bytes(128) + b"DICM" + struct.pack("<HH2s2sI", 0x0002, 0x0010, b"UN", b"\0\0", 128 << 20)
    with (tmp_path / "a.dcm").open("wb") as file:
        file.write(head)
        file.truncate(256 << 20)
    rows = read_pictures(tmp_path / "images.csv", Pictures())
    tracemalloc.start()
    assert dicom.series_uid(tmp_path / "a.dcm") == ""
    with pytest.raises(UserError, match="is not a picture that can be read"):
        crops.write_tile_files(rows, tmp_path / "out", ["x", "y"], Pictures(), Tiles(lowres="derived"))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 16 << 20


@pytest.mark.parametrize("outdir", ["-x", "a{b}", "a<results>", "a\nb"])
def test_folders_that_commands_or_snakemake_misread_are_refused(outdir):
    with pytest.raises(UserError, match="outdir"):
        Plan({"outdir": outdir})


@pytest.mark.parametrize("method", ["../x", "a/b", "$(x)", "-x", "a b", "x" * 101, "A" * 40])
def test_method_names_are_file_names(method):
    with pytest.raises(UserError, match="method name"):
        config.parse_config({"methods": {method: {"cross_entropy": 1}}})


def test_torchscript_runs_only_where_its_digest_is_named(tmp_path):
    path = tmp_path / "m.pt"
    path.write_bytes(b"a program")
    with pytest.raises(UserError, match=r"set tissue\.model_sha256 to [0-9a-f]{64}") as caught:
        Plan({"tissue": {"model": str(path)}})
    named = re.findall(r"[0-9a-f]{64}", str(caught.value))[0]
    Plan({"tissue": {"model": str(path), "model_sha256": named}})
    path.write_bytes(b"another")
    with pytest.raises(UserError, match="another file than the one you trusted"):
        Plan({"tissue": {"model": str(path), "model_sha256": named}})


def test_weights_that_hold_code_are_not_unpickled(tmp_path):
    torch.save({"a": print}, tmp_path / "w.pt")
    with pytest.raises(Exception, match="weights_only"):
        torch.load(tmp_path / "w.pt", weights_only=True)


def test_weights_that_unfold_are_refused(tmp_path):
    plain, packed = tmp_path / "plain.pt", tmp_path / "packed.pt"
    torch.save({"a": torch.zeros(1_000_000)}, plain)
    with zipfile.ZipFile(plain) as whole, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in whole.namelist():
            archive.writestr(name, whole.read(name))
    assert packed.stat().st_size < 10_000
    assert torch.load(packed, weights_only=True)["a"].shape == (1_000_000,)  # torch itself reads it
    network = torch.nn.Linear(1, 1)
    with pytest.raises(UserError, match="are packed to less than they hold"):
        load_initial(network, "resnet18", str(packed))
    with pytest.raises(UserError, match="do not fit the network"):
        load_initial(network, "resnet18", str(plain))


def test_sheet_beyond_the_limit_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(sheet, "MOST_BYTES", 10)
    with pytest.raises(UserError, match="larger than"):
        read_slides(write_sheet(tmp_path, "x"))


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (
            ",".join(f"c{n}" for n in range(200_000)) + "\n1\n",
            "has 200000 columns",
        ),  # each was counted in all
        ("slide_id,path\n" + "\n" * 300_000, "has more than 10,000 rows"),
    ],
    ids=["columns", "rows"],
)
def test_sheet_of_nothing_is_refused_in_time(tmp_path, monkeypatch, text, problem):
    monkeypatch.setattr(sheet, "MOST_BYTES", 2 << 20)  # so much is read into
    monkeypatch.setattr(sheet, "MOST_ROWS", 10_000)
    (tmp_path / "s.csv").write_text(text)
    tracemalloc.start()
    with pytest.raises(UserError, match=problem):
        read_slides(tmp_path / "s.csv")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 30 << 20


def test_limits_are_those_of_the_documentation():
    text = (REPOSITORY / "docs/security.md").read_text()
    stated = [
        (annotations.MOST_BYTES >> 20, "MB"),
        (regions.MOST_VERTICES, "vertices"),
        (crossings.MOST_CROSSINGS, "crossings"),
        (markup.MOST_DEPTH, "deep"),
        (sheet.MOST_BYTES >> 20, "MB"),
        (sheet.MOST_ROWS, "rows"),
        (names.LONGEST, "characters"),
        (tiff_pictures.LARGEST_EDGE_PX, "px"),
        (hdf5.MOST_OBJECTS, "objects"),
        (qupath.MOST_PARTS, "brackets"),
        (tiff_pictures.LARGEST_TILE_PX, "px"),
        (tiff.MOST_DIRECTORIES, "directories"),
        (tiff.MOST_TAGS, "tags"),
        (tiff.MOST_SHARED_BYTES >> 20, "MB"),
        (allocation.MOST_BESIDE, "numbers"),
        (allocation.MOST_TENSORS, "tensors"),
        (hdf5.MOST_PACKED_BYTES >> 20, "MB"),
        (hdf5.MOST_PACKING, "times"),
        (hdf5.LARGEST_CHUNK_BYTES >> 20, "MB"),
        (sheet.MOST_COLUMNS, "columns"),
        (dicom.MOST_ELEMENTS, "elements"),
        (dicom.MOST_UID_BYTES, "bytes"),
        (partitions.MOST_BYTES >> 20, "MB"),
        (partitions.MOST_ELEMENTS, "elements"),
        (partitions.MOST_ROWS, "rows"),
        (partitions.MOST_COLUMNS, "columns"),
        (asap_format.MOST_NESTED, "groups deep"),
        (asap_format.MOST_ANNOTATIONS, "annotations"),
    ]
    for number, unit in stated:
        assert re.search(rf"\b{number:,} {unit}".replace(",", " "), text), (number, unit)
