"""Model cards: what a person should know of a weights file, as Markdown beside it.

Like the weights they hold no times, paths or host names.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from utils.cli import UserError
from utils.contract import Contract
from utils.datasets import DATA_SETS, non_commercial, notices, title_of
from utils.files import write_text

if TYPE_CHECKING:
    from torch import Tensor

TASKS = {
    "beat": "whether a frame holds ectopic beats, and which",
    "rhythm": "the rhythm of a frame",
    "hr": "the heart rate of a frame",
    "cpc": "which frame follows others (contrastive predictive coding)",
    "classification": "the class of a recording",
}
CLASSES = {
    "pac": "premature atrial contraction",
    "aberrated": "aberrated premature atrial contraction",
    "pvc": "premature ventricular contraction",
    "afib": "atrial fibrillation",
    "aflut": "atrial flutter",
}
# Keys in scores.json, and what they are called here.
PARTS = {
    "validation": "validation", "val": "validation", "test": "test",
    "without_input": "validation, ignoring the signal",
}  # fmt: skip
SCORES = {
    "macro_f1": "macro F1", "cinc3": "CinC-3", "f1": "macro F1", "auc": "macro AUC",
    "f_max": "F-max", "f_beta": "F-beta", "g_beta": "G-beta", "accuracy": "accuracy",
    "acc": "accuracy", "loss": "loss", "ece": "ECE", "records": "recordings",
}  # fmt: skip
CLASSIFIER = """from finetuning.predict import Predictor

predictor = Predictor.load("{name}")
predictor.predict(signal, fs=300, unit="mV")  # {shape}, at any rate"""
ENCODER = """from utils.weights import load_encoder

encoder = load_encoder("{name}").encoder.eval()
encoder(x)  # (batch, leads, samples) as below -> (batch, features)"""


def write_card(
    path: Path,
    weights: Path,
    data: Mapping[str, str] | None = None,
    scores: Mapping[str, Any] | None = None,
) -> None:
    """Write the card of a weights file.

    Args:
        data, scores: as `render`.

    Raises:
        UserError: `weights` are none.
    """
    from utils.weights import read_weights

    text = render(weights.name, *read_weights(weights), data or {}, scores or {})
    write_text(path, text)


def card_beside(weights: Path) -> Path:
    """Card of a file outside a job directory: `af.safetensors` → `af.md`."""
    return weights.with_suffix(".md")


def check_free(out: Path, overwrite: bool) -> None:
    """Raises `UserError` where weights, or their card beside them, would replace a file."""
    if out == card_beside(out):
        raise UserError(f"{out} is what the card would be called; name a .safetensors file")
    for path in (out, card_beside(out)):
        if path.exists() and not overwrite:
            raise UserError(f"{path} exists; name another file or pass --overwrite")


def render(
    name: str,
    tensors: Mapping[str, "Tensor"],
    contract: Contract,
    data: Mapping[str, str],
    scores: Mapping[str, Any],
) -> str:
    """The card.

    Args:
        name: of the weights file. data: what its contract does not say of the data, in words.
        scores: what is in `scores.json`.
    """
    classifies = contract.task == "classification" and _has_head(tensors)
    leads = contract.in_channels
    shape = "(samples,)" if leads == 1 else f"(samples, {leads})"
    load = (CLASSIFIER if classifies else ENCODER).format(name=name, shape=shape)
    if classifies:
        load += f"\n```\n\n```sh\npython -m finetuning.predict --weights {name} RECORD"
    parts = [
        f"# {contract.architecture}, {contract.task}, {contract.dataset}",
        "A network for electrocardiograms. **Not a medical device.**",
        _bullets(network(tensors, contract)),
        f"```python\n{load}\n```",
        "## Input and output",
        _bullets(interface(tensors, contract)),
        "## Data",
        _bullets(origin(contract) | data),
        "## Licence",
        licence(contract),
        *(["## Scores", table] if (table := score_table(scores)) else []),
        "## Intended use and limits",
        limits(contract),
    ]
    return "\n\n".join(parts) + "\n"


def network(tensors: Mapping[str, "Tensor"], contract: Contract) -> dict[str, str]:
    """What it is, in words."""
    stages = f", the first stages: {contract.stages}" if contract.stages else ""
    part = "with its head" if _has_head(tensors) else "the encoder alone"
    parameters = sum(tensor.numel() for tensor in tensors.values())
    described = {
        "architecture": f"{contract.architecture}{stages}, {part}",
        "parameters": f"{parameters:,}",
        "trained to tell": f"{TASKS.get(contract.task, contract.task)} ({contract.task})",
    }
    if contract.classes:
        known = CLASSES | _data_set(contract.dataset, "classes", {})
        words = [f"{c} ({known[c]})" if c in known else c for c in contract.classes]
        described["classes"] = f"{'any' if contract.multi_label else 'one'} of {', '.join(words)}"
    if contract.context:
        described["context"] = _listed(contract.context)
    return described


