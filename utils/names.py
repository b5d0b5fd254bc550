"""Names that flags accept. Imports nothing, so that `--help` is instant."""

TASKS = ("beat", "rhythm", "hr", "cpc")
ARCHITECTURES = ("resnet18", "resnet34", "resnet50", "resnet18_2d")
SPECTRAL_ARCHITECTURES = ("resnet18_2d",)
SPECTROGRAM_SETTINGS = ("window", "hop", "bins", "scale")
SPECTROGRAM_SCALES = ("linear", "db")
SPECTROGRAM_INPUTS = ("normalized", "raw")
PRESETS = ("paper", "authors-code", "team1")
DEVICES = ("auto", "cpu", "cuda")
PRECISIONS = ("auto", "fp32", "bf16")
PRETRAINING_METRICS = ("loss", "acc", "f1")
FINETUNING_METRICS = ("loss", "acc", "f1", "auc")
STOP_METRICS = ("val_loss", "val_f1", "train_acc")
SOURCES = ("mitdb", "wfdb", "torrent")
DATASETS = ("challenge17", "challenge20", "ptbxl", "table")
PTBXL_CATEGORIES = ("diagnostic", "form", "rhythm")
PTBXL_RATES = (500, 100)  # Hz
UNITS = ("mV", "uV", "V", "adu")
