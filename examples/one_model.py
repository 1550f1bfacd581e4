"""Attack, defend and score one model without a grid: `python examples/one_model.py`."""

from pathlib import Path

import torch

from sau_bench.attacks.badnets import BadNets
from sau_bench.attacks.base import make_asset, poison_test
from sau_bench.benchmark.data import draw_clean
from sau_bench.benchmark.datasets.digits import Digits
from sau_bench.benchmark.metrics import score
from sau_bench.benchmark.train import Recipe
from sau_bench.defenses.ft import FT
from sau_bench.models.small_cnn import SmallCNN

torch.manual_seed(0)
digits, attack = Digits(), BadNets()
task = digits(Path())
model = SmallCNN()(digits)
recipe = Recipe(epochs=8, lr=0.05, batch_size=64)

rows = attack.draw(task.train.y, seed=0)
asset = make_asset(attack, model, task.train, recipe)  # empty for BadNets, a pattern for LF
trigger = attack(model, task.train, rows, recipe, asset)
poisoned = poison_test(task.test, attack, trigger, model.num_classes)
print("undefended:", score(model, task.test, poisoned))

clean = task.train[draw_clean(len(task.train), ratio=0.1, seed=0)]
*_, defended = FT(recipe=Recipe(epochs=10, batch_size=64))(model, clean)
print("fine-tuned:", score(defended, task.test, poisoned))
