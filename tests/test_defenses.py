"""The numerical cores of the defenses, against independent computations."""

from __future__ import annotations

import copy
import logging
import math
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import jensenshannon
from scipy.stats import entropy as scipy_entropy
from torch import Tensor, nn
from torch.nn import functional as F

import defenses.nad as nad_module
from attacks.badnets import BadNets
from benchmark.data import Images
from benchmark.datasets.digits import Digits
from benchmark.metrics import poison_test, score
from benchmark.train import Recipe, micro_batches
from defenses.anp import ANP, masked_risk, pruned
from defenses.at import AT
from defenses.base import NotApplicable
from defenses.batch_norm import batch_norms
from defenses.ep import EP, channel_entropy, channel_peaks
from defenses.fp import FP
from defenses.ft import FT
from defenses.i_bau import IBAU, hypergradient
from defenses.nad import NAD, attention
from defenses.nc import NC, outliers
from defenses.perturbation import Flow, NormBall, adversarial
from defenses.sau import SAU, jensen_shannon, shared_risk
from defenses.trigger_inversion import CostSchedule, Triggers
from models.classifier import Classifier
from models.small_cnn import SmallCNN


@pytest.fixture(autouse=True)
def _repeatable() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def digits() -> Images:
    """100 training images."""
    return Digits()(Path()).train[torch.arange(100)]


@pytest.fixture
def cnn() -> Classifier:
    """An untrained network whose batch norm is not at its initial, symmetric values."""
    model = SmallCNN(width=4)(Digits())
    with torch.no_grad():
        for layer in batch_norms(model).values():
            layer.weight.uniform_(0.5, 1.5)
            layer.bias.uniform_(-0.5, 0.5)
            layer.running_mean.uniform_(-0.1, 0.1)
    return model.eval()


def two_layers(seed: int, classes: int = 3) -> nn.Module:
    """A float64 network on 1 x 2 x 3 images."""
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Flatten(), nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, classes)).double()
    for parameter in net.parameters():
        parameter.data *= 5
    return net


def noise(*shape: int, classes: int = 10) -> Images:
    x = torch.randint(256, shape, dtype=torch.uint8)
    return Images(x, torch.randint(classes, shape[:1]))


def linear(weight: Tensor, size: int) -> Classifier:
    """A linear classifier of one-channel images, without normalisation."""
    head = nn.Linear(size**2, len(weight))
    head.load_state_dict({"weight": weight, "bias": torch.zeros(len(weight))})
    body = nn.Sequential(OrderedDict(flat=nn.Flatten(), head=head))
    return Classifier(body, head="head", stages=(), mean=[0.0], std=[1.0])


def batch_norm_state(model: nn.Module) -> dict[str, Tensor]:
    return {name: b.clone() for name, b in model.named_buffers() if "running" in name}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def parameters(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters()}


# SAU


def card_inner(
    f: nn.Module, f0: nn.Module, x: Tensor, y: Tensor, e: Tensor, lambda_3: float = 0.01
) -> tuple[Tensor, list[bool]]:
    """The inner objective image by image, as its equations read, and which images are shared."""
    total, shared = torch.zeros((), dtype=x.dtype), []
    for i in range(len(x)):
        clean, clean0 = (int(net(x[i : i + 1]).argmax()) for net in (f, f0))
        logits, logits0 = f((x + e)[i : i + 1])[0], f0((x + e)[i : i + 1])[0]
        fooled, fooled0 = int(logits.argmax()) != clean, int(logits0.argmax()) != clean0
        p, p0 = logits.softmax(0), logits0.softmax(0)
        if not fooled:
            total = total + lambda_3 * p[y[i]].log() / 2
        if not fooled0:
            total = total + lambda_3 * p0[y[i]].log() / 2
        shared.append(fooled and fooled0 and int(logits.argmax()) == int(logits0.argmax()))
        if not shared[-1]:
            m = (p + p0) / 2
            total = total + (p * (p / m).log()).sum() / 2 + (p0 * (p0 / m).log()).sum() / 2
    return total, shared


@pytest.fixture
def sau_case() -> tuple[nn.Module, nn.Module, Tensor, Tensor, Tensor, Tensor]:
    f, f0 = two_layers(1), two_layers(1)
    torch.manual_seed(3)
    for parameter in f.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    x, y = torch.rand(40, 1, 2, 3, dtype=torch.float64), torch.randint(3, (40,))
    return f, f0, x, y, f(x).argmax(1), f0(x).argmax(1)


def test_sau_inner_loss_and_gradient(
    sau_case: tuple[nn.Module, nn.Module, Tensor, Tensor, Tensor, Tensor],
) -> None:
    f, f0, x, y, clean, clean0 = sau_case
    e = (0.8 * torch.rand_like(x) - 0.4).requires_grad_()
    expected, shared = card_inner(f, f0, x, y, e)
    value, found = SAU().inner_loss(f(x + e), f0(x + e), y, clean, clean0)
    assert 0 < sum(shared) < len(x)
    assert found.tolist() == shared
    torch.testing.assert_close(value, expected)
    ours, theirs = (torch.autograd.grad(v, e)[0] for v in (value, expected))
    torch.testing.assert_close(ours, theirs)
    assert (ours[found] == 0).all() and (ours[~found] != 0).any()


