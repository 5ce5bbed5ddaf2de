"""The page of chapter 13, docs/block_diffusion.md, made of the numbers alone.

    python -m plumbing.reports.block_diffusion              # write the page again from docs/block_diffusion.json
    python -m plumbing.reports.block_diffusion --measure    # measure the shipped models first: 20 minutes on two cores
"""

import json
import math
from dataclasses import dataclass
from importlib import import_module

import torch

from plumbing import checkpoint, cli, figures, files, runs, settings
from plumbing.reports import pages

MEASURES = {"words": "known words", "judge": "judge's NLL", "distinct": "distinct runs of 4"}


# 1. Figures


def draw_visible(results, plt):
    """Figure: who sees whom, for 12 tokens whose noisy stream has blocks of 1, 2, 4, 3 and 1 tokens."""
    hybrid = import_module("13_block_diffusion")
    starts = torch.tensor([1, 2, 2, 4, 4, 4, 4, 8, 8, 8, 11])
    visible = hybrid.two_streams(starts).visible  # (2T, 2T)
    T = len(starts)
    noisy = torch.arange(2 * T) >= T
    color = (visible * (1 + noisy[None, :].long())).numpy()  # 1: a clean row, 2: a noisy row
    figure, axis = plt.subplots(figsize=(6.4, 6), layout="constrained")
    axis.imshow(color, cmap=plt.matplotlib.colors.ListedColormap(
        ["#ffffff", figures.COLORS["gpt"], figures.COLORS["dllm"]]))
    ticks, names = range(2 * T), [*range(T), *range(1, T + 1)]
    axis.set_xticks(ticks, names, fontsize=7)
    axis.set_yticks(ticks, names, fontsize=7)
    axis.set_xticks([i - 0.5 for i in ticks], minor=True)
    axis.set_yticks([i - 0.5 for i in ticks], minor=True)
    axis.grid(which="minor", color="#dddddd", lw=0.5)
    axis.tick_params(which="both", length=0)
    for line in (axis.axvline, axis.axhline):
        line(T - 0.5, color="black", lw=1.2)
    axis.set(xlabel="is seen: positions of the clean rows, then of the noisy rows",
             ylabel="sees: positions of the clean rows, then of the noisy rows",
             title="yellow: clean rows, blue: noisy rows of the same block")
    return figure


def draw_curve(results, plt):
    """Figure: the NELBO against the size of a block, between the losses of a GPT and of a dLLM."""
    figure, axis = plt.subplots(figsize=(7, 4.4), layout="constrained")
    sizes, nelbo, errors = ([point[key] for point in results["curve"]] for key in ("size", "nelbo", "error"))
    color = figures.COLORS["other"]
    axis.errorbar(sizes, nelbo, errors, marker="o", ms=4, color=color, label="one model, in blocks: NELBO")
    axis.axhline(results["nll"][0], color=color, label="the same model, next token: NLL, exact")
    for name, label in (("gpt", "shipped GPT: NLL, exact"), ("dllm", "shipped dLLM: NELBO")):
        if name in results["shipped"]:
            axis.axhline(results["shipped"][name]["loss"], ls="--", color=figures.COLORS[name], label=label)
    axis.set(xscale="log", xlabel="size of a block, tokens", ylabel="nats per character")
    axis.set_xticks(sizes, sizes)
    axis.minorticks_off()
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8)
    return figure


