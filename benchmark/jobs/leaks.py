"""What a job must leave as it was: switches of torch and of the process, and the dataset.

A worker runs many jobs, and what one of them leaves changed would change the numbers of the next.
So the state is taken before a method and compared after it; what differs is named in the job's row
and put back, and the process runs no further job.
"""

from __future__ import annotations

import inspect
import logging
import os
import random
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules import module as modules
from torch.optim import optimizer as optimizers
from torch.overrides import _get_current_function_mode_stack
from torch.utils._device import DeviceContext

from sau_bench.benchmark.data import Images
from sau_bench.benchmark.process import is_worker, spoil
from sau_bench.benchmark.rules import GLOBAL_STATE

log = logging.getLogger(__name__)

State = dict[str, Any]


@dataclass(frozen=True)
class _Switch:
    """get: a value that later changes do not reach. put: sets it. same: compares two of them."""

    get: Callable[[], Any]
    put: Callable[[Any], object]
    same: Callable[[Any, Any], bool] = lambda before, now: bool(before == now)


def _field(owner: Any, name: str) -> _Switch:
    return _Switch(lambda: getattr(owner, name), lambda value: setattr(owner, name, value))


def _table(table: dict[Any, Any]) -> _Switch:
    def put(entries: dict[Any, Any]) -> None:
        table.clear()
        table.update(entries)

    return _Switch(lambda: dict(table), put)


def _precision() -> dict[str, Any]:
    """Rounding inside matrix products and convolutions; "mixed" where torch refuses to say."""
    state: dict[str, Any] = {}
    for name, owner in _rounding.items():
        field = "fp32_precision" if hasattr(owner, "fp32_precision") else "allow_tf32"
        if hasattr(owner, field):
            state[name] = field, getattr(owner, field)
    try:
        state["matmul"] = "", torch.get_float32_matmul_precision()
    except RuntimeError:
        state["matmul"] = "", "mixed"
    return state


def _put_precision(state: Mapping[str, Any]) -> None:
    if state["matmul"][1] != "mixed":  # first: it sets some of the others
        torch.set_float32_matmul_precision(state["matmul"][1])
    for name, owner in _rounding.items():
        if name in state:
            setattr(owner, *state[name])


def _put_inference_mode(enabled: bool) -> None:
    guard = torch.inference_mode(enabled)
    guard.__enter__()
    _guards.append(guard)  # its end would undo it


def _flushes() -> bool:
    """Whether numbers below the normal ones count as 0; torch can set this, but not tell."""
    return bool(torch.tensor(1e-310, dtype=torch.float64, device="cpu") * 1 == 0)


def _autocast() -> dict[str, Any]:
    kinds = ("cpu", "cuda")
    return {k: (torch.is_autocast_enabled(k), torch.get_autocast_dtype(k)) for k in kinds}


def _put_autocast(state: Mapping[str, Any]) -> None:
    for kind, (enabled, dtype) in state.items():
        torch.set_autocast_enabled(kind, enabled)
        torch.set_autocast_dtype(kind, dtype)


def _function_modes() -> list[Any]:
    # That of the default device is another switch.
    stack = _get_current_function_mode_stack()
    return [mode for mode in stack if not isinstance(mode, DeviceContext)]


def _put_function_modes(modes: list[Any]) -> None:
    now = [
        torch._C._pop_torch_function_stack() for _ in range(torch._C._len_torch_function_stack())
    ]
    devices = [mode for mode in reversed(now) if isinstance(mode, DeviceContext)]
    for mode in (*devices, *modes):
        torch._C._push_on_torch_function_stack(mode)


def _put_device(device: torch.device) -> None:
    torch.set_default_device(None if device.type == "cpu" else device)


def _put_raising(filters: list[Any]) -> None:
    others = [entry for entry in warnings.filters if entry[0] != "error"]
    warnings.resetwarnings()
    warnings.filters[:] = [*filters, *others]  # type: ignore[index]


def _logging() -> tuple[Any, ...]:
    known = logging.root.manager.loggerDict.items()
    off = {name for name, entry in known if isinstance(entry, logging.Logger) and entry.disabled}
    return list(logging.root.handlers), logging.root.level, logging.root.manager.disable, off


def _put_logging(state: tuple[Any, ...]) -> None:
    logging.root.handlers[:], level, disable, off = state
    logging.root.setLevel(level)
    logging.disable(disable)
    for name, entry in logging.root.manager.loggerDict.items():
        if isinstance(entry, logging.Logger):
            entry.disabled = name in off


def _put_path(folders: list[str]) -> None:
    sys.path[:] = folders


