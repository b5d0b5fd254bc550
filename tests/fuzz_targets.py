"""The readers that `tests.fuzzing` attacks, each with an honest file of its kind, small and quick.

Each reads as far as its command does before it computes; a record that would be left out, with its
reason, counts as refused.
"""

import os
import shutil
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import wfdb
from safetensors.torch import save_file
from scipy.io import savemat

from finetuning.batches import to_device
from finetuning.datasets import Listing, challenge17, challenge20, ptbxl, table
from finetuning.predict import Predictor
from finetuning.prepared_set import load_prepared, manifest_path, write_prepared
from pretraining import convert
from pretraining.batches import FrameBatches, StoredFrames, store_frames
from pretraining.cohort import choose_segments
from pretraining.icentia11k import reader as icentia11k
from pretraining.icentia11k.index import (
    AnnotationIndex,
    distribution_of,
    open_index,
    read_record,
)
from pretraining.import_tensorflow import recognise
from pretraining.sampler import Sampler
from pretraining.tasks import TASKS
from pretraining.tensorflow_checkpoint import read_checkpoint
from recordings import resampling
from recordings.annotations import ALPHABETS
from recordings.formats import read_recording
from recordings.synthetic import write_challenge17
from recordings.wfdb_files import write_segment
from report import collect
from report import stats as statistics
from tests import test_tensorflow, test_torrent
from tests.fuzzing import Target
from tests.helpers import (
    make_classifier,
    make_metadata,
    noise,
    put_challenge,
    put_edf,
    put_weights,
)
from tests.test_ptbxl import STATEMENTS
from tests.test_ptbxl import row as ptbxl_row
from tests.test_report import make_run
from utils.files import read_json, sha256, write_json
from utils.model_card import KEY
from utils.weights import load_encoder

FS, SAMPLES, FRAME = 250, 1000, 256
RECORD = "p00000_s00"
SIGNAL, LEADS = noise(SAMPLES, 2), ("I", "II")
ENDS = np.arange(50, SAMPLES, 100)


# Annotated records


def put_segment(folder: Path, suffix: str, fmt: str = "16") -> Path:
    zones = ["(N"] * 4 + ["", "(AFIB"] + ["(AFL"] * 4
    write_segment(folder, RECORD, SIGNAL[:, 0], 200, ENDS, list("NSVQN" * 2), zones)
    if fmt != "16":
        put_wfdb(folder / RECORD, [fmt], SIGNAL[:, :1].clip(-100, 100))
    return folder / f"{RECORD}{suffix}"


def put_wfdb(record: Path, formats: list[str], units: np.ndarray) -> None:
    leads = ["ecg", "II"][: len(formats)]
    wfdb.wrsamp(
        record.name, FS, ["mV"] * len(leads), leads, d_signal=units, fmt=formats,
        adc_gain=[200.0] * len(leads), baseline=[0] * len(leads), write_dir=str(record.parent),
    )  # fmt: skip


def read_segments(path: Path) -> None:
    """A record of either distribution, as the index reads it, and its signal."""
    record = path.with_name(path.name.partition(".")[0].removesuffix("_lbls"))
    for place, segment in read_record(record):
        if isinstance(segment, Exception):
            raise segment
        assert np.isfinite(segment.header.gain) and (np.diff(segment.beat_ends) >= 0).all()
        assert {len(segment.beat_codes), len(segment.beat_ends)} == {len(segment.beat_ends)}
        distribution = distribution_of(place)
        name, number = distribution.split(place)
        signal = distribution.open_signal(name, segment.header)[number]
        assert len(signal) == segment.header.samples


def put_mitdb(folder: Path, suffix: str) -> Path:
    put_wfdb(folder / "100", ["212"] * 2, SIGNAL.clip(-1000, 1000))
    symbols, notes = ["+", *"NVAQN" * 2], ["(AFIB", *[""] * 10]
    wfdb.wrann("100", "atr", np.append(ENDS[:1], ENDS), symbols, aux_note=notes, fs=FS,
               write_dir=str(folder))  # fmt: skip
    return folder / f"100{suffix}"


def convert_record(path: Path) -> None:
    """What `pretraining.convert` makes of a record, without writing it."""
    recording, ends, *_ = convert.read_annotated(path.with_suffix(""), ALPHABETS["wfdb"])
    signal, fs, *_ = recording
    assert np.isfinite(resampling.resample(signal, fs, FS, "line")).all()
    np.rint(ends * (FS / fs)).astype(np.int64)


