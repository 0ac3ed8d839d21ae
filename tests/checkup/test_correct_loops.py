"""Correct loops that were once accused, each beside a twin with the fault that the rule is for."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import rislab
from rislab.checkup.findings import Findings
from rislab.checkup.process_watch import ProcessWatch
from rislab.checkup.recording.windows import Declared

functional = nn.functional
# A loop, correct or not, within a context that watches its network and optimiser.
Loop = Callable[[Any, bool], Any]
Open = Callable[..., Any]


def network(inputs: int = 4) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(inputs, 8), nn.Tanh(), nn.Linear(8, 1))


def batch(samples: int = 16) -> tuple[Tensor, Tensor]:
    inputs = torch.randn(samples, 4)
    return inputs, inputs.sum(1, keepdim=True)


def backward(model: nn.Module, share: float = 1.0) -> Tensor:
    inputs, target = batch()
    loss = functional.mse_loss(model(inputs), target) * share
    loss.backward()
    return loss


def watched(loop: Loop, faulty: bool, **declared: Any) -> Findings:
    """Findings of watch()."""
    opened: list[Any] = []

    def watch(model: nn.Module, optimizer: torch.optim.Optimizer, **own: Any) -> Any:
        opened.append(rislab.watch(model, optimizer, **declared, **own))
        return opened[-1]

    reported = loop(watch, faulty)
    return opened[-1].findings(reported)


def in_a_script(loop: Loop, faulty: bool) -> Findings:
    """Findings of script mode, where nothing is declared."""
    with ProcessWatch() as process:
        loop(lambda *_, **__: _Nothing(), faulty)
    return process.findings()


class _Nothing:
    def __enter__(self) -> None: ...

    def __exit__(self, *error: object) -> None: ...


def accused(findings: Findings) -> list[str]:
    return [finding.name for finding in findings if finding.severity != "note"]


# Windows of two, declared.


def one_before_the_step_and_one_in_its_closure(watch: Open, faulty: bool) -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with watch(model, optimizer, accumulation_steps=2):
        for _ in range(12):
            optimizer.zero_grad()
            if not faulty:
                inputs, target = batch()
                functional.mse_loss(model(inputs), target).div(2).backward()
            optimizer.step(lambda: backward(model, 0.5))


def losses_that_are_summed_up_first(watch: Open, faulty: bool) -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with watch(model, optimizer, accumulation_steps=2):
        for _ in range(12):
            losses = []
            for _ in range(1 if faulty else 2):
                inputs, target = batch()
                losses.append(functional.mse_loss(model(inputs), target))
            optimizer.zero_grad()
            torch.stack(losses).mean().backward()
            optimizer.step()


@pytest.mark.parametrize("loop", [one_before_the_step_and_one_in_its_closure, losses_that_are_summed_up_first])
def test_a_window_may_stand_on_several_lines_or_be_summed_up(loop: Loop) -> None:
    assert accused(watched(loop, False)) == []
    assert "step per micro-batch" in accused(watched(loop, True))


def losses_of_a_whole_window_for_each_part_of_it(watch: Open, faulty: bool) -> None:
    """As contrastive losses are accumulated: what the network gives for the others is computed before."""
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with watch(model, optimizer, accumulation_steps=2):
        for _ in range(12):
            inputs = [batch()[0] for _ in range(2)]
            with torch.no_grad():
                given = [] if faulty else [model(one) for one in inputs]
            optimizer.zero_grad()
            for place, one in enumerate(inputs):
                all_of_them = torch.cat([*given[:place], model(one), *given[place + 1 :]])
                functional.mse_loss(all_of_them, torch.ones_like(all_of_them)).backward()
            optimizer.step()


def test_a_loss_over_the_window_in_each_micro_batch_is_not_divided() -> None:
    loop = losses_of_a_whole_window_for_each_part_of_it
    assert accused(watched(loop, False)) == [] == accused(in_a_script(loop, False))
    assert "never divided" in accused(watched(loop, True))


def rewards_as_weights_of_sums(watch: Open, faulty: bool) -> None:
    """As REINFORCE weighs the log-probabilities of an episode, with a backward for each."""
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with watch(model, optimizer, accumulation_steps=4):
        for _ in range(12):
            for reward in (3.0, -0.01, 1.5, -2.0):
                if faulty:
                    optimizer.zero_grad()
                (-reward * functional.logsigmoid(model(batch()[0])).sum() / 4).backward()
            optimizer.step()
            optimizer.zero_grad()


def tokens_by_which_gradients_are_divided(watch: Open, faulty: bool) -> None:
    """As fairseq divides: losses are sums over tokens, and the gradients are divided once."""
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with watch(model, optimizer, accumulation_steps=2):
        for _ in range(12):
            tokens = 0
            for samples in (16, 9):
                if faulty:
                    optimizer.zero_grad()
                inputs, target = batch(samples)
                errors = (model(inputs) - target).abs()
                (0.9 * errors.sum() + 0.1 * errors.square().sum()).backward()
                tokens += samples
            for value in model.parameters():
                value.grad.mul_(1 / tokens)  # type: ignore[union-attr]
            optimizer.step()
            optimizer.zero_grad()


@pytest.mark.parametrize("loop", [rewards_as_weights_of_sums, tokens_by_which_gradients_are_divided])
def test_sums_have_weights_of_the_loops_own(loop: Loop) -> None:
    assert accused(watched(loop, False)) == []
    assert accused(watched(loop, True))


def a_factor_of_its_own(watch: Open, faulty: bool) -> None:
    """Half a squared error, over a window of four; or all of it, over eight."""
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with watch(model, optimizer, loss=functional.mse_loss, accumulation_steps=4):
        for _ in range(6):
            for _ in range(4):
                inputs, target = batch()
                loss = functional.mse_loss(model(inputs), target)
                (loss / 8 if faulty else 0.5 * loss / 4).backward()
            optimizer.step()
            optimizer.zero_grad()


def test_a_declared_loss_may_have_a_factor_of_its_own() -> None:
    assert accused(watched(a_factor_of_its_own, False)) == []
    assert accused(watched(a_factor_of_its_own, True)) == ["gradient scale"]


def as_many_terms_as_micro_batches(watch: Open, faulty: bool) -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with watch(model, optimizer, accumulation_steps=4):
        for _ in range(6):
            for _ in range(4):
                inputs, target = batch()
                output = model(inputs)
                losses = [functional.mse_loss(output, target * place) for place in range(1 if faulty else 4)]
                (sum(losses) / 4 / 4).backward()  # type: ignore[union-attr]
            optimizer.step()
            optimizer.zero_grad()


def test_a_mean_over_terms_is_no_second_division() -> None:
    assert accused(watched(as_many_terms_as_micro_batches, False)) == []
    assert accused(watched(as_many_terms_as_micro_batches, True)) == ["divided twice"]


def a_part_of_the_loss_that_is_reported(watch: Open, faulty: bool) -> list[float]:
    model, reported = network(), []
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with watch(model, optimizer):
        for _ in range(3):
            total = 0.0
            for _ in range(4):
                inputs, target = batch()
                error = functional.mse_loss(model(inputs), target)
                penalty = 1e-2 * sum(value.abs().sum() for value in model.parameters())
                optimizer.zero_grad()
                (error if faulty else error + penalty).backward()
                optimizer.step()
                total += error.item() + faulty * 1e-2
            reported.append(total / 4)
    return reported


def test_a_part_of_a_sum_may_be_reported() -> None:
    assert watched(a_part_of_the_loss_that_is_reported, False).faults == []
    assert [one.name for one in watched(a_part_of_the_loss_that_is_reported, True).faults] == ["another loss reported"]


def losses_that_are_reported(watch: Open, faulty: bool) -> list[float]:
    """Sums over samples, or means of them, both over the number of samples."""
    model, reported = network(), []
    optimizer = torch.optim.SGD(model.parameters(), lr=0.001)
    with watch(model, optimizer):
        for _ in range(3):
            total = 0.0
            for samples in (16, 16, 5):
                inputs, target = batch(samples)
                errors = (model(inputs) - target).square()
                loss = errors.mean() if faulty else errors.sum() + 0.1 * errors.sqrt().sum()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                total += loss.item()
            reported.append(total / 37)
    return reported


def test_sums_are_reported_for_each_sample() -> None:
    assert accused(watched(losses_that_are_reported, False)) == []
    assert accused(watched(losses_that_are_reported, True)) == ["sum of means over the set's size"]


# What is left out, frozen, or stepped on by others.


def losses_that_are_skipped(watch: Open, faulty: bool) -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with watch(model, optimizer):
        for place in range(24):
            inputs, target = batch()
            if place in (4, 11) and not faulty:
                inputs[0, 0] = torch.inf
            loss = functional.mse_loss(model(inputs) * inputs[:, :1], target)
            if not torch.isfinite(loss) or (faulty and place % 4 < 3):
                continue
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


def test_batches_that_are_no_numbers_may_be_skipped() -> None:
    for findings in (watched(losses_that_are_skipped, False), in_a_script(losses_that_are_skipped, False)):
        assert findings.faults == [] and "NaN guard in the loop" in accused(findings)
    assert "backward after the batch loop" in accused(watched(losses_that_are_skipped, True))


class Unfrozen(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Tanh())
        self.head = nn.Linear(8, 1)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(self.body(inputs))


def a_body_that_is_trained_later(watch: Open, faulty: bool) -> None:
    torch.manual_seed(0)
    model = Unfrozen()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with watch(model, optimizer):
        for epoch in range(6):
            model.train()
            model.body.train(epoch > 1 or faulty)
            for _ in range(8):
                optimizer.zero_grad()
                backward(model)
                optimizer.step()
            if faulty:
                model.body[1].reset_running_stats()  # type: ignore[union-attr, operator]
            model.eval()
            with torch.no_grad():
                model(batch()[0])


def test_statistics_that_move_later_are_no_fault() -> None:
    assert accused(in_a_script(a_body_that_is_trained_later, False)) == []
    assert accused(in_a_script(a_body_that_is_trained_later, True)) == ["running statistics never moved"]


def a_pass_for_the_importance_of_weights(watch: Open, faulty: bool) -> None:
    """As between the tasks of a continual training: gradients of single samples, in evaluation mode, and no step."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.1), nn.Linear(8, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with watch(model, optimizer):
        for _ in range(2):
            for _ in range(40):
                optimizer.zero_grad()
                backward(model)
                optimizer.step()
            model.eval()
            for _ in range(20):
                model.zero_grad()
                functional.mse_loss(model(batch(1)[0]), torch.zeros(1, 1)).backward()
            if not faulty:
                model.train()


