"""Networks: size, grid and parity with torchvision; model files and what is said of wrong ones."""

import dataclasses
import json
import re
import time
from pathlib import Path

import pytest
import torch
from lowmag import allocation, backbones, models, networks
from lowmag.allocation import NoMoreThan
from lowmag.attention_pool import load_slide_head
from lowmag.errors import UserError
from lowmag.models import ModelSpec
from lowmag.networks import build
from lowmag.recipe import Architecture, grid_cells
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

pytestmark = pytest.mark.usefixtures("seeded")

SIZES = (16, 17, 28, 31, 32, 33, 45, 64, 100, 127, 224, 512)


def architecture(**options) -> Architecture:
    return Architecture.model_validate(options)


@pytest.fixture
def network(spec) -> networks.Network:
    return build(architecture(model="resnet10gn", stride=16), len(spec.classes))


def tiles(n: int = 2, px: int = 32) -> torch.Tensor:
    return torch.randint(0, 256, (n, px, px, 3), dtype=torch.uint8)


def test_resnet10gn_has_the_size_of_dipalma2021():
    """1,231,011 parameters for 3 classes and 5.02 GMAC per megapixel (84.2 for 4096 x 4096)."""
    network = build(architecture(model="resnet10gn"), 3)
    assert networks.count_parameters(network) == 1_231_011
    assert networks.count_gmac(network, 512) == pytest.approx(84.2 / 64, rel=1e-3)
    assert sum(isinstance(module, nn.GroupNorm) for module in network.modules()) == 12
    assert not any(isinstance(module, nn.BatchNorm2d) for module in network.modules())


def test_gmac_equals_torchs_own_count():
    from torch.utils.flop_counter import FlopCounterMode

    network = build(architecture(model="resnet18", stride=8), 4).eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(torch.zeros(1, 3, 48, 48))
    assert networks.count_gmac(network, 48) == pytest.approx(counter.get_total_flops() / 2 / 1e9, rel=1e-12)


def test_counting_leaves_the_network_as_it_was(network):
    networks.count_gmac(network.train(), 32)
    assert network.training
    assert not any(module._forward_hooks for module in network.modules())


@pytest.mark.parametrize("stride", [8, 16, 32])
def test_resnet_grid_is_the_one_the_config_states(stride):
    backbone = backbones.ResNetBackbone(1, (2, 2, 2, 2), nn.BatchNorm2d, stride)
    for px in SIZES:
        cells = grid_cells(architecture(stride=stride), px)
        assert backbone(torch.zeros(2, 3, px, px)).shape == (2, 2, cells, cells), px


def test_vgg16_grid_is_the_one_the_config_states(monkeypatch):
    thin = tuple(tuple(2 for _ in block) for block in backbones.VGG16_BLOCKS)
    monkeypatch.setattr(backbones, "VGG16_BLOCKS", thin)
    vgg16 = architecture(model="vgg16", stride=16)
    network = build(vgg16, 3)
    for px in SIZES:
        cells = grid_cells(vgg16, px)
        features, logits = network(torch.zeros(1, 3, px, px))
        assert features.shape == (1, 2, cells, cells), px
        assert logits.shape == (1, 3)


@pytest.mark.parametrize("model", ["resnet18", "resnet10gn", "vgg16"])
def test_logits_are_the_head_of_the_mean_map(model):
    network = build(architecture(model=model, stride=16), 3).eval()
    features, logits = network(torch.randn(2, 3, 32, 32))
    torch.testing.assert_close(logits, features.mean((2, 3)) @ network.head.weight.T + network.head.bias)
    assert ((features < 0).any().item()) == (model == "vgg16"), "only conv5_3 before its ReLU has both signs"


def test_weights_fit_every_stride():
    coarse = build(architecture(model="resnet10gn", stride=32), 3)
    for stride in (16, 8):
        build(architecture(model="resnet10gn", stride=stride), 3).load_state_dict(coarse.state_dict())


@pytest.fixture(scope="module")
def torchvision_resnet18() -> nn.Module:
    from torchvision.models import resnet18

    torch.manual_seed(1)
    network = resnet18()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean = torch.rand(module.num_features) / 5 - 0.1
            nn.init.uniform_(module.weight, 0.5, 1.5)
    return network.eval()


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_resnet18_is_torchvisions(torchvision_resnet18, tmp_path, suffix):
    path = tmp_path / f"resnet18{suffix}"
    weights = torchvision_resnet18.state_dict()
    save_file(weights, path) if suffix == ".safetensors" else torch.save(weights, path)
    network = build(architecture(model="resnet18", weights=str(path)), 5).eval()
    x = torch.randn(2, 3, 64, 64)
    body = nn.Sequential(*list(torchvision_resnet18.children())[:-2])
    assert torch.equal(network(x)[0], body(x))


