"""A ratio of a policy to itself, and a norm at each pixel, are named; the first step on new data, and samples, not."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from rislab.checkup.process_watch import ProcessWatch


@pytest.mark.parametrize("kind", ["of itself", "of before", "new data each time"])
def test_a_ratio_that_stays_1_after_steps_on_the_same_inputs(kind: str) -> None:
    torch.manual_seed(0)
    states, gain = torch.randn(16, 3), torch.randn(16)
    policy = nn.Linear(3, 4)
    optimizer = torch.optim.SGD(policy.parameters(), lr=0.1)
    before = policy(states).log_softmax(1)[:, 0].detach()
    with ProcessWatch(every=1) as process:
        for _ in range(8):
            given = torch.randn(16, 3) if kind == "new data each time" else states
            new = policy(given).log_softmax(1)[:, 0]
            ratio = (new - (before if kind == "of before" else new.detach())).exp()
            optimizer.zero_grad()
            (-ratio * gain).mean().backward()
            optimizer.step()
    names = [(one.name, one.severity) for one in process.findings() if one.severity != "note"]
    assert names == ([("ratio always 1", "warning")] if kind == "of itself" else [])


@pytest.mark.parametrize("written", ["by policies", "by answers"])
@pytest.mark.parametrize("kind", ["itself", "a copy", "itself at first"])
def test_a_reference_that_is_the_trained_network(kind: str, written: str) -> None:
    """The preference of DPO, whose reference stays where the policy began."""
    torch.manual_seed(0)
    policy = nn.Linear(3, 4)
    frozen = copy.deepcopy(policy)
    optimizer = torch.optim.SGD(policy.parameters(), lr=0.1)
    with ProcessWatch(every=1) as process:
        for step in range(10):
            states = torch.randn(16, 3)
            reference = policy if kind == "itself" or (kind == "itself at first" and step < 8) else frozen
            own = policy(states).log_softmax(1)
            with torch.no_grad():
                other = reference(states).log_softmax(1)
            if written == "by policies":
                preference = (own[:, 0] - own[:, 1]) - (other[:, 0] - other[:, 1])
            else:
                preference = (own[:, 0] - other[:, 0]) - (own[:, 1] - other[:, 1])
            optimizer.zero_grad()
            (-functional.logsigmoid(0.1 * preference)).mean().backward()
            optimizer.step()
    names = [one.name for one in process.findings() if one.severity != "note"]
    assert names == (["reference is the trained network"] if kind == "itself" else [])


@pytest.mark.parametrize("kind", ["clamped", "new actions each time", "not clamped"])
def test_a_clamped_ratio_of_itself_on_the_same_samples_is_a_fault(kind: str) -> None:
    """New actions of the same states are new samples, and a ratio that is not clamped may stand for a logarithm."""
    torch.manual_seed(0)
    states, gain = torch.randn(16, 3), torch.randn(16)
    policy = nn.Linear(3, 4)
    optimizer = torch.optim.SGD(policy.parameters(), lr=0.1)
    with ProcessWatch(every=1) as process:
        for _ in range(8):
            gain = torch.randn(16) if kind == "new actions each time" else gain
            new = policy(states).log_softmax(1)[:, 0]
            ratio = (new - new.detach()).exp()
            least = ratio * gain if kind == "not clamped" else torch.min(ratio * gain, ratio.clamp(0.8, 1.2) * gain)
            optimizer.zero_grad()
            (-least).mean().backward()
            optimizer.step()
    found = [one.severity for one in process.findings() if one.name == "ratio always 1"]
    assert found == ["fault" if kind == "clamped" else "warning"]


@pytest.mark.parametrize(
    ("channels", "answers", "expected"),
    [
        (1, "a sum", "fault"),
        (3, "one a sample", "fault"),
        (3, "a sum", "warning"),
        (2, "one a place", "warning"),
        (1, "no target", "warning"),
    ],
)
def test_a_penalty_takes_one_norm_a_sample(channels: int, answers: str, expected: str) -> None:
    """Coordinates of places have a norm at each, where the network has an answer for each; so have maps of saliency."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(channels, 4, 3), nn.Tanh()]
    layers += [nn.Conv2d(4, 1, 1)] if answers == "one a place" else [nn.Flatten(), nn.Linear(64, 1)]
    critic = nn.Sequential(*layers)
    for per_sample in (False, True):
        optimizer = torch.optim.SGD(critic.parameters(), lr=0.01)
        with ProcessWatch(every=1) as process:
            for _ in range(6):
                images = torch.randn(8, channels, 6, 6, requires_grad=True)
                given = critic(images)
                total = given if answers == "one a sample" else given.sum()
                (slope,) = torch.autograd.grad(total, images, torch.ones_like(total), create_graph=True)
                norms = (slope.flatten(1) if per_sample else slope).norm(dim=1)
                optimizer.zero_grad()
                (norms if answers == "no target" else (norms - 1).square()).mean().backward()
                optimizer.step()
        found = [one.severity for one in process.findings() if one.name == "gradient penalty per position"]
        assert found == ([] if per_sample else [expected])