def test_a_pass_in_evaluation_mode_that_steps_nothing_is_no_training() -> None:
    assert accused(watched(a_pass_for_the_importance_of_weights, False)) == []
    assert "eval never undone" in accused(watched(a_pass_for_the_importance_of_weights, True))


def two_networks_under_one_optimiser(watch: Open, faulty: bool) -> None:
    model, encoder = network(), network()
    optimizer = torch.optim.SGD([*model.parameters(), *encoder.parameters()], lr=0.01)
    limit = 1e-3
    with watch(model, optimizer, clip_norm=limit):
        for _ in range(12):
            inputs, target = batch()
            optimizer.zero_grad()
            functional.mse_loss(model(inputs) + encoder(inputs), target).backward()
            if not faulty:
                nn.utils.clip_grad_norm_([*model.parameters(), *encoder.parameters()], limit)
            optimizer.step()


def test_clipping_counts_all_tensors_of_the_optimiser() -> None:
    assert accused(watched(two_networks_under_one_optimiser, False)) == []
    assert accused(watched(two_networks_under_one_optimiser, True)) == ["never clipped"]


def groups_that_are_clipped_one_by_one(watch: Open, faulty: bool) -> None:
    model = network()
    optimizer = torch.optim.SGD([{"params": part.parameters()} for part in (model[0], model[2])], lr=0.01)
    with watch(model, optimizer):
        for _ in range(80):
            optimizer.zero_grad()
            backward(model)
            for group, limit in zip(optimizer.param_groups, (0.1, 0.02), strict=True):
                if faulty:
                    group["params"][0].grad.mul_(limit)
                else:
                    nn.utils.clip_grad_norm_(group["params"], limit)
            optimizer.step()


