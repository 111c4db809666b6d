"""Earlier maps: the network cut in two is the network, and attention by autograd against closed forms."""

import pytest
import torch
from lowmag import backbones, cam, stages
from lowmag.networks import build
from lowmag.recipe import Architecture, grid_cells
from torch import nn

pytestmark = pytest.mark.usefixtures("seeded")

NETWORKS = [("resnet10gn", 32), ("resnet10gn", 8), ("resnet18", 16), ("vgg16", 16)]


def architecture(model: str, stride: int) -> Architecture:
    return Architecture.model_validate({"model": model, "stride": stride})


@pytest.fixture(autouse=True)
def _thin_vgg16(monkeypatch) -> None:
    thin = tuple(tuple(3 for _ in block) for block in backbones.VGG16_BLOCKS)
    monkeypatch.setattr(backbones, "VGG16_BLOCKS", thin)


@pytest.mark.parametrize("stage", [-2, -3])
@pytest.mark.parametrize(("model", "stride"), NETWORKS)
def test_a_network_cut_in_two_is_the_network(model, stride, stage):
    network = build(architecture(model, stride), 3).eval()
    pictures = torch.randn(2, 3, 40, 40)
    first, rest = stages.split(network, stage)
    found, expected = rest(first(pictures)), network(pictures)
    assert torch.equal(found[0], expected[0])
    assert torch.equal(found[1], expected[1])


@pytest.mark.parametrize("stage", [-2, -3])
@pytest.mark.parametrize(("model", "stride"), NETWORKS)
def test_grid_of_an_earlier_map_is_the_one_the_config_states(model, stride, stage):
    network = build(architecture(model, stride), 2).eval()
    for px in (17, 32, 45, 64):
        cells = grid_cells(architecture(model, stride), px, stage)
        earlier = stages.split(network, stage)[0](torch.zeros(1, 3, px, px))
        assert earlier.shape[2:] == (cells, cells), px


class LinearRest(nn.Module):
    """A 1x1 convolution, mean and linear layer: the gradient of a logit is the same at every cell."""

    def __init__(self) -> None:
        super().__init__()
        self.mix, self.head = nn.Conv2d(4, 6, 1), nn.Linear(6, 3)

    def forward(self, earlier: torch.Tensor) -> torch.Tensor:
        return self.head(self.mix(earlier).mean((2, 3)))

    @property
    def weight(self) -> torch.Tensor:
        return self.head.weight @ self.mix.weight[..., 0, 0]


@pytest.mark.parametrize("relu", ["inside", "outside"])
def test_attention_by_autograd_is_the_closed_form_where_there_is_one(relu):
    rest, earlier = LinearRest(), torch.randn(2, 4, 3, 5, requires_grad=True)
    found = stages.earlier_attention(earlier, rest(earlier), relu)
    expected = cam.attention(earlier, rest.weight, relu)
    torch.testing.assert_close(found, expected)
    target = torch.rand(2, 3, 3, 5)
    inputs = [earlier, rest.mix.weight, rest.head.weight]
    for one, other in zip(
        *(torch.autograd.grad((maps - target).square().mean(), inputs) for maps in (found, expected)),
        strict=True,
    ):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("stage", [-2, -3])
def test_weights_of_the_channels_are_the_slopes_of_the_logit(stage):
    """By small steps: raising a whole channel by d changes the logit by d times the sum of its gradient."""
    network = build(architecture("resnet10gn", 8), 3).eval().double()
    first, rest = stages.split(network, stage)
    earlier = first(torch.randn(1, 3, 24, 24, dtype=torch.float64)).detach().requires_grad_()
    found = stages.earlier_attention(earlier, rest(earlier)[1], "inside")
    slopes = []
    for channel in range(earlier.shape[1]):
        step = torch.zeros_like(earlier)
        step[:, channel] = 1e-6
        with torch.no_grad():
            slopes.append((rest(earlier + step)[1] - rest(earlier - step)[1])[0] / 2e-6)
    weight = torch.stack(slopes, 1)
    expected = (weight[..., None, None] * earlier[0]).relu().sum(1)
    torch.testing.assert_close(found[0], expected.float(), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("relu", ["inside", "outside"])
def test_teacher_and_student_of_the_same_weights_attend_alike(relu):
    network = build(architecture("resnet10gn", 16), 3).eval()
    pictures = torch.randn(2, 3, 32, 32)
    first, rest = stages.split(network, -2)
    earlier = first(pictures)
    said = stages.teacher_attention(network, pictures, -2, relu)
    assert not said.requires_grad
    torch.testing.assert_close(stages.earlier_attention(earlier, rest(earlier)[1], relu), said)
    assert all(parameter.grad is None for parameter in network.parameters())


def test_a_loss_on_earlier_attention_reaches_what_comes_after_it():
    network = build(architecture("resnet10gn", 8), 3)
    first, rest = stages.split(network, -2)
    earlier = first(torch.randn(2, 3, 24, 24))
    maps = stages.earlier_attention(earlier, rest(earlier)[1], "inside")
    cam.normalise_minmax(maps).square().mean().backward()
    for parameter in (
        network.head.weight,
        *network.backbone.layer4.parameters(),
        network.backbone.conv1.weight,
    ):
        assert parameter.grad is not None
        assert parameter.grad.isfinite().all()
    assert network.backbone.conv1.weight.grad.abs().max() > 0
    assert network.head.weight.grad.abs().max() > 0