# The torrent


def put_torrent(folder: Path, suffix: str, put: Callable = test_torrent.put_zipped) -> Path:
    signal = test_torrent.SIGNAL[:2, :SAMPLES]
    labels = tuple((np.arange(50, 950, 300), codes[:3]) for _, codes in test_torrent.LABELS)
    put(folder, test_torrent.NAME, signal, [labels] * 2)
    return folder / f"{test_torrent.NAME}{suffix}"


def put_raw_pickle(folder: Path, suffix: str, protocol: int) -> Path:
    """A pickle that is not zipped, so that no checksum hides what was changed."""
    path = put_torrent(folder, suffix, partial(test_torrent.put_zipped, protocol=protocol))
    content = test_torrent.gzip.decompress(path.read_bytes())
    path.write_bytes(content)
    return path


def put_payload(folder: Path, suffix: str) -> Path:
    """Refused as it is, and whatever is made of it; honest labels would be where it is."""
    path = put_torrent(folder, suffix)
    payload = test_torrent.Payload(os.system, "touch ../executed")
    path.write_bytes(test_torrent.pickle.dumps([payload, *range(20)], 2))
    return path


# The index


def put_index(folder: Path, name: str) -> Path:
    put_segment(folder, ".hea")
    open_index(folder)
    return folder / "annotation_index" / "current" / name


def read_index(path: Path) -> None:
    index = open_index(path.parents[2])
    cohort, _ = choose_segments(index, None, FRAME, annotated=True)
    for task in ("beat", "rhythm", "hr"):
        found = batches(index, cohort, task).examples(range(1)).labels
        assert found.min() >= 0 and found.max() < len(TASKS[task].classes)
    batch = batches(index, cohort, "beat")[range(1)]
    assert batch.signal.shape == (8, FRAME) and batch.scale.isfinite().all()


def batches(index: AnnotationIndex, cohort: dict, task: str) -> FrameBatches:
    sampler = Sampler(list(cohort.values()), index.segments["samples"], FRAME, 8, (0,))
    return FrameBatches(TASKS[task](FRAME), index, sampler, icentia11k.ICENTIA11K, 8, 8)


def put_description(folder: Path, name: str) -> Path:
    described = {"name": "mitdb", "mean_mv": -0.25, "sd_mv": 0.5, "same_subject": {"202": 201}}
    write_json(folder / name, described)
    return folder / name


def put_frames(folder: Path, name: str) -> Path:
    put_segment(folder, ".hea")
    index = open_index(folder)
    cohort, _ = choose_segments(index, None, FRAME, annotated=True)
    about = {"dataset": "icentia11k", "patients": [0], "task": "beat"}
    store_frames(folder / name, batches(index, cohort, "beat"), about)
    return folder / name


def read_frames(path: Path) -> None:
    stored = StoredFrames(path, TASKS["beat"](FRAME), 4, {"task": "beat"})
    for number in range(len(stored)):
        frames = stored[range(number, number + 1)]
        assert (frames.signal[frames.rows].float() * frames.scale).isfinite().all()


# Recordings


def put_recording(folder: Path, name: str) -> Path:
    path, signal = folder / name, SIGNAL / 1000
    if path.suffix in (".csv", ".txt"):
        pd.DataFrame(signal, columns=["I", "II"]).iloc[:300].to_csv(path, index=False)
    elif path.suffix == ".npy":
        np.save(path, signal)
    elif path.suffix == ".mat":
        savemat(path, {"val": SIGNAL.T}, format=path.stem)
    elif path.suffix in (".edf", ".bdf"):
        put_edf(path, signal, FS, ["ECG I", "ECG II"])
    else:
        put_wfdb(folder / path.stem, ["212"] * 2, SIGNAL.clip(-1000, 1000))
    return path


def read_signal(path: Path) -> None:
    """Up to what a network is given."""
    recording = read_recording(path, FS, "mV")
    assert np.isfinite(recording.signal).all()
    resampling.to_microvolt(recording, FS, "polyphase", "constant")


def put_challenge20(folder: Path, suffix: str) -> Path:
    put_challenge(folder / "A0001", SIGNAL, FS, LEADS, ["# Dx: 426783006,164889003"])
    return folder / f"A0001{suffix}"


# Data sets for fine-tuning


