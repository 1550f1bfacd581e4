"""What all defenses have in common: batch norm, and fields that are checked."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from defense_cases import SAU_RECIPE, batch_norm_state, parameters, same

from benchmark.data import Images
from benchmark.train import Recipe
from defenses.anp import ANP
from defenses.at import AT
from defenses.ep import EP
from defenses.fp import FP
from defenses.ft import FT
from defenses.i_bau import IBAU
from defenses.nad import NAD
from defenses.nc import NC
from defenses.sau import SAU
from models.classifier import Classifier


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
