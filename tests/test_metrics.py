"""ACC, ASR and R-ACC against values computed by hand, and what a score promises in general."""

from fractions import Fraction
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from sau_bench.attacks.badnets import BadNets
from sau_bench.attacks.base import poison_test
from sau_bench.benchmark.cost import RESET_PEAK, Clock
from sau_bench.benchmark.data import Images
from sau_bench.benchmark.datasets.digits import Digits
from sau_bench.benchmark.metrics import Poisoned, predict, score, share
from sau_bench.benchmark.train import Recipe, train_model
from sau_bench.models.small_cnn import SmallCNN

ALL2ONE, ALL2ALL = BadNets(), BadNets(labels="all2all")
STAMP = 100
"""What the tests' trigger adds to the number in an image."""


class Oracle(nn.Module):
    """Looks the logits up by the number that is an image's only value."""

    def __init__(self, answers: dict[int, int | float], classes: int) -> None:
        super().__init__()
        self.logits = torch.zeros(256, classes)
        for number, answer in answers.items():
            if isinstance(answer, int):
                self.logits[number, answer] = 1.0
            else:
                self.logits[number, 0] = answer

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.logits[(x[:, 0, 0, 0] * 255).round().long()]


def numbered(labels: list[int]) -> Images:
    """One image for each label, with its own number as its only value."""
    x = torch.arange(len(labels), dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 2, 2)
    return Images(x.contiguous(), torch.tensor(labels))


def stamp(x: torch.Tensor) -> torch.Tensor:
    return x + STAMP / 255


def scored(labels, clean, triggered, classes, attack=ALL2ONE):
    """The score of a model with these predictions on each image without and with the trigger."""
    answers = dict(enumerate(clean)) | {STAMP + i: c for i, c in enumerate(triggered)}
    test = numbered(labels)
    return score(Oracle(answers, classes), test, poison_test(test, attack, stamp, classes))


def test_predictions_do_not_depend_on_how_many_images_are_in_a_pass(monkeypatch):
    torch.manual_seed(0)
    model, task = SmallCNN(width=8)(Digits()), Digits()(Path())
    train_model(model, task.train, Recipe(epochs=2, lr=0.05))
    passes = []
    for least in (1, 7, 32, 360):
        monkeypatch.setattr("sau_bench.benchmark.metrics.LEAST", least)
        monkeypatch.setattr("sau_bench.benchmark.metrics.PER_THREAD", 0)
        passes.append(predict(model, task.test))
    assert all(torch.equal(passes[0], other) for other in passes)
    assert len(passes[0].unique()) > 1


def test_all_to_one_leaves_the_target_class_out():
    found = scored(
        labels=[0, 1, 2, 3, 1, 0, 3, 2],
        clean=[0, 1, 2, 3, 2, 1, 3, 3],  # 5 of 8
        triggered=[0, 0, 2, 0, 3, 0, 0, 0],  # of rows 1-4, 6, 7: four 0, one its own class
        classes=4,
    )
    assert found == {
        "acc": 5 / 8,
        "asr": 4 / 6,
        "racc": 1 / 6,
        "n_clean": 8,
        "n_poisoned": 6,
        "status": "ok",
    }


def test_another_target_class():
    found = scored([0, 1, 2, 2], [0, 1, 2, 2], [2, 2, 2, 2], 3, BadNets(target=2))
    assert (found["asr"], found["racc"], found["n_poisoned"]) == (1.0, 0.0, 2)


def test_all_to_all_counts_every_image():
    found = scored(
        labels=[0, 1, 2, 3, 3],
        clean=[0, 1, 2, 3, 0],
        triggered=[1, 1, 3, 0, 3],  # wanted: 1, 2, 3, 0, 0
        classes=4,
        attack=ALL2ALL,
    )
    assert found["acc"] == 4 / 5
    assert found["asr"] == 3 / 5
    assert found["racc"] == 2 / 5
    assert found["n_poisoned"] == 5


