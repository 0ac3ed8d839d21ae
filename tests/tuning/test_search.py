"""A search: its score depends on no searched weight, every trial is its own, and nothing is lost by kills."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from rislab.cli.main import main
from rislab.data.scenes import SceneConfig
from rislab.data.simulation import simulate
from rislab.errors import InputError
from rislab.model.network import CovarianceNet
from rislab.training.records import epoch_records
from rislab.training.streaming import LearningConfig, train_epochs
from rislab.tuning import search, space, storage, worker
from rislab.tuning.objective import LocalisationObjective
from rislab.tuning.search import Rerun
from rislab.tuning.space import Choice, Range
from rislab.tuning.study import Trial, TuningConfig, best_of, study_of, trial_folder, trials_of
from tests.tuning import postgres

BASE = LearningConfig(preset="classroom", scenes=64, epochs=3, validation=16, micro_batch=16)
SPACE = {"lr": Range(1e-3, 1e-2, log=True), "micro_batch": Choice((16, 32))}
SMALL = TuningConfig(base=BASE, space=SPACE, trials=5, judged=32, pruner="none")
# The command line of SMALL.
WORDS = [
    "tune", "--skip-ladder", "--scenes", "64", "--epochs", "3", "--validation", "16", "--micro-batch", "16",
    "--judged", "32", "--search", "lr=0.001:0.01:log", "micro_batch=16,32", "--pruner", "none", "--confirm", "0",
]  # fmt: skip


def searched(folder: Path, config: TuningConfig = SMALL, **options: Any) -> search.Progress:
    options = {"workers": 1, "skip_ladder": True, "confirm": 0, **options}
    *_, last = search.search(folder, config, **options)
    return last


def what_counts(trials: list[Trial] | tuple[Trial, ...]) -> list[tuple[Any, ...]]:
    return [(one.number, one.state, one.values, one.scores, one.score, one.reason) for one in trials]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, search.Progress]:
    folder = tmp_path_factory.mktemp("undisturbed")
    return folder, searched(folder)


# ------------------------------------------------------------------------------------------------------------ the space


def test_what_is_typed_comes_back_from_a_file(tmp_path: Path) -> None:
    typed = space.parse(["lr=1e-4:1e-2:log", "blend=0:0.5", "epochs=2:8", "micro_batch=8,16", "precision=fp32,bf16"])
    (tmp_path / "space.yaml").write_text(yaml.safe_dump(space.to_dict(typed)))
    assert space.read(tmp_path / "space.yaml") == typed
    assert typed["epochs"] == Range(2, 8, integer=True)


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        ([], "is empty"),
        (["lr"], "search holds 'lr'"),
        (["rate=1:2"], "rate is not a field"),
        (["seed=1,2"], "seed is not a field"),
        (["lr=0.01:0.001"], "high of lr"),
        (["lr=0:1:log"], "low of lr on a logarithmic scale"),
        (["lr=nan:1"], "low of lr"),
        (["lr=1e-3"], "at least two values"),
        (["lr=1e-3:1e-2:cubic"], "lr is"),
        (["micro_batch=8,8"], "twice"),
        (["micro_batch=8,x"], "micro_batch holds 'x'"),
        (["micro_batch=0:8"], "micro_batch is 0"),
        (["blend=0:2"], "blend is 2"),
        (["precision=fp32,fp7"], "precision is 'fp7'"),
        (["design=1:2"], "design is a range"),
        (["lr=1e-4:1e-3", "lr=1:2"], "names lr twice"),
    ],
)
def test_a_space_that_cannot_be_searched_is_named(texts: list[str], said: str) -> None:
    with pytest.raises(InputError, match=said):
        space.parse(texts)


@given(st.text(max_size=30), st.lists(st.text(max_size=20), max_size=3))
@settings(max_examples=300, deadline=None)
def test_no_text_is_more_than_refused(name: str, values: list[str]) -> None:
    try:
        space.parse([f"{name}={','.join(values)}"])
    except InputError as error:
        assert len(str(error).splitlines()) == 1


def test_seeds_of_trials_are_their_own() -> None:
    many = TuningConfig(trials=5000)
    seeds = {many.seed_of(number) for number in range(5000)} | set(many.again(100))
    assert len(seeds) == 5100 and LearningConfig.EVALUATION not in seeds
    assert not seeds & {dataclasses.replace(many, seed=1).seed_of(number) for number in range(5000)}
    assert many.learning(3, {"lr": 0.5}).seed == many.seed_of(3)


# ------------------------------------------------------------------------------------------------------------ the score


def test_the_score_is_that_of_the_network_and_of_nothing_else() -> None:
    """Configurations that differ in every weight of the loss, and one network: one score."""
    model = BASE.model()
    told = {
        (curriculum, blend): dataclasses.replace(
            SMALL, base=dataclasses.replace(BASE, curriculum=curriculum, blend=blend)
        ).judge()(model)
        for curriculum in ("no-curriculum", "three-phase")
        for blend in (0.0, 0.3)
    }
    assert len(set(map(str, told.values()))) == 1


def test_the_truth_scores_near_the_bound_and_nonsense_does_not() -> None:
    scenes = simulate(SceneConfig.preset("classroom", snr_db=20.0), 24, seed=3, split="validation")

    class Oracle(CovarianceNet):
        def __init__(self, factors: dict[str, torch.Tensor]) -> None:
            torch.nn.Module.__init__(self)
            self.factors = factors

        def predict(self, batch: Any) -> torch.Tensor:
            return torch.stack([self.factors[name] for name in batch.hashes()])

    true = dict(zip(scenes.hashes(), scenes.factor(), strict=True))
    wrong = dict(zip(scenes.hashes(), scenes.factor().roll(1, 0), strict=True))
    nan = {name: factor * torch.nan for name, factor in true.items()}
    judge = LocalisationObjective(scenes)
    flat = {name: factor * torch.tensor([1.0, 0.0, 0.0]) for name, factor in true.items()}
    best, worst, none, low = (judge(Oracle(factors)) for factors in (true, wrong, nan, flat))
    assert best.recall == 1.0 and best.peb < 1.0  # the truth itself is better than any estimate
    assert worst.recall < 0.2 and worst.peb > 8.0
    assert not np.isfinite(none.recall) and not np.isfinite(none.peb)
    # Of rank one: for two sources and more MUSIC makes nothing of it, and all of them are missed.
    alone = scenes.active.sum(-1) == 1
    assert low.recall == pytest.approx(float(alone.sum()) / float(scenes.active.sum()), abs=0.02)


def test_judging_does_not_touch_the_training() -> None:
    judge = SMALL.judge()

    def weights(judged: bool) -> torch.Tensor:
        model = BASE.model()
        for record in train_epochs(BASE, model):
            if judged and not hasattr(record, "loss"):
                judge(model)
        return torch.cat([value.detach().flatten() for value in model.parameters()])

    assert torch.equal(weights(True), weights(False))


# ----------------------------------------------------------------------------------------------------------- the search


def test_a_search_keeps_what_it_did(undisturbed: tuple[Path, search.Progress]) -> None:
    folder, told = undisturbed
    assert [trial.number for trial in told.trials] == list(range(5))
    assert all(trial.state == "complete" and set(trial.scores) == {1, 2, 3} for trial in told.trials)
    # The base comes first, so that a search cannot end below it unnoticed.
    assert told.trials[0].values == {"lr": BASE.lr, "micro_batch": BASE.micro_batch}
    for trial in told.trials:
        records = epoch_records(trial_folder.read_records(trial_folder(folder, trial.number)))
        assert len(records) == trial.epochs
        assert trial_folder.read_config(trial_folder(folder, trial.number))["train"]["seed"] == SMALL.seed_of(
            trial.number
        )
    record = yaml.safe_load((folder / search.RECORD).read_text())
    assert record["ladder"]["skipped"] is True and record["storage"] == "journal.log"
    assert TuningConfig.from_dict(record["tuning"]) == SMALL
    assert search.read(folder)[1] == list(told.trials)


def test_the_best_trains_again_to_its_score(undisturbed: tuple[Path, search.Progress], tmp_path: Path) -> None:
    folder, told = undisturbed
    best = best_of(told.trials, SMALL)
    assert best is not None and best.score == min(trial.score or np.inf for trial in told.trials)
    assert main(["train", "--config", str(folder / "best.yaml"), "--run", str(tmp_path / "run"), "--threads", "1"]) < 2
    model, _ = trial_folder.load_model(tmp_path / "run")
    assert SMALL.judge()(model).peb == pytest.approx(best.score, rel=1e-6)


def test_pruning_spares_epochs_and_says_so_in_the_records(tmp_path: Path) -> None:
    wide = {"lr": Range(1e-6, 3e-2, log=True)}
    told = searched(tmp_path, dataclasses.replace(SMALL, space=wide, trials=10, pruner="halving"))
    pruned = [trial for trial in told.trials if trial.state == "pruned"]
    assert pruned and all(trial.score is None and trial.epochs < 3 for trial in pruned)
    for trial in told.trials:
        assert len(epoch_records(trial_folder.read_records(trial_folder(tmp_path, trial.number)))) == trial.epochs


def test_a_loss_that_is_not_finite_is_a_failed_trial_with_the_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rislab.training.records import StepRecord

    honest = worker.learn

    def broken(folder: Path, config: LearningConfig, model: Any, **options: Any) -> Any:
        for record in honest(folder, config, model, **options):
            late = isinstance(record, StepRecord) and record.step == 3 and config.micro_batch == 32
            yield dataclasses.replace(record, loss=float("nan")) if late else record

    def exploding(folder: Path, config: LearningConfig, model: Any, **options: Any) -> Any:
        yield from ()
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    monkeypatch.setattr(worker, "learn", broken)
    kept = storage.opened(tmp_path)
    (tmp_path / "claims").mkdir()
    worker.search(kept, SMALL, "tuning", tmp_path, lambda: False)
    config, trials = SMALL, trials_of(study_of(kept, SMALL, "tuning"))
    lost = [trial for trial in trials if trial.values["micro_batch"] == 32]
    assert lost and all((trial.state, trial.reason) == ("failed", "loss of step 3 is nan") for trial in lost)
    assert all(trial.state == "complete" for trial in trials if trial.values["micro_batch"] == 16)
    assert best_of(trials, config) is not None
    monkeypatch.setattr(worker, "learn", exploding)
    other = tmp_path / "other"
    (other / "claims").mkdir(parents=True)
    kept = storage.opened(other)
    worker.search(kept, SMALL, "tuning", other, lambda: False)
    trials = trials_of(study_of(kept, SMALL, "tuning"))
    assert {trial.reason for trial in trials} == {"RuntimeError: mat1 and mat2 shapes cannot be multiplied"}
    with pytest.raises(InputError, match="no trial of 5 ended with a score: RuntimeError: mat1"):
        searched(other)


def test_a_trial_that_ends_while_it_is_asked_for_is_not_trained_again(tmp_path: Path) -> None:
    """Another worker tells its end and lets go, between the look at the trials and the claim."""
    (tmp_path / "claims").mkdir()
    kept, config = storage.opened(tmp_path), dataclasses.replace(SMALL, trials=2)
    other = study_of(kept, config, "tuning")
    other.ask()

    class Late(storage.FileClaims):
        def take(self, number: int) -> storage.Claim | None:
            if number == 0:
                other.tell(0, 1.25)
            return super().take(number)

    late = dataclasses.replace(kept, claims=Late(tmp_path / "claims"))
    worker.search(late, config, "tuning", tmp_path, lambda: False)
    assert [(one.number, one.state) for one in trials_of(other)] == [(0, "complete"), (1, "complete")]
    assert other.trials[0].value == 1.25 and not trial_folder(tmp_path, 0).exists()


def test_a_red_ladder_ends_the_search_before_it_begins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from rislab.sanity import overfit

    honest = overfit.ladder

    def red(config: Any) -> Any:
        for check in honest(config, only=["splits", "oracle", "zero matrix"]):
            yield dataclasses.replace(check, passed=check.name != "oracle")

    monkeypatch.setattr(search.overfit, "ladder", red)
    with pytest.raises(InputError, match="check 'oracle' of the overfit ladder is red"):
        searched(tmp_path, skip_ladder=False)
    assert not list((tmp_path / "trials").glob("*"))


def test_more_trials_go_on_with_the_same_study_on_one_green_ladder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rislab.sanity import overfit

    honest, climbs = overfit.ladder, []

    def short(config: Any) -> Any:
        climbs.append(config)
        return honest(config, only=["splits", "oracle"])

    monkeypatch.setattr(search.overfit, "ladder", short)
    told = searched(tmp_path, dataclasses.replace(SMALL, trials=2), skip_ladder=False)
    more = searched(tmp_path, dataclasses.replace(SMALL, trials=4), skip_ladder=False, workers=2)
    assert what_counts(more.trials[:2]) == what_counts(told.trials) and len(more.trials) == 4
    assert len(climbs) == 1 and climbs[0].design == "unrolled+residual"
    assert told.ladder["passed"] and len(told.ladder["checks"]) == 2
    assert yaml.safe_load((tmp_path / search.RECORD).read_text())["ladder"] == told.ladder


def test_the_winner_is_trained_again_with_seeds_of_its_own(
    undisturbed: tuple[Path, search.Progress], tmp_path: Path
) -> None:
    shutil.copytree(undisturbed[0], tmp_path, dirs_exist_ok=True)
    told = searched(tmp_path, confirm=2)
    assert what_counts(told.trials) == what_counts(undisturbed[1].trials)
    assert {(one.name, one.seed) for one in told.finals} == {
        (name, seed) for name in ("default", "best") for seed in SMALL.again(2, skip=2)
    }
    assert {one.seed for one in told.runoff} == set(SMALL.again(2)) and len(told.runoff) == 6
    means = search.comparison(told.runoff, "peb")
    assert told.best is not None and means[f"trial {told.best.number}"] == min(means.values())
    fields = yaml.safe_load((tmp_path / "best.yaml").read_text())
    assert fields["lr"] == told.best.values["lr"] and fields["seed"] == SMALL.seed_of(told.best.number)
    # Scored anew: scenes of the test split, not those of the search.
    default = next(one for one in told.finals if one.name == "default")
    model, _ = trial_folder.load_model(tmp_path / search.CONFIRM / str(told.best.number) / f"default-{default.seed}")
    assert SMALL.judge("test")(model).peb == pytest.approx(default.peb, rel=1e-6)
    assert SMALL.judge()(model).peb != pytest.approx(default.peb, rel=1e-6)


def test_the_verdict_says_what_was_measured_and_no_spread_of_one_seed() -> None:
    two = [Rerun(name, seed, 0.5, peb) for name, pebs in (("default", (2.0, 3.0)), ("best", (1.0, 1.5))) for seed, peb
           in enumerate(pebs)]  # fmt: skip
    said = "peb on the test split, 2 seeds each: best 1.2500 ± 0.3536 against default 2.5000 ± 0.7071: better"
    assert search.verdict(two, SMALL) == said
    one = [final for final in two if final.seed == 0]
    said = "peb on the test split, one seed each: best 1.0000 against default 2.0000: better"
    assert search.verdict(one, SMALL) == said
    # Equal is not better, and of recall more is better.
    assert search.verdict(two, dataclasses.replace(SMALL, objective="recall")).endswith(": not better")


# ------------------------------------------------------------------------------------------------------------- warnings


def made(scores: dict[int, float], number: int, values: dict[str, Any], error: float = 0.01) -> Trial:
    return Trial(number, "complete", values, scores, scores[max(scores)], error, "", 1.0)


def test_a_dimension_that_reaches_nothing_is_named_and_one_that_does_is_not() -> None:
    decoy = {
        "validation": Choice((8, 16)),
        **SPACE,
        "blend": Range(0.0, 0.3),
        "curriculum": space.DEFAULT["curriculum"],
    }
    (said,) = search.inert(BASE, decoy)
    assert said.startswith("validation does not reach the training")


def test_warnings_know_effects_from_chance() -> None:
    """The score follows lr alone; of many draws, micro_batch is called an effect about one time in twenty."""
    config = dataclasses.replace(SMALL, trials=20)
    alarms, missed = 0, 0
    for draw in range(40):
        chance = np.random.default_rng(draw)
        trials = []
        for number in range(20):
            values = {"lr": float(10 ** chance.uniform(-3, -2)), "micro_batch": int(chance.choice([16, 32]))}
            score = (np.log10(values["lr"]) + 2.4) ** 2 + 0.02 * chance.standard_normal() + 1.5
            trials.append(made({4: float(score)}, number, values))
        said = search.warnings_of(trials, config)
        missed += any(line.startswith("lr has no effect") for line in said)
        alarms += not any(line.startswith("micro_batch has no effect") for line in said)
        assert not any("flat" in line for line in said)
    # A binomial of 40 and 1/20 exceeds 6 once in 200 times; these draws are fixed.
    assert missed == 0 and alarms <= 6


def test_a_flat_objective_is_called_flat() -> None:
    values = [{"lr": 0.001 * (1 + number), "micro_batch": 16} for number in range(4)]
    flat = [made({1: 1.50 + 0.001 * number, 4: 1.41}, number, each) for number, each in enumerate(values)]
    assert any("the objective is flat" in line for line in search.warnings_of(flat, SMALL))
    # Among the complete ones alone a pruned search always looks flat; after the first epoch they differed.
    steep = [dataclasses.replace(one, scores={1: 1.5 + number, 4: 1.41}) for number, one in enumerate(flat)]
    assert not any("the objective is flat" in line for line in search.warnings_of(steep, SMALL))


# -------------------------------------------------------------------------------------------------- stops, kills, disks


def test_a_search_that_is_stopped_goes_on_as_if_it_had_not(
    undisturbed: tuple[Path, search.Progress], tmp_path: Path
) -> None:
    running = search.search(tmp_path, SMALL, workers=1, skip_ladder=True, confirm=0)
    for told in running:
        if sum(trial.state == "complete" for trial in told.trials) == 2:
            break
    search.close()
    assert what_counts(searched(tmp_path).trials) == what_counts(undisturbed[1].trials)


def test_nothing_is_lost_by_kills(undisturbed: tuple[Path, search.Progress], tmp_path: Path) -> None:
    """Every process of a search is killed at random moments; what it leaves is what an undisturbed one left."""
    kills, chance = int(os.environ.get("RISLAB_KILLS", "1")), random.Random(5)
    command = [
        sys.executable,
        "-m",
        "rislab.cli.main",
        *WORDS,
        "--trials",
        "5",
        "--workers",
        "1",
        "--folder",
        str(tmp_path),
    ]
    for _ in range(kills):
        process = subprocess.Popen(command, start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        time.sleep(chance.uniform(2.0, 9.0))
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    config, trials = search.read(tmp_path)
    assert what_counts(trials) == what_counts(undisturbed[1].trials)
    for trial in trials:
        numbers = [
            record.epoch for record in epoch_records(trial_folder.read_records(trial_folder(tmp_path, trial.number)))
        ]
        assert numbers == [1, 2, 3]
    assert config == SMALL


def test_a_worker_that_is_killed_is_done_without(tmp_path: Path) -> None:
    """One of two workers is killed with its trial half done: the other takes the trial over, under its own number."""
    running = search.search(tmp_path, dataclasses.replace(SMALL, trials=5), workers=2, skip_ladder=True, confirm=0)
    killed = False
    for told in running:
        begun = [trial for trial in told.trials if trial.state == "running" and trial.scores]
        if begun and not killed:
            mine = subprocess.run(
                ["pgrep", "-P", str(os.getpid()), "-f", "rislab.tuning.worker"], capture_output=True, text=True
            )
            os.kill(int(mine.stdout.split()[0]), signal.SIGKILL)
            killed = True
    assert killed
    assert [(trial.number, trial.state) for trial in told.trials] == [(number, "complete") for number in range(5)]


def test_a_line_that_was_cut_off_is_no_line(tmp_path: Path) -> None:
    path = tmp_path / "journal.log"
    first = storage.journal_backend(path)
    first.append_logs([{"n": 1}])
    with path.open("ab") as handle:
        handle.write(b'{"n": 2, "half')
    second = storage.journal_backend(path)
    assert list(second.read_logs(0)) == [{"n": 1}]
    second.append_logs([{"n": 3}, {"n": 4}])
    assert list(first.read_logs(1)) == [{"n": 3}, {"n": 4}] and next(iter(second.read_logs(0))) == {"n": 1}
    path.write_bytes(b"not json\n")
    with pytest.raises(InputError, match="is damaged"):
        list(storage.journal_backend(path).read_logs(0))


FULL_DISK = """
import resource, signal, sys
from rislab.tuning.storage import journal_backend
from pathlib import Path
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
backend = journal_backend(Path(sys.argv[1]))
size = Path(sys.argv[1]).stat().st_size
resource.setrlimit(resource.RLIMIT_FSIZE, (size + 700, size + 700))
try:
    for number in range(100):
        backend.append_logs([{"n": number, "long": "x" * 60}])