def test_sau_examples_follow_the_plain_loop_and_stay_on_the_lattice(
    sau_case: tuple[nn.Module, nn.Module, Tensor, Tensor, Tensor, Tensor],
) -> None:
    # A larger weight than the default fools the small network within the five steps.
    lambda_3 = 1.0
    f, f0, x, y, clean, clean0 = sau_case
    e = torch.full_like(x, 0.2)
    first: dict[int, Tensor] = {}
    for _ in range(5):
        e.requires_grad_()
        value, shared = card_inner(f, f0, x, y, e, lambda_3)
        (gradient,) = torch.autograd.grad(value, e)
        e = (e.detach() - 0.2 * gradient.sign()).clamp(-0.2, 0.2)
        first |= {i: e[i].clone() for i, hit in enumerate(shared) if hit and i not in first}
    method = SAU(lambda_3=lambda_3)
    found = method.shared_examples(f, f0, method.perturbation_sets()[0], x, y, clean, clean0)
    torch.testing.assert_close(found, e)
    assert 0 < len(first) < len(x)
    assert all(torch.equal(found[i], kept) for i, kept in first.items())
    lattice = torch.tensor([-0.2, 0.0, 0.2], dtype=x.dtype)
    assert (found[..., None] - lattice).abs().amin(-1).max() < 1e-12
    assert len(found.unique()) == 3


def test_jensen_shannon() -> None:
    p, q = torch.randn(2, 50, 7, dtype=torch.float64).mul(3).softmax(-1)
    expected = [jensenshannon(a, b) ** 2 for a, b in zip(p.numpy(), q.numpy(), strict=True)]
    np.testing.assert_allclose(jensen_shannon(p, q), expected, rtol=1e-6)
    assert jensen_shannon(p, p).abs().max() < 1e-12


def test_shared_risk() -> None:
    logits = torch.randn(30, 4, dtype=torch.float64)
    bad, counted = torch.randint(4, (30,)), torch.rand(30) < 0.7
    logits[0, bad[0]], logits[1, bad[1]] = 40.0, -40.0  # certain to be bad, certain not to be
    counted[:2] = True
    logits.requires_grad_()
    total = 0.0
    for row, label, included in zip(logits.tolist(), bad.tolist(), counted.tolist(), strict=True):
        powers = [math.exp(v) for v in row]
        q = powers[label] / sum(powers)
        rest = sum(v for k, v in enumerate(powers) if k != label) / sum(powers)
        if included:
            total -= math.log(1e-6 + min(rest, 0.999)) / 2
            total -= math.log(1 + 1e-6 - max(q, 0.001)) / 2
    value = shared_risk(logits, bad, counted)
    assert value.item() == pytest.approx(total / 30, rel=1e-9)
    (gradient,) = torch.autograd.grad(value, logits)
    assert (gradient[1] == 0).all() and (gradient[~counted] == 0).all()
    assert gradient[counted].abs().sum(1)[2:].min() > 0


def test_sau_keeps_the_backdoored_model(
    monkeypatch: pytest.MonkeyPatch, cnn: Classifier, digits: Images
) -> None:
    before, kept = {k: v.clone() for k, v in cnn.state_dict().items()}, []
    original = SAU.shared_examples

    def spy(self: SAU, model: nn.Module, backdoored: nn.Module, *rest: Any) -> Tensor:
        kept.append(backdoored)
        return original(self, model, backdoored, *rest)

    monkeypatch.setattr(SAU, "shared_examples", spy)
    list(SAU(recipe=Recipe(**SAU_RECIPE))(cnn, digits))
    assert same(dict(kept[-1].state_dict()), before)
    assert not same(dict(cnn.state_dict()), before)


@pytest.mark.parametrize("method", [SAU, AT])
def test_losses_of_unlearning_may_be_split(
    method: type[SAU | AT], cnn: Classifier, digits: Images
) -> None:
    other, before = copy.deepcopy(cnn), copy.deepcopy(cnn)
    # Adam would turn gradients of rounding errors into whole steps.
    defense = method(recipe=Recipe(**{**SAU_RECIPE, "optimizer": "sgd", "lr": 0.01}))
    for net, parts in ((cnn, 1), (other, 3)):
        torch.manual_seed(0)
        with micro_batches(parts):
            list(defense(net, digits))
    whole, split, start = (
        torch.cat([p.detach().flatten() for p in net.parameters()]) for net in (cnn, other, before)
    )
    assert 0 < (split - whole).norm() < 1e-4 * (whole - start).norm()


# Perturbation sets


@settings(deadline=None, max_examples=60)
@given(
    norm=st.sampled_from(["linf", "l2", "l1"]),
    bound=st.floats(1e-3, 600),
    scale=st.floats(1e-4, 1e3),
    seed=st.integers(0, 2**16),
)
def test_projection_onto_norm_balls(norm: Any, bound: float, scale: float, seed: int) -> None:
    ball = NormBall(norm=norm, bound=bound, step=0.1, start="random")
    order = {"linf": math.inf, "l2": 2, "l1": 1}[norm]
    torch.manual_seed(seed)
    e = torch.randn(5, 3, 4, 4, dtype=torch.float64) * scale
    size = torch.linalg.vector_norm(e.flatten(1), order, dim=1)
    found = ball.project(e)
    reached = torch.linalg.vector_norm(found.flatten(1), order, dim=1)
    assert (reached <= bound * (1 + 1e-9)).all()
    assert torch.equal(found[size <= bound], e[size <= bound])
    torch.testing.assert_close(reached[size > bound], torch.full_like(reached, bound)[size > bound])
    assert (found * e >= 0).all()
    assert (
        torch.linalg.vector_norm(ball.initial(e).flatten(1), order, dim=1) <= bound * 1.001
    ).all()


