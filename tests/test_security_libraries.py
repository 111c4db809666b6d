"""What libraries are kept from doing with the files of strangers, and what is asked about the libraries."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from lowmag import crops, flat, segmenter
from lowmag.errors import UserError
from lowmag.publish import write_text
from PIL import Image

REPOSITORY = Path(__file__).parents[1]
BLOCKED = """
import sys
from lowmag import cli
try:
    cli.main(["--version"])
except SystemExit:
    pass
import pyvips
try:
    pyvips.Image.new_from_file(sys.argv[1])
except pyvips.Error as error:
    sys.exit(f"refused: {error}")
"""


def test_outputs_replace_links_and_do_not_follow_them(tmp_path):
    other, link = tmp_path / "other.txt", tmp_path / "out.txt"
    other.write_text("of somebody else")
    link.symlink_to(other)
    write_text(link, "result")
    assert other.read_text() == "of somebody else"
    assert not link.is_symlink()
    assert link.read_text() == "result"


def test_libvips_is_told_to_leave_unsafe_formats_alone(tmp_path):
    (tmp_path / "a.csv").write_text("1,2\n3,4\n")  # libvips reads tables as pictures
    environment = {name: value for name, value in os.environ.items() if name != "VIPS_BLOCK_UNTRUSTED"}
    command = [sys.executable, "-c", BLOCKED, str(tmp_path / "a.csv")]
    result = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert result.returncode == 1
    assert "refused: " in result.stderr


@pytest.mark.parametrize(
    "content", [b"1,2\n3,4\n", b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"%PDF-1.4"]
)
def test_flat_pictures_are_tiff_png_or_jpeg(tmp_path, content):
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(UserError, match="is no TIFF, PNG or JPEG"):
        flat.load(tmp_path / "a.png")


@pytest.mark.parametrize("kind", ["PCX", "EPS", "TGA"])
def test_pillow_decodes_no_other_formats_under_the_name_of_one(tmp_path, kind):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png", format=kind)
    with pytest.raises(UserError, match="cannot be decoded"):
        crops.read_rgb(tmp_path / "a.png")


def onnx_model(folder: Path, *, operator: str = "Identity", elsewhere: str | None = None) -> Path:
    """A network of one operator, or one whose weights are said to lie in another file."""
    onnx = pytest.importorskip("onnx", reason="onnx is not installed")
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    shape = [1, 3, 64, 64]
    ends = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape) for name in "xy"]
    weights, inputs, domain = [], ["x"], "" if operator in ("Identity", "Add") else "of.strangers"
    if elsewhere:
        weight = onnx.TensorProto(name="w", data_type=onnx.TensorProto.FLOAT, dims=[1])
        weight.data_location = onnx.TensorProto.EXTERNAL
        for key, value in (("location", elsewhere), ("length", "4")):
            weight.external_data.add(key=key, value=value)
        weights, inputs = [weight], ["x", "w"]
    node = onnx.helper.make_node(operator, inputs, ["y"], domain=domain)
    graph = onnx.helper.make_graph([node], "g", ends[:1], ends[1:], weights)
    versions = [onnx.helper.make_opsetid("", 17), onnx.helper.make_opsetid("of.strangers", 1)]
    path = folder / "m.onnx"
    path.write_bytes(onnx.helper.make_model(graph, opset_imports=versions, ir_version=8).SerializeToString())
    return path


def test_onnx_of_unknown_operators_is_refused(tmp_path):
    segmenter.load(onnx_model(tmp_path))
    with pytest.raises(UserError, match="cannot be loaded"):
        segmenter.load(onnx_model(tmp_path, operator="Anything"))


@pytest.mark.parametrize("absolute", [True, False])
def test_onnx_reads_no_weights_from_elsewhere(tmp_path, absolute):
    secret = tmp_path / "secret.bin"
    secret.write_bytes(np.ones(1, np.float32).tobytes())
    (tmp_path / "models").mkdir()
    elsewhere = str(secret) if absolute else "../secret.bin"
    with pytest.raises(UserError, match="cannot be loaded"):
        segmenter.load(onnx_model(tmp_path / "models", operator="Add", elsewhere=elsewhere))


@pytest.mark.parametrize(("options", "status"), [([], 0), (["--strict"], 1)])
def test_audit_without_the_service_says_so(options, status):
    nowhere = dict.fromkeys(("HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy"), "http://127.0.0.1:9")
    result = subprocess.run(
        [REPOSITORY / ".ci/audit", *options], capture_output=True, text=True, check=False,
        env=os.environ | nowhere | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
    )  # fmt: skip
    assert result.returncode == status, result.stdout + result.stderr
    assert result.stdout.startswith("NOT AUDITED: the advisory service did not answer")
    assert result.stderr == ""
