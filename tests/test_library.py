"""Backbones of torchvision and timm: parity, closed forms, weights, files, and what is refused."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from lowmag import cam, models, networks
from lowmag.config import parse_config
from lowmag.errors import UserError
from lowmag.gate import check_networks
from lowmag.lesson import Job
from lowmag.networks import build, map_cells
from lowmag.recipe import Architecture, StudentTraining, Teacher
from lowmag.terms import Method
from lowmag.train import train_student, train_teacher
from safetensors.torch import save_file
from synthetic_tiles import CLASSES, HIGH, LOW, PX, make_cohort
from torch import nn

pytestmark = pytest.mark.usefixtures("seeded")

SMALL = "torchvision/shufflenet_v2_x0_5"
TINY = [
    (SMALL, 64, 32, 2),
    (SMALL, 65, 32, 3),
    ("torchvision/squeezenet1_1", 64, 21, 3),
    ("timm/test_resnet", 64, 32, 2),
    ("timm/test_resnet?output_stride=8", 64, 8, 8),
    ("timm/test_vit", 64, 16, 4),
    ("timm/test_convnext", 64, 32, 2),
    ("timm/test_mambaout", 64, 32, 2),  # channels last
]


@pytest.fixture
def _small_vit(monkeypatch) -> None:
    """A ViT of torchvision's own class, registered there as it registers its large ones."""
    from torchvision.models import VisionTransformer, _api

    def vit(*, weights=None, image_size=224, **options):
        assert weights is None
        return VisionTransformer(image_size, 16, 2, 2, 32, 64, **options)

    vit.__module__ = VisionTransformer.__module__
    monkeypatch.setitem(_api.BUILTIN_MODELS, "vit_small_of_ours", vit)


def architecture(model: str, stride: int = 32, weights: Path | str | None = None) -> Architecture:
    return Architecture(model=model, stride=stride, weights=str(weights) if weights else None)


@pytest.mark.parametrize(("model", "px", "stride", "cells"), TINY)
def test_every_kind_has_a_map_whose_closed_form_is_grad_cam(model, px, stride, cells):
    wanted = architecture(model, stride)
    network = build(wanted, 3, px).eval()
    assert map_cells(network, wanted, px) == cells
    features, logits = network(torch.randn(2, 3, px, px))
    assert features.shape == (2, network.head.in_features, cells, cells)
    torch.testing.assert_close(logits, features.mean((2, 3)) @ network.head.weight.T + network.head.bias)
    for relu in ("inside", "outside"):
        expected = cam.gradcam_reference(features, logits, relu)
        torch.testing.assert_close(
            cam.attention(features, network.head.weight, relu) / cells**2, expected, atol=1e-6, rtol=1e-4
        )


@pytest.mark.parametrize("name", ["shufflenet_v2_x0_5", "mnasnet0_5", "densenet121", "vit_small_of_ours"])
@pytest.mark.usefixtures("_small_vit")
def test_torchvisions_logits_come_out_with_its_weights_and_head(name, tmp_path):
    """The map is the one its own pooling sees: densenet after its last ReLU."""
    from torchvision.models import get_model

    size = {"image_size": 32} if name.startswith("vit") else {}
    theirs = get_model(name, weights=None, num_classes=3, **size).eval()
    for module in theirs.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.running_mean, -0.1, 0.1)
    save_file(theirs.state_dict(), tmp_path / "weights.safetensors")
    wanted = architecture(f"torchvision/{name}", 16 if size else 32, tmp_path / "weights.safetensors")
    ours = build(wanted, 3, 32).eval()
    x = torch.randn(2, 3, 32, 32)
    features = ours(x)[0]
    if size:  # it classifies its class token: the patch tokens are what its encoder makes of the same input
        tokens = torch.cat([theirs.class_token.expand(2, -1, -1), theirs._process_input(x)], 1)
        expected = theirs.encoder(tokens)[:, 1:].transpose(1, 2).reshape(2, -1, 2, 2)
        assert torch.equal(features, expected)
        return
    own_head = theirs.fc if name.startswith("shuffle") else theirs.classifier
    torch.testing.assert_close(own_head(features.mean((2, 3))), theirs(x))


