"""What a watched loop would be told of some micro-batches: what losses are given, and how tokens and targets fit."""

from __future__ import annotations

from itertools import cycle, islice

from rislab.checkup.findings import Finding
from rislab.checkup.observers.loss_arguments import CALLS, LossArguments
from rislab.checkup.observers.token_targets import TokenTargets
from rislab.checkup.probes.final_probes import token_probes
from rislab.checkup.probes.function_probes import function_probes
from rislab.checkup.probes.loss_minima import LossCalls
from rislab.checkup.probes.probe_batches import arguments_of
from rislab.checkup.probes.probe_target import ProbeTarget
from rislab.checkup.probes.sequence_probes import sequence_probes
from rislab.checkup.recording.events import ForwardEvent, LossEvent


def watched_batches(target: ProbeTarget) -> list[Finding]:
    """The findings of a watched loop on a copy, as far as they need no step."""
    arguments, tokens, model = LossArguments(), TokenTargets(), target.copy()

    def on_loss(call: LossEvent) -> None:
        arguments.on_loss(call)
        tokens.on_loss(call)

    for inputs, truth in islice(cycle(target.data), max(CALLS, min(len(target.data), 2 * CALLS))):
        args, named = arguments_of(model, inputs)
        with LossCalls(on_loss):
            tokens.on_forward(model, True)
            output = model(*args, **named)
            tokens.on_forward_end(ForwardEvent(model, args, named, output, True))
            value = target.loss_of(output, truth)
        for observer in (arguments, tokens):
            observer.on_backward([(value, None)])
    args, named = arguments_of(model, target.data[0][0])
    return [
        *arguments.findings(),
        *tokens.findings(),
        *sequence_probes(model, args, named),
        *function_probes(model, args, named),
        *token_probes(tokens, model, args, named),
    ]