def test_flow_stays_bounded_and_zero_flow_is_the_identity() -> None:
    flow = Flow(bound=0.05, step=0.025, start="random")
    x = torch.rand(2, 3, 8, 8)
    e = flow.initial(x)
    assert e.abs().max() <= 0.05
    assert flow.ascend(e, torch.randn_like(e)).abs().max() <= 0.05
    torch.testing.assert_close(flow.apply(x, torch.zeros_like(e)), x)


@pytest.mark.parametrize("start", ["max", "min", "zero"])
def test_adversarial_perturbations_follow_the_plain_loop(start: Any) -> None:
    net = two_layers(5)
    x, y = torch.rand(9, 1, 2, 3, dtype=torch.float64), torch.randint(3, (9,))
    ball = NormBall(norm="linf", bound=0.3, step=0.07, start=start)
    found = adversarial(net, ball, x, y, 4)
    for i in range(len(x)):
        e = torch.full_like(x[:1], {"max": 0.3, "min": -0.3, "zero": 0.0}[start])
        for _ in range(4):
            slope = torch.func.grad(
                lambda e, i=i: F.cross_entropy(net(x[i : i + 1] + e), y[i : i + 1])
            )(e)
            e = (e + 0.07 * slope.sign()).clamp(-0.3, 0.3)
        torch.testing.assert_close(found[i : i + 1], e)
    assert not found.requires_grad


# What happens to batch norm

SAU_RECIPE: dict[str, Any] = {
    "epochs": 1, "batch_size": 50, "optimizer": "adam", "lr": 1e-3, "weight_decay": 0.0,
    "schedule": "constant", "augment": False, "batch_norm": "frozen",
}  # fmt: skip


@pytest.mark.parametrize(
    ("defense", "moves"),
    [
        (FT(recipe=Recipe(epochs=1)), True),
        (SAU(recipe=Recipe(**SAU_RECIPE)), False),
        (AT(recipe=Recipe(**SAU_RECIPE)), False),
        (AT(recipe=Recipe(**SAU_RECIPE), clean_weight=1.0), False),
        (IBAU(rounds=1, batch_size=50, portion=0.1), False),
    ],
    ids=lambda value: getattr(value, "name", str(value)),
)
def test_who_moves_batch_norm_statistics(
    defense: Any, moves: bool, cnn: Classifier, digits: Images
) -> None:
    before, weights = batch_norm_state(cnn), parameters(cnn)
    (result,) = defense(cnn, digits)
    assert same(batch_norm_state(result), before) is not moves
    after = parameters(result)
    assert all(not torch.equal(after[name], weights[name]) for name in weights)


# FP


def test_fp_prunes_the_least_active_features() -> None:
    # Feature k alone decides class k: pruning k loses class k, so each step costs 1/10 of ACC.
    head, features, y = nn.Linear(10, 10, bias=False), torch.eye(10), torch.arange(10)
    head.weight.data = torch.eye(10)
    activity = torch.tensor([9.0, -3.0, 5.0, 7.0, -8.0, 0.0, 1.0, 2.0, 4.0, 3.0])

    def removed(**fields: Any) -> list[int]:
        mask = FP(step=0.1, **fields).mask(head, activity, features, y)
        return (mask == 0).nonzero()[:, 0].tolist()

    # A dead class 0 stays right, since argmax of zeros is 0; classes 4, 1, 5, 6 go in this order.
    assert removed(tolerance=0.35, stop="within") == [1, 4, 5]
    assert removed(tolerance=0.35) == [1, 4, 5, 6]
    assert removed(tolerance=0.25) == [1, 4, 5]
    assert removed(tolerance=0.3) == [1, 4, 5]  # reaching the tolerance violates it
    # Nothing violates: the last mask of the sweep.
    assert len(removed(tolerance=0.999)) == 8 and len(removed(tolerance=0.999, stop="within")) == 9


def test_fp_counts_one_feature_less_in_every_step() -> None:
    head, y = nn.Linear(512, 2), torch.zeros(4, dtype=torch.int64)
    head.bias.data = torch.tensor([1e6, 0.0])  # no mask changes the accuracy
    mask = FP().mask(head, torch.rand(512), torch.rand(4, 512), y)
    assert int((mask == 0).sum()) == 509  # n = 0, 6, ..., 510
    assert (
        int((FP(stop="within").mask(head, torch.rand(512), torch.rand(4, 512), y) == 0).sum())
        == 510
    )