def test_groups_may_have_limits_of_their_own() -> None:
    assert accused(watched(groups_that_are_clipped_one_by_one, False)) == []
    assert accused(watched(groups_that_are_clipped_one_by_one, True)) == ["gradient changed by hand"]


def test_a_gradient_that_changes_its_sign_holds_none_of_the_last_step() -> None:
    """Minimax by one backward: nearly the same gradient again, turned, is no left-over of it."""
    torch.manual_seed(0)
    model, inputs = network(), torch.randn(64, 4)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)
    with ProcessWatch() as watch:
        for _ in range(12):
            optimizer.zero_grad()
            nn.functional.mse_loss(model(inputs), inputs[:, :1]).backward()
            for value in model.parameters():
                value.grad.neg_()
            optimizer.step()
    assert watch.findings().faults == []


def calls_of_clipping_in(watch: Any) -> set[int]:
    return {len(step.clips) for step in watch.trace.steps}


def test_clipping_is_counted_once_where_counting_ends() -> None:
    opened: list[Any] = []

    def watch(model: nn.Module, optimizer: torch.optim.Optimizer) -> Any:
        opened.append(rislab.watch(model, optimizer))
        return opened[-1]

    groups_that_are_clipped_one_by_one(watch, False)
    assert calls_of_clipping_in(opened[0]) == {2}


