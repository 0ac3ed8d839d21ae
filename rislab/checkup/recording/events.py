"""What happens in a process that trains, and what may observe it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.optimizer import Optimizer

from rislab.checkup.findings import Finding
from rislab.checkup.recording.printed_lines import Printed
from rislab.checkup.recording.tensors import samples_of, tensors_of

# Tensors that a backward starts from, each with the gradient that was given for it, or None.
Roots = Sequence[tuple[Tensor, Tensor | None]]
# More windows than any run has.
MANY = 2**60
# Functions that write to a tensor, as to an average of weights: these are reported in forwards too.
WRITING = ("add_", "copy_", "lerp_", "mul_", "sub_", "__iadd__", "__imul__")


@dataclass(eq=False, slots=True)
class ForwardEvent:
    """A forward of a network that stands in no other network's forward."""

    module: nn.Module  # that was called
    args: tuple[Any, ...]  # its arguments
    kwargs: Mapping[str, Any]  # its arguments by name
    output: Any  # what it gave
    training: bool  # whether it was in training mode when it began
    dtypes: frozenset[torch.dtype] = frozenset()  # of what the modules in it gave
    network: int = 0  # the number of the module, which no other one ever has
    inner: Sequence[nn.Module] = ()  # modules that were called in it, itself included; empty if nobody asked for them
    inputs: list[Tensor] = field(init=False)  # the tensors among the arguments, in order, without sparse ones
    samples: int = field(init=False)  # size of the first dimension of the first tensor, 1 if there is none

    def __post_init__(self) -> None:
        given = [*self.args] if set(map(type, self.args)) <= {Tensor} else [*tensors_of(self.args)]
        given += tensors_of(self.kwargs) if self.kwargs else ()
        self.samples = samples_of(self.args, self.kwargs)
        # A sparse one has no place in memory, and no numbers in a row.
        self.inputs = [one for one in given if one.layout is torch.strided]


@dataclass(eq=False, slots=True)
class LossEvent:
    """A call of a loss."""

    function: Callable[..., Any]  # of torch.nn.functional, a module, or the loop's own
    args: tuple[Any, ...]  # its arguments
    kwargs: Mapping[str, Any]  # its arguments by name
    output: Any  # what it gave


class Observer:
    """Told of events in the order in which they happen; a subclass takes those that concern it.

    One that gives back True for an event is not told of such an event again. What an event is stands here alone.
    """

    of_first_backwards = False  # whether it is told of nothing after the first backwards, but of log_prob() and the end

    def begin(self) -> None:
        """The watching begins."""

    def on_forward(self, module: nn.Module, training: bool) -> bool | None:
        """A forward begins that stands in no other."""

    def on_forward_end(self, call: ForwardEvent) -> bool | None:
        """Such a forward is over."""

    def on_look(self, call: ForwardEvent) -> None:
        """It was one of those that are looked into: the first of a network by mode and gradients, then ever fewer."""

    def on_loss(self, call: LossEvent) -> bool | None:
        """A loss was computed."""

    def on_sum(self, given: Sequence[Any], output: Tensor) -> None:
        """A number with a gradient was computed as a sum or a difference, in one of the first backwards."""

    def on_comparison(self, given: Sequence[Any], output: Any) -> None:
        """Two tensors were compared, element by element."""

    def on_call(self, given: Sequence[Any], name: str) -> None:
        """A function was called, by name, outside of forwards or to write, up to a first backward or after a step."""

    def on_result(self, given: Sequence[Any], output: Any) -> None:
        """Something was computed, in one of the first backwards: a number, or tensors without a gradient, or square."""

    def follows(self, network: int) -> bool:
        """Whether to be told of all calls in an evaluation by a network, which begins and is looked into, and after."""
        return False

    def on_evaluation_call(self, given: Sequence[Any], name: str, output: Any, within: bool) -> None:
        """A function was called in an evaluation that is followed, or after it, within a forward or not."""

    def on_backward(self, roots: Roots) -> bool | None:
        """A backward begins."""

    def on_backward_error(self) -> None:
        """The backward ends by an exception; on_backward_end() comes then."""

    def on_backward_end(self) -> bool | None:
        """The backward is over."""

    def on_grad(self, outputs: Sequence[Tensor], sources: Sequence[Tensor]) -> None:
        """torch.autograd.grad() begins, of some tensors by others."""

    def on_optimizer(self, optimizer: Optimizer) -> None:
        """The first step of an optimiser is about to begin."""

    def before_step(self, optimizer: Optimizer, closure: bool) -> bool | None:
        """A step of an optimiser begins, with a closure or without."""

    def after_step(self, optimizer: Optimizer) -> bool | None:
        """A step of an optimiser is over."""

    def on_clip(self, parameters: list[Tensor], max_norm: float) -> None:
        """clip_grad_norm_() begins on some tensors."""

    def on_load(self, module: nn.Module, state: Mapping[str, Any]) -> None:
        """Module.load_state_dict() begins."""

    # Calls that begin, with their arguments, and those by name.

    def on_pass(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """A pass over a DataLoader begins."""

    def on_order(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """A DistributedSampler is to draw an order."""

    def on_seed(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """torch.manual_seed() begins."""

    def on_save(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """torch.save() begins."""

    def on_state(self, args: tuple[Any, ...], kwargs: Mapping[str, Any], state: Mapping[str, Any]) -> None:
        """Module.state_dict() gave a state; it calls itself for the parts, with a destination."""

    def on_print(self, line: Printed) -> None:
        """print() begins, with a number with a point."""

    def on_schedule(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """LRScheduler.step() begins."""

    def on_plateau(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """ReduceLROnPlateau.step() begins."""

    def on_scaler_update(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """GradScaler.update() begins."""

    def on_group(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Optimizer.add_param_group() begins; an optimiser that is made calls it for each of its groups."""

    def on_checkpoint(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """torch.utils.checkpoint.checkpoint() begins."""

    def on_log_prob(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool | None:
        """log_prob() of a distribution begins."""

    def on_sample(self, args: tuple[Any, ...], kwargs: Mapping[str, Any], value: Tensor) -> bool | None:
        """sample() of a distribution gave a value."""

    def on_entropy(self, args: tuple[Any, ...], kwargs: Mapping[str, Any], value: Tensor) -> bool | None:
        """entropy() of a distribution gave a value."""

    # Windows like many before are only counted: these events are all that comes then.

    def may_count(self) -> int:
        """How many windows from now on need only be counted, if they are like those before."""
        return MANY

    def begin_counting(
        self, change: Callable[[], None], all_came: Callable[[], bool], steps: Mapping[Optimizer, int]
    ) -> None:
        """Windows are counted from now on.

        change() ends it, all_came() says whether all events of one came; `steps` grows, until count_steps() tells it.
        """

    def end_counting(self, clips: int) -> None:
        """All events are reported again; so many clippings came since the last step."""

    def count_forward(self, module: nn.Module, samples: int) -> bool:
        """A forward begins, with so many samples; whether it need only be counted, and so on."""
        return True

    def count_backward(self, root: Tensor, value: float) -> bool:
        """A backward begins at a real number, given with its value; whether it need only be counted."""
        return True

    def count_step(self, optimizer: Optimizer) -> bool:
        """A step is over; whether those that follow may be counted without a word."""
        return True

    def count_steps(self, optimizer: Optimizer, steps: int) -> None:
        """The counting ends; so many steps of an optimiser were over meanwhile."""

    def end(self, error: BaseException | None) -> None:
        """The watching ends, by an error or not."""

    def findings(self) -> list[Finding]:
        """What is wrong."""
        return []