def interface(tensors: Mapping[str, "Tensor"], contract: Contract) -> dict[str, str]:
    """What goes in, and what comes out."""
    classifies = contract.task == "classification"
    padding = "; in front of shorter recordings, once standardised, zeros" if classifies else ""
    squash = "sigmoid" if contract.multi_label else "softmax"
    probabilities = f"{squash} of (logits / {contract.temperature:.6g}, the temperature)"
    described = {
        "leads": str(contract.in_channels),
        "signal": f"{contract.fs:g} Hz, {contract.unit}",
        "standardised": _standard(contract),
        "length": f"{contract.frame_size:,} samples ({contract.frame_size / contract.fs:.1f} s)"
        f"{padding}",
    }
    if contract.spectrogram:
        described["spectrogram"] = _listed(contract.spectrogram)
    output = f"probabilities: {probabilities}" if _has_head(tensors) else "features"
    return described | {"output": output}


def origin(contract: Contract) -> dict[str, str]:
    """What it was made from."""
    return {
        "trained on": title_of(contract.dataset),
        "began with": _began(contract),
        "manifest (SHA-256)": contract.manifest_sha256,
        "seed": "unknown" if contract.seed is None else str(contract.seed),
        "libraries": _listed(contract.versions),
    }


def licence(contract: Contract) -> str:
    """Notices of all data sets that the weights were made from."""
    forbidding = non_commercial(contract.lineage)
    lines = [f"- {notice}" for notice in notices(contract.lineage)]
    if forbidding:
        made = f"they were made from {', '.join(forbidding)}"
        lines += ["", f"**These weights are for non-commercial use only**: {made}."]
    return "\n".join(lines)


def score_table(scores: Mapping[str, Any]) -> str:
    """Validation and test scores, of each class too, as a table; empty without any."""
    columns = {PARTS[name]: _flat(scores[name]) for name in PARTS if scores.get(name)}
    rows = dict.fromkeys(name for column in columns.values() for name in column)
    lines = [["", *columns], ["---"] * (len(columns) + 1)]
    lines += [[row, *(column.get(row, "") for column in columns.values())] for row in rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines) if rows else ""


def limits(contract: Contract) -> str:
    """What it is for, and what not."""
    seen = {title_of(name): _data_set(name, "recordings", "") for name in contract.lineage}
    seen = "; ".join(f"{title}: {what}" if what else title for title, what in seen.items())
    return (
        "For research on classifying electrocardiograms and on transfer learning. Not for "
        "diagnosis, monitoring or treatment of anybody, and not tested for it.\n\n"
        f"What it has learned from: {seen}. With other devices, leads, places of electrodes, ages "
        "or diseases it may be wrong and sure of it; what is none of its classes is still called "
        "one of them. The labels that it learned are themselves not all right."
    )


def _began(contract: Contract) -> str:
    if contract.derived_from is None:
        return "not recorded"
    before = ", then ".join(map(title_of, contract.derived_from))
    return f"weights trained on {before}" if before else "random weights"


def _flat(scores: Mapping[str, Any]) -> dict[str, str]:
    """Those that have a name here; where F1 is given by class, a row for each."""
    named = {}
    for key, label in SCORES.items():
        value = scores.get(key)
        if isinstance(value, Mapping):
            named |= {f"F1 {name}": _number(score) for name, score in value.items()}
        elif value is not None:
            named[label] = _number(value)
    return named


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:.3f}"


def _standard(contract: Contract) -> str:
    if contract.mean is None:
        return "each input by its own mean and deviation"
    mean, sd = (", ".join(f"{v:.6g}" for v in _each(x)) for x in (contract.mean, contract.sd))
    return f"minus {mean} mV, divided by {sd} mV"


def _each(value: float | list[float]) -> list[float]:
    return value if isinstance(value, list) else [value]


def _data_set(name: str, field: str, default: Any) -> Any:
    return getattr(DATA_SETS[name], field) if name in DATA_SETS else default


def _has_head(tensors: Mapping[str, "Tensor"]) -> bool:
    return any(not name.startswith("encoder.") for name in tensors)


def _listed(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items())


def _bullets(rows: Mapping[str, str]) -> str:
    return "\n".join(f"- **{name}**: {value}" for name, value in rows.items())
