"""What all defenses have in common: batch norm, and fields that are checked."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from defense_cases import SAU_RECIPE, batch_norm_state, parameters, same
from torch.utils._python_dispatch import TorchDispatchMode

from sau_bench.benchmark.data import Images
from sau_bench.benchmark.train import Recipe
from sau_bench.benchmark.train import precision as precision_of
from sau_bench.defenses.anp import ANP
from sau_bench.defenses.at import AT
from sau_bench.defenses.ep import EP
from sau_bench.defenses.fp import FP
from sau_bench.defenses.ft import FT
from sau_bench.defenses.i_bau import IBAU
from sau_bench.defenses.nad import NAD
from sau_bench.defenses.nc import NC
from sau_bench.defenses.perturbation import adversarial
from sau_bench.defenses.sau import SAU
from sau_bench.models.classifier import Classifier


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


class _WeightGradients(TorchDispatchMode):
    """Counts convolutions' backward passes, and those that compute gradients by weights."""

    def __init__(self) -> None:
        super().__init__()
        self.passes = self.by_weights = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.convolution_backward.default:
            self.passes += 1
            self.by_weights += bool(args[-1][1])
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_searches_compute_no_gradients_by_weights(
    precision: Any, cnn: Classifier, digits: Images
) -> None:
    x, y = digits.floats(), digits.y
    recipe = Recipe(**{**SAU_RECIPE, "precision": precision})
    sau, ball = SAU(recipe=recipe), SAU().perturbation_sets()[0]
    frozen = copy.deepcopy(cnn).requires_grad_(False)
    classes = cnn(x).argmax(1)
    searches = {
        "AT": lambda: adversarial(cnn, ball, x, y, 5),
        "SAU": lambda: sau.shared_examples(cnn, frozen, ball, x, y, classes, classes),
        "NC": lambda: NC(epochs=1, recipe=recipe).triggers(cnn, digits),
        "ANP": lambda: ANP(iterations=1, precision=precision).masks(cnn, digits),
        "i-BAU": lambda: IBAU(precision=precision).perturbation(cnn, cnn.std, digits),
    }
    for name, search in searches.items():
        with precision_of(precision, y.device), _WeightGradients() as counted:
            search()
        assert counted.passes >= 3 and not counted.by_weights, name
    with _WeightGradients() as counted:
        list(FT(recipe=Recipe(epochs=1))(cnn, digits))
    assert counted.by_weights == counted.passes == 3


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
        (EP, {"h": 0.0}, "h is 0.0, accepted: at least 0.001 and at most 1000"),
        (EP, {"samples": 1}, "samples is 1, accepted: at least 2"),
        (NC, {"stamped": 1.0}, "stamped is 1.0, accepted: above 0 and below 1"),
        (NC, {"success": 98.0}, "success is 98.0, accepted: above 0 and at most 1"),
    ],
)
def test_fields_are_checked(method: Any, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        method(**fields)
