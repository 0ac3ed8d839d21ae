"""`rislab train`: a network learns to localise on fresh scenes."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import time
from pathlib import Path

from rislab import files
from rislab.cli import common, terminal
from rislab.errors import InputError
from rislab.training.streaming_config import LearningConfig

EXAMPLES = (
    ("train --export mine.safetensors", "then: rislab localise --weights mine.safetensors"),
    ("train --preset full --epochs 20 --run runs/full", "Ctrl-C, and the same command goes on where it stopped"),
    ("train --config runs/tuning/best.yaml -p scenes 4096", "the best of a search, on more scenes"),
)


def add(parser: argparse.ArgumentParser) -> None:
    """Give the parser its options."""
    parser.description = (
        "Train a network on fresh scenes, made epoch by epoch. Ctrl-C, and the same command goes on where it stopped. "
        "Exit code 1 if the network ends no better than the best constant."
    )
    common.add_parameters(parser, LearningConfig)
    common.add_run(parser, "runs/learned", "of the training: stop and resume")
    parser.add_argument("--export", metavar="FILE", help="write the weights as safetensors when it is done")
    common.add_threads(parser)
    parser.add_argument("--json", action="store_true", help="print JSON lines, one an epoch")


def run(options: argparse.Namespace) -> int:
    """The command itself; returns its exit code."""
    common.use_threads(options.threads)

    from rislab.data.covariance import constant_baseline
    from rislab.model import pretrained
    from rislab.training import distributed, run_folder
    from rislab.training.records import EpochRecord, epoch_records
    from rislab.training.streaming import train_streaming

    config = common.configured(options, LearningConfig)
    if options.export:
        files.check_file_writable("export", options.export)
    model, validation = config.model(), config.validation_data()
    line = constant_baseline(validation)
    rank, world = distributed.rank_and_world_size()
    # Only the first process prints.
    say = common.printer(options.json or rank > 0)
    phases = ", ".join(f"{phase.name} from epoch {epoch}" for epoch, phase in config.phase_starts())
    say(f"{config.preset}, {config.design}: {config.scenes} fresh scenes an epoch, {config.epochs} epochs; {phases}")
    say(f"best constant on the {len(validation)} scenes of the validation: NMSE {line:.5g}")
    last: EpochRecord | None = None
    progress = terminal.Progress(options.json or rank > 0)
    began = time.perf_counter()
    with distributed.process_group(config.device) if world > 1 else contextlib.nullcontext():
        for record in (distributed.train_distributed if world > 1 else train_streaming)(options.folder, config, model):
            if not isinstance(record, EpochRecord):
                progress.show(f"epoch {record.epoch} of {config.epochs}, step {record.step}")
                continue
            progress.clear()
            last = record
            losses = f"train {record.train:.5g}  validation {record.validation:.5g}"
            say(f"epoch {record.epoch:>3}  {losses}  {time.perf_counter() - began:6.0f} s")
            if options.json and rank == 0:
                line_of_epoch = {"epoch": record.epoch, "train": record.train, "validation": record.validation}
                print(json.dumps(common.strict_json(line_of_epoch)), flush=True)
    if last is None:
        if not options.export:
            raise InputError(f"run {options.folder} is complete; allowed: another folder, or --export FILE")
        # It may have been ended, or the disk have been full, before its weights were written.
        last = epoch_records(run_folder.read_records(options.folder))[-1]
    if options.export and rank == 0:
        path = Path(options.export)
        fields = {name: str(value) for name, value in dataclasses.asdict(config).items() if name != "scenes"}
        fields["scenes_an_epoch"] = str(config.scenes)
        pretrained.save(path, model, config.scene_config(), {**fields, "validation_nmse": f"{last.validation:.6g}"})
        say(f"weights: {path} ({path.stat().st_size / 1e6:.2f} MB)")
    return 0 if last.validation is not None and last.validation < line else 1