def test_vgg16_is_torchvisions_up_to_conv5_3(tmp_path):
    from torchvision.models.vgg import cfgs, make_layers

    features = make_layers(cfgs["D"]).eval()
    path = tmp_path / "vgg16.safetensors"
    weights = {f"features.{k}": v for k, v in features.state_dict().items()}
    save_file({**weights, "classifier.6.weight": torch.zeros(1)}, path)
    network = build(architecture(model="vgg16", stride=16, weights=str(path)), 5).eval()
    x = torch.randn(1, 3, 48, 48)
    assert torch.equal(network(x)[0], features[:29](x))


def test_initial_weights_leave_the_head_fresh(torchvision_resnet18, tmp_path):
    path = tmp_path / "resnet18.pth"
    torch.save(torchvision_resnet18.state_dict(), path)
    network = build(architecture(model="resnet18", weights=str(path)), 1000)
    assert not torch.equal(network.head.weight, torchvision_resnet18.fc.weight)


def test_wrong_initial_weights_are_named(network, tmp_path):
    def message(content) -> str:
        path = tmp_path / "weights.pt"
        torch.save(content, path)
        with pytest.raises(UserError) as caught:
            build(architecture(weights=str(path)), 3)
        return str(caught.value)

    weights = network.backbone.state_dict()
    renamed = {("stem" + k[5:] if k.startswith("conv1.") else k): v for k, v in weights.items()}
    assert "missing conv1.weight; unexpected stem.weight" in message(renamed)
    assert "of another shape conv1.weight" in message({**weights, "conv1.weight": torch.zeros(64, 3, 7, 7)})
    assert f"and {len(weights) - 5} more; give weights" in message({})
    assert "no plain state dict" in message({"state_dict": weights})
    with pytest.raises(UserError, match="are not there"):
        build(architecture(weights=str(tmp_path / "none.pth")), 3)
    (tmp_path / "noise.pth").write_bytes(b"not a checkpoint")
    with pytest.raises(UserError, match="cannot be read"):
        build(architecture(weights=str(tmp_path / "noise.pth")), 3)


def test_a_pickled_model_is_never_unpickled(network, tmp_path):
    path = tmp_path / "whole.pth"
    torch.save(network, path)
    with pytest.raises(UserError, match="cannot be read"):
        build(architecture(weights=str(path)), 3)


def test_a_model_file_gives_back_the_network_and_its_spec(network, spec, tmp_path):
    path = tmp_path / "model.safetensors"
    models.save_model(path, network, spec)
    found, found_spec = models.load_model(path)
    assert found_spec == spec
    assert not found.training
    x = torch.randn(2, 3, 32, 32)
    assert torch.equal(found(x)[1], network.eval()(x)[1])


def test_a_channels_last_network_is_stored_as_any_other(network, spec, tmp_path):
    plain, last = tmp_path / "plain.safetensors", tmp_path / "last.safetensors"
    models.save_model(plain, network, spec)
    models.save_model(last, network.to(memory_format=torch.channels_last), spec)
    assert models.weights_sha256(plain) == models.weights_sha256(last)


def test_the_spec_is_json_in_the_metadata(network, spec, tmp_path):
    """Other programs read it without this package."""
    models.save_model(tmp_path / "model.safetensors", network, spec)
    with safe_open(tmp_path / "model.safetensors", framework="pt") as file:
        content = json.loads(file.metadata()["lowmag"])
    assert content["classes"] == ["A", "B", "C"]
    assert content["magnification"] == 1.25
    assert content["schema_version"] == 1
    assert spec.mpp == 8.0


def test_the_hash_covers_weights_and_spec(network, spec, tmp_path):
    def digest(name: str, spec: ModelSpec) -> str:
        models.save_model(tmp_path / name, network, spec)
        return models.weights_sha256(tmp_path / name)

    first = digest("a.safetensors", spec)
    assert len(first) == 64
    assert digest("b.safetensors", spec) == first
    assert digest("c.safetensors", dataclasses.replace(spec, mean=(0.5, 0.5, 0.5))) != first
    nn.init.zeros_(network.head.bias)
    assert digest("d.safetensors", spec) != first


