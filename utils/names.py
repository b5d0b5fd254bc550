"""Names that flags accept. Imports nothing, so that `--help` is instant."""

TASKS = ("beat", "rhythm", "hr", "cpc")
ARCHITECTURES = ("resnet18", "resnet34", "resnet50", "resnet18_2d")
SPECTROGRAM_SCALES = ("linear", "db")
DEVICES = ("auto", "cpu", "cuda")
PRECISIONS = ("auto", "fp32", "bf16")
PRETRAINING_METRICS = ("loss", "acc", "f1")
FINETUNING_METRICS = ("loss", "acc", "f1", "auc")
STOP_METRICS = ("val_loss", "val_f1", "train_acc")
SOURCES = ("mitdb", "wfdb", "torrent")
