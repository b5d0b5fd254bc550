"""Earlier name, until all callers are moved to `utils.model_card`."""

from utils.model_card import DATA_SETS, JOINED, TWELVE_LEADS, UNKNOWN

__all__ = ["DATA_SETS", "JOINED", "TWELVE_LEADS", "UNKNOWN"]
