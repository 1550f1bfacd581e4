"""The training loop: schedules, steps, batch norm, precision, and equality with a plain loop."""

import logging
import math
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from sau_bench.benchmark.data import Images, augment
from sau_bench.benchmark.datasets.digits import Digits
from sau_bench.benchmark.errors import InputError
from sau_bench.benchmark.jobs.surroundings import set_arithmetic
from sau_bench.benchmark.plugin import construct
from sau_bench.benchmark.train import Batch, Recipe, batch, fit, precision, shuffled, train_model
from sau_bench.models.small_cnn import SmallCNN


class Scalar(nn.Module):
    """One parameter, in double precision, so that a step shows the learning rate."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.zeros((), dtype=torch.float64))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.w.expand(len(x), 2)


def noise(count: int) -> Images:
    numbers = torch.Generator().manual_seed(0)
    x = torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8, generator=numbers)
    return Images(x, torch.randint(0, 10, (count,), generator=numbers), flips=True)


def small_cnn() -> nn.Module:
    torch.manual_seed(0)
    return SmallCNN(width=4)(Digits())


def plain(**fields) -> Recipe:
    defaults = {"momentum": 0.0, "weight_decay": 0.0, "augment": False, "lr": 0.1}
    return Recipe(**(defaults | fields))


def rates(recipe: Recipe, slope_only: bool) -> list[float]:
    """The learning rate of each epoch; the loss is constant if `slope_only`, else it falls."""
    model, found, before = Scalar(), [], 0.0

    def loss(model, batch):
        return 1 + model.w - model.w.detach() if slope_only else model.w

    for _ in fit(model, noise(1), recipe, loss=loss):
        found.append(before - model.w.item())
        before = model.w.item()
    return found


def cosine(epochs: int, period: int) -> list[float]:
    return [0.05 * (1 + math.cos(math.pi * e / period)) for e in range(epochs)]


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"schedule": "cosine", "epochs": 8}, cosine(8, 8)),
        ({"schedule": "cosine", "epochs": 5, "period": 10}, cosine(5, 10)),
        ({"schedule": "multistep", "epochs": 7, "period": 3}, [0.1] * 3 + [0.01] * 3 + [0.001]),
        ({"schedule": "multistep", "epochs": 102}, [0.1] * 100 + [0.01] * 2),
        ({"schedule": "constant", "epochs": 4}, [0.1] * 4),
        # 10 epochs without progress are tolerated after the best one, the 11th cuts.
        ({"schedule": "plateau", "epochs": 25}, [0.1] * 12 + [0.01] * 11 + [0.001] * 2),
    ],
)
def test_learning_rates_are_those_computed_by_hand(fields, expected):
    assert rates(plain(**fields), slope_only=True) == pytest.approx(expected, rel=1e-9)


def test_plateau_keeps_its_rate_while_the_loss_falls():
    found = rates(plain(schedule="plateau", epochs=30), slope_only=False)
    assert found == pytest.approx([0.1] * 30)


def test_plateau_looks_at_the_mean_loss_of_an_epoch():
    # The last batch of every epoch has the same loss; only the mean of both batches falls.
    model, calls = Scalar(), []

    def loss(model, batch):
        calls.append(1)
        first = len(calls) % 2
        return model.w - model.w.detach() + (100 - len(calls) if first else 1)

    list(fit(model, noise(2), plain(schedule="plateau", epochs=20, batch_size=1), loss=loss))
    assert model.w.item() == pytest.approx(-0.1 * 40)


@pytest.mark.parametrize(
    ("size", "dropped", "kept"), [(50000, 390, 391), (39209, 306, 307), (100000, 781, 782)]
)
def test_steps_of_an_epoch(size, dropped, kept):
    device = torch.device("cpu")
    whole = shuffled(size, 128, device)
    assert len(whole) == kept
    assert torch.equal(torch.cat(whole).sort().values, torch.arange(size))
    short = shuffled(size, 128, device, drop_last=True)
    assert len(short) == dropped and {len(rows) for rows in short} == {128}


def test_drop_last_never_drops_the_only_batch_nor_a_full_one():
    device = torch.device("cpu")
    assert [len(rows) for rows in shuffled(5, 8, device, drop_last=True)] == [5]
    assert [len(rows) for rows in shuffled(16, 8, device, drop_last=True)] == [8, 8]


@pytest.mark.parametrize(("drop_last", "sizes"), [(True, [4, 4]), (False, [4, 4, 2])])
def test_fit_makes_the_steps_of_its_recipe(drop_last, sizes):
    seen = []

    def loss(model, batch):
        seen.append(len(batch.x))
        return model(batch.x).sum()

    list(fit(Scalar(), noise(10), plain(epochs=2, batch_size=4, drop_last=drop_last), loss=loss))
    assert seen == sizes * 2


def test_frozen_batch_norm_keeps_statistics_and_trains_affine_parameters():
    model, modes = small_cnn(), []
    before = {name: value.clone() for name, value in model.state_dict().items()}

    def loss(model, batch):
        modes.append(model.training)
        return F.cross_entropy(model(batch.x), batch.y)

    list(fit(model, noise(32), Recipe(epochs=2, batch_size=16, batch_norm="frozen"), loss=loss))
    after = model.state_dict()
    assert modes == [False] * 4
    for name, _ in model.named_buffers():
        assert torch.equal(before[name], after[name]), name
    for name, _ in model.named_parameters():
        assert not torch.equal(before[name], after[name]), name


def test_batch_norm_trains_by_default():
    model = small_cnn()
    before = {name: value.clone() for name, value in model.named_buffers()}
    for scored in fit(model, noise(32), Recipe(epochs=2, batch_size=16)):
        scored.eval()  # scoring between epochs must not leak into training
    statistics = [name for name in before if "running" in name]
    after = dict(model.named_buffers())
    assert statistics
    assert not any(torch.equal(before[name], after[name]) for name in statistics)
    assert {int(after[name]) for name in after if "tracked" in name} == {4}


def test_bf16_rounds_the_weights_of_each_step():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(3072, 10))
    linear, steps = model[1], []

    def loss(model, batch):
        logits = model(batch.x)
        rounded = [value.bfloat16() for value in (batch.x.flatten(1), linear.weight, linear.bias)]
        current = F.linear(*rounded)
        steps.append(logits.dtype == torch.bfloat16 and torch.equal(logits, current))
        return F.cross_entropy(logits, batch.y)

    list(fit(model, noise(32), plain(epochs=1, batch_size=8, precision="bf16"), loss=loss))
    assert steps == [True] * 4
    assert not torch.is_autocast_enabled("cpu")


def test_bf16_learns_as_fp32_does():
    data = Digits()(Path()).train[torch.arange(512)]
    final = {}
    for kind in ("fp32", "bf16"):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(3072, 10))
        list(fit(model, data, plain(epochs=3, batch_size=32, lr=0.005, precision=kind)))
        with torch.no_grad():
            final[kind] = F.cross_entropy(model(data.floats()), data.y).item()
    assert final["fp32"] < 1.5
    assert final["bf16"] == pytest.approx(final["fp32"], rel=0.02)


def test_further_optimisers_step_and_are_zeroed():
    model = Scalar()
    other = nn.Parameter(torch.zeros((), dtype=torch.float64))
    extra = [torch.optim.SGD([other], 0.5)]
    recipe = plain(epochs=2, batch_size=1, schedule="constant")
    list(fit(model, noise(2), recipe, loss=lambda m, _: m.w + 2 * other, extra_optimizers=extra))
    assert model.w.item() == pytest.approx(-0.1 * 4)
    assert other.item() == pytest.approx(-0.5 * 2 * 4)


def optimizer(recipe: Recipe, model: nn.Module) -> torch.optim.Optimizer:
    if recipe.optimizer == "adam":
        return torch.optim.Adam(
            model.parameters(), recipe.lr, betas=(0.9, 0.999), weight_decay=5e-4, amsgrad=True
        )
    return torch.optim.SGD(model.parameters(), recipe.lr, momentum=0.9, weight_decay=5e-4)


@pytest.mark.parametrize("kind", ["sgd", "adam"])
@pytest.mark.parametrize("augmented", [True, False])
def test_fit_equals_a_plain_loop_bit_for_bit(kind, augmented):
    data = noise(50)
    recipe = Recipe(epochs=3, batch_size=16, optimizer=kind, augment=augmented)
    ours, theirs = small_cnn(), small_cnn()
    torch.manual_seed(1)
    list(fit(ours, data, recipe))
    torch.manual_seed(1)
    stepper = optimizer(recipe, theirs)
    theirs.train()
    for epoch in range(3):
        for group in stepper.param_groups:
            group["lr"] = recipe.lr * (1 + math.cos(math.pi * epoch / 3)) / 2
        order = torch.randperm(50)
        for start in range(0, 50, 16):
            rows = order[start : start + 16]
            x = data.x[rows].contiguous(memory_format=torch.channels_last)
            x = augment(data.x[rows], pad=4, flips=True) if augmented else x
            stepper.zero_grad()
            F.cross_entropy(theirs(x.float() / 255), data.y[rows]).backward()
            stepper.step()
    for (name, mine), other in zip(
        ours.state_dict().items(), theirs.state_dict().values(), strict=True
    ):
        assert torch.equal(mine, other), name


def test_fit_is_lazy_and_yields_its_model_after_each_epoch():
    model, steps = Scalar(), []

    def loss(model, batch):
        steps.append(1)
        return model.w

    training = fit(model, noise(4), plain(epochs=3, batch_size=2), loss=loss)
    assert steps == []
    for epoch in range(1, 4):
        assert next(training) is model
        assert len(steps) == 2 * epoch
    with pytest.raises(StopIteration):
        next(training)


def test_parameters_without_gradient_stay():
    model = small_cnn()
    model.head.requires_grad_(False)
    before = model.head.weight.clone()
    list(fit(model, noise(16), Recipe(epochs=1, batch_size=8)))
    assert torch.equal(model.head.weight, before)


def test_a_batch_says_which_rows_it_holds():
    data, seen = noise(6), []

    def loss(model, batch):
        seen.append(batch.rows)
        assert torch.equal(batch.x, data.floats(batch.rows))
        assert torch.equal(batch.y, data.y[batch.rows])
        return model.w

    list(fit(Scalar(), data, plain(epochs=1, batch_size=4), loss=loss))
    assert [len(rows) for rows in seen] == [4, 2]
    assert sorted(torch.cat(seen).tolist()) == list(range(6))


def test_a_batch_is_augmented_if_asked():
    data, rows = noise(8), torch.tensor([5, 1, 7])
    x, y, found = batch(data, rows, augmented=False)
    assert torch.equal(x, data.floats(rows)) and torch.equal(y, data.y[rows]) and found is rows
    torch.manual_seed(0)
    moved = batch(data, rows, augmented=True)
    torch.manual_seed(0)
    assert isinstance(moved, Batch) and torch.equal(moved.y, y)
    assert torch.equal(moved.x, augment(data.x[rows], pad=4, flips=True).float() / 255)


def test_training_to_the_end_is_fit_to_its_last_epoch():
    whole, rounds = small_cnn(), small_cnn()
    for run in (lambda: train_model(whole, noise(32), Recipe(epochs=2)),
                lambda: list(fit(rounds, noise(32), Recipe(epochs=2)))):  # fmt: skip
        torch.manual_seed(1)
        run()
    for mine, other in zip(whole.parameters(), rounds.parameters(), strict=True):
        assert torch.equal(mine, other)


def test_each_epoch_is_logged_with_its_mean_loss(caplog):
    values = iter([1.0, 3.0, 5.0, 7.0])
    with caplog.at_level(logging.INFO, logger="sau_bench.benchmark.train"):
        recipe = plain(epochs=2, batch_size=1)
        list(fit(Scalar(), noise(2), recipe, loss=lambda m, _: m.w * 0 + next(values)))
    found = [(r.epoch, r.epochs, r.loss) for r in caplog.records]
    assert found == [(1, 2, 2.0), (2, 2, 6.0)]


def test_a_failing_loss_leaves_the_arithmetic_as_it_was():
    flags = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32

    def loss(model, batch):
        raise ArithmeticError

    for kind in ("tf32", "bf16", "fp32"):
        with pytest.raises(ArithmeticError):
            list(fit(Scalar(), noise(2), plain(epochs=1, precision=kind), loss=loss))
        now = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
        assert now == flags and not torch.is_autocast_enabled("cpu")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"epochs": 0}, "epochs is 0, accepted: at least 1"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"lr": -0.1}, "lr is -0.1"),
        ({"lr": math.nan}, "lr is nan"),
        ({"weight_decay": -1}, "weight_decay is -1"),
        ({"momentum": 1.0}, "momentum is 1.0, accepted: at least 0 and below 1"),
        ({"period": 0}, "period is 0"),
        ({"optimizer": "rmsprop"}, "optimizer.*'sgd' or 'adam'.*rmsprop"),
        ({"schedule": "linear"}, "schedule.*'cosine'"),
        ({"precision": "fp8"}, "precision.*'bf16'"),
        ({"batch_norm": "eval"}, "batch_norm.*'frozen'"),
        ({"epochs": "many"}, "epochs.*integer.*many"),
        ({"epochs": 1.5}, "epochs.*integer.*1.5"),
        ({"epoch": 3}, r"unknown field 'epoch'; accepted: epochs.*did you mean 'epochs'\?"),
    ],
)
def test_impossible_recipes_are_refused(fields, message):
    with pytest.raises(InputError, match=message):
        construct(Recipe, fields, "recipe")


def test_a_job_starts_in_full_precision():
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    with precision("tf32", torch.device("cpu")):
        assert cudnn.allow_tf32 and matmul.allow_tf32
        set_arithmetic()
        assert not cudnn.allow_tf32 and not matmul.allow_tf32
