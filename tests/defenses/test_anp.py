"""ANP's masks and gradients, against finite differences."""

from __future__ import annotations

import copy

import pytest
import torch
from defense_cases import batch_norm_state, same
from torch import Tensor, nn
from torch.nn import functional as F

from sau_bench.benchmark.data import Images
from sau_bench.defenses.anp import ANP, masked_risk
from sau_bench.defenses.batch_norm import batch_norms, pruned
from sau_bench.models.classifier import Classifier


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


def test_anp_in_bf16_stays_near_fp32(cnn: Classifier, digits: Images) -> None:
    masks = []
    for precision in ("fp32", "bf16"):
        torch.manual_seed(0)
        method = ANP(precision=precision, iterations=10, batch_size=50)
        masks.append(method.masks(copy.deepcopy(cnn), digits))
    assert (masks[0] < 0.99).any() and not torch.equal(*masks)
    torch.testing.assert_close(masks[1], masks[0], atol=0.02, rtol=0)


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
