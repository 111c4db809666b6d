import logging
import warnings

import numpy as np
import pytest
import torch
from lowmag import segmenter
from lowmag.errors import UserError


class Saturation(torch.nn.Module):
    """The difference of the brightest and the darkest channel, averaged over 3 x 3 pixels, as a logit."""

    def __init__(self, bias: float, stride: int = 1) -> None:
        super().__init__()
        self.smooth = torch.nn.Conv2d(1, 1, 3, padding=1, stride=stride)
        torch.nn.init.constant_(self.smooth.weight, 1 / 9)
        torch.nn.init.constant_(self.smooth.bias, bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.smooth(x.amax(1, keepdim=True) - x.amin(1, keepdim=True))


class TwoClasses(Saturation):
    """Scores of background and tissue."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        score = self.smooth(x.amax(1, keepdim=True) - x.amin(1, keepdim=True))
        return torch.cat([0.1 - score, score - 0.1], dim=1)


class Probability(Saturation):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (self.smooth(x.amax(1, keepdim=True) - x.amin(1, keepdim=True)) * 5).clamp(0.0, 1.0)


def save(path, network):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(network.eval()).save(str(path))
    return path


def save_onnx(path, edge="H"):
    """A network of the brightest minus the darkest channel minus 0.1, as ONNX."""
    onnx = pytest.importorskip("onnx", reason="onnx is not installed")
    from onnx import TensorProto, helper, numpy_helper

    axes = numpy_helper.from_array(np.array([1]), "axes")
    bias = numpy_helper.from_array(np.array([0.1], np.float32), "bias")
    nodes = [
        helper.make_node("ReduceMax", ["x", "axes"], ["most"], keepdims=1),
        helper.make_node("ReduceMin", ["x", "axes"], ["least"], keepdims=1),
        helper.make_node("Sub", ["most", "least"], ["difference"]),
        helper.make_node("Sub", ["difference", "bias"], ["y"]),
    ]
    shape = [1, 3, edge, edge if isinstance(edge, int) else "W"]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 1, *shape[2:]])
    graph = helper.make_graph(nodes, "saturation", [x], [y], [axes, bias])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(model, str(path))
    return path


@pytest.fixture
def picture():
    """Two stained rectangles on glass, one across the seams of blocks."""
    pixels = np.full((700, 1500, 3), 240, np.uint8)
    pixels[100:400, 800:1300] = (210, 130, 170)
    pixels[550:650, 20:120] = (110, 70, 150)
    return pixels


def expected(picture):
    return picture.max(axis=2).astype(int) - picture.min(axis=2) > 25.5


@pytest.mark.parametrize("network", [Saturation(-0.1), TwoClasses(0.0), Probability(0.0)])
def test_torchscript_finds_what_its_network_sees(tmp_path, picture, network):
    found = segmenter.find_tissue(picture, save(tmp_path / "m.pt", network))
    assert found.shape == picture.shape[:2]
    assert (found ^ expected(picture)).sum() < 0.002 * found.size  # the network blurs over one pixel


def test_blocks_leave_no_seams(tmp_path, picture, monkeypatch):
    path = save(tmp_path / "m.ts", Saturation(-0.1))
    noisy = (picture + np.random.default_rng(0).integers(0, 15, picture.shape)).astype(np.uint8)
    whole = segmenter.find_tissue(noisy, path)
    monkeypatch.setattr(segmenter, "BLOCK_PX", 64)
    np.testing.assert_array_equal(segmenter.find_tissue(noisy, path), whole)


def test_coarser_output_is_enlarged(tmp_path, picture):
    found = segmenter.find_tissue(picture, save(tmp_path / "m.pt", Saturation(-0.1, stride=4)))
    assert (found ^ expected(picture)).mean() < 0.01


def test_log_says_what_the_output_was_taken_for(tmp_path, picture, caplog):
    with caplog.at_level(logging.INFO):
        segmenter.find_tissue(picture, save(tmp_path / "a.pt", Saturation(-0.1)))
        segmenter.find_tissue(picture, save(tmp_path / "b.pt", Probability(0.0)))
    assert "a.pt gives logits" in caplog.text
    assert "b.pt gives probabilities" in caplog.text


@pytest.mark.parametrize("edge", ["H", 256])
def test_onnx_finds_what_its_network_sees(tmp_path, picture, edge):
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    found = segmenter.find_tissue(picture, save_onnx(tmp_path / "m.onnx", edge))
    np.testing.assert_array_equal(found, expected(picture))


@pytest.mark.parametrize("suffix", [".pt", ".onnx"])
def test_file_that_is_no_network_is_refused(tmp_path, suffix):
    if suffix == ".onnx":
        pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    path = tmp_path / f"model{suffix}"
    path.write_bytes(b"no network")
    with pytest.raises(UserError, match=r"tissue\.model: .*cannot be loaded"):
        segmenter.load(path)


@pytest.mark.parametrize(
    ("name", "problem"),
    [("model.h5", r"ends in '\.h5', expected \.pt"), ("absent.pt", "there is no file .*set it to null")],
)
def test_wrong_paths_are_refused(tmp_path, name, problem):
    with pytest.raises(UserError, match=problem):
        segmenter.load(tmp_path / name)


class Flat(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean(dim=[2, 3])


class NotANumber(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x[:, :1] / (x[:, :1] * 0)


class FourChannels(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Conv2d(4, 1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x)


@pytest.mark.parametrize(
    ("network", "problem"),
    [(Flat(), r"gives \(1, 3\)"), (NotANumber(), "no numbers"), (FourChannels(), "fails on a block")],
)
def test_networks_of_another_kind_are_refused(tmp_path, network, problem):
    with pytest.raises(UserError, match=problem):
        segmenter.find_tissue(np.zeros((40, 50, 3), np.uint8), save(tmp_path / "m.pt", network))