def weights_of_another_optimiser(watch: Open, faulty: bool) -> None:
    model = network()
    optimizer = torch.optim.SGD(model[0].parameters(), lr=0.01)
    other = torch.optim.Adam(model[2].parameters(), lr=0.01)
    with watch(model, optimizer):
        for _ in range(12):
            optimizer.zero_grad()
            other.zero_grad()
            backward(model)
            optimizer.step()
            if not faulty:
                other.step()


def test_what_another_optimiser_moves_is_not_missing() -> None:
    assert accused(watched(weights_of_another_optimiser, False)) == []
    assert accused(watched(weights_of_another_optimiser, True)) == ["not in the optimiser"]


class WithCopy(nn.Module):
    """A network with a frozen copy of its own, as in bootstrapped representations."""

    def __init__(self) -> None:
        super().__init__()
        self.online = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8))
        self.copied = copy.deepcopy(self.online).requires_grad_(False)

    def forward(self, inputs: Tensor) -> Tensor:
        return (self.online(inputs) - self.copied(inputs.roll(1, 1)).detach()).square().sum(1, keepdim=True)


def a_copy_that_follows(watch: Open, faulty: bool) -> None:
    torch.manual_seed(0)
    model = WithCopy()
    optimizer = torch.optim.SGD(model.online.parameters(), lr=0.01)
    with watch(model, optimizer):
        for _ in range(20):
            if not faulty:
                with torch.no_grad():
                    for slow, value in zip(model.copied.parameters(), model.online.parameters(), strict=True):
                        slow.lerp_(value, 0.1)
            optimizer.zero_grad()
            model(batch()[0]).mean().backward()
            optimizer.step()


def test_weights_that_follow_others_are_not_frozen() -> None:
    assert accused(in_a_script(a_copy_that_follows, False)) == []
    assert accused(in_a_script(a_copy_that_follows, True)) == ["average never moves"]


def a_head_on_a_body_in_evaluation_mode(watch: Open, faulty: bool) -> None:
    torch.manual_seed(0)
    model = Unfrozen().eval()
    if not faulty:
        model.body.requires_grad_(False)
    model.body[1].running_mean.normal_()  # type: ignore[union-attr, operator]
    optimizer = torch.optim.SGD([value for value in model.parameters() if value.requires_grad], lr=0.01)
    with watch(model, optimizer):
        for _ in range(12):
            optimizer.zero_grad()
            backward(model)
            optimizer.step()


def test_a_head_may_be_trained_in_evaluation_mode() -> None:
    assert accused(watched(a_head_on_a_body_in_evaluation_mode, False)) == []
    assert accused(watched(a_head_on_a_body_in_evaluation_mode, True)) == ["eval never undone"]


def a_schedule_that_goes_on(watch: Open, faulty: bool) -> None:
    """Half of a run, and the other half with a new network, optimiser and schedule that load the states."""
    state = None
    for _ in range(1 if faulty else 2):
        model = network()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=40)
        parts = (model, optimizer, schedule)
        for part, known in zip(parts, state or (), strict=False):
            part.load_state_dict(known)
        for _ in range(20):
            backward(model, 0.5)
            backward(model, 0.5)
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
        state = [part.state_dict() for part in parts]


def test_a_schedule_may_go_on_in_a_resumed_run() -> None:
    assert accused(in_a_script(a_schedule_that_goes_on, False)) == []
    assert accused(in_a_script(a_schedule_that_goes_on, True)) == ["schedule hardly begins"]


