"""Figures: the colours differ in lightness, a curve is drawn from a log, and no half-written file remains."""

import itertools

import pytest

from plumbing import figures

RECORDS = [{"step": step, "NELBO": 3 - step / 10, "NLL": 2 - step / 10, "error": 0.1} for step in range(4)]


def lightness(color):
    """CIE lightness L*, from 0 (black) to 100 (white), of a colour "#rrggbb"."""
    channels = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    y = sum(weight * c for weight, c in zip((0.2126, 0.7152, 0.0722), linear))
    return 116 * y ** (1 / 3) - 16 if y > 0.008856 else 903.3 * y


def test_colours_can_be_told_apart_without_colour():
    assert set(figures.COLORS) == {"dllm", "gpt", "real", "other"}
    for one, two in itertools.combinations(figures.COLORS.values(), 2):
        assert abs(lightness(one) - lightness(two)) > 15
    assert max(map(lightness, figures.COLORS.values())) < 80  # visible on white paper


@pytest.mark.parametrize("measure, model", [("NELBO", "dllm"), ("NLL", "gpt")])
def test_a_curve_shows_every_record_in_the_colour_of_its_model(measure, model, tmp_path, monkeypatch):
    plt, kept = figures.pyplot(), []
    monkeypatch.setattr(plt, "close", kept.append)
    figures.draw_curve(RECORDS, measure, tmp_path / "run" / "curve.png", "run")
    line = kept[0].axes[0].containers[0].lines[0]
    assert line.get_xydata().tolist() == [[r["step"], r[measure]] for r in RECORDS]
    assert line.get_color() == figures.COLORS[model]
    assert kept[0].axes[0].get_legend_handles_labels()[1] == [f"validation {measure}"]
    assert (tmp_path / "run" / "curve.png").read_bytes().startswith(b"\x89PNG")
    monkeypatch.undo()
    plt.close(kept[0])


def test_a_figure_is_saved_and_closed(tmp_path, capsys):
    plt = figures.pyplot()
    figures.save_figure(plt.figure(), tmp_path / "new" / "figure.png")
    assert not plt.get_fignums()
    assert f"Figure: {tmp_path}/new/figure.png" in capsys.readouterr().out


def test_the_name_of_a_figure_in_the_book_is_short(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(figures.files, "ROOT", tmp_path)
    figures.save_figure(figures.pyplot().figure(), tmp_path / "checkpoints" / "mine" / "figure.png")
    assert "Figure: checkpoints/mine/figure.png\n" in capsys.readouterr().out


def test_a_figure_that_cannot_be_drawn_leaves_no_file(tmp_path):
    class Broken:
        def savefig(self, path, **_):
            path.write_bytes(b"half")
            raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        figures.save_figure(Broken(), tmp_path / "figure.png")
    assert not list(tmp_path.iterdir())
