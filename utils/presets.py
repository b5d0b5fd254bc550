"""Settings of the works that are reproduced, for each command; the README's table explains them.

The paper is Weimann & Conrad (2021), `authors-code` the defaults of their repository (of
fine-tuning, the command of its README), `team1` the replication. `recommended` goes beyond them
by what the ablation of the report favours; see finetuning/README.md.
"""

from typing import Any

Preset = dict[str, dict[str, Any]]  # preset: flag: value

PRETRAINING: Preset = {
    "paper": {"val_patients": 0.05},
    "authors-code": {
        "batch_size": 32,
        "samples_per_patient": 1000,
        "steps_per_epoch": 100,
        "epochs": 1,
        "val_patients": 0,
    },
    "team1": {
        "frame_size": 4096,
        "batch_size": 512,
        "steps_per_epoch": 1024,
        "spectrogram_input": "raw",
    },
    "recommended": {},
}
PREPARE: Preset = {
    "paper": {"pad": 15000},  # 60 s
    "authors-code": {"pad": 16384},
    "team1": {"pad": 16384, "resampling": "fft"},
    "recommended": {},
}
FINETUNING: Preset = {
    "paper": {"stop_metric": "train_acc"},
    "authors-code": {"val_metric": "loss"},
    "team1": {"batch_size": 128},
    "recommended": {"ema": 0.99},
}