def test_batch_statistics_may_be_asked_for() -> None:
    """A BatchNorm without running statistics is one by choice, as where a network is adapted to new data."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8, track_running_stats=False), nn.Linear(8, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with ProcessWatch() as process:
        for _ in range(8):
            optimizer.zero_grad()
            backward(model)
            optimizer.step()
    assert accused(process.findings()) == []


def a_weight_that_begins_at_0(watch: Open, faulty: bool) -> None:
    """As of a divergence that is annealed, and added up over the samples."""
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.001)
    for place in range(12):
        inputs, target = batch()
        output = model(inputs)
        optimizer.zero_grad()
        (functional.mse_loss(output, target, reduction="sum") + place / 10 * (output.square().mean() * 16)).backward()
        optimizer.step()


def test_a_weight_may_begin_at_0() -> None:
    assert [finding for finding in in_a_script(a_weight_that_begins_at_0, False) if "Error" in finding.evidence] == []


def gradients_divided_before_the_step(watch: Open, faulty: bool) -> None:
    """Windows of three and, at the end of an epoch, of two; the fault divides each loss besides."""
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with watch(model, optimizer):
        for _ in range(6):
            for size in (3, 3, 2):
                for _ in range(size):
                    backward(model, 1 / size if faulty else 1.0)
                for value in model.parameters():
                    value.grad.div_(size)  # type: ignore[union-attr]
                optimizer.step()
                optimizer.zero_grad()


def test_gradients_may_be_divided_in_place_of_losses() -> None:
    for way in (watched, in_a_script):
        assert accused(way(gradients_divided_before_the_step, False)) == []
        assert "divided twice" in accused(way(gradients_divided_before_the_step, True))


def sums_divided_by_the_samples(watch: Open, faulty: bool) -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with watch(model, optimizer):
        for _ in range(8):
            for samples in (16, 9):
                inputs, target = batch(samples)
                (model(inputs) - target).abs().sum().backward()
            for value in model.parameters():
                value.grad.div_(40 if faulty else 25)  # type: ignore[union-attr]
            optimizer.step()
            optimizer.zero_grad()


def test_sums_that_are_divided_by_their_samples_are_judged() -> None:
    right, wrong = in_a_script(sums_divided_by_the_samples, False), in_a_script(sums_divided_by_the_samples, True)
    assert "not judged" not in [finding.name for finding in right]
    assert "not judged" in [finding.name for finding in wrong]


def layers_that_are_clipped_one_by_one(watch: Open, faulty: bool) -> None:
    """As a teacher's student is clipped: each tensor by a norm of its own, without a function of torch."""
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    with watch(model, optimizer):
        for place in range(12):
            optimizer.zero_grad()
            backward(model)
            for value in model.parameters():
                assert value.grad is not None
                if faulty:
                    value.grad.add_(0.1 * torch.randn_like(value.grad))
                else:
                    value.grad.mul_((0.1 / value.grad.norm()).clamp(max=1.0))
            if place < 4:
                model[2].weight.grad = None
            optimizer.step()


def test_parts_may_be_clipped_by_hand() -> None:
    for way in (watched, in_a_script):
        assert accused(way(layers_that_are_clipped_one_by_one, False)) == []
        assert accused(way(layers_that_are_clipped_one_by_one, True)) == ["gradient changed by hand"]


def layers_that_are_thawed_later(watch: Open, faulty: bool) -> None:
    """Their optimiser steps on nothing as long as they are frozen, which is longer than all windows are compared."""
    model = network()
    model[0].requires_grad_(False)
    optimizer = torch.optim.SGD(model[0].parameters(), lr=0.01)
    other = torch.optim.SGD(model[2].parameters(), lr=0.01)
    with watch(model, optimizer):
        for place in range(96):
            if place == 40:
                model[0].requires_grad_(True)
            optimizer.zero_grad()
            other.zero_grad()
            backward(model)
            other.step()
            optimizer.step()
            if faulty and place > 40:
                optimizer.step()


def test_thawed_layers_are_stepped_once() -> None:
    for way in (watched, in_a_script):
        assert accused(way(layers_that_are_thawed_later, False)) == []
        assert "stepped twice" in accused(way(layers_that_are_thawed_later, True))


