"""What all attacks have in common: labels, and which rows they touch."""

import pytest
import torch
from attack_cases import ATTACKS
from torch import Tensor

from sau_bench.attacks.badnets import BadNets
from sau_bench.attacks.base import Attack, poison, poisoned
from sau_bench.attacks.blended import Blended
from sau_bench.attacks.input_aware import InputAware
from sau_bench.attacks.lf import LF
from sau_bench.attacks.sig import SIG
from sau_bench.attacks.ssba import SSBA
from sau_bench.attacks.wanet import WaNet
from sau_bench.benchmark.data import Images, draw_poisoned


@pytest.mark.parametrize("attack", ATTACKS)
def test_all_to_one_and_all_to_all_labels(attack: type[Attack]) -> None:
    y = torch.tensor([0, 3, 9])
    assert attack(target=4).relabel(y, 10).tolist() == [4, 4, 4]
    if attack.clean_label:
        with pytest.raises(ValueError, match="all2one"):
            attack(labels="all2all")
    else:
        assert attack(labels="all2all").relabel(y, 10).tolist() == [1, 4, 0]


@pytest.mark.parametrize("attack", [BadNets(), Blended(), SIG()])
def test_poisoning_changes_the_drawn_rows_only(
    attack: BadNets | Blended | SIG, digits: Images
) -> None:
    only = attack.target if attack.clean_label else None
    rows = draw_poisoned(digits.y, 5, 0, only)
    before = digits.x.clone(), digits.y.clone()
    stamped = poison(digits, rows, attack, attack.trigger, 10)
    assert torch.equal(digits.x, before[0]) and torch.equal(digits.y, before[1])
    changed = (stamped.x != digits.x).flatten(1).any(1).nonzero()[:, 0]
    assert changed.tolist() == sorted(rows.tolist())
    assert (stamped.y[rows] == 0).all()
    others = torch.ones(60, dtype=torch.bool)
    others[rows] = False
    assert torch.equal(stamped.y[others], digits.y[others])
    if attack.clean_label:
        assert torch.equal(stamped.y, digits.y)


def test_poisoning_in_place_ends_with_the_block_however_it_ends(digits: Images) -> None:
    attack, rows = BadNets(), torch.tensor([7, 2, 31])
    before, copy = digits.x.clone(), poison(digits, rows, attack, attack.trigger, 10)
    labels = digits.y.clone()
    with pytest.raises(KeyboardInterrupt), poisoned(digits, rows, attack, attack.trigger, 10):
        assert torch.equal(digits.x, copy.x) and torch.equal(digits.y, copy.y)
        assert not torch.equal(digits.x, before)
        raise KeyboardInterrupt
    assert torch.equal(digits.x, before) and torch.equal(digits.y, labels)


def test_a_trigger_that_fails_leaves_the_data_as_they_were(digits: Images) -> None:
    calls: list[int] = []

    def broken(x: Tensor) -> Tensor:
        calls.append(len(x))
        if len(calls) == 2:
            raise ArithmeticError
        return 1 - x

    many = Images(digits.x.repeat(10, 1, 1, 1), digits.y.repeat(10))
    before, rows = many.x.clone(), torch.arange(400)
    with pytest.raises(ArithmeticError), poisoned(many, rows, BadNets(), broken, 10):
        raise AssertionError("unreachable")
    assert calls == [256, 144] and torch.equal(many.x, before)


@pytest.mark.parametrize("attack", [BadNets(), Blended(), SIG()])
def test_a_trigger_leaves_its_input_alone(attack: BadNets | Blended | SIG, noise: Tensor) -> None:
    before = noise.clone()
    first = attack.trigger(noise)
    assert torch.equal(noise, before)
    assert torch.equal(first, attack.trigger(noise)) and not torch.equal(first, noise)


@pytest.mark.parametrize(
    ("attack", "field", "value"),
    [
        (BadNets, "value", 0.0),
        (Blended, "alpha", 1.5),
        (SIG, "delta", 0.0),
        (SIG, "f", 0.0),
        (WaNet, "k", 1),
        (WaNet, "s", -0.1),
        (WaNet, "cross_ratio", -1.0),
        (InputAware, "ratio", 0.6),
        (InputAware, "lambda_div", -1.0),
        (InputAware, "mask_density", 2.0),
        (InputAware, "mask_epochs", 0),
        (InputAware, "lr", 0.0),
        (LF, "images", 0),
        (LF, "delta", 1.0),
        (LF, "amplitude", 0.0),
        (SSBA, "encoder_epochs", 0),
        (SSBA, "ramp", 0),
        (SSBA, "lr", 0.0),
    ],
)
def test_a_field_out_of_range_is_refused(attack: type[Attack], field: str, value: float) -> None:
    with pytest.raises(ValueError, match=rf"{field} is {value}, accepted: "):
        attack(**{field: value})