def rewrite(path: Path, without: str = "", **changes) -> None:
    """Store the weights of a model file again with other metadata or without one of the weights."""
    with safe_open(path, framework="pt") as file:
        content = json.loads(file.metadata()["lowmag"])
    weights = {k: v for k, v in load_file(path).items() if k != without}
    save_file(weights, path, metadata={"lowmag": json.dumps({**content, **changes})})


def test_files_that_are_not_ours_are_refused(network, spec, tmp_path):
    path = tmp_path / "model.safetensors"
    with pytest.raises(UserError, match=r"is not there; give a model\.safetensors"):
        models.load_model(path)
    path.write_bytes(b"\x00" * 100)
    with pytest.raises(UserError, match="is not a safetensors file"):
        models.load_model(path)
    save_file({"weight": torch.zeros(3)}, path)
    with pytest.raises(UserError, match="no 'lowmag' metadata"):
        models.load_model(path)
    models.save_model(path, network, spec)
    rewrite(path, schema_version=99)
    with pytest.raises(UserError, match="model schema 99, this lowmag reads 1"):
        models.load_model(path)


def test_a_model_file_that_contradicts_itself_is_refused(network, spec, tmp_path):
    path = tmp_path / "model.safetensors"
    models.save_model(path, network, spec)
    rewrite(path, without="head.bias")
    with pytest.raises(UserError, match=r"missing head\.bias; train it again"):
        models.load_model(path)
    models.save_model(path, network, spec)
    rewrite(path, classes=["A", "B"])
    with pytest.raises(UserError, match=r"another shape head\.bias, head\.weight"):
        models.load_model(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "metadata that are no JSON"),
        ("[" * 100_000, "metadata that are no JSON"),
        ("[]", "metadata that are no object"),
        ('{"schema_version": [1]}', r"model schema \[1\], this lowmag reads 1"),
        ('{"schema_version": 1}', r"model\.safetensors does not say .*role: Field required\n"),
    ],
)
def test_metadata_of_strangers_are_refused_with_a_cause(tmp_path, text, message):
    path = tmp_path / "model.safetensors"
    save_file({"x": torch.zeros(1)}, path, metadata={"lowmag": text})
    with pytest.raises(UserError, match=rf"(?s){message}"):
        models.load_model(path)
    with pytest.raises(UserError, match=r"no JSON|no object|expected lowmag-slide-head 1"):
        load_slide_head(path, "")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"foo": 1}, "foo: "),
        ({"classes": 3}, "classes: "),
        ({"classes": ["A", "\x1b[31m"]}, "holds the character"),
        ({"model": 3}, "model: "),
        ({"model": "of a stranger"}, "model: expected resnet18"),
        ({"stride": "x"}, "stride: "),
        ({"stride": 7}, "stride of resnet10gn is one of 8, 16, 32"),
        ({"input": "upsampled", "teacher_px": 10**6}, "teacher_px: .*less than or equal to 8192"),
        ({"magnification": 0}, "magnification: .*greater than 0"),
        ({"std": [0, 1, float("nan")]}, r"std\.2: .*finite"),
        ({"model": "features"}, "do not fit the network: missing backbone.mean"),
    ],
)
def test_model_files_of_strangers_are_refused_with_a_cause(network, spec, tmp_path, changes, message):
    path = tmp_path / "model.safetensors"
    models.save_model(path, network, spec)
    rewrite(path, **changes)
    with pytest.raises(UserError, match=rf"(?s){message}"):
        models.load_model(path)


@pytest.mark.parametrize(
    ("model", "px"),
    [
        ("timm/vit_tiny_patch16_224?embed_dim=1&num_heads=1&depth=20000", 224),  # many modules of few numbers
        ("timm/vit_tiny_patch16_224?embed_dim=1200000", 224),
        ("torchvision/resnet50", 8192),  # whose pass takes gigabytes
        ("features", 224),
    ],
)
def test_a_small_file_makes_no_large_network(spec, tmp_path, model, px):
    path = tmp_path / "model.safetensors"
    content = {"schema_version": 1, **dataclasses.asdict(spec), "model": model, "tile_px": px}
    weights = {"head.weight": torch.zeros(0, 10**12), "backbone.mean": torch.zeros(3)}
    save_file(weights, path, metadata={"lowmag": json.dumps(content)})
    began = time.process_time()
    with pytest.raises(UserError, match=f"({re.escape(model)}, far larger than|do not fit the network)"):
        models.load_model(path)
    assert time.process_time() - began < 10


