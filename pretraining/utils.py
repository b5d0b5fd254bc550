"""Pretrained weights of any epoch of a run, without their head."""

from pathlib import Path

from torch import nn

from utils import cli
from utils.weights import card_beside, check_free, load_encoder, strip_head, write_card


def get_pretrained_weights(checkpoint_file: Path, out_file: Path | None = None) -> nn.Module:
    """Encoder of a checkpoint, (B, C, T) -> (B, D), in evaluation mode; its weights are written to
    `out_file`, if given, with their card beside them."""
    transfer = load_encoder(checkpoint_file)
    if out_file:
        strip_head(checkpoint_file, out_file)
        write_card(card_beside(out_file), out_file)
        print(f"{transfer.report}; written: {out_file}")
    return transfer.encoder.eval()


def main() -> None:
    parser = cli.Parser(prog="python -m pretraining.utils", description=__doc__)
    parser.add_argument("--checkpoint", type=cli.file, required=True, help="model.safetensors")
    parser.add_argument("--out", type=Path, required=True, help="file for the encoder")
    parser.add_argument("--overwrite", action="store_true", help="replace --out")
    args = parser.parse_args()
    check_free(args.out, args.overwrite)
    get_pretrained_weights(args.checkpoint, args.out)


if __name__ == "__main__":
    cli.run(main)
