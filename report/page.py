"""What the cells of the report show: text, tables and figures as a notebook displays them."""

import io
from typing import NamedTuple

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from report.tables import NOT_RUN

DPI = 90


class Text(NamedTuple):
    """Markdown."""

    text: str

    def _repr_markdown_(self) -> str:
        return self.text


class Table(NamedTuple):
    """A table without its index."""

    table: pd.DataFrame

    def _repr_html_(self) -> str:
        return self.table.to_html(index=False, border=0, na_rep="")

    def __repr__(self) -> str:
        return self.table.to_string(index=False)


class Picture(NamedTuple):
    """A figure as PNG."""

    png: bytes

    def _repr_png_(self) -> bytes:
        return self.png

    def __repr__(self) -> str:
        return "figure"


def show(content: pd.DataFrame | Figure | str | None) -> Text | Table | Picture:
    """For `display`; None was not run."""
    if content is None:
        return Text(f"*{NOT_RUN}*")
    if isinstance(content, str):
        return Text(content)
    if isinstance(content, pd.DataFrame):
        return Table(content)
    image = io.BytesIO()
    content.savefig(image, dpi=DPI, format="png")
    plt.close(content)
    return Picture(image.getvalue())
