"""Names that flags accept. Imports nothing, so that `--help` is instant."""

TASKS = ("beat",)
ARCHITECTURES = ("resnet18",)
DEVICES = ("auto", "cpu", "cuda")
PRECISIONS = ("auto", "fp32", "bf16")
PRETRAINING_METRICS = ("loss", "acc", "f1")
FINETUNING_METRICS = ("loss", "acc", "f1", "auc")
STOP_METRICS = ("val_loss", "val_f1", "train_acc")
SOURCES = ("mitdb", "wfdb")