def test_tensors_are_refused_before_they_are_made():
    with NoMoreThan({}, "too large"):
        with pytest.raises(UserError, match="too large"):
            torch.empty(10**7, 10**7)  # torch itself would say that there is no memory
    with NoMoreThan({"a": torch.zeros(3)}, "too many"):
        for _ in range(allocation.MOST_TENSORS + 2):
            torch.zeros(size=(1,))
        with pytest.raises(UserError, match="too many"):
            torch.ones(1)


def test_a_head_on_features_of_no_shape_is_refused(spec, tmp_path):
    path = tmp_path / "model.safetensors"
    content = {"schema_version": 1, **dataclasses.asdict(spec), "model": networks.FEATURES_MODEL}
    for weights in ({"x": torch.zeros(1)}, {"head.weight": torch.zeros(())}):
        save_file(weights, path, metadata={"lowmag": json.dumps(content)})
        with pytest.raises(UserError, match="do not fit the network"):
            models.load_model(path)


def test_a_slide_head_without_its_parts_is_refused(tmp_path):
    path = tmp_path / "slide_head.safetensors"
    own = {"schema": "lowmag-slide-head", "schema_version": 1, "model_sha256": "a"}
    for content in (own, own | {"classes": ["A", "B"]}):
        save_file({"std": torch.ones(2)}, path, metadata={"lowmag": json.dumps(content)})
        with pytest.raises(UserError, match="holds no slide head with its mean"):
            load_slide_head(path, "a")


def test_a_slide_head_of_more_channels_than_weights_is_refused(tmp_path):
    path = tmp_path / "slide_head.safetensors"
    content = {"schema": "lowmag-slide-head", "schema_version": 1, "model_sha256": "a", "classes": ["A", "B"]}
    weights = {name: torch.zeros(10**7, dtype=torch.uint8) for name in ("mean", "std")}
    save_file(weights, path, metadata={"lowmag": json.dumps(content)})  # a head for them has 10 GB
    with pytest.raises(UserError, match="far more channels or classes than weights"):
        load_slide_head(path, "a")


def test_prepared_tiles_are_standardised_per_channel(spec):
    found = models.prepare(tiles_uint8 := tiles(), spec)
    expected = (tiles_uint8.numpy() / 255 - spec.mean) / spec.std
    torch.testing.assert_close(found.permute(0, 2, 3, 1), torch.from_numpy(expected).float())


def test_both_orders_of_axes_are_understood(spec):
    last = tiles()
    assert torch.equal(
        models.prepare(last, spec), models.prepare(last.permute(0, 3, 1, 2).contiguous(), spec)
    )


def test_upsampled_tiles_have_the_teachers_size_and_keep_their_place(spec):
    upsampled = dataclasses.replace(spec, input="upsampled")
    found = models.prepare(last := tiles(), upsampled)
    assert found.shape == (2, 3, 128, 128)
    assert upsampled.network_px == 128
    assert spec.network_px == 32
    ramp = torch.arange(32, dtype=torch.uint8).repeat(1, 32, 1)[..., None].expand(1, 32, 32, 3)
    values = models.prepare(ramp, upsampled)[0, 0, 0] * spec.std[0] + spec.mean[0]
    centres = (torch.arange(128) + 0.5) / 4 - 0.5  # of the fine pixels, in coarse pixels
    torch.testing.assert_close(values[2:-2], centres[2:-2] / 255, rtol=0, atol=1e-5)
    flipped = models.prepare(last.flip(2), upsampled)
    torch.testing.assert_close(flipped, found.flip(3), rtol=0, atol=1e-5)


def test_released_upsampling_is_that_of_their_code(spec):
    released = dataclasses.replace(spec, input="released")
    found = models.prepare(last := tiles(), released)
    expected = torch.nn.UpsamplingBilinear2d(spec.teacher_px)(models.as_unit(last))
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (spec.mean, spec.std))
    torch.testing.assert_close(found * std + mean, expected, rtol=0, atol=1e-5)
    assert released.network_px == spec.teacher_px


def test_tiles_of_another_size_or_kind_are_refused(spec):
    with pytest.raises(UserError, match=r"64 x 64 px, the student at 1\.25x was trained on 32 px"):
        models.prepare(tiles(px=64), spec)
    with pytest.raises(ValueError, match="expected uint8"):
        models.prepare(tiles().float(), spec)
    with pytest.raises(ValueError, match="expected uint8"):
        models.prepare(tiles()[0], spec)
