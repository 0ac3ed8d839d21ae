"""Parameters with which each notebook runs in seconds."""

from __future__ import annotations

# Small, and still enough for each notebook's own assertions.
SMALL: dict[str, dict[str, object]] = {
    "start": {"scenes": 64, "epochs": 20},
    "overfit": {
        "scenes": 64,
        "micro_batch": 16,
        "epochs": 24,
        "compare_steps": [1, 4],
        "compare_precisions": ["fp32", "bf16"],
    },
    "music": {
        "preset": "classroom",
        "sources": 2,
        "scenes": 8,
        "draws": 40,
        "snrs_db": [0.0, 10.0],
        "separations_deg": [3.0, 12.0],
    },
    "precision": {
        "scenes": 64,
        "windows": 3,
        "accumulation_steps": [1, 4],
        "modes": ["fp64", "fp32", "bf16", "pure bf16", "BatchNorm"],
    },
    "whodunnit": {"epochs": 3, "repair_epochs": 3, "batches": 4, "warmup": 6},
    "your_loop": {"epochs": 2},
    "localise": {"snrs_db": [10.0], "test_scenes": 2, "learned_scenes": 256, "epochs": 2},
    "tuning": {"scenes": 32, "epochs": 2, "trials": 3, "eval_scenes": 8, "skip_ladder": True, "confirm": 2},
    "fault_clinic": {"epochs": 1, "compared": ["zeroed per micro-batch"]},
    "your_data": {"positions": 3, "configurations": 300},
}