def test_timms_tokens_stand_in_their_places():
    """What changes in one corner of the tile changes most in that corner of the map."""
    network = build(architecture("timm/test_vit", 16), 3, 64).eval()
    x = torch.randn(1, 3, 64, 64)
    changed = x.clone()
    changed[..., :16, 48:] += 3
    difference = (network(changed)[0] - network(x)[0]).norm(dim=1)[0]
    assert divmod(int(difference.argmax()), 4) == (0, 3)


def test_timms_own_file_fits_whatever_its_classifier(tmp_path):
    import timm

    theirs = timm.create_model("test_convnext", num_classes=7).eval()
    torch.save(theirs.state_dict(), tmp_path / "weights.pt")
    ours = build(architecture("timm/test_convnext", 32, tmp_path / "weights.pt"), 3, 64).eval()
    x = torch.randn(1, 3, 64, 64)
    assert torch.equal(ours(x)[0], theirs.forward_features(x))


@pytest.mark.usefixtures("_small_vit")
def test_a_vit_of_torchvision_takes_weights_of_another_size():
    from torchvision.models import VisionTransformer

    backbone = networks.library_backbone("torchvision/vit_small_of_ours", 32)
    own = backbone.body.state_dict()
    large = {**own, "encoder.pos_embedding": torch.randn(1, 17, own["encoder.pos_embedding"].shape[2])}
    assert isinstance(backbone.body, VisionTransformer)
    fitted = backbone.fitted(large)["encoder.pos_embedding"]
    assert fitted.shape == own["encoder.pos_embedding"].shape
    assert torch.equal(fitted[:, 0], large["encoder.pos_embedding"][:, 0]), "the class token has no place"


@pytest.mark.usefixtures("_small_vit")
@pytest.mark.parametrize(("model", "stride"), [("torchvision/vit_small_of_ours", 16), ("timm/test_vit", 16)])
def test_a_student_begins_with_a_model_file_of_larger_pictures(model, stride, tmp_path, spec):
    """Head and all; only the places of torchvision's ViT are resampled, timm's does it by itself."""
    above = build(architecture(model, stride), 3, 64)
    models.save_model(tmp_path / "model.safetensors", above, replace(spec, tile_px=64))
    below = build(architecture(model, stride), 3, 32)
    models.begin_from(below, tmp_path / "model.safetensors")
    for name, value in below.state_dict().items():
        if not name.endswith("encoder.pos_embedding"):
            assert torch.equal(value, above.state_dict()[name]), name
    if model.startswith("torchvision"):
        places = [n.backbone.body.state_dict()["encoder.pos_embedding"] for n in (above, below)]
        assert [len(p[0]) for p in places] == [17, 5]
        assert torch.equal(places[0][:, 0], places[1][:, 0])
    assert below.eval()(torch.randn(1, 3, 32, 32))[1].shape == (1, 3)


@pytest.mark.usefixtures("_small_vit", "one_thread")
@pytest.mark.parametrize(
    ("model", "stride"),
    [("torchvision/vit_small_of_ours", 16), ("timm/test_vit", 16), ("timm/test_convnext", 32)],
)
def test_a_student_of_small_tiles_trains_on_from_its_teacher(model, stride, tmp_path):
    """64 px of the teacher, 16 of the student; a network of stride 32 sees those upsampled."""
    tiles, splits = make_cohort(tmp_path)
    teacher = Job(tiles, splits, CLASSES, HIGH, 0, tmp_path / "teacher", tmp_path / "a", threads=1)
    of_both = {"model": model, "stride": stride, "epochs": 1, "batch_size": 4}
    assert train_teacher(teacher, Teacher(require="nothing", **of_both)) == 0
    begins = {"initial": "teacher", "input": "upsampled" if stride > PX[LOW] else "native"}
    student = replace(teacher, magnification=LOW, out=tmp_path / "student", state=tmp_path / "b")
    student = replace(student, initial=tmp_path / "teacher" / "model.safetensors")
    labels = Method.model_validate({"cross_entropy": 1})
    assert train_student(student, StudentTraining(**begins, **of_both), labels, None, 0) == 0
    first, second = (models.load_model(job.out / "model.safetensors")[0] for job in (teacher, student))
    # One epoch of a few steps leaves a network near where it began: two that begin with noise are far apart.
    apart = (first.head.weight - second.head.weight).norm() / first.head.weight.norm()
    assert 0 < apart < 0.5