def put_challenge17(folder: Path, name: str) -> Path:
    write_challenge17(folder / "training2017", recordings=2, seed=0)
    if name == "training2017.zip":
        with zipfile.ZipFile(folder / name, "w") as file:
            for member in sorted((folder / "training2017").iterdir()):
                file.write(member, f"training2017/{member.name}")
        shutil.rmtree(folder / "training2017")
    return folder / name


def read_challenge17(path: Path) -> None:
    source = path if path.suffix == ".zip" else path.parent
    read_listed(challenge17.read_listing(source, "zip"))


def read_listed(listing: Listing) -> None:
    assert listing.y.shape == (len(listing.records), len(listing.classes))
    for record in listing.records:
        listing.read(str(record))


def put_table(folder: Path, name: str) -> Path:
    lines = ["file,label,fs,unit,gain,split,patient"]
    for number, label in enumerate(("A", "N", "A;N")):
        put_recording(folder, f"{number}.npy")
        lines.append(f"{number}.npy,{label},250,adu,200,train,p{number}")
    (folder / name).write_text("\n".join(lines))
    return folder / name


def read_table(path: Path) -> None:
    read_listed(table.read_listing(path, None, FS, "mV", None))


def put_ptbxl(folder: Path, name: str) -> Path:
    (folder / "records100").mkdir()
    for number in range(10):
        path = folder / "records100" / f"{number:05}_lr"
        if not number:
            put_challenge(path, SIGNAL, 100, LEADS)
    pd.DataFrame([ptbxl_row(number) for number in range(10)]).to_csv(
        folder / "ptbxl_database.csv", index=False
    )
    STATEMENTS.to_csv(folder / "scp_statements.csv")
    return folder / name


def read_ptbxl(path: Path) -> None:
    listing = ptbxl.read_listing(path.parent, "diagnostic", 100, [9], [10])
    read_listed(listing.keep(slice(0, 1)))


def put_prepared(folder: Path, name: str) -> Path:
    path = folder / "p_train.npz"
    signals = [SIGNAL[:500, :1], SIGNAL[:, 1:]]
    write_prepared(path, signals, np.eye(2, dtype=np.uint8), ["r0", "r1"], ["A", "N"])
    manifest = {
        "dataset": "table", "classes": ["A", "N"], "fs": FS, "unit": "uV", "pad": 512,
        "mean_mv": 0.0, "sd_mv": 0.25, "multi_label": False, "patients": {"r0": 0, "r1": 1},
        "files": {"train": {"name": path.name, "sha256": sha256(path), "records": 2}},
    }  # fmt: skip
    write_json(manifest_path(path), manifest)
    return folder / name


def read_prepared(path: Path) -> None:
    prepared = load_prepared(path.with_name("p_train.npz"))
    assert prepared.patients is None or len(prepared.patients) == len(prepared)
    chosen = np.arange(len(prepared))
    recordings = to_device(prepared, chosen, torch.device("cpu"))
    assert recordings.signal.shape[0] == len(prepared)


def read_prepared_listed(path: Path) -> None:
    """With a manifest that says this checksum, as one who writes both would have it."""
    manifest = read_json(manifest_path(path))
    manifest["files"]["train"]["sha256"] = sha256(path)
    write_json(manifest_path(path), manifest)
    read_prepared(path)


# Weights


def read_weights(path: Path) -> None:
    """As weights to start from, and to predict with."""
    load_encoder(path)
    predictor = Predictor.load(path, device="cpu", precision="fp32")
    leads = predictor.metadata.in_channels
    predictor.predict(np.zeros((600, leads)), FS)


CLASSIFICATION = {"task": "classification", "classes": list("ANO~x")}


def put_classifier(folder: Path, name: str) -> Path:
    return put_weights(folder / name, **CLASSIFICATION)


def put_metadata(folder: Path, name: str) -> Path:
    spectrogram = {"window": 64, "hop": 8, "bins": 32, "scale": "db"}
    metadata = make_metadata(**CLASSIFICATION, spectrogram=spectrogram)
    (folder / name).write_text(metadata.to_header()[KEY])
    return folder / name


def read_metadata(path: Path) -> None:
    metadata = {KEY: path.read_bytes().decode("utf-8", "replace")}
    save_file(classifier_state(), path.with_name("w.safetensors"), metadata)
    read_weights(path.with_name("w.safetensors"))


def classifier_state() -> dict[str, torch.Tensor]:
    state = make_classifier(classes=5).state_dict()
    return {k: v for k, v in state.items() if not k.endswith("num_batches_tracked")}