def after_training(folder, text):
    """Evaluate the hybrid in `folder` on a sample of the validation text: print its curve, and draw both figures.

    Nothing happens if Ctrl-C ended the run early: the same command resumes it.
    """
    progress = runs.load_state(folder)["progress"]
    if progress["step"] < progress["steps"]:
        return
    hybrid = import_module("13_block_diffusion")
    measures = import_module("plumbing.reports.block_measures")
    model, tokenizer, _ = checkpoint.load(folder, build=hybrid.Hybrid)
    ids = torch.tensor(tokenizer.encode(text))
    windows = hybrid.training.windows_of(ids, model.config.seq_len + 1, 48)
    results = {"nll": hybrid.nll(model, windows), "curve": measures.curve(model, windows), "shipped": {}}
    print(f"\nNats per character on {len(windows)} windows:\n  next token, exact {results['nll'][0]:11.3f} "
          f"± {results['nll'][1]:.3f}")
    for point in results["curve"]:
        print(f"  blocks of {point['size']:4}, at most {point['nelbo']:6.3f} ± {point['error']:.3f}")
    for name, draw in (("curve", draw_curve), ("visible", draw_visible)):
        figures.save_figure(draw(results, figures.pyplot()), folder / f"block_{name}.png")
    _, passes, _ = measures.drafted(model, int(ids[0]), 256, 1, hybrid.DRAFTS)
    print(f"draft and verify writes {255 / passes:.2f} characters per pass")


# 2. The page


def page(results):
    """The page as Markdown."""
    r = results
    sections = [introduction(r), curve_part(r), *(drafts_part(part, r) for part in r["lengths"]), quality_part(r),
                blocks_part(r), rerun(r)]
    return pages.wrap("\n\n".join(part.strip() for part in sections)) + "\n"


def introduction(r):
    return f"""
# One model between GPT and dLLM, measured

The file 13_block_diffusion.py trains one network that is a GPT, a dLLM, and everything between. This page reports what
the shipped one of {r["parameters"] / 1e6:.1f} million parameters reaches. It has read {r["info"]["tokens"] / 1e6:.2f}
million characters of Shakespeare; the shipped GPT of {r["shipped"]["gpt"]["parameters"] / 1e6:.1f} million parameters
has read {r["shipped"]["gpt"]["tokens"] / 1e6:.2f} million.

The attention mask is all that separates the two streams of the network. Clean rows are a GPT. Noisy rows see the rows
of their own block, and the clean rows before it.

![Which row sees which](figures/block_diffusion_visible.png)
"""


def curve_part(r):
    rows = [("the same model, next token (exact)", *loss(*r["nll"])),
            *((f"blocks of {p['size']}", *loss(p["nelbo"], p["error"])) for p in r["curve"]),
            ("shipped GPT (exact)", *loss(r["shipped"]["gpt"]["loss"], r["shipped"]["gpt"]["error"])),
            ("shipped dLLM", *loss(r["shipped"]["dllm"]["loss"], r["shipped"]["dllm"]["error"]))]
    by_size, above = {p["size"]: p for p in r["curve"]}, r["nll"][0] - r["shipped"]["gpt"]["loss"]
    four, whole = by_size[4], r["curve"][-1]
    return f"""
## The curve from GPT to dLLM

The text is written in blocks from left to right, each block in any order. The table has the negative evidence lower
bound (NELBO), an upper bound on the negative log-likelihood (NLL), on {r["windows"]} windows of held-out text whose
first character is given. The error of the shipped dLLM describes the choice of masks alone; the others describe the
choice of windows. Two numbers of the same windows share most of that error.

{pages.table(["", "nats per character", "±"], rows)}

![The NELBO against the size of a block](figures/block_diffusion_curve.png)

The NLL of the clean stream is {abs(above):.3f} {"above" if above > 0 else "below"} that of the shipped GPT, which
learned from the predictions of two other GPTs. The hybrid learned from the text alone; [results.md](results.md) has a
GPT that did so, too.
The NELBO in blocks of 4 is {whole["nelbo"] - four["nelbo"]:.3f} below that of the whole window. In blocks of one token
the noisy stream sees the same text as the clean one, so that number, too, is an exact NLL. It is higher, because the
noisy stream has learned many other tasks besides.
"""


def loss(mean, error):
    return f"{mean:.3f}", f"{error:.3f}"