def _put_environment(variables: Mapping[str, str]) -> None:
    for name in set(os.environ) - set(variables):
        del os.environ[name]
    os.environ.update(variables)


def _same_variables(before: Mapping[str, str], now: Mapping[str, str]) -> bool:
    """Of those that were there: libraries add some when they are imported."""
    return all(now.get(name) == value for name, value in before.items())


_TORCH = os.path.dirname(str(torch.__file__))
_guards: list[Any] = []
_backends: Any = torch.backends
_rounding = {
    "cuda": _backends.cuda.matmul,
    "convolutions": getattr(_backends.cudnn, "conv", _backends.cudnn),
    "recurrent": getattr(_backends.cudnn, "rnn", _backends.cudnn),
    "cpu": getattr(_backends.mkldnn, "matmul", _backends.mkldnn),
    "convolutions on the cpu": getattr(_backends.mkldnn, "conv", _backends.mkldnn),
}
_hooks = {
    name: table
    for home in (modules, optimizers)
    for name, table in vars(home).items()
    if name.startswith("_global_") and isinstance(table, dict)
}
SWITCHES: dict[str, _Switch] = {
    "torch's default dtype": _Switch(torch.get_default_dtype, torch.set_default_dtype),
    "torch's default device": _Switch(torch.get_default_device, _put_device),
    "torch's function modes": _Switch(_function_modes, _put_function_modes),
    "torch's float32 precision": _Switch(_precision, _put_precision),
    "torch's gradient mode": _Switch(torch.is_grad_enabled, torch._C._set_grad_enabled),
    "torch's inference mode": _Switch(torch.is_inference_mode_enabled, _put_inference_mode),
    "torch's deterministic algorithms": _Switch(
        lambda: (
            torch.are_deterministic_algorithms_enabled(),
            torch.is_deterministic_algorithms_warn_only_enabled(),
        ),
        lambda pair: torch.use_deterministic_algorithms(pair[0], warn_only=pair[1]),
    ),
    "torch's anomaly detection": _Switch(
        torch.is_anomaly_enabled, torch.autograd.set_detect_anomaly
    ),
    "torch's flush of denormal numbers": _Switch(_flushes, torch.set_flush_denormal),
    "torch's number of threads": _Switch(torch.get_num_threads, torch.set_num_threads),
    "torch's autocast": _Switch(_autocast, _put_autocast),
    **{
        f"torch.backends.cudnn.{name}": _field(_backends.cudnn, name)
        for name in ("enabled", "benchmark", "deterministic")
    },
    **{
        f"torch.backends.cuda.matmul.{name}": _field(_backends.cuda.matmul, name)
        for name in (
            "allow_fp16_reduced_precision_reduction",
            "allow_bf16_reduced_precision_reduction",
        )
    },
    "torch.backends.mkldnn.enabled": _Switch(
        torch._C._get_mkldnn_enabled, torch._C._set_mkldnn_enabled
    ),
    "kernels of torch's attention": _Switch(
        lambda: (
            torch.backends.cuda.flash_sdp_enabled(),
            torch.backends.cuda.mem_efficient_sdp_enabled(),
            torch.backends.cuda.math_sdp_enabled(),
        ),
        lambda flags: (
            torch.backends.cuda.enable_flash_sdp(flags[0]),
            torch.backends.cuda.enable_mem_efficient_sdp(flags[1]),
            torch.backends.cuda.enable_math_sdp(flags[2]),
        ),
    ),
    **{f"torch's {name[1:].replace('_', ' ')}": _table(table) for name, table in _hooks.items()},
    "numpy's error state": _Switch(np.geterr, lambda state: np.seterr(**state)),
    "the warnings that raise": _Switch(
        lambda: [entry for entry in warnings.filters if entry[0] == "error"], _put_raising
    ),
    "the root logger": _Switch(_logging, _put_logging),
    "sys.path": _Switch(lambda: list(sys.path), _put_path),
    "the working directory": _Switch(os.getcwd, os.chdir),
    "environment variables": _Switch(
        lambda: dict(os.environ), _put_environment, _same_variables
    ),
}  # fmt: skip
"""What is compared, by the name in warnings."""
PATCHED: tuple[Any, ...] = (torch, functional, nn, nn.Module, Tensor, np, np.random, random)
"""Where functions are replaced; the modules of the harness count too."""
SET_FOR_EACH_JOB = {
    "torch.backends.cudnn.benchmark",
    "torch.backends.cudnn.deterministic",
    "torch's float32 precision",
    "the root logger",
}
"""What the harness itself sets before each job: it may differ between two of them."""