def test_fp_mask_outlives_fine_tuning(
    cnn: Classifier, digits: Images, caplog: pytest.LogCaptureFixture
) -> None:
    with torch.no_grad():
        activity = cnn.features(digits.floats(), "penultimate")["penultimate"].mean(0)
    recipe = Recipe(epochs=2, batch_size=50, augment=False)
    *_, model = FP(tolerance=0.9, recipe=recipe)(cnn, digits)
    result = copy.deepcopy(model)
    columns = (result.head.weight == 0).all(0)
    assert 0 < int(columns.sum()) < len(columns)
    assert activity[columns].max() < activity[~columns].min()
    assert f"pruned {int(columns.sum())} of 16 features" in caplog.messages
    x = torch.randn(3, 16)
    changed = torch.where(columns, torch.randn(3, 16), x)
    assert not torch.equal(x, changed)
    assert torch.equal(result.head(x), result.head(changed))
    assert (result.head(x) != result.head(x * 2)).any()


# NAD


def test_attention_and_distillation_loss(
    monkeypatch: pytest.MonkeyPatch, cnn: Classifier, digits: Images
) -> None:
    def numpy_attention(features: Tensor) -> Any:
        energy = (np.abs(features.detach().numpy().astype(np.float64)) ** 2).sum(1)
        flat = energy.reshape(len(energy), -1)
        return flat / (np.sqrt((flat**2).sum(1, keepdims=True)) + 1e-6)

    features = torch.randn(4, 3, 5, 6)
    np.testing.assert_allclose(attention(features), numpy_attention(features), rtol=1e-5)

    found: list[tuple[float, float]] = []
    trained: list[Classifier] = []

    def fit(model: Classifier, data: Images, recipe: Recipe, *, loss: Any = None) -> Iterator[Any]:
        trained.append(model)
        if loss is None:  # the teacher: any other network will do
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.add_(0.1 * torch.randn_like(parameter))
        else:
            x, y = data.floats(), data.y
            ours, theirs = (m.eval().features(x, "stage2", "stage3") for m in (model, trained[0]))
            expected: float = F.cross_entropy(ours["logits"], y).item()
            for beta, stage in ((500, "stage2"), (1000, "stage3")):
                a, b = numpy_attention(ours[stage]), numpy_attention(theirs[stage])
                expected += beta * float(((a - b) ** 2).mean())
            found.append((loss(model, x, y).item(), expected))
        yield model

    monkeypatch.setattr(nad_module, "fit", fit)
    list(NAD()(cnn, digits))
    assert trained[1] is cnn and trained[0] is not cnn
    ((value, expected),) = found
    assert value == pytest.approx(expected, rel=1e-4)


def test_nad_freezes_the_teacher_and_repeats_batch_norm_updates(
    monkeypatch: pytest.MonkeyPatch, cnn: Classifier, digits: Images
) -> None:
    models: list[nn.Module] = []
    original: Any = vars(nad_module)["fit"]

    def fit(model: Any, *args: Any, **kwargs: Any) -> Iterator[Any]:
        models.append(model)
        return original(model, *args, **kwargs)

    monkeypatch.setattr(nad_module, "fit", fit)
    recipe = Recipe(epochs=2, batch_size=50)
    rounds = NAD(teacher=Recipe(epochs=1, batch_size=50), recipe=recipe)(cnn, digits)
    next(rounds)
    teacher, before = models[0], copy.deepcopy(models[0].state_dict())
    momenta = [layer.momentum for layer in batch_norms(cnn).values()]
    assert momenta == pytest.approx([1 - 0.9**4, 1 - 0.9**4, 1 - 0.9**3])
    list(rounds)
    assert same(dict(teacher.state_dict()), dict(before))
    assert not teacher.training and not any(p.requires_grad for p in teacher.parameters())
    assert [layer.momentum for layer in batch_norms(cnn).values()] == [0.1] * 3


def test_repeated_momentum_equals_repeated_passes() -> None:
    once, often = nn.BatchNorm2d(2), nn.BatchNorm2d(2)
    once.momentum = 1 - 0.9**4
    x = torch.randn(5, 2, 3, 3)
    once(x)
    for _ in range(4):
        often(x)
    torch.testing.assert_close(once.running_mean, often.running_mean)
    torch.testing.assert_close(once.running_var, often.running_var)


def test_nad_needs_stages_and_feature_maps(cnn: Classifier, digits: Images) -> None:
    with pytest.raises(NotApplicable, match="needs 4 stages, the model has 3"):
        list(NAD(betas=(1.0,) * 4)(cnn, digits))
    with pytest.raises(NotApplicable, match="feature maps"):
        attention(torch.rand(2, 7, 5))


# i-BAU


def test_hypergradient_of_a_quadratic_has_its_closed_form() -> None:
    torch.manual_seed(0)
    a = torch.randn(5, 3, dtype=torch.float64)
    c = torch.randn(5, dtype=torch.float64)
    theta = torch.randn(3, dtype=torch.float64, requires_grad=True)
    d = (a @ theta).detach().requires_grad_()  # where (d - a theta)^2 / 2 is smallest
    inner = (d - a @ theta).square().sum() / 2
    outer = (d - c).square().sum() / 2 + theta.square().sum() / 2
    (found,) = hypergradient(inner, outer, d, [theta], eta=0.5, K=60)
    torch.testing.assert_close(found, a.T @ (a @ theta - c) + theta)