@settings(deadline=None, derandomize=True, database=None)
@given(data=st.data(), classes=st.integers(2, 6), attack=st.sampled_from([ALL2ONE, ALL2ALL]))
def test_shares_are_quotients_of_counts(data, classes, attack):
    labels_and_predictions = st.tuples(*[st.integers(0, classes - 1)] * 3)
    drawn = data.draw(st.lists(labels_and_predictions, min_size=1, max_size=60))
    labels, clean, triggered = (list(column) for column in zip(*drawn, strict=True))
    if attack is ALL2ONE and set(labels) == {0}:
        labels[0] = 1
    found = scored(labels, clean, triggered, classes, attack)
    wanted = [0 if attack is ALL2ONE else (y + 1) % classes for y in labels]
    rows = [i for i, y in enumerate(labels) if wanted[i] != y]
    hits = sum(triggered[i] == wanted[i] for i in rows)
    kept = sum(triggered[i] == labels[i] for i in rows)
    right = sum(a == b for a, b in zip(clean, labels, strict=True))
    assert found["n_clean"] == len(labels) and found["n_poisoned"] == len(rows)
    assert found["asr"] == float(Fraction(hits, len(rows)))
    assert found["racc"] == float(Fraction(kept, len(rows)))
    assert found["acc"] == float(Fraction(right, len(labels)))
    assert hits + kept <= len(rows) and found["asr"] + found["racc"] <= 1 + 1e-12


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_a_logit_that_is_not_finite_counts_as_wrong(bad):
    # Class 0 holds the bad logit: argmax of NaN or inf would be 0, which is right here.
    found = scored([0, 1, 2], [bad, 1, 2], [0, 0, 0], 3)
    assert found["acc"] == 2 / 3 and found["status"] == "diverged"
    found = scored([0, 1, 2], [0, 1, 2], [0, bad, 2], 3)
    assert (found["acc"], found["asr"], found["racc"]) == (1.0, 0.0, 0.5)
    assert found["status"] == "diverged"


def test_a_constant_prediction_has_diverged():
    assert scored([0, 1, 2], [1, 1, 1], [0, 1, 2], 3)["status"] == "diverged"
    assert scored([0, 1, 2], [1, 1, 2], [0, 0, 0], 3)["status"] == "ok"


def test_poisoned_test_images_keep_their_order_in_8_bit():
    labels = (torch.arange(1203) * 7 % 10).tolist()
    test = Images(torch.arange(1203).div(5).to(torch.uint8).view(-1, 1, 1, 1), torch.tensor(labels))
    poisoned = poison_test(test, ALL2ONE, lambda x: x + 0.9 / 255, 10)
    rows = [i for i, y in enumerate(labels) if y != 0]
    assert poisoned.data.x.dtype == torch.uint8
    assert poisoned.data.x.flatten().tolist() == [i // 5 for i in rows]
    assert poisoned.data.y.tolist() == [labels[i] for i in rows]
    assert poisoned.wanted.tolist() == [0] * len(rows)
    assert isinstance(poisoned.to("cpu"), Poisoned)


def test_predictions_do_not_depend_on_the_batch():
    torch.manual_seed(0)
    data = Digits()(Path()).test[torch.arange(40)]
    layers = nn.BatchNorm2d(3), nn.Dropout(), nn.Flatten(), nn.Linear(3072, 10)
    model = nn.Sequential(*layers)
    together = predict(model, data)
    assert len(together.unique()) > 2
    order = torch.randperm(40)
    assert torch.equal(predict(model.train(), data[order]), together[order])
    alone = [int(predict(model.train(), data[torch.tensor([i])])) for i in range(40)]
    assert alone == together.tolist()
    assert not model.training


def test_predictions_cover_all_images_in_order():
    answers = {i: i % 7 for i in range(256)}
    x = (torch.arange(1201) % 256).to(torch.uint8).view(-1, 1, 1, 1)
    found = predict(Oracle(answers, 7), Images(x, torch.zeros(1201, dtype=torch.int64)))
    assert found.tolist() == [i % 256 % 7 for i in range(1201)]


def test_share_is_a_quotient_of_integers():
    assert share(torch.tensor([True] * 9503 + [False] * 497)) == 0.9503


@pytest.mark.skipif(not RESET_PEAK.exists(), reason="only Linux can reset a process's peak")
def test_peak_memory_is_that_of_the_job_alone():
    large = Clock(torch.device("cpu"))
    block = torch.ones(64 * 2**20)
    high = large.reading()["peak_mib"]
    del block
    assert Clock(torch.device("cpu")).reading()["peak_mib"] < high - 128


def test_a_class_of_rejection_is_counted_and_is_nobodys_label():
    # Five clean images of classes 0, 1, 1, 2, 2; class 3 stands for "rejected".
    test, answers = numbered([0, 1, 1, 2, 2]), dict(enumerate([0, 1, 3, 2, 3]))
    answers |= {STAMP + i: c for i, c in enumerate([0, 3, 3, 0, 2])}
    poisoned = poison_test(test, ALL2ONE, stamp, 3)
    found = score(Oracle(answers, 4), test, poisoned, rejection=3)
    assert (found["acc"], found["asr"], found["racc"]) == (3 / 5, 1 / 4, 1 / 4)
    assert (found["rejected"], found["rejected_poisoned"]) == (2 / 5, 2 / 4)
    assert not {"rejected", "rejected_poisoned"} & score(Oracle(answers, 4), test, poisoned).keys()