def windows_of_contrasts_that_have_begun(watch: Open, faulty: bool) -> None:
    """The first pass of the first window, without gradients, comes before the watching."""
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)

    def first_pass() -> tuple[list[Tensor], list[Tensor]]:
        inputs = [batch()[0] for _ in range(4)]
        with torch.no_grad():
            return inputs, [] if faulty else [model(one) for one in inputs]

    inputs, given = first_pass()
    with watch(model, optimizer):
        for _ in range(12):
            optimizer.zero_grad()
            for place, one in enumerate(inputs):
                all_of_them = torch.cat([*given[:place], model(one), *given[place + 1 :]])
                functional.mse_loss(all_of_them, torch.ones_like(all_of_them)).backward()
            optimizer.step()
            inputs, given = first_pass()


def test_a_watch_may_begin_between_the_passes_of_a_window() -> None:
    assert accused(watched(windows_of_contrasts_that_have_begun, False)) == []
    assert "never divided" in accused(watched(windows_of_contrasts_that_have_begun, True))


def copies_that_are_adapted(watch: Open, faulty: bool) -> None:
    """As of first-order meta-learning: gradients of copies are added up for the network, over the number of tasks."""
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with watch(model, optimizer):
        for place in range(12):
            for value in model.parameters():
                value.grad = torch.zeros_like(value)
            for _ in range(2):
                learner = copy.deepcopy(model)
                backward(learner)
                with torch.no_grad():
                    for value in learner.parameters():
                        value.sub_(0.01 * value.grad)  # type: ignore[operator]
                inputs, target = batch()
                loss = functional.mse_loss((model if faulty else learner)(inputs), target)
                if faulty and place % 2:
                    loss.backward()
                if not faulty:
                    found = torch.autograd.grad(loss, list(learner.parameters()))
                    for value, gradient in zip(model.parameters(), found, strict=True):
                        value.grad.add_(gradient / 2)  # type: ignore[union-attr]
            optimizer.step()


def test_gradients_of_copies_are_put_there_by_the_loop() -> None:
    assert accused(watched(copies_that_are_adapted, False)) == []
    assert "forwards that reached no step" in accused(watched(copies_that_are_adapted, True))


def a_last_pass_without_a_backward(watch: Open, faulty: bool) -> None:
    """As for the statistics of an average of weights, with a step on nothing at its end."""
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with watch(model, optimizer):
        for epoch in range(4):
            for _ in range(8):
                optimizer.zero_grad()
                inputs, target = batch()
                loss = functional.mse_loss(model(inputs), target)
                if epoch != (2 if faulty else 3):
                    loss.backward()
                    optimizer.step()
            if epoch == 3:
                optimizer.step()


def test_a_last_pass_may_train_nothing() -> None:
    assert accused(in_a_script(a_last_pass_without_a_backward, False)) == []
    assert accused(in_a_script(a_last_pass_without_a_backward, True))


class Experts(nn.Module):
    """One of them for each sample, or only the first ones."""

    def __init__(self, used: int) -> None:
        super().__init__()
        self.experts = nn.ModuleList(nn.Linear(4, 1) for _ in range(6))
        self.used = used

    def forward(self, inputs: Tensor) -> Tensor:
        chosen = (inputs[:, 0] > 1).long() + 2 * (inputs[:, 1] > 1).long()
        if self.used > 4:
            return sum(self.experts[place](inputs) for place in range(self.used))
        output = torch.zeros(len(inputs), 1)
        for place in chosen.unique().tolist():
            rows = (chosen == place).nonzero()[:, 0]
            output = output.index_add(0, rows, self.experts[place](inputs[rows]))
        return output


def experts_that_get_no_sample(watch: Open, faulty: bool) -> None:
    torch.manual_seed(0)
    model = Experts(5 if faulty else 4)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with watch(model, optimizer):
        for _ in range(12):
            optimizer.zero_grad()
            inputs, target = torch.randn(4, 4), torch.randn(4, 1)
            functional.mse_loss(model(inputs), target).backward()
            optimizer.step()


def test_experts_may_get_no_sample() -> None:
    assert accused(watched(experts_that_get_no_sample, False)) == []
    assert accused(watched(experts_that_get_no_sample, True)) == ["detached backbone"]


