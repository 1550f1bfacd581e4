"""Architectures by their parameter counts and shapes, and what a classifier promises."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from sau_bench.benchmark.datasets.digits import Digits
from sau_bench.benchmark.errors import InputError
from sau_bench.benchmark.loading import build
from sau_bench.models.classifier import Classifier
from sau_bench.models.preact_resnet18 import PreActResNet18
from sau_bench.models.small_cnn import SmallCNN
from sau_bench.models.timm import Timm


def dataset(classes: int = 10, side: int = 32) -> Digits:
    """A dataset of other constants; no image of it is ever read."""

    class Other(Digits):
        num_classes = classes
        shape = (3, side, side)
        mean = (0.1, 0.2, 0.3)
        std = (0.5, 0.6, 0.7)

    return Other()


def pixels(batch: int, side: int = 32) -> torch.Tensor:
    return torch.rand(batch, 3, side, side, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def resnet():
    torch.manual_seed(0)
    return PreActResNet18()(dataset()).eval()


@pytest.mark.parametrize(
    ("classes", "count"), [(10, 11_171_146), (43, 11_188_075), (200, 11_268_616)]
)
def test_preact_resnet18_has_the_published_number_of_parameters(classes, count):
    model = PreActResNet18()(dataset(classes))
    assert sum(p.numel() for p in model.parameters()) == count
    assert model.num_classes == classes


def test_preact_resnet18_has_the_published_batch_norms(resnet):
    widths = [m.num_features for m in resnet.modules() if isinstance(m, nn.BatchNorm2d)]
    assert widths == [64] * 5 + [128] * 4 + [256] * 4 + [512] * 3
    assert sum(widths) == 3392


@pytest.mark.parametrize("side", [32, 64])
def test_preact_resnet18_features_have_the_published_shapes(side):
    torch.manual_seed(0)
    model = PreActResNet18(width=8)(dataset(side=side)).eval()
    found = model.features(pixels(2, side), "conv1", *model.stages, "penultimate")
    shapes = {name: tuple(value.shape[1:]) for name, value in found.items()}
    assert shapes == {
        "conv1": (8, side, side),
        "layer1": (8, side, side),
        "layer2": (16, side // 2, side // 2),
        "layer3": (32, side // 4, side // 4),
        "layer4": (64, side // 8, side // 8),
        "penultimate": (64,),
        "logits": (10,),
    }


def test_preact_resnet18_at_full_width_ends_in_512_features(resnet):
    with torch.no_grad():
        found = resnet.features(pixels(1), "layer1", "layer4", "penultimate")
    assert found["layer1"].shape == (1, 64, 32, 32)
    assert found["layer4"].shape == (1, 512, 4, 4)
    assert found["penultimate"].shape == (1, 512)


def test_preact_resnet18_pools_unrectified_features(resnet):
    with torch.no_grad():
        found = resnet.features(pixels(2), "layer4", "penultimate")
    assert (found["layer4"] < 0).any() and (found["penultimate"] < 0).any()
    assert torch.allclose(found["penultimate"], found["layer4"].mean((2, 3)), atol=1e-6)


def test_preact_resnet18_computes_what_its_definition_says():
    torch.manual_seed(0)
    model = PreActResNet18(width=4)(dataset()).eval()
    for m in model.modules():
        if isinstance(m, nn.BatchNorm2d):
            nn.init.uniform_(m.weight, 0.5, 1.5)
            nn.init.normal_(m.bias)
            m.running_mean.normal_()
            m.running_var.uniform_(0.5, 2)
    weights = {k.removeprefix("body."): v for k, v in model.state_dict().items()}

    def rectified(x, name):
        mean, var = weights[f"{name}.running_mean"], weights[f"{name}.running_var"]
        return F.batch_norm(x, mean, var, weights[f"{name}.weight"], weights[f"{name}.bias"]).relu()

    x = pixels(3)
    out = F.conv2d((x - model.mean) / model.std, weights["conv1.weight"], padding=1)
    for stage in range(1, 5):
        for block in range(2):
            name, stride = f"layer{stage}.{block}", 2 if stage > 1 and block == 0 else 1
            active = rectified(out, f"{name}.bn1")
            if stride == 2:
                shortcut = F.conv2d(active, weights[f"{name}.shortcut.weight"], stride=2)
            else:
                shortcut = out
            active = F.conv2d(active, weights[f"{name}.conv1.weight"], stride=stride, padding=1)
            active = rectified(active, f"{name}.bn2")
            out = shortcut + F.conv2d(active, weights[f"{name}.conv2.weight"], padding=1)
    expected = F.linear(out.mean((2, 3)), weights["linear.weight"], weights["linear.bias"])
    with torch.no_grad():
        assert torch.allclose(model(x), expected, rtol=1e-4, atol=1e-4)


def test_preact_resnet18_starts_from_pytorchs_default_weights(resnet):
    for m in resnet.modules():
        if isinstance(m, nn.Conv2d | nn.Linear):
            bound = (m.weight[0].numel()) ** -0.5
            assert 0.95 * bound < m.weight.abs().max() <= bound
            assert torch.isclose(m.weight.std(), torch.tensor(bound / 3**0.5), rtol=0.1)


def test_normalisation_is_applied_exactly_once():
    model = SmallCNN(width=4)(dataset()).eval()
    x, seen = pixels(2), []
    first = next(m for m in model.body.modules() if isinstance(m, nn.Conv2d))
    first.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    model(x)
    mean, std = torch.tensor([0.1, 0.2, 0.3]), torch.tensor([0.5, 0.6, 0.7])
    expected = (x - mean.view(1, 3, 1, 1)) / std.view(1, 3, 1, 1)
    assert len(seen) == 1
    assert torch.equal(seen[0], expected)


def test_features_carry_gradients_and_leave_no_hooks():
    model = SmallCNN(width=4)(dataset()).eval()
    x = pixels(2).requires_grad_()
    found = model.features(x, "stage2", "penultimate", "logits")
    assert set(found) == {"stage2", "penultimate", "logits"}
    assert torch.equal(found["logits"], model(x))
    found["stage2"].sum().backward()
    assert x.grad is not None and x.grad.abs().sum() > 0
    with pytest.raises(AttributeError):
        model.features(x, "stage1", "stage9")
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_the_head_maps_penultimate_features_to_logits(resnet):
    with torch.no_grad():
        found = resnet.features(pixels(2), "penultimate")
        assert torch.allclose(resnet.head(found["penultimate"]), found["logits"], atol=1e-5)
    assert resnet.head is resnet.body.linear


def test_the_classifier_is_the_head_unless_it_has_several_layers(resnet):
    assert resnet.classifier is resnet.first_linear is resnet.head
    layers = nn.Sequential(nn.Linear(12, 6), nn.ReLU(), nn.Linear(6, 4))
    body = nn.Sequential(nn.Flatten(), layers)
    model = Classifier(
        body, head="1.2", stages=(), mean=[0.5] * 3, std=[0.1] * 3, classifier="1"
    ).eval()
    found = model.features(pixels(5, side=2), "flat", "penultimate")
    assert model.first_linear is layers[0] and model.head is layers[2]
    assert found["flat"].shape == (5, 12) and found["penultimate"].shape == (5, 6)
    assert torch.equal(model.classifier(found["flat"]), found["logits"])


def test_logits_are_float32_under_autocast():
    model = SmallCNN(width=4)(dataset()).eval()
    with torch.autocast("cpu", torch.bfloat16):
        assert model(pixels(2)).dtype == torch.float32


@pytest.mark.parametrize("key", ["preact_resnet18", "small_cnn"])
def test_width_is_an_option_that_shows_in_the_label(key):
    default, narrow = build("models", key), build("models", f"{key}:4")
    assert narrow.width == 4
    assert default.label == default.name
    assert narrow.label == f"{default.name} (width 4)"
    widths = [sum(p.numel() for p in m(dataset()).parameters()) for m in (narrow, default)]
    assert widths[0] < widths[1] / 10
    with pytest.raises(InputError, match="width is 0"):
        build("models", f"{key}:0")


def test_narrow_preact_resnet18_is_a_quarter_as_wide():
    model = PreActResNet18(width=16)(dataset())
    assert sum(p.numel() for p in model.parameters()) == 700_762
    assert model.head.in_features == 128


def test_small_cnn_halves_the_image_at_each_stage():
    model = SmallCNN(width=4)(dataset(classes=7)).eval()
    found = model.features(pixels(2), *model.stages, "penultimate")
    shapes = {name: tuple(value.shape) for name, value in found.items()}
    assert shapes == {
        "stage1": (2, 4, 16, 16),
        "stage2": (2, 8, 8, 8),
        "stage3": (2, 16, 4, 4),
        "penultimate": (2, 16),
        "logits": (2, 7),
    }


@pytest.mark.parametrize("name", ["resnet10t", "vit_tiny_patch16_224"])
def test_a_timm_model_takes_the_datasets_images_and_classes(name):
    architecture = build("models", f"timm:{name}")
    assert architecture == Timm(model=name) and architecture.label == name
    torch.manual_seed(0)
    model = architecture(dataset(classes=7)).eval()
    with torch.no_grad():
        found = model.features(pixels(2), "penultimate", *model.stages[-1:])
        assert found["logits"].shape == (2, 7) and model.num_classes == 7
        assert torch.allclose(model.head(found["penultimate"]), found["logits"], atol=1e-5)


def test_an_unknown_timm_model_gets_the_nearest_name():
    with pytest.raises(InputError, match=r"no model 'resnet10tt'; did you mean 'resnet10t'\?"):
        build("models", "timm:resnet10tt")
