"""VGG19 against torchvision's definition."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torchvision.models import vgg19, vgg19_bn
from torchvision.models.vgg import cfgs, make_layers

from sau_bench.benchmark.data import Images
from sau_bench.benchmark.datasets.digits import Digits
from sau_bench.benchmark.grid.config import Config
from sau_bench.benchmark.grid.grid import make_grid
from sau_bench.defenses.anp import ANP
from sau_bench.defenses.base import NotApplicable
from sau_bench.defenses.ep import EP
from sau_bench.defenses.nad import attention
from sau_bench.defenses.rnp import RNP
from sau_bench.models.vgg19 import VGG19


def dataset(classes: int = 10, side: int = 32) -> Digits:
    """A dataset of other constants; no image of it is ever read."""

    class Other(Digits):
        num_classes = classes
        shape = (3, side, side)

    return Other()


@pytest.mark.parametrize(
    ("batch_norm", "classes", "count"),
    [
        (False, 10, 139_611_210),
        (False, 43, 139_746_411),
        (False, 200, 140_389_640),
        (True, 10, 139_622_218),
        (True, 43, 139_757_419),
        (True, 200, 140_400_648),
    ],
)
def test_the_network_has_the_tensors_of_torchvisions(batch_norm, classes, count):
    with torch.device("meta"):  # shapes without 560 MB of numbers
        ours = VGG19(batch_norm=batch_norm)(dataset(classes))
        theirs = (vgg19_bn if batch_norm else vgg19)(num_classes=classes)
    shapes = [tuple(value.shape) for value in ours.body.state_dict().values()]
    assert shapes == [tuple(value.shape) for value in theirs.state_dict().values()]
    assert sum(p.numel() for p in ours.parameters()) == count
    kinds = (nn.Conv2d, nn.BatchNorm2d, nn.ReLU, nn.MaxPool2d, nn.Linear, nn.Dropout)
    layers = [
        [repr(m) for m in model.modules() if isinstance(m, kinds)] for model in (ours.body, theirs)
    ]
    assert layers[0] == layers[1]  # sizes, strides, padding and dropout, in order
    assert ours.first_linear.in_features == 25_088 and ours.num_classes == classes


@pytest.mark.parametrize("batch_norm", [False, True])
@pytest.mark.parametrize("side", [32, 64])
def test_a_narrow_network_computes_what_torchvisions_layers_do(batch_norm, side):
    torch.manual_seed(0)
    model = VGG19(batch_norm=batch_norm, width=4)(dataset(side=side)).eval()
    narrow = [c if c == "M" else c // 16 for c in cfgs["E"]]
    features = make_layers(narrow, batch_norm=batch_norm).eval()
    weights = list(model.body.state_dict().values())
    names = list(features.state_dict())
    features.load_state_dict(dict(zip(names, weights, strict=False)))
    x = torch.rand(2, 3, side, side)
    with torch.no_grad():
        h = F.adaptive_avg_pool2d(features((x - model.mean) / model.std), 7).flatten(1)
        for number, (weight, bias) in enumerate(
            zip(*[iter(weights[len(names) :])] * 2, strict=True)
        ):
            h = F.linear(h if number == 0 else h.relu(), weight, bias)
        torch.testing.assert_close(model(x), h, rtol=1e-5, atol=1e-6)


def test_weights_start_as_torchvisions_and_narrow_ones_with_the_same_gain():
    torch.manual_seed(0)
    deviations = {}
    for width in (4, 8):
        body = VGG19(width=width)(dataset()).body
        conv, linear = body.get_submodule("block3.4"), body.get_submodule("classifier.3")
        fan_out = conv.out_channels * 9
        assert conv.weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.05)
        assert not conv.bias.any() and not linear.bias.any()
        deviations[width] = linear.weight.std().item() * linear.in_features**0.5
    # At the published width, 0.01 sqrt(4096).
    assert list(deviations.values()) == pytest.approx([0.64, 0.64], rel=0.02)


def test_dropout_acts_in_training_mode_alone():
    torch.manual_seed(0)
    model, x = VGG19(width=2)(dataset()), torch.rand(2, 3, 32, 32)
    assert not torch.equal(model.train()(x), model(x))
    assert torch.equal(model.eval()(x), model(x))


def test_attention_of_the_last_stages_is_constant_at_32_pixels():
    """What makes NAD, as published, plain fine-tuning on this network."""
    torch.manual_seed(0)
    for side, constant in ((32, True), (64, False)):
        model = VGG19(width=4)(dataset(side=side)).eval()
        found = model.features(torch.rand(3, 3, side, side), *model.stages)
        assert model.stages[-2:] == ("block5", "avgpool")
        for stage in model.stages[-2:]:
            spread = attention(found[stage]).std(1, unbiased=False)
            assert bool((spread < 1e-6).all()) is constant


@pytest.mark.parametrize("defense", [ANP(), EP(), RNP()])
def test_channel_pruning_is_not_applicable_without_batch_norm(defense):
    torch.manual_seed(0)
    model = VGG19(width=2)(dataset())
    data = Images(torch.zeros(4, 3, 32, 32, dtype=torch.uint8), torch.zeros(4, dtype=torch.int64))
    with pytest.raises(NotApplicable, match="needs batch norm"):
        next(defense(model, data))


def test_names_of_both_networks_in_a_grid():
    models = [
        "vgg19",
        "vgg19:16",
        {"vgg19": {"batch_norm": True}},
        {"vgg19:16": {"batch_norm": True}},
    ]
    config = Config(datasets=["digits"], models=models, attacks=["badnets"])
    grid = make_grid(config)
    assert [grid.place(v, None)["model"] for v in grid.victims] == [
        "VGG19", "VGG19 (width 16)", "VGG19-BN", "VGG19-BN (width 16)",
    ]  # fmt: skip
    assert len(make_grid(config, ["model=VGG19-BN"]).victims) == 1
