"""Attention: the closed form against autograd Grad-CAM, in value and in every gradient."""

import pytest
import torch
from lowmag import cam
from torch import nn

pytestmark = pytest.mark.usefixtures("seeded")

# float32 arithmetic in another order: one part in a hundred thousand of the largest value.
RELATIVE = 1e-5


class TinyNetwork(nn.Module):
    """Two convolutions, mean, linear layer; `negative` leaves out the last ReLU, as VGG16's conv5_3 does."""

    def __init__(self, *, negative: bool) -> None:
        super().__init__()
        self.backbone = nn.Sequential(
            nn.Conv2d(3, 6, 3, stride=2), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 5, 3)
        )
        if not negative:
            self.backbone.append(nn.ReLU())
        self.head = nn.Linear(5, 4)

    def forward(self, x):
        features = self.backbone(x)
        return features, self.head(features.mean((2, 3)))


@pytest.fixture(params=[False, True], ids=["positive", "negative"])
def network(request) -> TinyNetwork:
    return TinyNetwork(negative=request.param)


@pytest.fixture
def pictures() -> torch.Tensor:
    return torch.randn(3, 3, 15, 13, generator=torch.Generator().manual_seed(1))


def assert_close(found: torch.Tensor, expected: torch.Tensor) -> None:
    scale = expected.detach().abs().max().item()
    assert scale > 0, "an all-zero reference proves nothing"
    torch.testing.assert_close(found, expected, rtol=0, atol=RELATIVE * scale)


def closed_form(network: TinyNetwork, pictures: torch.Tensor, relu: cam.Relu) -> torch.Tensor:
    features, _ = network(pictures)
    return cam.attention(features, network.head.weight, relu) / features[0, 0].numel()


def autograd_form(network: TinyNetwork, pictures: torch.Tensor, relu: cam.Relu) -> torch.Tensor:
    features, logits = network(pictures)
    return cam.gradcam_reference(features, logits, relu)


@pytest.mark.parametrize("relu", ["inside", "outside"])
def test_attention_equals_gradcam(network, pictures, relu):
    assert_close(closed_form(network, pictures, relu), autograd_form(network, pictures, relu))


@pytest.mark.parametrize("normalise", ["none", "minmax", "minmax_class", "softmax"])
@pytest.mark.parametrize("relu", ["inside", "outside"])
def test_gradients_of_a_loss_on_attention_equal_those_through_gradcam(network, pictures, relu, normalise):
    """Autograd differentiates Grad-CAM a second time; the closed form needs the first derivative only."""
    target = torch.rand(3, 4, 5, 4, generator=torch.Generator().manual_seed(2))
    parameters = [p for name, p in network.named_parameters() if name != "head.bias"]
    gradients = []
    for form in (closed_form, autograd_form):
        maps = form(network, pictures, relu)
        maps = cam.normaliser(normalise, temperature=0.01)(maps)
        loss = (maps - target).square().mean((1, 2, 3)).sqrt().mean()
        gradients.append(torch.autograd.grad(loss, parameters))
    # A bias before BatchNorm has no effect, so its gradient is rounding alone: compare what is not.
    pairs = [(a, b) for a, b in zip(*gradients, strict=True) if b.abs().max() > 1e-6]
    assert len(pairs) >= len(parameters) - 1
    for found, expected in pairs:
        assert_close(found, expected)


@pytest.mark.parametrize("relu", ["inside", "outside"])
def test_gradient_with_respect_to_the_features(relu):
    generator = torch.Generator().manual_seed(3)
    features = torch.randn(2, 5, 3, 4, generator=generator, requires_grad=True)
    weight = torch.randn(4, 5, generator=generator, requires_grad=True)
    weighting = torch.rand(2, 4, 3, 4, generator=generator)
    reference = cam.gradcam_reference(features, features.mean((2, 3)) @ weight.T, relu) * 12
    found = cam.attention(features, weight, relu)
    inputs = (features, weight)
    expected_gradients = torch.autograd.grad((reference * weighting).sum(), inputs)
    for gradient, expected in zip(
        torch.autograd.grad((found * weighting).sum(), inputs), expected_gradients, strict=True
    ):
        assert_close(gradient, expected)


