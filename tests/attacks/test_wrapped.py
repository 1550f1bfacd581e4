"""Attackers who train by another loss: what is searched, and that all else is the attack inside."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch
from attack_cases import RECIPE, Linear
from torch import Tensor

from sau_bench.attacks.adversarial import Adversarial
from sau_bench.attacks.badnets import BadNets
from sau_bench.attacks.base import make_asset
from sau_bench.attacks.input_aware import InputAware
from sau_bench.attacks.lf import LF
from sau_bench.attacks.multi import Multi
from sau_bench.attacks.sau_aware import SAUAware, surprise
from sau_bench.attacks.sig import SIG
from sau_bench.attacks.wanet import WaNet
from sau_bench.attacks.wrapped import Wrapped
from sau_bench.benchmark.data import Images
from sau_bench.benchmark.datasets.digits import Digits
from sau_bench.benchmark.grid.config import Config
from sau_bench.benchmark.grid.grid import make_grid
from sau_bench.benchmark.loading import build
from sau_bench.benchmark.train import Batch, Recipe, cross_entropy
from sau_bench.defenses.sau import SAU
from sau_bench.models.classifier import Classifier


@dataclass(frozen=True, kw_only=True)
class Plain(Wrapped):
    """The usual loss, through the wrapper."""

    name: ClassVar[str] = "Plain"

    def loss(self, model: Classifier, batch: Batch) -> Tensor:
        return cross_entropy(model, batch)


INSIDE = [BadNets(), WaNet(), SIG(), LF(images=4, passes=1), InputAware(mask_epochs=1)]


def trained(attack: Any, model: Classifier, data: Images) -> tuple[Classifier, Tensor]:
    """The victim and triggered images."""
    torch.manual_seed(0)
    asset = make_asset(attack, model, data, RECIPE)
    victim = copy.deepcopy(model)
    torch.manual_seed(1)
    trigger = attack(victim, data, attack.draw(data.y, 0), RECIPE, asset)
    return victim, trigger(data.floats())


@pytest.mark.parametrize("attack", INSIDE, ids=lambda attack: attack.name)
def test_with_the_usual_loss_a_wrapped_attack_is_the_attack(
    attack: Any, model: Classifier, digits: Images
) -> None:
    (first, x), (second, z) = (trained(a, model, digits) for a in (attack, Plain(attack=attack)))
    assert torch.equal(x, z)
    pairs = zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("wrapper", [Adversarial(steps=2), SAUAware(steps=2)])
def test_generators_of_triggers_get_their_gradient(
    wrapper: Any, model: Classifier, digits: Images
) -> None:
    x = digits.floats().requires_grad_()
    wrapper.loss(model.train(), Batch(x, digits.y, torch.arange(60))).backward()
    assert x.grad is not None and bool((x.grad != 0).flatten(1).any(1).all())


@pytest.mark.parametrize("wrapper", [Adversarial, SAUAware])
@pytest.mark.parametrize("attack", INSIDE[:2], ids=lambda attack: attack.name)
def test_a_wrapped_attack_is_trained_by_its_loss(
    wrapper: Any, attack: Any, model: Classifier, digits: Images
) -> None:
    wrapped = wrapper(attack=attack, steps=2)
    (first, _), (second, _) = (trained(a, model, digits) for a in (attack, wrapped))
    assert not torch.equal(first.head.weight, second.head.weight)
    # Searching in evaluation mode moves no statistics: as many batches are counted.
    for name in ("body.stage1.1.num_batches_tracked", "body.stage3.1.num_batches_tracked"):
        assert torch.equal(first.state_dict()[name], second.state_dict()[name])


def test_the_search_finds_the_worst_corner_of_a_linear_model() -> None:
    torch.manual_seed(0)
    model = Linear(torch.randn(2, 3 * 4 * 4), torch.zeros(2)).eval()
    x, y = torch.rand(6, 3, 4, 4), torch.tensor([0, 1] * 3)
    e = Adversarial(eps=0.03, step=0.01, steps=10).perturbation(model, x, y)
    weight = model.head.weight.detach()
    worst = 0.03 * (weight[1 - y] - weight[y]).view_as(x).sign()
    torch.testing.assert_close(x + e, (x + worst).clamp(0, 1))
    assert e.abs().max() <= 0.03 + 1e-6
    assert Adversarial().eps == 8 / 255 and Adversarial().steps == 10


def test_every_image_is_replaced_by_its_example(model: Classifier, digits: Images) -> None:
    seen = []
    model.register_forward_pre_hook(lambda m, args: seen.append((m.training, args[0].detach())))
    attack = Adversarial(steps=3)
    batch = Batch(digits.floats(), digits.y, torch.arange(60))
    attack.loss(model.train(), batch)
    assert [training for training, _ in seen] == [False] * 3 + [True] and model.training
    change = seen[-1][1] - batch.x
    assert 0.03 < change.abs().max() <= 8 / 255 + 1e-6
    assert bool((change != 0).flatten(1).any(1).all())
    assert seen[-1][1].min() >= 0 and seen[-1][1].max() <= 1


def test_the_search_of_the_attacker_is_that_of_sau_at_its_start(
    model: Classifier, digits: Images
) -> None:
    torch.manual_seed(0)
    for _ in range(3):  # weights of some size
        model(digits.floats())
    with torch.no_grad():
        model.head.weight.mul_(20)
    model.eval()
    x, y = digits.floats(), digits.y
    with torch.no_grad():
        clean = model(x).argmax(1)
    sau, frozen = SAU(), copy.deepcopy(model)
    (within,) = sau.perturbation_sets()
    expected = sau.shared_examples(model, frozen, within, x, y, clean, clean)
    found = SAUAware().perturbation(model, x, y, clean)
    assert torch.equal(found, expected)
    early = (found == SAUAware(steps=2).perturbation(model, x, y, clean)).flatten(1).all(1)
    assert early.any() and not early.all()  # some had stopped, some had not


def test_surprise_is_exact_for_sure_models() -> None:
    logits = torch.tensor([[0.0, 1.0, -2.0], [30.0, 0.0, 1.0]], dtype=torch.float64)
    p = logits.softmax(1)
    bad = torch.tensor([1, 0])
    rest = [float(p[0, 0] + p[0, 2]), (math.e + 1) / (math.exp(30) + math.e + 1)]
    assert surprise(logits, bad).tolist() == pytest.approx([-math.log(r) for r in rest])
    assert surprise(logits.float(), bad)[1].item() == pytest.approx(-math.log(rest[1]), rel=1e-6)


def test_an_attacker_who_knows_sau_is_surer_of_shared_examples(digits: Images) -> None:
    from sau_bench.models.small_cnn import SmallCNN

    recipe, sure = Recipe(epochs=80, batch_size=20, lr=0.02, augment=False), []
    for attack in (BadNets(), SAUAware(weight=0.1)):
        torch.manual_seed(0)
        victim = SmallCNN(width=8)(Digits())
        attack(victim, digits, torch.arange(6), recipe, {})
        victim.eval()
        x, y = digits.floats(), digits.y
        with torch.no_grad():
            clean = victim(x).argmax(1)
            e = torch.enable_grad()(SAUAware().perturbation)(victim, x, y, clean)
            logits = victim(x + e)
        bad = logits.argmax(1)
        counted = (bad != y) & (bad != clean)
        assert (clean == y).float().mean() > 0.8 and counted.any()
        sure.append(float((surprise(logits, bad) * counted).mean()))
    assert sure[1] > 4 * sure[0]


def test_all_else_is_that_of_the_attack_inside(digits: Images) -> None:
    inside = LF(ratio=0.2, labels="all2all")
    for wrapper in (Adversarial(attack=inside), SAUAware(attack=inside)):
        assert (wrapper.ratio, wrapper.labels) == (0.2, "all2all")
        assert wrapper.asset == inside.asset and wrapper.parts == (inside,)
        assert torch.equal(wrapper.draw(digits.y, 3), inside.draw(digits.y, 3))
        assert wrapper.relabel(digits.y, 10).tolist() == inside.relabel(digits.y, 10).tolist()
    labels = [w(attack=SIG()).label for w in (Adversarial, SAUAware)]
    assert labels == ["SIG (adversarial)", "SIG (SAU-aware)"]


def test_an_attack_is_named_as_in_a_config_and_counts_in_the_key() -> None:
    spec = {"adversarial": {"attack": {"wanet": {"s": 1.0}}, "eps": 0.2}}
    built: Any = build("attacks", spec)
    assert built.attack == WaNet(s=1.0) and built.eps == 0.2
    assert built.canonical()["attack"] == WaNet(s=1.0).canonical()
    twin: Any = build("attacks", {"adversarial": {"attack": "wanet", "eps": 0.2}})
    assert twin.canonical() != built.canonical()
    config = Config(
        datasets=["digits"], models=["small_cnn"], attacks=["badnets", spec, "adversarial"]
    )
    assert len({victim.key for victim in make_grid(config).victims}) == 3


def test_an_attack_whose_loss_is_its_own_is_refused() -> None:
    for inside in (Multi(), Adversarial()):
        with pytest.raises(ValueError, match=r"attack is .*, accepted: an attack whose __call__"):
            SAUAware(attack=inside)
    # The other way round it works: two triggers, the model trained adversarially.
    assert Multi(first=Adversarial(attack=WaNet())).label == "WaNet (adversarial) + BadNets"


@pytest.mark.parametrize(
    ("cls", "field", "value"),
    [
        (Adversarial, "eps", 0.0),
        (Adversarial, "step", 2.0),
        (Adversarial, "steps", 0),
        (SAUAware, "weight", -1.0),
        (SAUAware, "cap", 0.0),
        (SAUAware, "eps", 0.0),
    ],
)
def test_fields_are_checked(cls: Any, field: str, value: float) -> None:
    with pytest.raises(ValueError, match=rf"{field} is {value}, accepted: "):
        cls(**{field: value})
