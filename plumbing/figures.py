"""Figures: matplotlib, and the colours that every figure of the book shares."""

from pathlib import Path


def pyplot(show: bool):
    """matplotlib.pyplot, able to draw where there is no screen. Imported late: it takes a second."""
    import matplotlib

    if not show:
        matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    return plt


def save_figure(figure, path: Path, show: bool) -> None:
    """Write a figure to figures/ beside the chapters, and open it when asked."""
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path, dpi=110)
    print(f"\nFigure: {path.parent.name}/{path.name}")
    if show:
        pyplot(show).show()