def test_inside_equals_the_sum_over_channels_written_out():
    features, weight = torch.randn(2, 7, 3, 3), torch.randn(4, 7)
    written_out = (weight[None, :, :, None, None] * features[:, None]).relu().sum(2)
    assert_close(cam.attention(features, weight, "inside"), written_out)


def test_inside_is_at_least_outside():
    features, weight = torch.randn(4, 9, 5, 5), torch.randn(3, 9)
    inside, outside = (cam.attention(features, weight, relu) for relu in ("inside", "outside"))
    assert (inside >= outside - 1e-5).all()
    assert (inside > outside + 1e-3).any()


def test_mean_of_the_evidence_plus_bias_is_the_logit(network, pictures):
    features, logits = network(pictures)
    evidence = cam.class_evidence(features, network.head.weight)
    assert_close(evidence.mean((2, 3)) + network.head.bias, logits)


def test_scale_does_not_depend_on_the_grid():
    """The same evidence on a finer grid gives the same maps: there is no 1 / HW in them."""
    features, weight = torch.rand(1, 6, 2, 2), torch.randn(3, 6)
    finer = features.repeat_interleave(4, 2).repeat_interleave(4, 3)
    expected = cam.attention(features, weight, "inside").repeat_interleave(4, 2).repeat_interleave(4, 3)
    assert_close(cam.attention(finer, weight, "inside"), expected)


def test_attention_is_float32_under_autocast():
    features, weight = torch.randn(2, 64, 4, 4), torch.randn(3, 64)
    expected = cam.attention(features, weight, "inside")
    with torch.autocast("cpu", torch.bfloat16):
        found = cam.attention(features, weight, "inside")
    assert found.dtype == torch.float32
    assert torch.equal(found, expected)


def test_minmax_is_joint_over_classes_and_cells_of_a_picture():
    maps = torch.randn(3, 4, 5, 6)
    found = cam.normalise_minmax(maps)
    assert torch.equal(found.amin((1, 2, 3)), torch.zeros(3))
    torch.testing.assert_close(found.amax((1, 2, 3)), torch.ones(3))
    assert (found.amax((2, 3)) < 1).any(), "every class was stretched by itself"


def test_minmax_ignores_scale_and_offset():
    maps = torch.rand(2, 3, 4, 4)
    torch.testing.assert_close(
        cam.normalise_minmax(maps * 49 + 2), cam.normalise_minmax(maps), atol=1e-5, rtol=0
    )


def test_minmax_class_stretches_every_map_by_itself():
    maps = torch.randn(3, 4, 5, 6)
    found = cam.normaliser("minmax_class", 1.0)(maps)
    assert torch.equal(found.amin((2, 3)), torch.zeros(3, 4))
    torch.testing.assert_close(found.amax((2, 3)), torch.ones(3, 4))
    one = maps[1:2, 2:3]
    torch.testing.assert_close(found[1:2, 2:3], cam.normalise_minmax(one))


def test_softmax_is_a_distribution_over_classes_and_cells_of_a_picture():
    maps = torch.randn(3, 4, 5, 6)
    found = cam.normaliser("softmax", 2.0)(maps)
    torch.testing.assert_close(found.sum((1, 2, 3)), torch.ones(3))
    expected = (maps / 2).exp() / (maps / 2).exp().sum((1, 2, 3), keepdim=True)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(cam.normaliser("softmax", 2.0)(maps + 7), found)


def test_released_temperature_of_softmax_is_that_of_maps_without_the_one_over_cells():
    """Grad-CAM at temperature 0.01 is CAM, HW times as large, at 0.01 HW."""
    maps = torch.randn(3, 4, 5, 6)
    released = cam.normaliser("softmax", 0.01)(maps / 30)
    torch.testing.assert_close(cam.normaliser("softmax", 0.3)(maps), released)


@pytest.mark.parametrize("value", [0.0, 3.5, -2.0])
def test_minmax_of_a_constant_map_is_zero_with_finite_gradient(value):
    maps = torch.full((2, 3, 4, 4), value, requires_grad=True)
    found = cam.normalise_minmax(maps)
    assert torch.equal(found, torch.zeros_like(found))
    (gradient,) = torch.autograd.grad((found * torch.rand(2, 3, 4, 4)).sum(), maps)
    assert gradient.isfinite().all()
