"""A figure of Tamil texts: how often each letter occurs, and how long the lines are."""

from collections import Counter

from plumbing import figures, views
from plumbing.tamil import letters


def draw(texts, path, show):
    """Draw {name: text} into the file `path`: the 40 most frequent letters above, the lengths of the lines below.

    Empty texts are left out. show: whether to open the figure in a window too.
    """
    plt = figures.pyplot(show)
    use_tamil_font()
    texts = {name: text for name, text in texts.items() if text}
    counts = {name: Counter(x for x in letters.split(text) if x not in " \n…") for name, text in texts.items()}
    frequent = [letter for letter, _ in sum(counts.values(), Counter()).most_common(40)]
    figure, (top, bottom) = plt.subplots(2, 1, figsize=(11, 6.5), layout="constrained")
    for i, (name, count) in enumerate(counts.items()):
        shares = [100 * count[letter] / count.total() for letter in frequent]
        top.bar([x + 0.4 * i for x in range(len(frequent))], shares, 0.4, align="edge", label=name)
        lengths = [sum(x != " " for x in letters.split(line)) for line in texts[name].split("\n")]
        bottom.hist(lengths, range(45), density=True, alpha=0.6, label=name)
    top.set_xticks([x + 0.4 for x in range(len(frequent))], frequent)
    top.set(ylabel="% of all letters", title="The most frequent letters (எழுத்து)")
    bottom.set(xlabel="letters per line", ylabel="share of all lines")
    top.legend()
    figures.save_figure(figure, path, show)


def use_tamil_font():
    """Make matplotlib draw Tamil with Noto Sans Tamil. Call this before making a figure."""
    path = views.tamil_font_file()
    import matplotlib
    from matplotlib import font_manager

    font_manager.fontManager.addfont(path)
    matplotlib.rcParams["font.family"] = ["DejaVu Sans", "Noto Sans Tamil"]
