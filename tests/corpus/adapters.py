"""Runs one script under a tool that takes no script: `TOOL SCRIPT OUT`; needs torch and the tool.

A tool of the loop (torch-audit, anomaly, watch) is switched on as its documentation says, and the script runs to its
end. A tool of one batch (torchtest2, guardtower, pytest-torch, probe) gets the first batch of the script, before its
first step: the network whose output the first loss of torch was given, inputs, that loss, its target, the optimiser.
"""

from __future__ import annotations

import copy
import functools
import json
import os
import runpy
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import nn
from torch.nn import functional
from torch.optim.optimizer import register_optimizer_step_pre_hook

Said = list[dict[str, Any]]
LOSSES = (
    "binary_cross_entropy", "binary_cross_entropy_with_logits", "cross_entropy", "gaussian_nll_loss", "huber_loss",
    "kl_div", "l1_loss", "mse_loss", "nll_loss", "poisson_nll_loss", "smooth_l1_loss", "soft_margin_loss",
)  # fmt: skip


class CannotRunError(Exception):
    """The tool cannot be put to work on this script."""


def said(name: str, level: str, text: str) -> dict[str, Any]:
    """One finding."""
    return {"name": name, "level": level, "text": text[:300]}


def run_script(script: str) -> None:
    """The script as it would run by itself; an error of its own is reported by the caller."""
    sys.argv = [script]
    sys.path.insert(0, str(Path(script).parent))
    runpy.run_path(script, run_name="__main__")


class BatchError(Exception):
    """Ends the script: its first batch is known."""


