"""Names that flags accept; each goes to the registry of the package that owns it."""

TASKS = ("beat", "rhythm", "hr", "cpc")
ARCHITECTURES = ("resnet18", "resnet34", "resnet50", "resnet18_2d")
SPECTRAL_ARCHITECTURES = ("resnet18_2d",)
SPECTROGRAM_SETTINGS = ("window", "hop", "bins", "scale")
CONTEXT_FLAGS = ("context_size", "context_overlap", "positive_offset", "ns")
ANNOTATED = ("mitdb", "svdb", "wfdb")  # databases of one .atr per record
SOURCES = (*ANNOTATED, "torrent")
EXPORTS = ("onnx", "torch")
DEVICES = ("auto", "cpu", "cuda")