def stages(faulty: bool) -> Findings:
    """Steps of one batch each for a stage before, and steps of one window each for a second network; K is declared."""
    with ProcessWatch(declared=Declared(mean="", accumulation_steps=4)) as process:
        model = network()
        before = torch.optim.SGD(model.parameters(), lr=0.01)
        for _ in range(10):
            before.zero_grad()
            backward(model)
            before.step()
        del before
        body, head = network(), network()
        optimizer = torch.optim.SGD(body.parameters(), lr=0.01)
        other = torch.optim.SGD(head.parameters(), lr=0.01)
        for _ in range(8):
            for _ in range(4):
                backward(body, 0.25)
                if faulty:
                    other.zero_grad()
                    backward(head)
                    other.step()
            optimizer.step()
            optimizer.zero_grad()
            other.zero_grad()
            backward(head)
            other.step()
    return process.findings()


def test_a_declared_window_is_that_of_the_loop_that_has_it() -> None:
    assert accused(stages(False)) == []
    assert accused(stages(True)) == ["step per micro-batch"]


def test_a_loss_without_weight_leaves_nothing_unjudged() -> None:
    """As of a discriminator that begins later."""
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with ProcessWatch() as process:
        for place in range(12):
            optimizer.zero_grad()
            backward(model, float(place > 4))
            optimizer.step()
    assert "not judged" not in [finding.name for finding in process.findings()]


@pytest.mark.parametrize("inner", [False, True])
def test_fused_layers_in_evaluation_mode_give_the_same_digits(inner: bool) -> None:
    """They compute by another function where anything hears what torch computes."""
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True).eval().requires_grad_(False)
    body = nn.TransformerEncoder(layer, 2)
    model: nn.Module = nn.Sequential(body, nn.Linear(16, 1)) if inner else body
    inputs = torch.randn(4, 6, 16)
    with torch.no_grad():
        unwatched = model(inputs)
    with ProcessWatch():
        assert torch.equal(model(inputs), unwatched)
        with torch.no_grad():
            assert torch.equal(model(inputs), unwatched)


def hinge(watch: Open, faulty: bool) -> None:
    """A loss of 0 counts in its window, though it adds nothing to the gradients."""
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with watch(model, optimizer):
        for _ in range(12):
            for place in range(4):
                inputs, target = batch(8)
                loss = (model(inputs) - target + (-50.0 if place == 2 else 5.0)).relu().square().mean()
                (loss if faulty else loss / 4).backward()
            optimizer.step()
            optimizer.zero_grad()


@pytest.mark.parametrize("faulty", [False, True])
def test_a_micro_batch_whose_gradient_is_0_counts_in_its_window(faulty: bool) -> None:
    assert accused(in_a_script(hinge, faulty)) == (["never divided"] if faulty else [])


def terms_with_a_backward_each(watch: Open, faulty: bool) -> None:
    """As of deep supervision: three terms of each output, in a loop; or outputs of three batches."""
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with watch(model, optimizer, accumulation_steps=2):
        for _ in range(12):
            for _ in range(2):
                inputs, target = batch()
                output = model(inputs)
                for weight in range(1, 4):
                    loss = functional.mse_loss(model(batch()[0]) if faulty else output, target * weight) / 6
                    loss.backward(retain_graph=True)
            optimizer.step()
            optimizer.zero_grad()


def test_terms_of_one_forward_are_one_micro_batch() -> None:
    assert accused(watched(terms_with_a_backward_each, False)) == []
    assert "window size" in accused(watched(terms_with_a_backward_each, True))


def copies_that_are_stepped_on(watch: Open, faulty: bool) -> None:
    """As of weights in half precision; those of the fault do not follow."""
    model = network().bfloat16()
    masters = [value.detach().float().clone().requires_grad_() for value in model.parameters()]
    optimizer = torch.optim.SGD(masters, lr=0.1)
    with watch(model, optimizer):
        for _ in range(12):
            for value in model.parameters():
                value.grad = None
            inputs, target = batch()
            functional.mse_loss(model(inputs.bfloat16()).float(), target).backward()
            for value, master in zip(model.parameters(), masters, strict=True):
                assert value.grad is not None
                if not faulty:
                    master.grad = value.grad.float()
                value.grad = None
            optimizer.step()
            with torch.no_grad():
                for value, master in zip(model.parameters(), masters, strict=True):
                    value.copy_(master)


def test_weights_may_follow_copies_that_are_stepped_on() -> None:
    assert accused(watched(copies_that_are_stepped_on, False)) == []
    assert accused(watched(copies_that_are_stepped_on, True))
