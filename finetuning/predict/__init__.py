"""Answers for single recordings, from fine-tuned weights files."""

from finetuning.predict.predictor import Predictor as Predictor