@pytest.mark.parametrize("K", [1, 5, 300])
def test_hypergradient_against_dense_algebra(K: int) -> None:
    eta, l2 = 0.1, 2.0
    x1, x2 = torch.randn(2, 6, 4, dtype=torch.float64)
    y1, y2 = torch.randint(3, (2, 6))
    carried = torch.tensor([1.0, 0, 0, 1, 0, 0], dtype=torch.float64)[:, None]
    weight = torch.randn(12, dtype=torch.float64)
    d = torch.randn(4, dtype=torch.float64)

    def inner(d: Tensor, weight: Tensor) -> Tensor:
        return l2 * d.square().sum() - F.cross_entropy((x1 + d) @ weight.view(4, 3), y1)

    def outer(d: Tensor, weight: Tensor) -> Tensor:
        return F.cross_entropy((x2 + carried * d) @ weight.view(4, 3), y2)

    hessian = torch.func.hessian(inner)(d, weight)
    mixed = torch.func.jacrev(torch.func.grad(inner), argnums=1)(d, weight)  # (4, 12)
    u, w = torch.func.grad(outer, argnums=(0, 1))(d, weight)
    if K == 300:  # converged: the implicit function theorem
        implicit = -mixed.T @ torch.linalg.solve(hessian, u)
    else:
        step = torch.eye(4, dtype=torch.float64) - eta * hessian
        v = sum((torch.linalg.matrix_power(step, k) @ u for k in range(K)), torch.zeros_like(u))
        implicit = -eta * mixed.T @ v
    d.requires_grad_(), weight.requires_grad_()
    (found,) = hypergradient(inner(d, weight), outer(d, weight), d, [weight], eta=eta, K=K)
    assert implicit.norm() > 1e-3
    torch.testing.assert_close(found - w, implicit, rtol=1e-8, atol=1e-12)


def test_ibau_ascends_in_normalised_space_on_its_own_predictions(
    cnn: Classifier, digits: Images
) -> None:
    x = digits.floats()
    d = torch.zeros_like(x[:1], requires_grad=True)
    normalised = (x - cnn.mean) / cnn.std
    loss = F.cross_entropy(cnn.body(normalised + d), cnn(x).argmax(1))
    (gradient,) = torch.autograd.grad(loss, d)
    found = IBAU(augment=False).perturbation(cnn, cnn.std, digits)  # one batch, one step
    torch.testing.assert_close(found, 10 * gradient, rtol=1e-4, atol=1e-6)
    wrong = Images(digits.x, (digits.y + 1) % 10)
    torch.testing.assert_close(
        IBAU(augment=False).perturbation(cnn, cnn.std, wrong), found, rtol=1e-4, atol=1e-6
    )


def test_ibau_perturbs_a_portion_and_says_when_it_is_empty(
    cnn: Classifier, digits: Images, caplog: pytest.LogCaptureFixture
) -> None:
    carried = [IBAU().carried(torch.rand(256, 3, 2, 2)) for _ in range(2)]
    assert [int(part.sum()) for part in carried] == [2, 2]
    assert not torch.equal(*carried)
    list(IBAU(rounds=1)(cnn, digits[torch.arange(99)]))
    assert "no image of a batch carries the perturbation: plain fine-tuning" in caplog.messages


# ANP


