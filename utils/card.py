"""Earlier name, until all callers are moved to `utils.weights`."""

from utils.weights import write_card as write_card
