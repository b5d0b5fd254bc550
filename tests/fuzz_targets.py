"""The readers that `tests.fuzzing` attacks; each reads as far as its command does before it
computes. `ROWS` has a row for each."""

import gzip
import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import wfdb
from safetensors.torch import load_file, save_file
from scipy.io import savemat

from finetuning.batches import to_device
from finetuning.datasets import challenge17, challenge20, ptbxl, table
from finetuning.predict import Predictor
from finetuning.prepared_set import load_prepared, manifest_path, write_prepared
from pretraining import cohort, convert, import_tensorflow, sampler
from pretraining.batches import FrameBatches, StoredFrames, store_frames
from pretraining.icentia11k import index as annotations
from pretraining.icentia11k import reader as icentia11k
from pretraining.tasks import TASKS
from pretraining.tensorflow_checkpoint import read_checkpoint
from recordings import formats, resampling, synthetic, wfdb_files
from recordings.annotations import ALPHABETS
from tests import helpers, test_ptbxl, test_tensorflow, test_torrent
from tests.fuzzing import Target
from utils.files import read_json, sha256, write_json
from utils.model_card import KEY
from utils.weights import load_encoder

FS, SAMPLES, FRAME, ENDS = 250, 1000, 256, np.arange(50, 1000, 100)
SIGNAL, LEADS = helpers.noise(SAMPLES, 2), ("I", "II")
CLASSIFICATION = {"task": "classification", "classes": list("ANO~x")}


def put_segment(folder: Path) -> None:
    zones, digital = ["(N"] * 4 + ["", "(AFIB"] + ["(AFL"] * 4, SIGNAL[:, 0].clip(0, 99)
    wfdb_files.write_segment(folder, "p00000_s00", digital, 200, ENDS, "NSVQN" * 2, zones)


def put_torrent(folder: Path) -> None:
    """In each way it is written; 0, 2 and 5 are pickles without a checksum, 9 is a payload."""
    labels = tuple((np.arange(50, 950, 300), codes[:3]) for _, codes in test_torrent.LABELS)
    data = test_torrent.SIGNAL[:2, :SAMPLES], [labels] * 2
    for protocol in (0, 2, 5):
        test_torrent.put_zipped(folder, f"0000{protocol}_batched", *data, protocol)
    for path in folder.iterdir():
        path.write_bytes(gzip.decompress(path.read_bytes()))
    for number, name in ((1, "zipped"), (3, "misnamed"), (4, "unzipped"), (9, "zipped")):
        getattr(test_torrent, f"put_{name}")(folder, f"0000{number}_batched", *data)
    payload = [test_torrent.Payload(os.system, "touch ../executed"), *range(20)]
    (folder / "00009_batched_lbls.pkl.gz").write_bytes(pickle.dumps(payload, 2))


def put_index(folder: Path) -> None:
    put_segment(folder)
    about = {"dataset": "icentia11k", "patients": [0], "task": "beat"}
    store_frames(folder / "val.npz", batches(annotations.open_index(folder), "beat"), about)


def batches(index: annotations.AnnotationIndex, task: str) -> FrameBatches:
    chosen, _ = cohort.choose_segments(index, None, FRAME, annotated="beats")
    frames = sampler.Sampler(list(chosen.values()), index.segments["samples"], FRAME, 8, (0,))
    return FrameBatches(TASKS[task](FRAME), index, frames, icentia11k.ICENTIA11K, 8, 8)


def put_recordings(folder: Path) -> None:
    signal, symbols, notes = SIGNAL / 1000, ["+", *"NVAQN" * 2], ["(AFIB", *[""] * 10]
    for name in ("r.csv", "r.txt"):
        pd.DataFrame(signal, columns=["I", "II"]).iloc[:300].to_csv(folder / name, index=False)
    np.save(folder / "r.npy", signal)
    for version in "45":
        savemat(folder / f"{version}.mat", {"val": SIGNAL.T / 1000}, format=version)
    for name in ("r.edf", "r.bdf"):
        helpers.put_edf(folder / name, signal, FS, ["ECG I", "ECG II"])
    wfdb.wrsamp(
        "r", FS, ["mV"] * 2, ["ecg", "II"], d_signal=SIGNAL.clip(-1000, 1000), fmt=["212"] * 2,
        adc_gain=[200.0] * 2, baseline=[0] * 2, write_dir=str(folder),
    )  # fmt: skip
    wfdb.wrann("r", "atr", np.append(ENDS[:1], ENDS), symbols, aux_note=notes, fs=FS,
               write_dir=str(folder))  # fmt: skip
    about = {"name": "mitdb", "mean_mv": -0.25, "sd_mv": 0.5, "same_subject": {"202": 201}}
    write_json(folder / "dataset.json", about)
    helpers.put_challenge(folder / "A/A1", SIGNAL, FS, LEADS, ["# Dx: 426783006,164889003"])


