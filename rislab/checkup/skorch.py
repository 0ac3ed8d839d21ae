"""The checkup as a callback of skorch: `NeuralNet(…, callbacks=[CheckupCallback()])`."""

from __future__ import annotations

from typing import Any

from rislab.checkup.findings import Findings
from rislab.checkup.fit_watch import (
    FitWatch,
    Framework,
    RunningCall,
    TrainedLoop,
    TrainerSettings,
    framework_class,
    is_first,
    needs,
)
from rislab.checkup.recording.windows import Declared

SKORCH = Framework("skorch", (1, 4), (1, 4))
_Callback: Any = framework_class("Callback", ("skorch.callbacks",))


class CheckupCallback(_Callback):  # type: ignore[misc]
    """Watches each fit of a net, and changes no bit of it; the numbers of its findings go to the history.

    Args:
        on_fault: "print", or "raise" to raise TrainingFaultError at the end of a fit that has faults.
        every: n ≥ 1; compare the gradients of each n-th window only; None compares the first, then ever fewer.
    """

    def __init__(self, on_fault: str = "print", every: int | None = None) -> None:
        needs(_Callback, "skorch")
        self.on_fault, self.every = on_fault, every
        # skorch, as sklearn, takes attributes without an underscore at their end for arguments of this method.
        self.fit_ = FitWatch("NeuralNet.fit()", on_fault, every)

    @property
    def findings(self) -> Findings:
        """Of the last fit."""
        return self.fit_.findings

    def on_train_begin(self, net: Any, X: Any = None, y: Any = None, **given: Any) -> None:
        """The first batch is to come."""
        if is_first(self, [one for _, one in net.callbacks_]):
            self.fit_.begin(SKORCH, lambda: _settings(net), RunningCall(net))

    def on_train_end(self, net: Any, X: Any = None, y: Any = None, **given: Any) -> None:
        """The last batch is over."""
        self.fit_.end(lambda numbers: [net.history.record(*one) for one in numbers.items()] if net.history else None)
        self.fit_.raise_faults()


def _settings(net: Any) -> TrainerSettings:
    """What a net is set to do."""
    clips = [one for _, one in net.callbacks_ if type(one).__name__ == "GradientNormClipping"]
    limits = [one.gradient_clip_value for one in clips if one.gradient_clip_norm_type == 2]
    declared = Declared(mean="", clip_norm=float(limits[0]) if len(limits) == 1 else None)
    return TrainerSettings([TrainedLoop(net.optimizer_, net.module_)], declared, f"clip_norm {declared.clip_norm}")