def drafts_part(part, r):
    rows = [(x["drafts"], x["rows"], f"{x['per_pass']:.2f}", f"{x['rate']:.0f}", f"{x['gpt_rate']:.0f}",
             f"{x['ratio']:.2f} ×", " ".join(f"{share:.0%}" for share in x["accepted"])) for x in part["speed"]]
    return f"""
## Draft and verify, {part["length"]} characters

A pass verifies the drafts of the pass before it, and proposes new ones behind every number of drafts that may be
accepted. The text has exactly the distribution of the GPT, here at temperature {r["temperature"]:g}. The GPT of the
comparison is the clean stream of the same model with chapter 07's key-value buffer. The two take turns on
{part["timed"]} texts. The last column is the share of accepted drafts at each place, among those that were verified.

{pages.table(["drafts", "rows per pass", "characters per pass", "characters/s", "GPT, characters/s", "faster",
              "accepted"], rows)}
"""


def quality_part(r):
    rows, worst = [], 0.0
    for part in r["lengths"]:
        quality = part["quality"]
        for name, title in (("real", "real text"), ("gpt", "GPT"), ("drafted", "draft and verify")):
            rows.append((f"{title}, {part['length']} characters", *shown(quality[name])))
        worst = max([worst] + [abs(quality["gpt"][m] - quality["drafted"][m]) / math.hypot(
            quality["gpt"][f"{m}_error"], quality["drafted"][f"{m}_error"]) for m in MEASURES])
    fastest = {max(part["speed"], key=lambda x: x["ratio"])["drafts"] for part in r["lengths"]}
    fastest = " or ".join(str(drafts) for drafts in sorted(fastest))
    texts = " and ".join(f"{part['texts']} texts of {part['length']}" for part in r["lengths"])
    return f"""
## The text is that of the GPT

Both write {texts} characters that continue the first character of real text. Since they have the same distribution,
their values differ by chance only. The largest difference is {worst:.1f} standard errors.

{pages.table(["", *MEASURES.values()], rows)}

The first text by draft and verify, unedited:

{pages.quote(r["lengths"][0]["sample"])}

What limits the speed: more drafts mean more characters per pass, but a pass over more rows takes longer, and each draft
costs a few small operations of its own, one after another. By the ratio to the GPT, {fastest} drafts are the
fastest in the tables above. The masks behind each possible number of accepted drafts are most of the rows.
"""


def shown(x):
    return (f"{x['words']:.1%} ± {x['words_error']:.1%}", f"{x['judge']:.3f} ± {x['judge_error']:.3f}",
            f"{x['distinct']:.1%} ± {x['distinct_error']:.1%}")


def blocks_part(r):
    rows = [(x["block"], x["steps"], x["nfe"], *shown(x)) for x in r["blocks"]]
    return f"""
## Writing in blocks

The same model writes each block by unmasking, with the sampler of chapter 04. The rows of finished blocks are kept, and
this is exact.

{pages.table(["size of a block", "passes per block", "passes in all", *MEASURES.values()], rows)}
"""


def rerun(r):
    origin = r["origin"]
    return f"""
## How to repeat this

    {origin['command']}

Seed {r['seed']}, commit `{origin['commit']}`, {origin['machine']}, PyTorch {origin['torch']}, {origin['date'][:10]}.
All numbers are in [block_diffusion.json](block_diffusion.json). The model was trained with
`{r['info']['command']}`, and its log is [logs/shakespeare-hybrid.jsonl](logs/shakespeare-hybrid.jsonl).
"""


@dataclass(frozen=True)
class Command:
    """The flags of this program."""

    measure: settings.Switch = False  # measure the shipped models first
    size: str = "full"  # how much to measure: quick or full
    out: settings.OptionalPath = None  # folder of the page; by default docs


def main(argv=None):
    command = settings.parse(Command, argv)
    folder = command.out or files.ROOT / "docs"
    path = folder / "block_diffusion.json"
    if command.measure:
        measures = import_module("plumbing.reports.block_measures")
        results = measures.measure(checkpoint.SHIPPED_HYBRID, command.size)
    elif path.is_file():
        results = json.loads(path.read_text(encoding="utf-8"))
    else:
        raise cli.UserError(f"there is no {path}: --measure measures first")
    pages.publish(results, folder, "block_diffusion", page(results), {"curve": draw_curve, "visible": draw_visible})


if __name__ == "__main__":
    cli.run(main)
