"""What a training loop does, noted from outside by public hooks: forwards, raw losses, gradients, steps.

The true gradient of a micro-batch is taken the moment its raw loss exists: the same weights, the same random state, the
same buffers as the loop's own, by a backward of our own through the graph that the loop has just built. What the loop
makes of it afterwards, divide, scale, accumulate, clip or forget, cannot touch it.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.hooks import RemovableHandle

# Frames of these folders are nobody's fault.
_HOUSE = (str(Path(torch.__file__).parent), str(Path(__file__).parent))


@dataclass(eq=False)
class MicroBatch:
    """A raw loss that was computed in training, with its true gradient.

    Args:
        number: from 0, over the whole run. samples: size of its first dimension, as the network saw it.
        loss: raw, a detached scalar tensor. gradient: true one, flat, None where it was not taken.
        why: why it could not be taken. precision: "fp64", "fp32", "bf16" or "fp16". where: file and line of the loss.
        broken: whether the loss or the gradient holds NaN or infinity. mode: whether the network was in training mode.
        backwards: of the loop, that came to this loss.
    """

    number: int
    samples: int
    loss: Tensor
    gradient: Tensor | None
    why: str
    precision: str
    where: str
    broken: bool
    mode: bool
    backwards: int = 0


@dataclass(eq=False)
class Step:
    """An optimiser step, or the place where one was left out.

    Args:
        micro_batches: whose losses came since the last one. gradient: flat, unscaled, as the optimiser got it; None
            where it was not taken. applied: False for a step that a scaler left out. scaled: loss scale at that time.
        finite: whether all gradients were numbers. rates: learning rates. ticks: of the scheduler so far.
        forwards: in training mode since the last step. where: file and line of the step.
        inside: forwards that ran within the step itself, as those of a closure do.
    """

    micro_batches: list[MicroBatch]
    gradient: Tensor | None
    applied: bool
    scale: float
    finite: bool
    rates: list[float]
    ticks: int | None
    forwards: int
    where: str
    inside: int = 0


@dataclass(eq=False)
class Testimony:
    """All that was seen of a loop.

    Args:
        steps: in order. left: micro-batches after the last step. forwards: in training mode with gradients.
        losses: raw losses in order, with the number of samples of each.
        frozen: tensors of the network that ask for no gradient. still: names of trainable tensors that
            never moved. strange: those that no optimiser holds. stale: tensors of the optimiser that the network has
            not.
    """

    steps: list[Step] = field(default_factory=list)
    left: list[MicroBatch] = field(default_factory=list)
    micro_batches: int = 0
    forwards: int = 0
    frozen: int = 0
    losses: list[tuple[Tensor, int]] = field(default_factory=list)
    still: list[str] = field(default_factory=list)
    strange: list[str] = field(default_factory=list)
    stale: int = 0


class Witness:
    """Hooks on a model, an optimiser and a loss; attach() sets them, detach() takes every one of them away.

    Args:
        model, optimizer: of the loop. loss: a Module, a function of torch, or a Python function that the loop calls as
            `watch.loss`; None where there is nothing to see. scaler, scheduler: of the loop, or None.
        of: the raw loss, a scalar tensor, within what `loss` returns. every: take gradients of each n-th window.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        loss: Callable[..., Any] | None,
        scaler: Any,
        scheduler: Any,
        of: Callable[[Any], Tensor],
        every: int,
    ) -> None:
        self.seen = Testimony()
        self._model, self._optimizer, self._loss = model, optimizer, loss
        self._scaler, self._scheduler, self._of, self._every = scaler, scheduler, of, every
        self._handles: list[RemovableHandle] = []
        self._mode: _Listener | None = None
        self._ours = False  # whether a backward of our own is under way
        self._within = -1  # forwards inside a step under way; −1 outside of one
        self._samples, self._training = 0, True
        self._since, self._forwards = [], 0
        self._lowered = False
        self._scale = self._scale_now()
        self._begun: dict[str, Tensor] = {}

    _since: list[MicroBatch]

    def attach(self) -> None:
        """Begin to watch."""
        self._begun = {name: value.detach().clone() for name, value in self._trainable()}
        self._handles = [
            self._model.register_forward_pre_hook(self._before_forward, with_kwargs=True),
            self._model.register_forward_hook(self._after_forward),
            self._optimizer.register_step_pre_hook(self._before_step),
            self._optimizer.register_step_post_hook(self._after_step),
        ]
        if isinstance(self._loss, nn.Module):
            self._handles.append(self._loss.register_forward_hook(lambda module, args, output: self.judge(output)))
        elif self._loss is not None and _of_torch(self._loss):
            self._mode = _Listener(self._loss, self.judge)
            self._mode.__enter__()

    def detach(self) -> None:
        """Take all hooks away, and note what only the end shows."""
        if self._mode is not None:
            self._mode.__exit__(None, None, None)
            self._mode = None
        for handle in self._handles:
            handle.remove()
        self._handles = []
        self.seen.left = self._since
        held = {id(value) for group in self._optimizer.param_groups for value in group["params"]}
        own = {id(value) for value in self._model.parameters()}
        self.seen.still = [
            name for name, value in self._trainable() if name in self._begun and torch.equal(value, self._begun[name])
        ]
        self.seen.strange = [name for name, value in self._trainable() if id(value) not in held]
        self.seen.stale = len(held - own)
        self.seen.frozen = sum(not value.requires_grad for value in self._model.parameters())

    def judge(self, output: Any) -> Any:
        """Take note of what the loss gave; returns it unchanged."""
        loss = self._of(output)
        if self._ours or not self._training:
            return output
        if not torch.is_grad_enabled():
            return output
        gradient, why = self._true_gradient(loss)
        batch = MicroBatch(
            number=self.seen.micro_batches,
            samples=self._samples,
            loss=loss.detach(),
            gradient=gradient,
            why=why,
            precision=_precision(loss, self._model),
            where=caller(),
            broken=not bool(torch.isfinite(loss).all())
            or (gradient is not None and not bool(torch.isfinite(gradient).all())),
            mode=self._model.training,
        )
        self.seen.micro_batches += 1
        self.seen.losses.append((batch.loss, batch.samples))
        self._since.append(batch)
        if loss.requires_grad:
            loss.register_hook(lambda unused, batch=batch: self._heard(batch))
        return output

    def _heard(self, batch: MicroBatch) -> None:
        """A backward of the loop has come to this loss."""
        if self._ours:
            return
        earlier = [other for other in self._since if other is not batch and other.backwards]
        if any(other.broken for other in earlier) and self._empty():
            # A loop that meets NaN may throw its window away: what has come before belongs to no step.
            self._since = self._since[: self._since.index(earlier[-1]) + 1]
            self._end(gradient=None, applied=False, finite=False, where="")
            self._since = [batch]
        batch.backwards += 1

    def _empty(self) -> bool:
        """Whether no gradient is held."""
        return all(value.grad is None or not bool(value.grad.any()) for value in self._held())

    def _true_gradient(self, loss: Tensor) -> tuple[Tensor | None, str]:
        if len(self.seen.steps) % self._every:
            return None, ""
        if not loss.requires_grad:
            return None, "the loss carries no gradient"
        if loss.numel() != 1:
            return None, "the loss is not a single number"
        parameters, scale = self._held(), self._scale_now()
        self._ours = True
        try:
            # The loop weighs a loss before it scales it: where half precision overflows here, it need not there.
            for factor in dict.fromkeys(max(1.0, scale / by) for by in (1.0, 16.0, 256.0, math.inf)):
                # A backward is run outside of autocast, whatever the loss stands in.
                with torch.autocast(loss.device.type, enabled=False):
                    found = torch.autograd.grad(loss * factor, parameters, retain_graph=True, allow_unused=True)
                gradient = _flat(parameters, found) / factor
                if bool(torch.isfinite(gradient).all()):
                    break
        except RuntimeError as error:
            return None, f"its gradient could not be taken: {str(error).splitlines()[0]}"
        finally:
            self._ours = False
        return gradient, ""

    def _before_forward(self, model: nn.Module, args: Any, kwargs: Any) -> None:
        if self._ours:
            return
        self._training = torch.is_grad_enabled()
        if not self._training:
            return
        first = next((value for value in (*args, *kwargs.values()) if isinstance(value, Tensor) and value.dim()), None)
        self._samples = 1 if first is None else int(first.shape[0])
        if self._within >= 0:
            self._within += 1
        self._skipped()
        self.seen.forwards += 1
        self._forwards += 1

    def _after_forward(self, model: nn.Module, args: Any, output: Any) -> None:
        # A forward under no_grad ends an evaluation: a loss after it belongs to no step.
        self._training = torch.is_grad_enabled() and self._training

    def _skipped(self) -> None:
        """Note a step that a scaler left out: it has lowered its scale since."""
        now = self._scale_now()
        if self._scaler is not None and now < self._scale and self._since and any(b.backwards for b in self._since):
            self._end(gradient=None, applied=False, finite=False, where="")
        self._scale = now

    def _before_step(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        parameters = self._held()
        fused_scale = vars(optimizer).get("grad_scale")  # where the scaler leaves it to the optimiser to unscale
        fused_inf = vars(optimizer).get("found_inf")
        wanted = len(self.seen.steps) % self._every == 0
        gradient = _flat(parameters, [value.grad for value in parameters]) if wanted else None
        if gradient is not None and fused_scale is not None:
            gradient = gradient / fused_scale.to(gradient.device)
        skipped = fused_inf is not None and bool(fused_inf.item())
        finite = gradient is None or bool(torch.isfinite(gradient).all())
        self._end(gradient=gradient, applied=not skipped, finite=finite, where=caller())
        self._scale = self._scale_now()
        self._within = 0

    def _after_step(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        self.seen.steps[-1].inside = max(0, self._within)
        self._within = -1

    def _end(self, *, gradient: Tensor | None, applied: bool, finite: bool, where: str) -> None:
        self.seen.steps.append(
            Step(
                micro_batches=self._since,
                gradient=gradient,
                applied=applied,
                scale=self._scale,
                finite=finite,
                rates=[float(group["lr"]) for group in self._optimizer.param_groups],
                ticks=None if self._scheduler is None else int(self._scheduler.last_epoch),
                forwards=self._forwards,
                where=where,
            )
        )
        self._since, self._forwards = [], 0

    def _held(self) -> list[Tensor]:
        """Trainable tensors of the network, those of which gradients are compared."""
        return [value for _, value in self._trainable()]

    def _trainable(self) -> Iterator[tuple[str, nn.Parameter]]:
        return ((name, value) for name, value in self._model.named_parameters() if value.requires_grad)

    def _scale_now(self) -> float:
        return float(self._scaler.get_scale()) if self._scaler is not None and self._scaler.is_enabled() else 1.0


class _Listener(TorchFunctionMode):
    """Hears of the calls of one function of torch."""

    def __init__(self, wanted: Callable[..., Any], tell: Callable[[Any], Any]) -> None:
        super().__init__()
        self._wanted, self._tell = wanted, tell

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        return self._tell(output) if func is self._wanted else output


def _of_torch(loss: Callable[..., Any]) -> bool:
    return (getattr(loss, "__module__", None) or "").split(".")[0] == "torch"


def _flat(parameters: list[Tensor], gradients: Any) -> Tensor:
    """Gradients as one vector, in float32 or better; a missing one counts as zeros."""
    parts = [
        torch.zeros_like(value)
        if gradient is None
        else gradient.detach().to_dense()
        if gradient.is_sparse
        else gradient
        for value, gradient in zip(parameters, gradients, strict=True)
    ]
    flat = [torch.view_as_real(part).flatten() if part.is_complex() else part.flatten() for part in parts]
    wide = torch.float64 if any(part.dtype == torch.float64 for part in flat) else torch.float32
    return torch.cat([part.detach().to(wide) for part in flat]) if flat else torch.zeros(0)


def _precision(loss: Tensor, model: nn.Module) -> str:
    kind = loss.device.type
    if torch.is_autocast_enabled(kind):
        return {torch.bfloat16: "bf16", torch.float16: "fp16"}.get(torch.get_autocast_dtype(kind), "fp32")
    dtypes = {value.dtype for value in model.parameters()} | {loss.dtype}
    for name, dtype in (("bf16", torch.bfloat16), ("fp16", torch.float16), ("fp32", torch.float32)):
        if dtype in dtypes:
            return name
    return "fp64"


def caller() -> str:
    """File and line of the innermost frame that is neither torch's nor ours, or ""."""
    frame = inspect.currentframe()
    while frame is not None:
        name = frame.f_code.co_filename
        if not name.startswith(_HOUSE) and not name.startswith("<frozen"):
            return f"{name}:{frame.f_lineno}"
        frame = frame.f_back
    return ""


def number(value: Tensor) -> float:
    """A scalar tensor as a float; NaN for one that is not a single number."""
    return float(value) if value.numel() == 1 else math.nan