@pytest.mark.parametrize(
    ("model", "stride", "fits"), [("timm/test_vit", 16, True), ("timm/levit_128s", 64, False)]
)
def test_weights_tied_to_the_size_of_pictures_are_known_before_slides_are_cut(model, stride, fits):
    """LeViT's tables of attention have an entry per distance of cells, which no one can resample."""
    network = {"model": model, "stride": stride}
    begins = {"cross_entropy": 1, "training": {"initial": "higher"}}
    methods = {"labels-only": None, "dipalma2021": None, "delamor2024": None, "own": begins}
    tiles = {"teacher": 5, "students": [2.5, 1.25], "field_um": 512}
    config = parse_config({"teacher": network, "students": network, "methods": methods, "tiles": tiles})
    if fits:
        check_networks(config)
        return
    with pytest.raises(
        UserError, match=r"students.initial, pictures of 128 px: weights of timm/levit_128s.*noise"
    ):
        check_networks(config)


def test_weights_of_another_network_are_named(tmp_path):
    other = build(architecture("timm/test_convnext"), 3, 64)
    save_file(other.backbone.body.state_dict(), tmp_path / "weights.safetensors")
    with pytest.raises(UserError, match=r"missing .*give weights with timm's names for timm/test_vit"):
        build(architecture("timm/test_vit", 16, tmp_path / "weights.safetensors"), 3, 64)


def test_a_model_file_alone_gives_back_the_network(tmp_path, spec):
    given = replace(spec, model="timm/test_vit", tile_px=64)
    network = build(architecture("timm/test_vit", 16), 3, 64).eval()
    models.save_model(tmp_path / "model.safetensors", network, given)
    found, loaded = models.load_model(tmp_path / "model.safetensors")
    assert loaded == given
    x = torch.randn(2, 3, 64, 64)
    assert torch.equal(found(x)[1], network(x)[1])


def test_compute_counts_attention_too():
    """16 patches and the class token, 6 blocks of width 64: products of tokens with tokens are in it."""
    network = build(architecture("timm/test_vit", 16), 3, 64).eval()
    linear = sum(
        module.weight.numel() * (1 if name == "head" else 17)
        for name, module in network.named_modules()
        if isinstance(module, nn.Linear) and name != "head"
    )
    patches = 16 * 64 * 3 * 16 * 16
    blocks = len(network.backbone.body.blocks)
    tokens = blocks * 2 * 17 * 17 * 64
    assert networks.count_gmac(network, 64) == pytest.approx((linear + patches + tokens) / 1e9, rel=1e-6)