class FirstBatch:
    """Listens to modules and losses until the first step of an optimiser."""

    def __init__(self) -> None:
        self.depth = 0
        self.calls: list[tuple[nn.Module, tuple[Any, ...], dict[str, Any], Any]] = []
        self.losses: list[tuple[Callable[..., Any], torch.Tensor, Any]] = []
        self.optimizer: torch.optim.Optimizer | None = None
        self.restore: Callable[[], None] = lambda: None

    def listen(self) -> None:
        """Wrap calls of modules, losses and steps."""
        call = nn.Module.__call__

        @functools.wraps(call)
        def heard(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
            self.depth += 1
            try:
                output = call(module, *args, **kwargs)
            finally:
                self.depth -= 1
            if self.depth == 0 and any(weight.requires_grad for weight in module.parameters()):
                self.calls.append((module, args, kwargs, output))
            return output

        nn.Module.__call__ = heard
        of_torch = {name: getattr(functional, name) for name in LOSSES}
        for name, loss in of_torch.items():
            setattr(functional, name, self._heard_loss(loss))
        hook = register_optimizer_step_pre_hook(self._stop)

        def restore() -> None:
            nn.Module.__call__ = call
            for name, loss in of_torch.items():
                setattr(functional, name, loss)
            hook.remove()

        self.restore = restore

    def _heard_loss(self, loss: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(loss)
        def heard(output: Any, target: Any, *args: Any, **kwargs: Any) -> Any:
            value = loss(output, target, *args, **kwargs)
            if isinstance(output, torch.Tensor) and value.requires_grad and value.dim() == 0:
                self.losses.append((functools.partial(_called, loss, args, kwargs), output, target))
            return value

        return heard

    def _stop(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> NoReturn:
        self.optimizer = optimizer
        raise BatchError

    def found(self) -> tuple[nn.Module, tuple[Any, ...], dict[str, Any], Callable[..., Any], Any]:
        """Network, inputs, named inputs, loss and target, of the first loss that was given a network's own output."""
        for loss, output, target in self.losses:
            for module, args, kwargs, whole in reversed(self.calls):
                if isinstance(whole, torch.Tensor) and _same(whole, output):
                    return module, args, kwargs, functools.partial(_shaped, loss, output.shape), target
        raise CannotRunError("no loss of torch is given the output of a network as it is")


def _called(loss: Callable[..., Any], args: Any, kwargs: Any, output: torch.Tensor, target: Any) -> Any:
    return loss(output, target, *args, **kwargs)


def _shaped(loss: Callable[..., Any], shape: torch.Size, output: torch.Tensor, target: Any) -> Any:
    return loss(output.reshape(shape), target)


def _same(whole: torch.Tensor, part: torch.Tensor) -> bool:
    return whole is part or (whole.data_ptr() == part.data_ptr() and whole.numel() == part.numel())


def one_batch(script: str, judge: Callable[..., Said]) -> Said:
    """Run the script up to its first step, then the tool on the batch."""
    first = FirstBatch()
    first.listen()
    try:
        run_script(script)
    except BatchError:
        first.restore()
        module, args, kwargs, loss, target = first.found()
        if kwargs:
            raise CannotRunError("the network is called by keywords") from None
        args, target = copy.deepcopy((args, target)) if _is_plain((args, target)) else (args, target)
        return judge(module, args, loss, target, first.optimizer)
    raise CannotRunError("no optimiser of torch steps")


def _is_plain(value: Any) -> bool:
    if isinstance(value, torch.Tensor):
        return value.is_leaf
    return all(map(_is_plain, value)) if isinstance(value, tuple) else True


def torchtest2(module: nn.Module, inputs: Any, loss: Callable[..., Any], target: Any, optimizer: Any) -> Said:
    """check_model() with everything that it takes."""
    import torchtest2 as tool

    report = tool.check_model(module, inputs, target, loss_fn=loss, optimizer=optimizer)
    levels = {"FAIL": "error", "WARN": "warning"}
    return [
        said(one.name, levels[one.status.value], one.message) for one in report.results if one.status.value in levels
    ]


def guardtower(module: nn.Module, inputs: Any, loss: Callable[..., Any], target: Any, optimizer: Any) -> Said:
    """audit() of one step."""
    import guardtower as tool

    report = tool.audit(module, lambda: loss(module(*inputs), target), optimizer=optimizer, inputs=inputs)
    return [
        said(
            one["catalog_id"] or one["check"], {"fail": "error", "error": "error"}.get(level, "warning"), one["message"]
        )
        for one in report.to_dict()["findings"]
        if (level := str(one["severity"]).lower()) not in ("info", "pass", "ok")
    ]


def pytest_torch(module: nn.Module, inputs: Any, loss: Callable[..., Any], target: Any, optimizer: Any) -> Said:
    """The checks "contract" and "training" of its suites, and that of the optimiser's coverage."""
    from pytest_torch import training
    from pytest_torch.contract import check_inference_contract

    def of_output(output: Any) -> Any:
        return loss(output, target)

    found: Said = []
    contract = check_inference_contract(copy.deepcopy(module).eval(), inputs, raise_on_failure=False)
    found += [said("check_inference_contract", "error", f"{one.name}: {one.message}") for one in contract.failures]
    for name in ("gradients_finite", "all_params_receive_grad", "loss_decreases", "overfits_one_batch"):
        check = getattr(training, f"assert_{name}")
        try:
            check(copy.deepcopy(module), inputs, of_output)
        except AssertionError as error:
            found.append(said(f"assert_{name}", "error", str(error)))
    return found


def at_each_optimizer(script: str, start: Callable[[nn.Module, torch.optim.Optimizer], None]) -> None:
    """Run a script; for each optimiser, at the first forward after it was made, hand on the network that it holds."""
    import gc

    waiting: list[torch.optim.Optimizer] = []
    make, call = torch.optim.Optimizer.__init__, nn.Module.__call__

    @functools.wraps(make)
    def made(self: Any, *args: Any, **kwargs: Any) -> None:
        make(self, *args, **kwargs)
        waiting.append(self)

    @functools.wraps(call)
    def heard(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        while waiting and torch.is_grad_enabled():
            optimizer = waiting.pop()
            held = {id(weight) for group in optimizer.param_groups for weight in group["params"]}
            modules = [each for each in gc.get_objects() if isinstance(each, nn.Module)]
            covered = [(sum(id(weight) in held for weight in each.parameters()), each) for each in modules]
            most = max((count for count, _ in covered), default=0)
            if most:
                start(max((e for c, e in covered if c == most), key=lambda e: sum(1 for _ in e.modules())), optimizer)
        return call(module, *args, **kwargs)

    torch.optim.Optimizer.__init__, nn.Module.__call__ = made, heard
    try:
        run_script(script)
    finally:
        torch.optim.Optimizer.__init__, nn.Module.__call__ = make, call


def torch_audit(script: str) -> Said:
    """autopatch() of each network that an optimiser holds, at every step, static and at the start too."""
    import torch_audit as tool

    auditors: list[Any] = []
    options: dict[str, Any] = {"every_n_steps": 1, "reporters": []}
    at_each_optimizer(
        script, lambda net, optimizer: auditors.append(tool.autopatch(net, optimizer=optimizer, **options))
    )
    if not auditors:
        raise CannotRunError("no network is held by an optimiser of torch")
    levels = {"ERROR": "error", "FATAL": "error", "WARN": "warning", "WARNING": "warning"}
    found = {
        (one.rule_id, levels[one.severity.name]): one.message
        for auditor in auditors
        for one in auditor.finish(report=False).findings
        if one.severity.name in levels
    }
    return [said(name, level, text) for (name, level), text in found.items()]


def watch(script: str) -> Said:
    """`rislab.watch(network, optimizer)` of each optimiser and the network that it holds, from its first forward on."""
    from rislab.checkup.loop_watch import watch as tool

    watches: list[Any] = []
    at_each_optimizer(script, lambda net, optimizer: watches.append(tool(net, optimizer).__enter__()))
    if not watches:
        raise CannotRunError("no network is held by an optimiser of torch")
    for one in reversed(watches):
        one.__exit__(None, None, None)
    return ours(finding for one in watches for finding in one.findings())


def probe(module: nn.Module, inputs: Any, loss: Callable[..., Any], target: Any, optimizer: Any) -> Said:
    """`rislab.probe(network, loss, batches, optimizer=optimizer)` on the first batch."""
    from rislab.checkup.probes.suite import probe as tool

    first = inputs[0] if len(inputs) == 1 else inputs
    return ours(tool(module, loss, [(first, target)], optimizer=optimizer))


def ours(findings: Any) -> Said:
    """Faults and warnings, with the other names that they give."""
    levels = {"fault": "error", "warning": "warning"}
    return [
        said(one.name, levels[one.severity], one.evidence) | {"aliases": list(one.aliases)}
        for one in findings
        if one.severity in levels
    ]


def anomaly(script: str) -> Said:
    """torch.autograd.detect_anomaly around the whole script."""
    with torch.autograd.detect_anomaly():
        try:
            run_script(script)
        except RuntimeError as error:
            if "returned nan values" in str(error):
                return [said("NaN in a backward", "error", str(error))]
            raise
    return []


OF_A_BATCH = {"torchtest2": torchtest2, "guardtower": guardtower, "pytest-torch": pytest_torch, "probe": probe}
OF_A_LOOP = {"torch-audit": torch_audit, "anomaly": anomaly, "watch": watch}


def main() -> None:
    """Write what the tool says, or why it cannot, and leave at once."""
    tool, script, out = sys.argv[1:4]
    try:
        found = OF_A_LOOP[tool](script) if tool in OF_A_LOOP else one_batch(script, OF_A_BATCH[tool])
        report: dict[str, Any] = {"findings": found, "cannot": ""}
    except CannotRunError as error:
        report = {"findings": [], "cannot": str(error)}
    except (Exception, SystemExit) as error:
        lines = traceback.format_exception_only(error)
        report = {"findings": [], "cannot": f"ends with an error: {lines[-1].strip()[:200]}"}
    Path(out).write_text(json.dumps(report))
    sys.stdout.flush()
    os._exit(0)