def put_tensorflow(folder: Path, suffix: str) -> Path:
    variables = test_tensorflow.as_tensorflow(make_classifier())
    test_tensorflow.write(folder / "x", variables)
    return folder / f"x{suffix}"


def read_tensorflow(path: Path) -> None:
    variables, _ = read_checkpoint(path.with_name("x"))
    recognise(variables, path)


# Results


def put_results(folder: Path, name: str) -> Path:
    make_run(folder / "job", 10, records=8)
    collect.save(collect.from_jobs([("random", [folder / "job"])]), folder)
    return folder / name


def read_saved(path: Path) -> None:
    results = collect.load(path.parent)
    if "predictions" in path.name:
        statistics.summarise(statistics.score_runs(results.predictions))


def read_job(path: Path) -> None:
    results = collect.from_jobs([("random", [path.parent])])
    if path.name == "test_predictions.csv":
        statistics.summarise(statistics.score_runs(results.predictions))


def _rows(name: str, make: Callable, read: Callable[[Path], Any], *files: str) -> dict[str, Target]:
    """A target for each of the files that `make` writes."""
    return {
        f"{name} {file}": Target(lambda folder, file=file: make(folder, file), read)
        for file in files
    }


put_misnamed, put_unzipped = (
    partial(put_torrent, put=put) for put in (test_torrent.put_misnamed, test_torrent.put_unzipped)
)
RECORDINGS = ("r.hea", "r.dat", "r.csv", "r.txt", "r.npy", "4.mat", "5.mat", "r.edf", "r.bdf")

TARGETS: dict[str, Target] = {
    **_rows("segment", put_segment, read_segments, ".hea", ".dat", ".atr"),
    **_rows("segment 212", partial(put_segment, fmt="212"), read_segments, ".hea", ".dat"),
    **_rows("convert", put_mitdb, convert_record, ".hea", ".dat", ".atr"),
    **_rows("torrent", put_torrent, read_segments, ".pkl.gz", "_lbls.pkl.gz"),
    **_rows("torrent 0", partial(put_raw_pickle, protocol=0), read_segments, "_lbls.pkl.gz"),
    **_rows("torrent 2", partial(put_raw_pickle, protocol=2), read_segments, ".pkl.gz"),
    **_rows("torrent 5", partial(put_raw_pickle, protocol=5), read_segments, ".pkl.gz"),
    **_rows("torrent 4", put_misnamed, read_segments, ".npy", "_lbls.npz"),
    **_rows("torrent zip", put_unzipped, read_segments, "_lbls.npz"),
    **_rows("payload", put_payload, read_segments, "_lbls.pkl.gz"),
    **_rows("index", put_index, read_index, "index.json", "segments.npy", "beat_ends",
            "beat_codes", "rhythm_ends", "rhythm_codes"),
    **_rows("pretraining", put_description, lambda path: icentia11k.read_constants(path.parent),
            "dataset.json"),
    **_rows("validation", put_frames, read_frames, "val.npz"),
    **_rows("recording", put_recording, read_signal, *RECORDINGS),
    **_rows("challenge20", put_challenge20, read_signal, ".hea", ".mat"),
    **_rows("challenge20 listing", put_challenge20,
            lambda path: read_listed(challenge20.read_listing(path.parent)), ".hea"),
    **_rows("challenge17", put_challenge17, read_challenge17, "training2017.zip"),
    **_rows("challenge17", put_challenge17, read_challenge17, *(
        f"training2017/{name}" for name in ("RECORDS", "REFERENCE.csv", "A00001.hea", "A00001.mat")
    )),
    **_rows("table", put_table, read_table, "table.csv"),
    **_rows("ptbxl", put_ptbxl, read_ptbxl, "ptbxl_database.csv", "scp_statements.csv"),
    **_rows("prepared", put_prepared, read_prepared, "p_train.npz", "p_manifest.json"),
    **_rows("prepared, listed", put_prepared, read_prepared_listed, "p_train.npz"),
    **_rows("weights", put_classifier, read_weights, "weights.safetensors"),
    **_rows("weights", put_metadata, read_metadata, "metadata.json"),
    **_rows("tensorflow", put_tensorflow, read_tensorflow, ".index", ".data-00000-of-00001"),
    **_rows("results", put_results, read_saved, "random_predictions.csv.gz",
            "random_history.csv.gz"),
    **_rows("job", put_results, read_job, *(
        f"job/{name}" for name in ("args.json", "history.csv", "test_predictions.csv")
    )),
}  # fmt: skip