@pytest.fixture
def normed() -> tuple[nn.Module, Tensor, Tensor]:
    """A float64 network with two batch norms, in training mode, and a batch."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.Tanh(),
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Tanh(), nn.Flatten(), nn.Linear(16, 3),
    ).double()  # fmt: skip
    for layer in batch_norms(net).values():
        nn.init.uniform_(layer.weight, 0.5, 1.5)
        nn.init.uniform_(layer.bias, -0.5, 0.5)
    return net, torch.rand(8, 2, 6, 6, dtype=torch.float64), torch.randint(3, (8,))


def test_anp_gradients_by_finite_differences(normed: tuple[nn.Module, Tensor, Tensor]) -> None:
    net, x, y = normed
    state = {k: v.clone() for k, v in net.state_dict().items()}
    risk = masked_risk(net)
    m, d, xi = (torch.rand(7, dtype=torch.float64, requires_grad=True) for _ in range(3))
    gradients = torch.autograd.grad(risk(m, d, xi, x, y), (m, d, xi))
    for which, gradient in enumerate(gradients):
        for channel in range(7):
            moved = []
            for sign in (1, -1):
                point = [t.detach().clone() for t in (m, d, xi)]
                point[which][channel] += sign * 1e-5
                moved.append(risk(point[0], point[1], point[2], x, y).item())
            assert (moved[0] - moved[1]) / 2e-5 == pytest.approx(float(gradient[channel]), abs=1e-8)
    assert gradients[0].abs().min() > 1e-6
    assert same(dict(net.state_dict()), state)  # running statistics included


def test_anp_takes_the_gradient_step_of_its_objective(cnn: Classifier, digits: Images) -> None:
    # Without noise both risks are the plain loss, and m multiplies w: dL/dm = w dL/dw.
    before = batch_norm_state(cnn)
    method = ANP(eps=0.0, lr=0.5, iterations=1, batch_size=20, augment=False)
    torch.manual_seed(4)
    found = method.masks(cnn, digits)
    assert same(batch_norm_state(cnn), before)
    torch.manual_seed(4)
    rows = torch.randint(100, (20,))
    twin = copy.deepcopy(cnn).train()
    F.cross_entropy(twin(digits.floats(rows)), digits.y[rows]).backward()
    weights = [bn.weight for bn in batch_norms(twin).values()]
    slope = torch.cat([w.detach() * w.grad for w in weights if w.grad is not None])
    torch.testing.assert_close(found, (1 - 0.5 * slope).clamp(0, 1))
    assert 0 < int((found < 1).sum()) < len(found)


def test_anp_noise_is_a_sign_step_from_a_uniform_start() -> None:
    def risk(m: Tensor, d: Tensor, xi: Tensor, x: Tensor, y: Tensor) -> Tensor:
        return 2 * d.sum() - xi.sum()

    nothing = torch.empty(0)
    torch.manual_seed(1)
    start = (2 * torch.rand(2, 500) - 1) * 0.4
    torch.manual_seed(1)
    d, xi = ANP().perturbation(risk, torch.ones(500), nothing, nothing)
    torch.testing.assert_close(d, start[0] + 0.4)
    torch.testing.assert_close(xi, start[1] - 0.4)
    assert d.max() > 0.75 and start.min() < -0.35  # not projected back


def test_anp_pruning(cnn: Classifier, digits: Images) -> None:
    x = digits.floats()
    with torch.no_grad():
        whole = cnn(x)
        layers = batch_norms(cnn)
        none = torch.zeros(sum(bn.num_features for bn in layers.values()), dtype=torch.bool)
        assert torch.equal(pruned(cnn, none)(x), whole)
        some = none.clone()
        some[1] = some[5] = True  # the first layer has 4 channels
        result = pruned(cnn, some)
        first, second, _ = batch_norms(result).values()
        assert (first.weight == 0).tolist() == [False, True, False, False]
        assert (second.weight == 0).nonzero().tolist() == [[1]]
        maps = first(torch.randn(2, 4, 5, 5))
        assert torch.equal(maps[:, 1], first.bias[1].expand(2, 5, 5))
        assert first.bias[1] != 0
        assert not torch.equal(result(x), whole)
        assert torch.equal(cnn(x), whole)
    assert result.head.weight is cnn.head.weight


def test_anp_candidates(monkeypatch: pytest.MonkeyPatch, cnn: Classifier, digits: Images) -> None:
    m = torch.full((28,), 1.0)
    m[:4] = torch.tensor([0.0, 0.15, 0.4, 0.41])
    monkeypatch.setattr(ANP, "masks", lambda *_: m)
    found = dict(ANP()(cnn, digits))
    assert list(found) == pytest.approx([0.05 * k for k in range(19)])
    counts = {
        tau: sum(int((bn.weight == 0).sum()) for bn in batch_norms(model).values())
        for tau, model in found.items()
    }
    assert 0.4 in counts and ANP.select == "fixed:0.4"
    assert [counts[tau] for tau in (0.0, 0.1, 0.15, 0.35, 0.4, 0.45)] == [1, 1, 2, 2, 3, 4]


# EP


def numpy_entropy(z: Any, h: float) -> list[float]:
    spread = z.std(1, ddof=1, keepdims=True)
    z = np.where(spread < 1e-8, 0.0, (z - z.mean(1, keepdims=True)) / np.maximum(spread, 1e-8))
    low, bins = z.min(), math.floor((z.max() - z.min()) / h)
    result = []
    for row in z:
        q = [((low + n * h < row) & (row < low + (n + 1) * h)).mean() for n in range(bins)]
        result.append(-sum(value * math.log(value) for value in q if value))
    return result


@pytest.mark.parametrize("h", [0.1, 0.01, 0.37])
def test_ep_entropy(h: float) -> None:
    z = torch.randn(12, 64, dtype=torch.float64)
    z[3] = 2.5  # constant
    z[4] = torch.where(torch.arange(64) < 6, 30.0, z[4])  # bimodal
    found = channel_entropy(z, h)
    np.testing.assert_allclose(found, numpy_entropy(z.numpy(), h), atol=1e-12)
    assert found[3] == 0 and int(found[torch.arange(12) != 3].argmin()) == 3


def test_ep_leaves_out_the_edges_and_the_rest() -> None:
    # Standardised, three values on a grid: the minimum lies on an edge, the maximum past the bins.
    z = torch.tensor([[-1.0, 0.0, 1.0]], dtype=torch.float64)
    assert float(channel_entropy(z, 0.9)) == pytest.approx(math.log(3) / 3)
    whole = scipy_entropy(np.full(3, 1 / 3))
    assert float(channel_entropy(z, 0.9)) < whole


def test_ep_prunes_low_entropy_channels(
    cnn: Classifier, digits: Images, caplog: pytest.LogCaptureFixture
) -> None:
    method = EP(u=0.8, samples=50, augment=False)
    torch.manual_seed(2)
    rows = torch.randperm(100)[:50]
    peaks = channel_peaks(cnn, digits.floats(rows))
    convolved = cnn.features(digits.floats(rows), "stage1.0")["stage1.0"]
    torch.testing.assert_close(peaks["body.stage1.1"], convolved.amax((2, 3)).T)
    expected = {}
    for name, z in peaks.items():
        h = np.array(numpy_entropy(z.numpy().astype(np.float32), 0.1))
        expected[name] = (h < h.mean() - 0.8 * h.std(ddof=1)).tolist()
    torch.manual_seed(2)
    (result,) = method(cnn, digits)
    layers = batch_norms(result)
    assert {name: (bn.weight == 0).tolist() for name, bn in layers.items()} == expected
    assert {name: (bn.bias == 0).tolist() for name, bn in layers.items()} == expected
    count = sum(map(sum, expected.values()))
    assert 0 < count < 28 and f"pruned {count} of 28 channels" in caplog.messages


def test_ep_that_prunes_nothing_changes_nothing(cnn: Classifier, digits: Images) -> None:
    before = cnn(digits.floats())
    (result,) = EP(u=100.0)(cnn, digits)
    assert torch.equal(result(digits.floats()), before)


@pytest.mark.parametrize("defense", [EP(), ANP()])
def test_pruning_needs_batch_norm(defense: Any) -> None:
    with pytest.raises(NotApplicable, match="needs batch norm"):
        list(defense(linear(torch.zeros(3, 36), 6), noise(20, 1, 6, 6, classes=3)))


# NC

SIZE, CLASSES = 12, 6


def striped(count: int) -> tuple[Tensor, Images]:
    """Class t is a bright block t of columns; the weights that see it, and images of it."""
    weight = torch.zeros(CLASSES, SIZE, SIZE)
    for t in range(CLASSES):
        weight[t, :9, 2 * t : 2 * t + 2] = 0.4 + 0.05 * t
    y = torch.arange(count) % CLASSES
    x = 60 * torch.rand(count, 1, SIZE, SIZE) + 180 * (weight[y] > 0)[:, None]
    x[:, :, 9:] = 0
    return weight, Images(x.to(torch.uint8), y)


def test_nc_finds_and_unlearns_a_planted_patch(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    weight, data = striped(120)
    weight[4, -3:, -3:] = 6.0
    model = linear(weight.flatten(1), SIZE)
    patch = torch.zeros(SIZE, SIZE, dtype=torch.bool)
    patch[-3:, -3:] = True
    stamped = torch.where(patch, 1.0, data.floats())
    assert (model(data.floats()).argmax(1) == data.y).float().mean() > 0.9
    assert (model(stamped).argmax(1) == 4).all()
    method = NC(batch_size=30, recipe=Recipe(epochs=60, batch_size=30, lr=0.05, augment=False))
    before = copy.deepcopy(model)
    masks, patterns = method.triggers(model, data)
    assert same(parameters(model), parameters(before)) and model.head.weight.requires_grad
    norms = masks.flatten(1).sum(1)
    assert outliers(norms, 2.0) == [4]
    found = masks[4, 0] > masks[4].max() / 2
    assert int((found & patch).sum()) / int((found | patch).sum()) > 0.5
    painted = (1 - masks[4]) * data.floats() + masks[4] * patterns[4]
    assert (before(painted).argmax(1) == 4).float().mean() > 0.97
    *_, cured = method(model, data)
    assert any(message.startswith("flagged classes (norm): 4 (") for message in caplog.messages)
    # The mask found is faint, and a linear model forgets a trigger only at the strength it sees.
    assert (cured(painted).argmax(1) == 4).float().mean() < 0.3
    assert (cured(data.floats()).argmax(1) == data.y).float().mean() > 0.9


def test_nc_recovers_the_patch_of_a_trained_victim() -> None:
    """BadNets on digits; the head reads places, where pooling would let a patch work anywhere."""
    torch.manual_seed(0)
    task, attack = Digits()(Path()), BadNets()
    layers = [nn.Conv2d(3, 16, 5, 2, 2), nn.ReLU(), nn.Conv2d(16, 16, 3, 2, 1), nn.ReLU()]
    body = nn.Sequential(*layers, nn.Flatten(), nn.Linear(16 * 8 * 8, 10))
    victim = Classifier(body, head="5", stages=(), mean=Digits.mean, std=Digits.std)
    rows = attack.draw(task.train.y, seed=0)
    recipe = Recipe(epochs=20, lr=0.02, batch_size=64, augment=False)
    for _ in attack(victim, task.train, rows, recipe):
        pass
    scores = score(victim, task.test, poison_test(task.test, attack, attack.trigger, 10))
    assert float(scores["acc"]) > 0.93 and float(scores["asr"]) > 0.95
    search = NC(
        epochs=40,
        batch_size=50,
        cost=1e-2,
        normaliser="channels",
        recipe=Recipe(augment=False),
    )
    masks, _ = search.triggers(victim, task.train[torch.arange(100)])
    assert outliers(masks.flatten(1).sum(1), 2.0) == [attack.target]
    patch = torch.zeros(32, 32, dtype=torch.bool)
    patch[-3:, -3:] = True
    found = masks[attack.target, 0] > 0.5
    assert int((found & patch).sum()) / int((found | patch).sum()) > 0.5


def test_nc_returns_a_clean_model_untouched(caplog: pytest.LogCaptureFixture) -> None:
    weight, data = striped(60)
    model = linear(weight.flatten(1), SIZE)
    before = parameters(model)
    (result,) = NC(batch_size=30, epochs=40, recipe=Recipe(augment=False))(model, data)
    assert result is model and same(parameters(result), before)
    assert "no class flagged, model returned unchanged" in caplog.messages


def test_nc_outliers() -> None:
    norms = torch.tensor([50.0, 52, 48, 51, 10, 49, 90, 20, 50.5, 47])
    ordered = sorted(norms.tolist())
    low = ordered[4]  # of ten values the fifth, not the mean of the fifth and sixth
    spread = 1.4826 * sorted(abs(v - low) for v in ordered)[4]
    for anomaly in (0.5, 1.0, 2.0, 5.0, 15.0):
        expected = [v for v in ordered if v <= low and (low - v) / spread > anomaly]
        assert [float(norms[t]) for t in outliers(norms, anomaly)] == expected
    assert outliers(norms, 2.0) == [4, 7]
    assert outliers(torch.tensor([5.0, 5, 5, 5, 9]), 2.0) == []
    assert outliers(torch.tensor([5.0, 5, 5, 5, 1]), 2.0) == [4]


def test_nc_stamps_as_the_normaliser_says() -> None:
    mean = torch.tensor([0.5, 0.4, 0.3]).view(1, 3, 1, 1)
    std = torch.tensor([0.2, 0.25, 0.5]).view(1, 3, 1, 1)
    x = torch.rand(5, 3, 6, 7)
    for rows in (False, True):
        triggers = Triggers(4, torch.Size((3, 6, 7)), mean, std, rows=rows)
        with torch.no_grad():
            triggers.raw_m.normal_()
            triggers.raw_p.normal_()
        found, norms = triggers.stamp(x, torch.tensor([2, 0]))
        for position, t in enumerate((2, 0)):
            m = triggers.raw_m[t].tanh() / 2 + 0.5
            p = triggers.raw_p[t].tanh() / 2 + 0.5
            normalised = p.clone()
            for i in range(3):
                where = (slice(None), i) if rows else (i,)
                normalised[where] = (p[where] - mean[0, i]) / std[0, i]
            expected = (1 - m) * (x - mean) / std + m * normalised
            part = found[5 * position : 5 * position + 5]
            torch.testing.assert_close((part - mean) / std, expected, rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(norms[position], m.sum())


def test_nc_cost_schedule_follows_the_scalar_rules() -> None:
    generator = np.random.RandomState(0)
    # Runs of success and failure of various lengths, and sizes that shrink, slower and slower.
    shares = (generator.rand(120, 8) < 0.5).repeat(4, axis=0)[:200] * 0.05 + 0.94
    sizes = 50 * generator.rand(200, 8) + 900 / (1 + np.arange(200)[:, None])
    schedule = CostSchedule(
        torch.full((8,), 1e-3, dtype=torch.float64), success=0.98, patience=5, stale=7
    )
    improved, costs, active = [], [], []
    for share, size in zip(shares, sizes, strict=True):
        improved.append(schedule.update(torch.from_numpy(share), torch.from_numpy(size)).tolist())
        costs.append(schedule.cost.tolist())
        active.append(schedule.active.tolist())
    ended = 0
    for t in range(8):
        cost, best, waited, ups, downs, up, down = 1e-3, math.inf, 0, 0, 0, False, False
        for epoch in range(200):
            good, before = shares[epoch, t] >= 0.98, best
            assert improved[epoch][t] == (good and sizes[epoch, t] < best)
            if good and sizes[epoch, t] < best:
                best = sizes[epoch, t]
            if best < math.inf:
                waited = waited + 1 if best >= 0.99 * before else 0
            stop = up and down and waited >= 7
            assert active[epoch][t] == (not stop)
            if stop:
                ended += 1
                assert not any(
                    active[later][t] or improved[later][t] for later in range(epoch + 1, 200)
                )
                break
            ups, downs = (ups + 1, 0) if good else (0, downs + 1)
            if ups >= 5:
                cost, ups, up = cost * 2, 0, True
            elif downs >= 5:
                cost, downs, down = cost / 2**1.5, 0, True
            assert costs[epoch][t] == pytest.approx(cost)
    assert ended >= 4


# Fields


@pytest.mark.parametrize(
    ("method", "fields", "message"),
    [
        (AT, {"eps": 0.0}, "eps is 0.0, accepted: above 0"),
        (AT, {"clean_weight": -1.0}, "clean_weight is -1.0, accepted: at least 0"),
        (AT, {"recipe": Recipe()}, "AT needs augment: false"),
        (FP, {"tolerance": 1.0}, "tolerance is 1.0, accepted: above 0 and below 1"),
        (FP, {"step": 0.0}, "step is 0.0, accepted: above 0 and at most 1"),
        (NAD, {"betas": ()}, "betas is"),
        (NAD, {"stages": ("layer1",)}, "accepted: 2 names"),
        (IBAU, {"K": 0}, "K is 0, accepted: at least 1"),
        (IBAU, {"portion": 0.0}, "portion is 0.0, accepted: above 0 and at most 1"),
        (ANP, {"alpha": 1.5}, "alpha is 1.5, accepted:"),
        (ANP, {"thresholds": (2.0,)}, "thresholds is"),
        (EP, {"h": 0.0}, "h is 0.0, accepted: above 0"),
        (EP, {"samples": 1}, "samples is 1, accepted: at least 2"),
        (NC, {"stamped": 1.0}, "stamped is 1.0, accepted: above 0 and below 1"),
        (NC, {"success": 98.0}, "success is 98.0, accepted: above 0 and at most 1"),
    ],
)
def test_fields_are_checked(method: Any, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        method(**fields)
