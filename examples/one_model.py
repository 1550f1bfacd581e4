"""Attack, defend and score one model without a grid: `python examples/one_model.py`."""

from pathlib import Path

import torch

from attacks.badnets import BadNets
from benchmark.data import draw_clean
from benchmark.datasets.digits import Digits
from benchmark.metrics import poison_test, score
from benchmark.train import Recipe
from defenses.ft import FT
from models.small_cnn import SmallCNN

torch.manual_seed(0)
digits, attack = Digits(), BadNets()
task = digits(Path())
model = SmallCNN()(digits)
rows = attack.draw(task.train.y, seed=0)
training = attack(model, task.train, rows, Recipe(epochs=8, lr=0.05, batch_size=64))
while True:  # an attack yields the model after each epoch and returns its trigger
    try:
        next(training)
    except StopIteration as finished:
        trigger = finished.value
        break
poisoned = poison_test(task.test, attack, trigger, model.num_classes)
print("undefended:", score(model, task.test, poisoned))

clean = task.train[draw_clean(len(task.train), ratio=0.1, seed=0)]
*_, defended = FT(recipe=Recipe(epochs=10, batch_size=64))(model, clean)
print("fine-tuned:", score(defended, task.test, poisoned))