except Exception as error:
    print(type(error).__name__, error)
"""


def test_a_full_disk_is_one_sentence_and_the_journal_stays_whole(tmp_path: Path) -> None:
    path = tmp_path / "journal.log"
    done = subprocess.run([sys.executable, "-c", FULL_DISK, str(path)], capture_output=True, text=True, check=True)
    assert done.stdout.startswith(f"InputError {path} could not be written:")
    lines = path.read_bytes().split(b"\n")
    assert lines.pop() == b"" and len(lines) > 3
    assert [json.loads(line)["n"] for line in lines] == list(range(len(lines)))


def test_a_search_on_a_full_disk_ends_in_one_sentence_and_goes_on_later(
    undisturbed: tuple[Path, search.Progress], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    words = [*WORDS, "--trials", "5", "--workers", "1", "--folder", str(tmp_path)]
    limit = (40_000, resource.RLIM_INFINITY)

    def small_files() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)

    command = [sys.executable, "-m", "rislab.cli.main", *words]
    done = subprocess.run(command, preexec_fn=small_files, capture_output=True, text=True, timeout=300)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    (line,) = done.stderr.splitlines()
    assert "could not be written" in line
    assert main(words) == 0
    assert what_counts(search.read(tmp_path)[1]) == what_counts(undisturbed[1].trials)


def test_bad_searches_are_one_sentence(
    undisturbed: tuple[Path, search.Progress], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    mine = ["--folder", str(undisturbed[0])]
    for words, said in (
        ([*WORDS, *mine, "--search", "lr=1e-4:1e-2:log"], "space lr"),
        ([*WORDS, *mine, "--epochs", "5"], "base epochs is 5, and study 'tuning' was begun with 3"),
        ([*WORDS, *mine, "--objective", "loss"], "objective is 'loss'"),
        ([*WORDS, *mine, "--trials", "0"], "trials is 0"),
        ([*WORDS, *mine, "--workers", "0"], "workers is 0"),
        ([*WORDS, "--folder", str(tmp_path / "file")], "cannot be used"),
        ([*WORDS, *mine, "--storage", "mysql://a:pw@b/c"], "storage is of the kind 'mysql'"),
        ([*WORDS, *mine, "--storage", "nonsense pw"], "storage is no URL"),
        ([*WORDS, *mine, "--storage", "postgresql://u:pw@127.0.0.1:1/d"], "storage postgresql+psycopg://u:***@"),
        ([*WORDS, *mine, "--space", str(tmp_path / "none.yaml")], "search is given beside space"),
    ):
        assert main(words) == 2, words
        err = capsys.readouterr().err
        assert said in err and len(err.splitlines()) == 1 and "pw" not in err, err
    assert search.read(undisturbed[0])[1] == list(undisturbed[1].trials)
    with pytest.raises(InputError, match="holds no study"):
        search.read(tmp_path / "nowhere")


# --------------------------------------------------------------------------------------------------------- the database


@pytest.fixture(scope="module")
def database() -> Any:
    if postgres.programs() is None:
        pytest.skip("PostgreSQL is not here; install Debian's package postgresql to search on many machines")
    with postgres.server() as url:
        yield url


def command_lines() -> bytes:
    """Of all processes, as `ps` shows them to every user."""
    lines = b""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            lines += path.read_bytes()
    return lines


def test_two_machines_share_a_search_through_a_database(
    database: str, undisturbed: tuple[Path, search.Progress], tmp_path: Path
) -> None:
    """Two searches with a folder each, as on two machines: every trial once, in one of them."""
    words = [*WORDS, "--trials", "5", "--workers", "1", "--study", "shared"]
    two = [
        subprocess.Popen(
            [sys.executable, "-m", "rislab.cli.main", *words, "--folder", str(tmp_path / name)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "RISLAB_STORAGE": database},
        )
        for name in ("here", "there")
    ]
    listed = b""
    while any(process.poll() is None for process in two):
        listed += command_lines()
        time.sleep(0.2)
    assert b"rislab.tuning.worker" in listed and postgres.PASSWORD.encode() not in listed
    said = "".join(process.communicate(timeout=300)[0] for process in two)
    assert [process.returncode for process in two] == [0, 0], said
    config, trials = search.read(tmp_path / "here", storage=database, name="shared")
    assert [(trial.number, trial.state) for trial in trials] == [(number, "complete") for number in range(5)]
    places = {name: {int(path.name) for path in (tmp_path / name / "trials").iterdir()} for name in ("here", "there")}
    assert places["here"] | places["there"] == set(range(5)) and not places["here"] & places["there"]
    assert places["here"] and places["there"]
    # The first two trials do not depend on who worked when.
    assert what_counts(trials)[0] == what_counts(undisturbed[1].trials)[0]
    assert config == SMALL
    written = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    assert not any(postgres.PASSWORD.encode() in content for content in written)
    assert postgres.PASSWORD not in said
    assert "***" in yaml.safe_load((tmp_path / "here" / search.RECORD).read_text())["storage"]


def test_a_machine_that_dies_leaves_its_trial_to_the_others(database: str, tmp_path: Path) -> None:
    words = [*WORDS, "--trials", "4", "--workers", "1", "--study", "dying", "--storage", database]
    command = [sys.executable, "-m", "rislab.cli.main", *words, "--folder", str(tmp_path / "dying")]
    process = subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    for _ in range(600):
        time.sleep(0.1)
        if list((tmp_path / "dying").glob("trials/*/records.jsonl")):
            break
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    told = searched(tmp_path / "heir", dataclasses.replace(SMALL, trials=4), storage=database, name="dying")
    assert [(trial.number, trial.state) for trial in told.trials] == [(number, "complete") for number in range(4)]
    assert len({tuple(sorted(trial.scores)) for trial in told.trials}) == 1


def test_a_database_that_cannot_be_used_is_one_sentence(
    database: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import sqlalchemy

    study_of(storage.opened(tmp_path / "a", database, "taken"), SMALL, "taken")
    for address, study, said in (
        (database.replace(postgres.PASSWORD, "wr0ng-w0rd"), "taken", "cannot be used"),
        (database.replace("/postgres", "/nowhere"), "taken", "cannot be used"),
        (database + "?password=hidden-w0rd&connect_timeout=2", "taken", "cannot be used"),
    ):
        words = [*WORDS, "--storage", address, "--study", study, "--folder", str(tmp_path / "b")]
        code = main(words)
        err = capsys.readouterr().err
        if code == 0:  # the password of the address has the last word, not that of its query
            assert "hidden" in address
            continue
        assert code == 2 and said in err and len(err.splitlines()) == 1
        assert all(word not in err for word in (postgres.PASSWORD, "wr0ng-w0rd", "hidden-w0rd"))
    other = dataclasses.replace(SMALL, trials=1, space={"lr": SPACE["lr"]})
    with pytest.raises(InputError, match="space micro_batch"):
        searched(tmp_path / "c", other, storage=database, name="taken")
    engine = sqlalchemy.create_engine(database)
    with engine.begin() as connection:
        connection.execute(sqlalchemy.text("UPDATE alembic_version SET version_num = 'v0.9.0.a'"))
        connection.execute(sqlalchemy.text("UPDATE version_info SET schema_version = 1"))
    with pytest.raises(InputError, match="another version of optuna"):
        searched(tmp_path / "d", dataclasses.replace(SMALL, trials=1), storage=database, name="taken")


def test_without_optuna_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(InputError, match=r"pip install 'rislab\[tune\]'"):
        storage.opened(tmp_path)
