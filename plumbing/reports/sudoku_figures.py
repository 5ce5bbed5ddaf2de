"""The figure of chapter 14's page."""

import math

import torch

from plumbing import figures, grids, measures

WAYS = {"surest": "surest digit first", "corrected": "surest digit first, with take-back", "random": "random order",
        "once": "all blanks in one pass", "left": "left to right"}
COLORS = {"surest": figures.COLORS["dllm"], "corrected": figures.COLORS["real"], "random": figures.COLORS["other"],
          "once": "tab:gray", "left": figures.COLORS["gpt"]}


def draw_solved(results, plt):
    """Figure: the shares solved by number of hints; and the order of the worked example."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.6), layout="constrained")
    for line in results["lines"]:
        first = line["model"] == results["told"]
        if not first and not results["models"][line["model"]]["causal"]:
            continue
        xs, values = sorted(set(results["hints"])), []
        for x in xs:
            chosen = [solved for solved, hints in zip(line["solved"], results["hints"]) if hints == x]
            values.append(measures.mean_and_error(torch.tensor(chosen)))
        left.errorbar(xs, [100 * m for m, _ in values], [100 * e for _, e in values], marker="o", ms=4, capsize=2,
                      color=COLORS[line["way"]], label=f"{WAYS[line['way']]} ({line['model']})")
    left.set(xlabel="hints", ylabel="puzzles solved, %", ylim=(-3, 103))
    left.grid(alpha=0.3)
    left.legend(fontsize=8)
    shown, cells = results["example"], grids.read_cells(results["example"]["puzzle"])
    order = torch.tensor(shown["order"]).view(9, 9)
    right.imshow(order.float().masked_fill(order == 0, math.nan).numpy(), cmap="viridis", alpha=0.6)
    for i, (given, digit, turn) in enumerate(zip(cells, shown["cells"], shown["order"])):
        right.text(i % 9, i // 9, str(digit), ha="center", va="center", fontsize=13, weight="bold" if given else None)
        right.text(i % 9 + 0.45, i // 9 + 0.42, str(turn or ""), ha="right", va="bottom", fontsize=6)
    for edge in (-0.5, 2.5, 5.5, 8.5):
        right.axhline(edge, color="black")
        right.axvline(edge, color="black")
    right.set(xticks=[], yticks=[], title="Bold: hints. Small: the pass that wrote the digit.")
    return figure