def weights_of(kind: str, scores: Tensor, values: Tensor) -> Tensor:
    """A weighted sum of values (samples, places, features) by scores (samples, places, 1)."""
    if kind == "over the only column":
        return (scores.softmax(2) * values).sum(1)
    if kind == "the same as a product":
        return torch.bmm(scores.softmax(-1).transpose(1, 2), values)[:, 0]
    if kind == "the same without the column":
        return (scores.softmax(-1).squeeze(2).unsqueeze(-1) * values).sum(dim=-2)
    if kind == "over the places":
        return (scores.softmax(1) * values).sum(1)
    # One expert, or one key.
    return torch.bmm(scores[:, :1].softmax(-1).transpose(1, 2), values[:, :1])[:, 0]


@pytest.mark.parametrize(
    "kind", ["over the only column", "the same as a product", "the same without the column", "over the places", "one"]
)
def test_a_softmax_over_one_column_weighs_nothing(kind: str) -> None:
    torch.manual_seed(0)
    score, out = nn.Linear(5, 1), nn.Linear(5, 2)
    optimizer = torch.optim.SGD([*score.parameters(), *out.parameters()], lr=0.1)
    with ProcessWatch() as process:
        for _ in range(6):
            values = torch.randn(8, 7, 5)
            optimizer.zero_grad()
            out(weights_of(kind, score(values), values)).square().mean().backward()
            optimizer.step()
    found = [one.severity for one in process.findings() if one.name == "normalised along another axis"]
    assert found == ([] if kind in ("over the places", "one") else ["fault"])


@pytest.mark.parametrize("kind", ["column", "column of targets", "log cosh", "vector", "both trained"])
def test_a_difference_of_all_pairs_is_named(kind: str) -> None:
    torch.manual_seed(0)
    network = nn.Linear(3, 1)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01)
    with ProcessWatch() as process:
        for _ in range(5):
            values = network(torch.randn(16, 3))
            others = values.t() if kind == "both trained" else torch.randn(16)
            others = others[:, None] if kind == "column of targets" else others
            gap = (values.squeeze(1) if kind in ("vector", "column of targets") else values) - others
            optimizer.zero_grad()
            (gap + functional.softplus(-2 * gap) if kind == "log cosh" else gap.square()).mean().backward()
            optimizer.step()
    names = [one.name for one in process.findings() if one.code == "C15"]
    assert names == ([] if kind in ("vector", "both trained") else ["arguments that broadcast"])


def taken(how: str, logs: Tensor, classes: Tensor) -> Tensor:
    """A number of each sample, or of each column."""
    rows = torch.arange(16)
    if how == "gathered":
        return logs.gather(1, classes[:, None])
    if how == "one-hot":
        return (functional.one_hot(classes, 5) * logs).sum(1)
    if how == "one of each column":
        return logs[rows, rows]
    return logs[rows.flip(0)[:5], rows[:5]] if how == "one row of each column" else logs[rows, classes]


