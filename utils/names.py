"""Names that flags accept, and names of files. Imports nothing, so that `--help` is instant."""

TASKS = ("beat", "rhythm", "hr", "cpc")
ARCHITECTURES = ("resnet18", "resnet34", "resnet50", "resnet18_2d")
DEFAULT_ARCHITECTURE = "resnet18"
SPECTRAL_ARCHITECTURES = ("resnet18_2d",)
SPECTROGRAM_SETTINGS = ("window", "hop", "bins", "scale")
SPECTROGRAM_SCALES = ("linear", "db")
SPECTROGRAM_INPUTS = ("normalized", "raw")
CONTEXT_FLAGS = ("context_size", "context_overlap", "positive_offset", "ns")
PRESETS = ("paper", "authors-code", "team1", "recommended")
DEVICES = ("auto", "cpu", "cuda")
PRECISIONS = ("auto", "fp32", "bf16")
PRETRAINING_METRICS = ("loss", "acc", "f1")
FRAME_STANDARDS = ("dataset", "frame")  # of pretraining
ANNOTATED = ("mitdb", "svdb", "wfdb")  # databases of one .atr per record
SOURCES = (*ANNOTATED, "torrent")
EXPORTS = ("onnx", "torch")
# Files in a job directory.
ARGUMENTS = "args.json"
CHECKPOINT = "checkpoint.safetensors"  # only while a run is not finished
WEIGHTS = "weights.safetensors"  # the last that pretraining writes
BEST = "best_model.safetensors"  # of fine-tuning, so far
SCORES = "scores.json"  # the last that fine-tuning writes
CARD = "MODEL_CARD.md"  # of the weights that a run ends with
