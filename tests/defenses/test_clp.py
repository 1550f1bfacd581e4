"""CLP's bounds against singular values of the folded layers, and what it prunes."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from defense_cases import same
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from sau_bench.benchmark.data import Images
from sau_bench.benchmark.datasets.digits import Digits
from sau_bench.defenses.base import NotApplicable
from sau_bench.defenses.clp import CLP, channel_bounds
from sau_bench.models.classifier import Classifier
from sau_bench.models.preact_resnet18 import PreActResNet18
from sau_bench.models.vgg19 import VGG19

NOTHING = Digits()(Path()).train[torch.arange(0)]


def net(**layers: nn.Module) -> nn.Module:
    return nn.Sequential(OrderedDict(layers))


def randomised(model: nn.Module) -> nn.Module:
    torch.manual_seed(1)
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.weight, -2, 2)
            nn.init.uniform_(layer.bias, -1, 1)
            assert layer.running_var is not None
            nn.init.uniform_(layer.running_var, 0.1, 3)
    return model


def test_a_bound_is_the_largest_singular_value_of_the_folded_convolution() -> None:
    conv, bn = nn.Conv2d(3, 7, 3, bias=False), nn.BatchNorm2d(7)
    model = randomised(net(conv=conv, bn=bn))
    (found,) = channel_bounds(model).values()
    folded, _ = fuse_conv_bn_weights(
        conv.weight, None, bn.running_mean, bn.running_var, 0.0, bn.weight, bn.bias
    )
    for k, kernel in enumerate(folded.detach().double().numpy()):
        matrix = kernel.reshape(3, 9)
        expected = np.sqrt(np.linalg.eigvalsh(matrix @ matrix.T)[-1])
        assert float(found[k]) == pytest.approx(expected, rel=1e-5)


def test_channels_beyond_u_deviations_of_their_own_layer_lose_weight_and_bias() -> None:
    model = randomised(
        net(conv1=nn.Conv2d(3, 40, 3), bn1=nn.BatchNorm2d(40), conv2=nn.Conv2d(40, 20, 1),
            bn2=nn.BatchNorm2d(20))
    )  # fmt: skip
    with torch.no_grad():
        model.conv1.weight[13] *= 50
        model.bn1.weight[13] = -1.0
    bounds = {name: s.numpy() for name, s in channel_bounds(model).items()}
    before = {name: value.clone() for name, value in model.state_dict().items()}
    u = 1.0
    (defended,) = CLP(u=u)(model, NOTHING)
    after = defended.state_dict()
    counts = []
    for name, s in bounds.items():
        high = torch.from_numpy(s > s.mean() + u * s.std(ddof=1))
        counts.append(int(high.sum()))
        for part in ("weight", "bias"):
            expected = torch.where(high, 0.0, before.pop(f"{name}.{part}"))
            assert torch.equal(after[f"{name}.{part}"], expected)
    assert all(torch.equal(after[name], value) for name, value in before.items())
    # The large channel hides the others of its layer and none of the other layer.
    assert counts[0] == 1 and 1 <= counts[1] < 20
    assert after["bn1.weight"][13] == after["bn1.bias"][13] == 0


def test_a_larger_u_prunes_no_more() -> None:
    def pruned(u: float) -> int:
        model = randomised(PreActResNet18(width=8)(Digits()))
        (defended,) = CLP(u=u)(model, NOTHING)
        return sum(int((b == 0).sum()) for n, b in defended.named_parameters() if "bn" in n)

    counts = [pruned(u) for u in (0.0, 0.5, 1.0, 2.0, 1000.0)]
    assert counts == sorted(counts, reverse=True) and counts[0] > counts[2] > counts[-1] == 0


def test_batch_norms_of_preact_resnet18_read_the_convolution_defined_before_them() -> None:
    model = randomised(PreActResNet18(width=4)(Digits()))
    body = model.body
    before = {
        "layer1.0.bn1": body.conv1, "layer1.0.bn2": body.layer1[0].conv1,
        "layer1.1.bn1": body.layer1[0].conv2, "layer2.1.bn1": body.layer2[0].shortcut,
        "layer3.0.bn1": body.layer2[1].conv2, "layer4.1.bn2": body.layer4[1].conv1,
    }  # fmt: skip
    bounds = channel_bounds(model)
    assert len(bounds) == 16
    for name, conv in before.items():
        bn = body.get_submodule(name)
        norms = np.linalg.norm(conv.weight.detach().flatten(2).numpy(), 2, axis=(1, 2))
        expected = np.abs(bn.weight.detach().numpy()) / np.sqrt(bn.running_var.numpy()) * norms
        np.testing.assert_allclose(bounds[f"body.{name}"].numpy(), expected, rtol=1e-4)


def test_a_variance_of_zero_gives_a_finite_bound(cnn: Classifier) -> None:
    layer = next(m for m in cnn.modules() if isinstance(m, nn.BatchNorm2d))
    assert layer.running_var is not None
    layer.running_var[0] = 0
    assert all(bool(s.isfinite().all()) for s in channel_bounds(cnn).values())


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (lambda: VGG19(width=2)(Digits()), "needs batch norm"),
        (lambda: net(bn=nn.BatchNorm2d(3), conv=nn.Conv2d(3, 4, 1)), "follows no convolution"),
        (lambda: net(conv=nn.Conv2d(3, 4, 1), bn=nn.BatchNorm2d(5)), "'bn' follows no"),
        (
            lambda: net(conv=nn.Conv2d(3, 4, 1), bn=nn.BatchNorm2d(4, track_running_stats=False)),
            "keeps no running statistics",
        ),
    ],
)
def test_networks_without_a_bound_are_not_applicable(
    model: Callable[[], nn.Module], reason: str
) -> None:
    with pytest.raises(NotApplicable, match=reason):
        channel_bounds(model())


def test_no_data_are_used(cnn: Classifier) -> None:
    twin = copy.deepcopy(cnn)
    (alone,) = CLP(u=0.5)(cnn, NOTHING)
    many = Images(torch.randint(256, (5, 3, 32, 32), dtype=torch.uint8), torch.arange(5))
    (given,) = CLP(u=0.5)(twin, many)
    assert same(dict(alone.state_dict()), dict(given.state_dict()))
