"""Figures: matplotlib, the colours that all figures share, and the loss curve of a training run."""

from plumbing import files

# Paul Tol's "high contrast" colours and black. People with colour blindness can tell them apart, and so can a
# reader of a print in black and white, because each colour has another lightness.
COLORS = {"dllm": "#004488", "gpt": "#DDAA33", "real": "#000000", "other": "#BB5566"}
COLOR_OF = {"NELBO": COLORS["dllm"], "NLL": COLORS["gpt"]}  # by the measure that a loss curve shows


def pyplot(show=False):
    """The module matplotlib.pyplot. Without `show` it draws to files only and needs no screen."""
    import matplotlib  # imported here because it takes a second

    if not show:
        matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    return plt


def save_figure(figure, path, show=False):
    """Write a figure to a file, say where it is, and open it in a window if `show` is true."""
    write_figure(figure, path)
    print(f"\nFigure: {path.relative_to(files.ROOT) if path.is_relative_to(files.ROOT) else path}")
    if show:
        pyplot(show).show()
    else:
        pyplot().close(figure)


def write_figure(figure, path, dpi=110):
    """Write a figure to `path`, whole or not at all. The ending of the name decides the format."""
    with files.whole_file(path) as partial:
        figure.savefig(partial, format=path.suffix.removeprefix("."), dpi=dpi)


def draw_curve(records, measure, path, title):
    """Draw the validation loss of a run, with error bars, and write it to `path`.

    records: the lines of the run's log, dicts with "step", "error" and `measure` (nats per token).
    measure: "NELBO" for a dLLM, "NLL" for a GPT.
    """
    plt = pyplot()
    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    steps, values, errors = ([record[key] for record in records] for key in ("step", measure, "error"))
    axes.errorbar(steps, values, errors, marker="o", ms=3, color=COLOR_OF[measure], label=f"validation {measure}")
    axes.set(xlabel="step", ylabel="nats per token", title=title)
    axes.grid(alpha=0.3)
    axes.legend()
    write_figure(figure, path, dpi=130)
    plt.close(figure)