@pytest.mark.parametrize(
    ("axis", "how", "named"),
    [
        (0, "indexed", True),
        (0, "gathered", True),
        (0, "one-hot", True),
        (0, "a logarithm", True),
        (1, "indexed", False),
        (1, "gathered", False),
        (0, "one of each column", False),
        (0, "one row of each column", False),
    ],
)
def test_a_number_of_each_row_is_taken_of_what_sums_to_1_over_the_rows(axis: int, how: str, named: bool) -> None:
    """Of a contrast of all samples one in each column is taken; of the positions of a sequence, one in each column."""
    torch.manual_seed(0)
    network = nn.Linear(6, 16 if how == "one of each column" else 5)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01)
    with ProcessWatch() as process:
        for _ in range(5):
            scores, classes = network(torch.randn(16, 6)), torch.randint(0, 5, (16,))
            logs = scores.softmax(axis).log() if how == "a logarithm" else scores.log_softmax(axis)
            optimizer.zero_grad()
            (-taken(how, logs, classes)).mean().backward()
            optimizer.step()
    found = [one.severity for one in process.findings() if one.name == "normalised along another axis"]
    assert found == ["fault"] * named


@pytest.mark.parametrize("kind", ["added", "taken away", "recurrence", "detached", "half of the way", "an average"])
def test_what_is_added_and_taken_away_is_detached(kind: str) -> None:
    torch.manual_seed(0)
    network, book, layer = nn.Linear(3, 4), nn.Parameter(torch.randn(4)), nn.Linear(4, 1)
    optimizer = torch.optim.SGD([*network.parameters(), book, *layer.parameters()], lr=0.01)
    with ProcessWatch() as process:
        for _ in range(5):
            z = network(torch.randn(16, 3))
            q = z.detach().round() + book
            passed = {
                "added": z + (q - z),
                "taken away": z - (z - q),
                "recurrence": z + (z.tanh() - z),
                "detached": z + (q - z).detach(),
                "half of the way": z + 0.5 * (q - z),
                "an average": torch.add(z, q - z, alpha=0.5),
            }[kind]
            optimizer.zero_grad()
            (layer(passed).square().mean() + (z - 1).square().mean()).backward()
            optimizer.step()
    found = [(one.name, one.severity) for one in process.findings() if one.severity != "note"]
    expected = {"added": "fault", "taken away": "fault", "recurrence": "warning"}
    assert found == ([("straight-through without detach", expected[kind])] if kind in expected else [])


@pytest.mark.parametrize("kind", ["column", "vector", "outer product alone", "weighted rows"])
def test_a_mean_over_the_products_of_all_pairs_is_a_fault(kind: str) -> None:
    torch.manual_seed(0)
    policy = nn.Linear(3, 4)
    optimizer = torch.optim.SGD(policy.parameters(), lr=0.1)
    with ProcessWatch() as process:
        for _ in range(5):
            scores = policy(torch.randn(16, 3)).log_softmax(1)[:, 0]
            gains = torch.randn(16, 1)
            optimizer.zero_grad()
            if kind == "outer product alone":
                loss = (scores * gains).square().mean()
            elif kind == "weighted rows":
                loss = ((scores[:, None] * torch.randn(1, 16)) * gains).mean()
            else:
                loss = -(scores * (gains if kind == "column" else gains.squeeze(1))).mean()
            loss.backward()
            optimizer.step()
    pairs = [(one.severity, one.name) for one in process.findings() if one.code == "C15"]
    assert pairs == ([("fault", "arguments that broadcast")] if kind == "column" else [])


@pytest.mark.parametrize("kind", ["column", "vector", "pairs of labels", "mask"])
def test_a_score_that_counts_all_pairs_is_a_fault(kind: str) -> None:
    torch.manual_seed(0)
    network = nn.Linear(3, 1)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    inputs, labels = torch.randn(16, 3), (torch.arange(16) % 3 == 0).float()
    with ProcessWatch() as process:
        for _ in range(4):
            optimizer.zero_grad()
            nn.functional.binary_cross_entropy_with_logits(network(inputs).squeeze(1), labels).backward()
            optimizer.step()
            with torch.no_grad():
                answers = (network(inputs) > 0).float()
                if kind == "pairs of labels":
                    (labels[:, None] == labels).float().mean().item()
                elif kind == "mask":
                    ((answers == labels).float() * torch.rand(16, 16)).sum().item()
                else:
                    ((answers if kind == "column" else answers.squeeze(1)) == labels).float().mean().item()
    assert [one.severity for one in process.findings() if one.code == "C15"] == ["fault"] * (kind == "column")


