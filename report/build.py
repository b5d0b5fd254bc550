"""Execute the report from the saved results, and write it as a page.

    python -m report.build

Writes report/report.ipynb again, with new outputs, and report/report.html.
"""

from pathlib import Path

from utils import cli

NOTEBOOK = Path(__file__).with_name("report.ipynb")


def main() -> None:
    parser = cli.Parser(prog="python -m report.build", description=__doc__.split("\n")[0])
    parser.parse_args()
    # Only now, so that --help and a mistyped flag are answered at once.
    try:
        import nbformat
        from nbclient import NotebookClient
        from nbclient.exceptions import CellExecutionError
        from nbconvert import HTMLExporter
    except ImportError as error:
        raise cli.UserError(
            f"{error.name} is not installed; run make report, or pip install -r "
            "requirements-report.txt"
        ) from None
    from utils.files import atomic_path

    notebook = nbformat.read(NOTEBOOK, as_version=4)
    # From the folder above: beside the notebook lies a statistics.py, which is not Python's.
    root = {"metadata": {"path": str(NOTEBOOK.parents[1])}}
    quiet = ["--log-level=ERROR"]  # the kernel listens on this machine only
    client = NotebookClient(
        notebook, resources=root, kernel_name="python3", record_timing=False, extra_arguments=quiet
    )
    try:
        client.execute()
    except CellExecutionError as error:
        if error.ename != cli.UserError.__name__:
            raise
        raise cli.UserError(error.evalue) from None
    notebook.metadata.pop("language_info", None)  # the version of Python: equal results, equal file
    title = {"metadata": {"name": "Transfer learning for ECG: the report"}}
    page, _ = HTMLExporter(exclude_input=True).from_notebook_node(notebook, title)
    for path, text in ((NOTEBOOK, nbformat.writes(notebook) + "\n"),
                       (NOTEBOOK.with_suffix(".html"), page)):  # fmt: skip
        with atomic_path(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
        print(f"written: {path}")


if __name__ == "__main__":
    cli.run(main)