def put_datasets(folder: Path) -> None:
    synthetic.write_challenge17(folder / "training2017", recordings=2, seed=0)
    shutil.make_archive(folder / "zip/training2017", "zip", folder, "training2017")
    helpers.put_challenge(folder / "records100/00000_lr", SIGNAL, 100, LEADS)
    test_ptbxl.put(folder, [test_ptbxl.row(number) for number in range(10)])
    test_ptbxl.STATEMENTS.to_csv(folder / "scp_statements.csv")
    lines = ["file,label,fs,unit,gain,split,patient"]
    for number, label in enumerate(("A", "N", "A;N")):
        np.save(folder / f"{number}.npy", SIGNAL / 1000)
        lines.append(f"{number}.npy,{label},250,adu,200,train,p{number}")
    (folder / "table.csv").write_text("\n".join(lines))
    path, signals = folder / "p_train.npz", [SIGNAL[:500, :1], SIGNAL[:, 1:]]
    write_prepared(path, signals, np.eye(2, dtype=np.uint8), ["r0", "r1"], ["A", "N"])
    write_json(manifest_path(path), {
        "dataset": "table", "classes": ["A", "N"], "fs": FS, "unit": "uV", "pad": 512,
        "mean_mv": 0.0, "sd_mv": 0.25, "multi_label": False, "patients": {"r0": 0, "r1": 1},
        "files": {"train": {"name": path.name, "sha256": sha256(path), "records": 2}},
    })  # fmt: skip


def put_weights(folder: Path) -> None:
    helpers.put_weights(folder / "weights.safetensors", **CLASSIFICATION)
    spectrogram = {"window": 64, "hop": 8, "bins": 32, "scale": "db"}
    metadata = helpers.make_metadata(**CLASSIFICATION, spectrogram=spectrogram)
    (folder / "metadata.json").write_text(metadata.to_header()[KEY])
    classifier = helpers.make_classifier()
    test_tensorflow.write(folder / "x", test_tensorflow.as_tensorflow(classifier))


def read_segments(path: Path) -> None:
    record = path.with_name(path.name.partition(".")[0].removesuffix("_lbls"))
    for place, segment in annotations.read_record(record):
        if isinstance(segment, Exception):
            raise segment
        header, ends, codes = segment.header, segment.beat_ends, segment.beat_codes
        assert np.isfinite(header.gain) and (np.diff(ends) >= 0).all() and len(codes) == len(ends)
        distribution = annotations.distribution_of(place)
        name, number = distribution.split(place)
        assert len(distribution.open_signal(name)[number]) == header.samples


def read_annotated(path: Path) -> None:
    icentia11k.read_constants(path.parent)
    path = path.with_name("r")
    (signal, fs, *_), ends, *_ = convert.read_annotated(path, ALPHABETS["wfdb"])
    assert np.isfinite(resampling.resample(signal, fs, FS, "line")).all()
    np.rint(ends * (FS / fs)).astype(np.int64)


def read_index(path: Path) -> None:
    index = annotations.open_index(path.parents[2])
    for task in ("beat", "rhythm", "hr"):
        labels = batches(index, task).examples(range(1)).labels
        assert labels.min() >= 0 and labels.max() < len(TASKS[task].classes)
    batch = batches(index, "beat")[range(1)]
    assert batch.signal.shape == (8, FRAME) and batch.scale.isfinite().all()


