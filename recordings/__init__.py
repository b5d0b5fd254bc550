"""ECG recordings from files of many formats, in millivolt; knows nothing of training."""


class Unusable(Exception):
    """Why a recording or a record cannot be used."""
