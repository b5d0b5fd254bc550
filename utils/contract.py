"""Earlier names, until all callers are moved to `utils.model_card`."""

from utils.model_card import KEY as KEY
from utils.model_card import MAX_FRAME as FRAME
from utils.model_card import MAX_FS as FS
from utils.model_card import MAX_LEADS as LEADS
from utils.model_card import MAX_NUMBER as LARGEST
from utils.model_card import Metadata as Contract

__all__ = ["FRAME", "FS", "KEY", "LARGEST", "LEADS", "Contract"]