@pytest.mark.parametrize(
    ("model", "px", "stride", "message"),
    [
        ("timm/test_vit", 70, 16, "takes no tiles of 70 x 70 px .*whole number of patches"),
        ("timm/test_vit", 64, 32, "4 x 4 cells of a tile of 64 px.*set stride: 16"),
        ("timm/no_such_network", 64, 32, r"cannot be made by timm \(Unknown model .*timm.list_models"),
        ("torchvision/no_such_network", 64, 32, "cannot be made by torchvision .*list_models"),
        (
            "torchvision/fcn_resnet50",
            64,
            32,
            "Unknown model fcn_resnet50",
        ),  # its backbone's weights come along
        ("timm/test_resnet?checkpoint_path=evil.pth", 64, 32, "checkpoint_path is not to be given"),
        ("timm/test_resnet?pretrained=true", 64, 32, "pretrained is not to be given"),
        ("timm/test_resnet?pretrained_cfg=x", 64, 32, "pretrained_cfg is not to be given"),
        ("timm/test_resnet?cache_dir=x", 64, 32, "cache_dir is not to be given"),
        ("torchvision/resnet18?weights=DEFAULT", 64, 32, "weights is not to be given"),
        ("torchvision/resnet18?pretrained=1", 64, 32, "pretrained is not to be given"),
        ("timm/test_resnet?act_layer=gelu", 64, 32, "act_layer is 'gelu', expected a number"),
        ("timm/test_resnet?drop_rate=nan", 64, 32, "drop_rate is 'nan', expected a number"),
        (f"timm/test_resnet?drop_rate={'9' * 400}", 64, 32, "expected a number"),
        ("torchvision/alexnet", 32, 32, "takes no tiles of 32 x 32 px"),
        ("timm/efficientvim_m1", 224, 32, "EfficientViM of timm gives 4 maps"),
    ],
)
def test_what_cannot_be_is_said_with_its_cure(model, px, stride, message):
    with pytest.raises(UserError, match=message):
        map_cells(build(architecture(model, stride), 3, px), architecture(model, stride), px)


def test_a_missing_library_names_the_extra(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    with pytest.raises(UserError, match="needs timm, which is not installed; run `uv sync --extra timm`"):
        build(architecture("timm/test_vit", 16), 3, 64)


def test_torchvisions_own_weights_come_from_its_cache(tmp_path, monkeypatch):
    """The real loading code; what it would download lies in its cache already."""
    from torchvision.models import ShuffleNet_V2_X0_5_Weights, get_model

    theirs = get_model("shufflenet_v2_x0_5", weights=None).eval()
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    cached = tmp_path / "hub" / "checkpoints" / ShuffleNet_V2_X0_5_Weights.DEFAULT.url.rsplit("/", 1)[1]
    cached.parent.mkdir(parents=True)
    torch.save(theirs.state_dict(), cached)
    ours = build(architecture(SMALL, 32, "pretrained"), 3, 64).eval()
    x = torch.randn(1, 3, 64, 64)
    torch.testing.assert_close(theirs.fc(ours(x)[0].mean((2, 3))), theirs(x))


def test_weights_of_a_hub_come_from_its_cache(tmp_path, monkeypatch):
    import huggingface_hub
    import timm

    theirs = timm.create_model("test_vit", num_classes=5).eval()
    snapshot = tmp_path / "models--lab--small" / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text("0" * 40)
    save_file(theirs.state_dict(), snapshot / "model.safetensors")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    ours = build(architecture("timm/test_vit", 16, "hf-hub:lab/small"), 3, 64).eval()
    x = torch.randn(1, 3, 160, 160)
    torch.testing.assert_close(ours(x)[0].flatten(2).transpose(1, 2), theirs.forward_features(x)[:, 1:])
    with pytest.raises(UserError, match="hf-hub:lab/other of timm/test_vit cannot be had"):
        build(architecture("timm/test_vit", 16, "hf-hub:lab/other"), 3, 64)


def test_networks_of_a_study_are_tried_before_it_starts():
    from lowmag.config import parse_config

    content = {"tiles": {"field_um": 256}, "students": {"model": "timm/test_vit", "stride": 16}}
    content["methods"] = {"labels-only": {"cross_entropy": 1}}
    with pytest.raises(UserError, match=r"students.model: timm/test_vit takes no tiles of 40 x 40 px"):
        check_networks(parse_config({**content, "tiles": {"field_um": 320, "students": [2.5, 1.25]}}))
    check_networks(parse_config(content))


def test_training_imports_no_library_unasked():
    code = "import sys, lowmag.train, lowmag.plan; print({'torchvision', 'timm'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