@pytest.mark.parametrize("kind", ["assigned", "added", "each place once", "noise"])
def test_sums_at_repeated_places_that_keep_one_term_are_a_fault(kind: str) -> None:
    torch.manual_seed(0)
    layer = nn.Linear(4, 2)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    places = torch.randperm(20) if kind == "each place once" else torch.randint(0, 5, (20,))
    with ProcessWatch() as process:
        for _ in range(5):
            messages = layer(torch.randn(20, 4))
            total = torch.zeros(20, 2) + messages.mean() if kind == "noise" else torch.zeros(20, 2)
            if kind == "added":
                total = total.index_add(0, places, messages)
            else:
                total[places] += torch.randn(20, 2) if kind == "noise" else messages
            optimizer.zero_grad()
            total.square().mean().backward()
            optimizer.step()
    named = any(one.name == "sums that keep one of their terms" for one in process.findings())
    assert named is (kind == "assigned")


def weighed(kind: str, answers: Tensor, classes: Tensor, mask: Tensor) -> Tensor:
    """A loss of 6 samples of 8 places each, of which a mask leaves some out."""
    each = functional.cross_entropy(answers.transpose(1, 2), classes, reduction="none")
    smoothed = functional.cross_entropy(answers.transpose(1, 2), classes, label_smoothing=0.1)
    tasks = torch.tensor([1.0, 0, 0, 1, 1])  # of which there are not as many as places
    return {
        "a mean of torch": functional.cross_entropy(answers.flatten(0, 1), classes.flatten()) * mask.reshape(-1, 1),
        "its own mean": 0.5 * each.mean() * mask,
        "a smoothed mean": mask * smoothed,
        "a mean of all classes": functional.mse_loss(answers, torch.zeros_like(answers)) * mask,
        "weights": each.mean() * mask.cumsum(1),
        "no padding": each.mean() * torch.ones_like(mask),
        "tasks": each.mean() * tasks,
        "one switch": each.mean() * mask[0, 0],
        "each place": each * mask,
        "a mean of each sample": each.mean(1, keepdim=True) * mask,
    }[kind].sum() / mask.sum()


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("a mean of torch", "fault"),
        ("its own mean", "fault"),
        ("a smoothed mean", "fault"),
        ("a mean of all classes", "fault"),
        ("weights", "warning"),
        ("no padding", ""),
        ("tasks", ""),
        ("one switch", ""),
        ("each place", ""),
        ("a mean of each sample", ""),
    ],
)
def test_a_mask_comes_before_the_mean(kind: str, expected: str) -> None:
    torch.manual_seed(0)
    network = nn.Linear(4, 3)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    mask = (torch.arange(8) < torch.tensor([[8], [3], [5], [6], [2], [7]])).float()
    with ProcessWatch() as process:
        for _ in range(6):
            loss = weighed(kind, network(torch.randn(6, 8, 4)), torch.randint(0, 3, (6, 8)), mask)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    found = [one.severity for one in process.findings() if one.name == "mask after the mean"]
    assert found == ([expected] if expected else [])


