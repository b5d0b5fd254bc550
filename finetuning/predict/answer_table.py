"""Answers as lines on the terminal."""

from finetuning.predict.answer_files import Result
from finetuning.predict.answers import CANNOT_TELL, Answer
from finetuning.predict.predictor import Predictor
from utils.datasets import DATA_SETS

MOST = 8  # classes whose probabilities are shown


def words_of(predictor: Predictor) -> dict[str, str]:
    """What the classes are called, in their order."""
    known = DATA_SETS.get(predictor.contract.dataset)
    return {name: known.classes.get(name, name) if known else name
            for name in predictor.contract.classes}  # fmt: skip


class Table:
    """Lines for the terminal, in columns; of many classes without their probabilities."""

    def __init__(self, predictor: Predictor, width: int):
        self.words = words_of(predictor)
        self.numbers = len(self.words) <= MOST
        self.width = max(width, len("recording"))
        self.answer = max(map(len, [*self.words.values(), CANNOT_TELL]))

    def header(self) -> str:
        probabilities = "".join(f"{name:>6.5}" for name in self.words) * self.numbers
        return f"{'recording':{self.width}}  {'lead':6} {'length':>9}  {'answer':{self.answer}} " \
               f"{probabilities}".rstrip()  # fmt: skip

    def lines(self, result: Result) -> list[str]:
        """Of a recording: its answer, and what share of a long one has which."""
        start = f"{result.name:{self.width}}  {result.lead:6.6} "
        if isinstance(result.prediction, str):
            return [f"{start}{'':9}  cannot be read: {result.prediction}"]
        whole, windows = result.prediction.whole, result.prediction.windows
        said = f"{whole.say(self.words):{self.answer}} "
        if whole.readable and self.numbers:
            said += "".join(f"{p:6.2f}" for p in whole.probabilities)
        lines = [f"{start}{duration(whole.stop):>9}  {said}{self.why(whole)}".rstrip()]
        if len(windows) > 1:
            shares = [(share, self.words.get(name, CANNOT_TELL)) for name, share in
                      result.prediction.shares().items() if share]  # fmt: skip
            parts = ", ".join(f"{words} {share:.1%}" for share, words in sorted(shares)[::-1])
            lines.append(f"{'':{self.width}}  of {len(windows)} windows: {parts}")
        return lines

    def why(self, answer: Answer) -> str:
        return f"  {answer.reason}" if answer.reason else ""


def duration(seconds: float) -> str:
    """`30.0 s`, `1:30:05`."""
    if seconds < 120:
        return f"{seconds:.1f} s"
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{seconds:02}"