def read_frames(path: Path) -> None:
    stored = StoredFrames(path, TASKS["beat"](FRAME), 4, {"task": "beat"})
    for number in range(len(stored)):
        frames = stored[range(number, number + 1)]
        assert (frames.signal[frames.rows].float() * frames.scale).isfinite().all()


def read_signal(path: Path) -> None:
    recording = formats.read_recording(path, FS, "mV")
    assert np.isfinite(recording.signal).all()
    resampling.to_microvolt(recording, FS, "polyphase", "constant")


def read_listed(path: Path) -> None:
    if path.name == "table.csv":
        listing = table.read_listing(path, None, FS, "mV", None)
    elif path.suffix == ".csv" and path.parent.name != "training2017":
        listing = ptbxl.read_listing(path.parent, "diagnostic", 100, [9], [10]).keep(slice(0, 1))
    elif path.name == "A1.hea":
        listing = challenge20.read_listing(path.parent)
    else:
        listing = challenge17.read_listing(path if path.suffix == ".zip" else path.parent, "zip")
    assert listing.y.shape == (len(listing.records), len(listing.classes))
    for record in listing.records:
        listing.read(str(record))


def read_prepared(path: Path) -> None:
    if path.suffix == ".npz":  # its manifest has the checksum of the damaged file
        manifest = read_json(manifest_path(path))
        manifest["files"]["train"]["sha256"] = sha256(path)
        write_json(manifest_path(path), manifest)
    path = path.with_name("p_train.npz")
    prepared = load_prepared(path)
    assert prepared.patients is None or len(prepared.patients) == len(prepared)
    on_device = to_device(prepared, np.arange(len(prepared)), torch.device("cpu"))
    assert on_device.signal.shape[0] == len(prepared)


def read_weights(path: Path) -> None:
    if path.suffix == ".json":  # with metadata of this text
        metadata = {KEY: path.read_bytes().decode("utf-8", "replace")}
        path = path.with_name("weights.safetensors")
        save_file(load_file(path), path, metadata)
    load_encoder(path)
    predictor = Predictor.load(path, device="cpu", precision="fp32")
    predictor.predict(np.zeros((600, predictor.metadata.in_channels)), FS)


def read_tensorflow(path: Path) -> None:
    import_tensorflow.recognise(read_checkpoint(path.with_name("x"))[0], path)


# Name, what writes honest files, what reads one of them, and the damaged files (after a prefix).
ROWS = [
    ("segment", put_segment, read_segments, "p00000_s00", ".hea .dat .atr"),
    ("torrent", put_torrent, read_segments, "0000", "1_batched.pkl.gz 1_batched_lbls.pkl.gz "
     "0_batched_lbls.pkl.gz 2_batched.pkl.gz 5_batched.pkl.gz 9_batched_lbls.pkl.gz "
     "3_batched.npy 3_batched_lbls.npz 4_batched_lbls.npz"),
    ("index", put_index, read_index, "annotation_index/current/",
     "index.json segments.npy beat_ends beat_codes rhythm_ends rhythm_codes"),
    ("validation", put_index, read_frames, "", "val.npz"),
    ("convert", put_recordings, read_annotated, "", "r.hea r.dat r.atr dataset.json"),
    ("recording", put_recordings, read_signal, "",
     "r.hea r.dat r.csv r.txt r.npy 4.mat 5.mat r.edf r.bdf A/A1.hea A/A1.mat"),
    ("challenge20", put_recordings, read_listed, "A/", "A1.hea"),
    ("challenge17", put_datasets, read_listed, "", "zip/training2017.zip training2017/RECORDS "
     "training2017/REFERENCE.csv training2017/A00001.hea training2017/A00001.mat"),
    ("table", put_datasets, read_listed, "", "table.csv ptbxl_database.csv scp_statements.csv"),
    ("prepared", put_datasets, read_prepared, "p_", "train.npz manifest.json"),
    ("weights", put_weights, read_weights, "", "weights.safetensors metadata.json"),
    ("tensorflow", put_weights, read_tensorflow, "x.", "index data-00000-of-00001"),
]  # fmt: skip
TARGETS = {
    f"{name} {file}": Target(make, read, prefix + file)
    for name, make, read, prefix, files in ROWS
    for file in files.split()
}