class Attention(nn.Module):
    """Answers of places, each a weighted sum of the values of all places of its sample."""

    def __init__(self, kind: str, axis: int) -> None:
        super().__init__()
        self.kind, self.axis = kind, axis
        self.parts, self.drop = nn.Linear(8, 24), nn.Dropout(0.2)

    def forward(self, inputs: Tensor) -> Tensor:
        samples, places, _ = inputs.shape
        query, key, value = self.parts(inputs).view(samples, places, 2, 12).transpose(1, 2).split(4, -1)
        if self.kind == "votes":  # of places for groups, as between capsules: each place spreads one vote
            return torch.einsum(
                "bio,biod->bod",
                (value @ torch.randn(4, 3)).mean(1).softmax(2),
                value[:, 0, :, None].expand(-1, -1, 3, -1),
            )
        if self.kind == "pool":  # places into groups, each place belongs to one
            return (value @ torch.randn(4, 3)).softmax(self.axis).transpose(2, 3) @ value
        key = key[:, :, :4] if self.kind == "fewer keys" else key
        value = value[:, :, :4] if self.kind == "fewer keys" else value
        if self.kind == "linear":
            return query.softmax(-1) @ (key.softmax(-2).transpose(2, 3) @ value)
        if self.kind == "einsum":
            weights = torch.einsum("bhqd,bhkd->bhqk", query, key).div(2).softmax(self.axis)
            return torch.einsum("bhqk,bhkd->bhqd", self.drop(weights), value)
        weights = ((query @ key.transpose(2, 3)) / 2).softmax(self.axis)
        if self.kind == "normalised again":
            weights = weights / weights.sum(-1, keepdim=True)
        if self.kind == "transposed":
            weights = weights.transpose(2, 3)
        return self.drop(weights) @ value


@pytest.mark.parametrize(
    ("kind", "axis", "expected"),
    [
        ("matmul", 1, "fault"),
        ("einsum", 1, "fault"),
        ("matmul", 2, "warning"),
        ("einsum", 2, "warning"),
        ("transposed", 3, ""),
        ("matmul", 3, ""),
        ("einsum", -1, ""),
        ("transposed", 2, ""),
        ("fewer keys", 2, ""),
        ("normalised again", 2, ""),
        ("normalised again", 1, ""),
        ("linear", -1, ""),
        ("pool", 3, ""),
        ("votes", 2, ""),
    ],
)
def test_the_weights_of_an_attention_sum_to_1_over_the_keys(kind: str, axis: int, expected: str) -> None:
    """Places that compete for keys, pools, capsules and linear attention are normalised along others on purpose."""
    torch.manual_seed(0)
    network = Attention(kind, axis)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01)
    with ProcessWatch() as process:
        for _ in range(6):
            optimizer.zero_grad()
            network(torch.randn(5, 6, 8)).square().mean().backward()
            optimizer.step()
    found = [one.severity for one in process.findings() if one.name == "normalised along another axis"]
    assert found == ([expected] if expected else [])


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("equal", "warning"),
        ("all right", ""),
        ("a difference", "fault"),
        ("a loss", "fault"),
        ("one shape", ""),
        ("pairs of labels", ""),
        ("classes", ""),
        ("a difference of one shape", ""),
        ("a loss of one shape", ""),
    ],
)
def test_what_an_evaluation_compares_has_one_shape(kind: str, expected: str) -> None:
    """A difference is followed in the first backwards alone; what a comparison is for is not known later."""
    torch.manual_seed(0)
    network = nn.Linear(3, 1)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    inputs, labels = torch.randn(16, 3), (torch.arange(16) % 3 == 0).float()
    with warnings.catch_warnings(), ProcessWatch() as process:
        warnings.simplefilter("ignore", UserWarning)
        for _ in range(3):
            for _ in range(4 if "difference" in kind else 30):
                optimizer.zero_grad()
                functional.mse_loss(network(inputs).squeeze(1), labels).backward()
                optimizer.step()
            with torch.no_grad():
                given = network(inputs)
                given = given.squeeze(1) if kind in ("one shape", "a loss of one shape") else given
                answers = given > 0.5 if kind != "all right" else labels[:, None] > 0
                if "loss" in kind:
                    functional.mse_loss(given, labels).item()
                elif "difference" in kind:
                    (given - (labels[:, None] if "one" in kind else labels)).abs().mean().item()
                elif kind == "pairs of labels":
                    (labels[:, None] == labels).float().mean().item()
                elif kind == "classes":
                    (answers.long() == torch.arange(16)).sum(0)
                else:
                    (answers.float() == labels).float().mean().item()
    found = [one.severity for one in process.findings() if one.name == "arguments that broadcast"]
    assert found == ([expected] if expected else [])
