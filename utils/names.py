"""Names that flags accept; each goes to the registry of the package that owns it."""

ARCHITECTURES = ("resnet18", "resnet34", "resnet50", "resnet18_2d")
SPECTRAL_ARCHITECTURES = ("resnet18_2d",)
SPECTROGRAM_SETTINGS = ("window", "hop", "bins", "scale")
ANNOTATED = ("mitdb", "svdb", "wfdb")  # databases of one .atr per record
EXPORTS = ("onnx", "torch")
DEVICES = ("auto", "cpu", "cuda")