def take() -> State:
    """The state of the process, by the names of `SWITCHES`; under "" all that may be patched."""
    return {name: switch.get() for name, switch in SWITCHES.items()} | {"": _patchable()}


def put(state: State, names: list[str]) -> None:
    """Set some switches to what they are in the state."""
    for name in names:
        if name in SWITCHES:
            SWITCHES[name].put(state[name])
        else:
            owner, attribute = state[""][name][:2]
            setattr(owner, attribute, state[""][name][2])


def differing(before: State, now: State) -> list[str]:
    """The names of what differs: switches, and functions that were replaced or deleted."""
    names = [name for name, s in SWITCHES.items() if not s.same(before[name], now[name])]
    missing = (None, None, None)
    return names + [
        name
        for name, (_, _, value) in before[""].items()
        if not _same_function(value, now[""].get(name, missing)[2])
    ]


def _same_function(before: Any, now: Any) -> bool:
    """Whether it is the function; torch wraps some of its functions when a part is first used."""
    if before is now:
        return True
    file = getattr(getattr(now, "__code__", None), "co_filename", "")
    return file.startswith(_TORCH) and inspect.unwrap(now) is inspect.unwrap(before)


def _patchable() -> dict[str, tuple[Any, str, Any]]:
    """(owner, attribute, value) of what plugins are known to replace, by name."""
    ours: list[Any] = [
        module
        for name, module in list(sys.modules.items())
        if name.startswith("sau_bench.benchmark.")
    ]
    return {
        f"{owner.__name__}.{name}": (owner, name, value)
        for owner in [*PATCHED, *ours]
        for name, value in _attributes(owner)
        if not name.startswith("__") or isinstance(owner, type)
    }


def _attributes(owner: Any) -> list[tuple[str, Any]]:
    """Of a class also what it inherits: a replacement of that is put before it."""
    classes = owner.__mro__[-2::-1] if isinstance(owner, type) else [owner]
    return list({k: v for home in classes for k, v in list(vars(home).items())}.items())


class Guard:
    """Made before a method runs; says and undoes what it left changed.

    In a worker also what importing its plugins has changed, so that every job begins as the first.
    """

    def __init__(self) -> None:
        if _start is not None:
            now = take()
            changed = [n for n in differing(_start, now) if n not in SET_FOR_EACH_JOB]
            self._report("importing its plugins", changed)
            put(_start, changed)
        self.before: State = {}

    def begin(self) -> None:
        """Take the state that has to be there at the end."""
        self.before = take()

    def check(self) -> None:
        """Name and undo what has changed since `begin`."""
        changed = differing(self.before, take())
        put(self.before, changed)  # the root logger among it: what follows has to be heard
        self._report("the method", changed)

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Inside the block, all is as the method found it: scores do not depend on its switches."""
        now = take()
        changed = differing(self.before, now)
        put(self.before, changed)
        try:
            yield
        finally:
            put(now, changed)

    def _report(self, who: str, changed: list[str]) -> None:
        if changed:
            shown = ", ".join(changed[:5]) + (f" and {len(changed) - 5} more" * (len(changed) > 5))
            told = "%s: %s left changed, and the harness has put back: %s"
            log.warning(told, GLOBAL_STATE, who, shown)
            spoil(f"{who} left changed: {shown}")


_start = take() if is_worker() else None
"""How a worker begins. Of other processes nobody knows what they mean to have set."""


def fingerprint(*sets: Images) -> int:
    """A number that changes with any pixel, label or order of the images; 37 ms for CIFAR-10.

    Two levels of sums with odd factors, modulo 2^64: one changed entry always changes the sum, and
    two that cancel out are as likely as two random numbers that are equal.
    """
    return hash(tuple(_sum(tensor) for images in sets for tensor in (images.x, images.y)))


def _sum(tensor: Tensor) -> tuple[int, ...]:
    content = tensor.detach().reshape(-1).view(torch.uint8)
    whole = len(content) // 8 * 8
    rest = content[whole:].tolist()
    words = content[:whole].view(torch.int64)
    factors = _factors(PIECE, words.device)
    sums = [(part * factors[: len(part)]).sum() for part in words.split(PIECE)]
    total = torch.stack(sums) if len(words) else words
    return (int((total * _factors(len(total), words.device)).sum()), *tensor.shape, *rest)


PIECE = 1 << 15
"""Words in one sum: what stays in a processor's cache."""


def _factors(count: int, device: torch.device) -> Tensor:
    """Odd numbers that look random: a linear congruence (Knuth's MMIX), modulo 2^64."""
    numbers = torch.arange(count, dtype=torch.int64, device=device)
    return (numbers * 6364136223846793005 + 1442695040888963407) ^ (numbers << 29) | 1
