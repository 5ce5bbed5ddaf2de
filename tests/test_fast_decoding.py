"""Chapter 11: selection rules on known distributions, blocks, caches, and the appendix of rules."""

import functools
import itertools
import json
import math
from importlib import import_module
from types import SimpleNamespace

from experiments import decoding_rules as appendix
from experiments import fast_decoding as page
from helpers import made_up_text, make_model, refusal
from plumbing import checkpoint, text

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

transformer = import_module("03_transformer")
diffusion = import_module("04_diffusion")
generation = import_module("06_generate")
fast = import_module("11_fast_decoding")

V, T = 7, 24
ADAPTIVE = {"threshold": fast.threshold(0.3), "factor": fast.factor(1.5), "entropy": fast.entropy_bound(1.5),
            "apart": appendix.apart(3), "stable": appendix.Stable(0.05)}  # fmt: skip
PLANNED = {"scattered": diffusion.scattered, "by_confidence": diffusion.by_confidence, "random": appendix.at_random,
           "peak": appendix.by_peak, "margin": appendix.by_margin, "noisy": appendix.noisy,
           "isolated": appendix.isolated}  # fmt: skip
RULES = ADAPTIVE | PLANNED
READERS = {"all rows": fast.BlockModel, "cached": fast.CachedBlockModel, "prefix": appendix.PrefixBlockModel,
           "delayed": appendix.DelayedBlockModel}  # fmt: skip


def logits_of(confidence):
    """Return logits (B, T, V) that give token 0 this probability (B, T). The other tokens are equally likely."""
    c = torch.tensor(confidence)[..., None]
    return torch.cat((c, ((1 - c) / (V - 1)).expand(*c.shape[:2], V - 1)), -1).log()


def chosen(rule, confidence, masked=None, count=1, logits=None):
    """Return the choice of a rule as lists of 0 and 1."""
    c = torch.tensor(confidence)
    masked = torch.ones_like(c) > 0 if masked is None else torch.tensor(masked) > 0
    logits = logits_of(confidence) if logits is None else logits
    return rule(logits, c, masked, torch.full((len(c),), count)).int().tolist()


class Fixed:
    """A model whose logits depend only on the position. It counts its calls and its rows."""

    def __init__(self, logits):
        self.logits = logits
        self.config = SimpleNamespace(mask_id=logits.shape[-1])
        self.calls = self.rows = 0

    def __call__(self, tokens, t=None, positions=None, cache=None):
        self.t = t
        self.calls += 1
        self.rows += tokens.shape[1]
        positions = slice(None) if positions is None else positions
        return self.logits[positions].expand(len(tokens), -1, -1)

    def make_cache(self, batch, rows):
        return "a cache"


def canvas_of(B=3):
    """A canvas of texts, with a different number of given tokens in each text."""
    canvas = torch.full((B, T), V)
    canvas[:, 0], canvas[:, 10] = 1, 2
    canvas[1, 3:9], canvas[-1, 20:] = 3, 4
    return canvas


def run(model, canvas, steps=T, seed=0, temperature=1.0, **how):
    torch.manual_seed(seed)
    return list(fast.denoise_blocks(model, canvas, steps, temperature, **how))


def model_of(**shape):
    return make_model(V, T, std=0.4, n_layer=2, **shape)


# 1. Rules


def test_threshold_takes_all_confident_proposals_and_at_least_the_best():
    two = [[0.95, 0.5, 0.9, 0.2], [0.3, 0.4, 0.2, 0.1]]
    rule = fast.threshold(0.9)
    assert chosen(rule, two) == [[1, 0, 1, 0], [0, 1, 0, 0]]
    assert chosen(rule, two, [[0, 1, 1, 1], [1, 0, 1, 0]]) == [[0, 0, 1, 0], [1, 0, 0, 0]]
    assert chosen(rule, two, count=3) == [[1, 1, 1, 0], [1, 1, 1, 0]]  # the plan asks for more
    assert chosen(rule, two, count=-2) == [[1, 0, 1, 0], [0, 1, 0, 0]]  # it is ahead of the plan
    assert chosen(rule, two, [[0] * 4, [1] * 4]) == [[0] * 4, [0, 1, 0, 0]]  # a finished text writes nothing


def test_factor_stops_at_the_first_proposal_that_fails():
    # With f = 1, the bounds are 1/2, 2/3, 3/4, 4/5. The third confidence is below its bound, so the fourth fails, too.
    assert chosen(fast.factor(1), [[0.7, 0.95, 0.72, 0.71]]) == [[0, 1, 1, 0]]
    assert chosen(fast.factor(1), [[0.9, 0.95, 0.8, 0.82]]) == [[1, 1, 1, 1]]
    assert chosen(fast.factor(1), [[0.1, 0.2, 0.15, 0.1]]) == [[0, 1, 0, 0]]  # one is always taken
    assert chosen(fast.factor(1), [[0.9, 0.95, 0.8, 0.82]], [[1, 0, 0, 1]]) == [[1, 0, 0, 1]]


def test_entropy_bound_takes_the_most_certain_up_to_the_bound():
    confidence = [0.99, 0.9, 0.5, 0.8]
    probability = logits_of([confidence]).softmax(-1)
    entropy = torch.special.entr(probability).sum(-1)[0].sort().values  # of 0.99, 0.9, 0.8, 0.5
    first, second = entropy[0].item(), entropy[:2].sum().item()  # Σ H - max H of two and of three positions
    for gamma, expected in ((0, [1, 0, 0, 0]), (first + 1e-3, [1, 1, 0, 0]), (second + 1e-3, [1, 1, 0, 1])):
        assert chosen(fast.entropy_bound(gamma), [confidence]) == [expected]
    unlikely = [[0.001, 0.1, 0.5, 0.2]]  # the rule does not ask which token was drawn
    taken = chosen(fast.entropy_bound(first + 1e-3), unlikely, logits=logits_of([confidence]))
    assert taken == [[1, 1, 0, 0]]


def test_stable_needs_a_prediction_before_that_agrees():
    before, now = [[0.5, 0.951, 0.6]], [[0.95, 0.95, 0.6]]
    kl = sum(p * math.log(p / q) for p, q in ((0.95, 0.5), *[(0.05 / 6, 0.5 / 6)] * 6))
    for epsilon, expected in ((kl - 1e-4, [[0, 1, 0]]), (kl + 1e-4, [[1, 1, 0]])):
        rule = appendix.Stable(epsilon)
        assert chosen(rule, now) == [[1, 0, 0]]  # nothing to compare with: as planned
        rule.left = None
        chosen(rule, before, count=0)
        rule.left = torch.ones(1, 3) > 0  # as if that pass had written nothing
        assert chosen(rule, now) == expected


def test_margin_and_peak_depend_on_the_distribution_and_not_on_the_drawn_token():
    logits = torch.tensor([[[0.5, 0.45, 0.05], [0.4, 0.1, 0.5], [0.45, 0.275, 0.275]]]).log()
    drawn = [[0.05, 0.1, 0.45]]
    assert chosen(appendix.by_margin, drawn, logits=logits) == [[0, 0, 1]]
    assert chosen(appendix.by_peak, drawn, logits=logits, count=2) == [[1, 1, 0]]


def test_noise_on_confidence_fades_with_the_masks():
    """One confidence is e times the other. If all is masked, the larger one wins with probability e / (1 + e)."""
    torch.manual_seed(0)
    rows = [[0.2 * math.e, 0.2] + [1e-30] * 8] * 20000
    nothing = torch.zeros(1)
    share = torch.tensor(chosen(appendix.noisy, rows, logits=nothing))[:, 0].float().mean().item()
    assert abs(share - math.e / (1 + math.e)) < 0.02
    few = [[1, 1] + [0] * 8] * 20000  # a fifth as many masks, a fifth of the noise: odds of e⁵ to 1
    assert torch.tensor(chosen(appendix.noisy, rows, few, logits=nothing))[:, 0].float().mean() > 0.98


def test_isolated_proposals_are_far_apart_and_those_of_apart_even_further():
    torch.manual_seed(0)
    confidence = torch.rand(50, 200).sort(1).values * 0.999
    confidence = confidence[:, torch.arange(200) % 100 * 2 + torch.arange(200) // 100].tolist()  # the surest together
    gaps = {}
    for name in ("isolated", "by_confidence"):
        taken = torch.tensor(chosen(PLANNED[name], confidence, count=20))
        assert (taken.sum(1) == 20).all()
        gaps[name] = taken.nonzero()[:, 1].view(50, 20).diff(dim=1).amin()
    assert gaps["isolated"] > 3 and gaps["by_confidence"] == 1
    for distance in (1, 8):
        for row in torch.tensor(chosen(appendix.apart(distance), confidence)):
            places = row.nonzero()[:, 0].tolist()
            assert places and all(b - a > distance for a, b in itertools.pairwise(places))


def test_ancestral_writes_the_same_share_in_every_pass():
    N, steps = 20_000, 4
    states = run(Fixed(torch.zeros(N, V)), torch.full((1, N), V), steps, select=appendix.Ancestral(steps))
    for number, state in enumerate(states, 1):
        visible = (state.canvas != V).double().mean().item()
        assert abs(visible - number / steps) < 5 * (0.25 / N) ** 0.5
    assert len(states) == steps


# 2. Blocks


@pytest.mark.parametrize("rule, reader", [*((rule, "cached") for rule in RULES),
                                          *(("threshold", reader) for reader in READERS)])
def test_every_rule_fills_all_masks_and_nothing_else(rule, reader):
    model, canvas = model_of(), canvas_of()
    given = canvas != V
    before = canvas.clone()
    states = run(model, canvas, 9, select=RULES[rule], block=7, reader=READERS[reader], correction=2)
    assert torch.equal(canvas, before)
    for state in states:
        assert torch.equal(state.canvas[given], canvas[given]) and (state.confidence[given] == 1).all()
        assert not (state.committed & given).any()
        kept = ~state.committed & (state.canvas != V)
        assert torch.equal(state.canvas[kept], before[kept])
        before = state.canvas
    planned = sum(passes for *_, passes in fast.plan_blocks(~given, 7, 9)) + 2
    assert (before < V).all() and len(states) <= planned
    assert rule in ADAPTIVE or len(states) == planned


def test_each_block_is_finished_before_the_next_one_begins():
    canvas = canvas_of()
    blocks = fast.plan_blocks(canvas == V, 8, 9)
    assert [(start, end) for start, end, _ in blocks] == [(1, 9), (9, 17), (17, 24)]
    assert sum(passes for *_, passes in blocks) == 9
    states = run(model_of(), canvas, 9, block=8)
    ended = 0
    for start, end, _ in blocks:
        passes = [number for number, state in enumerate(states, 1) if state.committed[:, start:end].any()]
        assert min(passes) > ended
        ended = max(passes)


def test_blocks_are_planned_by_masks():
    masked = torch.zeros(2, 12, dtype=torch.bool)
    assert fast.plan_blocks(masked, 4, 9) == []
    masked[0, 2:6] = masked[1, 10] = True
    assert fast.plan_blocks(masked, 4, 99) == [(2, 6, 4), (10, 12, 1)]  # from 6 to 10 there is nothing to write
    assert fast.plan_blocks(masked, 0, 99) == [(0, 12, 4)]
    assert fast.plan_blocks(masked, 4, 1) == [(2, 6, 1), (10, 12, 1)]  # each at least one


@pytest.mark.parametrize("steps", [3, 100])
def test_one_block_of_the_whole_canvas_is_chapter_04(steps):
    model, canvas = model_of(time_conditioned=True), canvas_of()
    masks = int((canvas == V).sum(1).max())
    corrections = min(steps, masks - 1)
    torch.manual_seed(3)
    plain = list(diffusion.denoise(model, canvas, min(steps, masks) + corrections, 0.8, correction=0.5))
    ours = run(model, canvas, steps, 3, 0.8, correction=steps)
    assert len(plain) == len(ours)
    assert all(torch.equal(a.canvas, b.canvas) for a, b in zip(plain, ours))


def test_the_model_learns_the_noise_level_of_the_canvas_and_not_of_the_block():
    model, canvas = Fixed(torch.zeros(T, V)), torch.full((1, T), V)
    for reader in READERS.values():
        list(fast.denoise_blocks(model, canvas, 2, block=12, reader=reader))
        assert model.t.tolist() == [12 / T]  # in the pass over the last block, of which all is masked


# 3. Caches


def test_passes_and_rows_are_what_the_model_computes():
    # Each block has 4 passes, and its first pass computes all 24 rows. A delayed pass computes masks and 2 new tokens.
    rows = {"all rows": 12 * 24, "cached": 3 * 24 + 3 * (8 + 8 + 8), "prefix": 3 * 24 + 3 * (24 + 16 + 8),
            "delayed": 24 + sum(range(24, 2, -2))}  # fmt: skip
    for name, reader in READERS.items():
        model = Fixed(torch.randn(T, V))
        block = 0 if name == "delayed" else 8
        states = run(model, torch.full((1, T), V), 12, select=diffusion.by_confidence, block=block, reader=reader)
        assert model.calls == len(states) == 12 and model.rows == rows[name], name


def test_a_block_that_one_pass_finished_costs_one_pass():
    sure = torch.zeros(T, V)
    sure[:, 2] = 50
    for reader in READERS.values():
        model = Fixed(sure)
        assert len(run(model, torch.full((2, T), V), select=fast.threshold(0.9), block=8, reader=reader)) == 3
        assert model.calls == 3


@pytest.mark.parametrize("shape", [{}, {"conv": 5}, {"conv": 3, "conv_in": "every"}, {"positions": "learned"}], ids=str)
@pytest.mark.parametrize("name", ["cached", "prefix", "delayed"])
def test_a_cache_renewed_in_every_pass_is_no_cache(name, shape):
    class Renewed(READERS[name]):
        def __call__(self, block, t):
            self.cache = None
            return super().__call__(block, t)

    model, canvas = model_of(**shape), canvas_of()
    how = dict(select=diffusion.by_confidence, block=6)
    plain, renewed, kept = (run(model, canvas, reader=r, **how) for r in (fast.BlockModel, Renewed, READERS[name]))
    for a, b in zip(plain, renewed, strict=True):
        assert torch.equal(a.canvas, b.canvas) and torch.allclose(a.confidence, b.confidence, atol=1e-5)
    # A cache that is kept is only an approximation, so the confidences differ.
    assert not all(torch.allclose(a.confidence, b.confidence, atol=1e-5) for a, b in zip(plain, kept))
    refreshed = run(model, canvas, reader=functools.partial(appendix.DelayedBlockModel, refresh=1), **how)
    assert torch.equal(refreshed[-1].canvas, plain[-1].canvas)


@pytest.mark.parametrize("layers, conv, exact", [(1, 0, True), (2, 0, False), (1, 5, False)])
def test_the_cache_is_wrong_from_the_second_layer_on_and_with_a_convolution_from_the_first(layers, conv, exact):
    model = make_model(V, T, std=0.4, n_layer=layers, conv=conv)
    reader = fast.CachedBlockModel(model)
    canvas = canvas_of()
    reader.enter(canvas, 4, 10)
    reader(canvas[:, 4:10], torch.zeros(3))
    canvas[:, 4:10] = 5  # every token of the block is new
    error = (reader(canvas[:, 4:10], torch.zeros(3)) - model(canvas, torch.zeros(3))[:, 4:10]).abs().max()
    assert (error < 1e-5) == exact


def test_a_finished_text_does_not_disturb_the_others():
    model, canvas = model_of(), canvas_of()
    canvas[0] = torch.where(canvas[0] == V, 0, canvas[0])
    for reader in READERS.values():
        how = dict(select=fast.threshold(0.5), temperature=0.0, block=6, reader=reader)
        states = run(model, canvas, **how)
        assert torch.equal(states[-1].canvas[0], canvas[0]) and not any(s.committed[0].any() for s in states)
        alone = run(model, canvas[1:], **how)
        assert torch.equal(alone[-1].canvas, states[-1].canvas[1:])
    assert run(model, canvas[:1]) == []  # nothing to write


# 4. The command


@pytest.fixture
def write(tmp_path, capsys):
    """A function that writes 20 characters with the given flags, and returns the characters."""
    model = make_model(V, T, std=0.8, n_layer=4)
    checkpoint.save(tmp_path, model, text.Characters("\n abcde"), {"kind": "dllm"})

    def write(flags="", chapter=fast):
        mode = ["write"] if chapter is fast else []
        words = ["--checkpoint", str(tmp_path), "--device", "cpu", "--seed", "1", "--len", "20", "--quiet"]
        chapter.main([*mode, *words, *flags.split()])
        return capsys.readouterr().out

    return write


def test_every_flag_changes_the_text(write):
    seen = {write()}
    flags = ("--steps 9", "--confidence --steps 9", "--threshold 0.3", "--factor 1.5", "--entropy 1", "--block 5",
             "--block 5 --cached", "--correction 3", "--entropy 1 --block 5 --cached --correction 3", "--temp 0")
    for number, words in enumerate(flags, 2):
        written = write(words)
        assert text.MASK not in written
        seen.add(written)
        assert len(seen) == number, words
    assert write("--prompt abc").startswith("abc")


def test_chapter_06_writes_the_same_with_the_same_settings(write):
    assert write("--fast", generation) == write("--steps 16 --correction 16 --temp 0.85")
    assert write("--temp 3 --steps 12", generation) == write("--temp 3 --steps 6 --correction 6")


def save_models(folder, corpus):
    """Save an untrained dLLM and GPT whose text is in the file `corpus`."""
    loaded = text.load(str(corpus))
    tokenizer = text.Characters.of(loaded.text)
    for kind in ("dllm", "gpt"):
        model = make_model(tokenizer.vocab_size, 16, causal=kind == "gpt")
        checkpoint.save(folder / kind, model, tokenizer, {"kind": kind, "corpus_sha256": loaded.sha256})


def test_the_demonstration_compares_all_ways(tmp_path, capsys):
    (tmp_path / "words.txt").write_text(made_up_text())
    save_models(tmp_path, tmp_path / "words.txt")
    flags = ["--checkpoint", str(tmp_path / "dllm"), "--texts", "2", "--device", "cpu"]
    fast.main([*flags, "--corpus", str(tmp_path / "words.txt")])
    out = capsys.readouterr().out
    assert all(way in out for way in fast.WAYS) and "docs/fast_decoding.md" in out
    assert "--corpus" in refusal(fast.main, flags)


# 5. The page

REAL = dict(words=0.9, judge=1.5, distinct=0.5, divergence=0.2, words_error=0.01, judge_error=0.01,
            distinct_error=0.01, divergence_error=0.01)


def row(name="x", kind="rule", **values):
    return dict(kind=kind, name=name, rate=100.0) | REAL | values


def test_the_fastest_way_is_as_near_to_real_text():
    base = row("default", "default", rate=10.0)
    rows = [base, row("worse", rate=900.0, words=0.8), row("repeats", rate=800.0, judge=1.0, distinct=0.3),
            row("better than real text", rate=700.0, words=0.99), row("within the error", rate=300.0, words=0.88),
            row("slower", rate=200.0), row("GPT", "GPT", rate=1000.0)]  # fmt: skip
    part = {"table": rows, "real": REAL}
    assert page.fastest(part, base)["name"] == "within the error"
    assert page.fastest(part, row(rate=10.0, words=0.8))["name"] == "worse"  # as far from real text
    assert page.fastest({"table": rows[1:3], "real": REAL}, base) is None


def test_passes_of_a_text_do_not_include_waiting():
    """A text with a single masked token needs one pass, even if another text of the same batch needs many passes."""
    model, prompts = Fixed(torch.randn(T, V)), torch.tensor([[1] * 4 + [V] * 3, [1] * 6 + [V]])
    model.config.seq_len, model.config.vocab_size, model.config.causal = T, V, False
    sampler = functools.partial(fast.denoise_blocks, select=fast.threshold(1.0))
    tokens, passes = page.Way("rule", "", model, 99, 0.8, sampler).write(prompts, 7, seed=0)
    assert (tokens < V).all() and passes == (3 + 1) / 2 and model.calls == 3


def test_two_tiny_models_are_measured(tmp_path, monkeypatch):
    (tmp_path / "words.txt").write_text(made_up_text())
    save_models(tmp_path, tmp_path / "words.txt")
    monkeypatch.setattr(page, "LENGTHS", (12, 24))
    monkeypatch.setitem(page.SIZES, "quick", (3, 2))
    monkeypatch.setattr(page, "REPEATS", 1)
    page.main(["--corpus", str(tmp_path / "words.txt"), "--dllm", str(tmp_path / "dllm"), "--gpt",
               str(tmp_path / "gpt"), "--size", "quick", "--device", "cpu", "--out", str(tmp_path / "docs")])
    assert (tmp_path / "docs" / "fast_decoding.md").stat().st_size > 5000
    assert (tmp_path / "docs" / "figures" / "fast_decoding_quality.png").is_file()
    values = json.loads((tmp_path / "docs" / "fast_decoding.json").read_text(encoding="utf-8"))
    committed = json.loads((page.pages.DOCS / "fast_decoding.json").read_text(encoding="utf-8"))
    for part, length, old in zip(values["parts"], (12, 24), committed["parts"]):
        names = [(row["name"], row["temperature"]) for row in part["table"]]
        assert names == [(row["name"], row["temperature"]) for row in old["table"]]  # each row of the page has its code
        found = dict(zip(names, part["table"]))
        assert found["GPT with KV cache", 0.9]["nfe"] == length - 1
        for row in part["table"]:
            assert row["same_without"] is None or (row["same_without"], row["temperature"]) in found


# Where a pass spends its time


@pytest.mark.parametrize("rows", [1, 12])
def test_the_products_of_a_pass_do_its_work(rows):
    model = make_model(11, n_layer=2, n_embd=32, conv=3)
    weights = sum(p.numel() for name, p in model.named_parameters() if "emb" not in name and "conv" not in name)
    with FlopCounterMode(display=False) as counter:
        fast.products(model, rows)()
    assert counter.get_total_flops() == 2 * rows * weights


def test_the_time_of_a_way_is_the_median_of_its_later_turns(monkeypatch):
    clock = itertools.accumulate([0, 90, 0, 10, 0, 20, 0, 300])  # a slow first turn, and a disturbed one
    monkeypatch.setattr(fast.devices, "now", lambda device: next(clock))
    calls = []
    assert fast.milliseconds({"way": lambda: calls.append(1)}, torch.device("cpu"), turns=3) == {"way": 4000}
    assert len(calls) == 4 * 5


def test_the_table_of_times(capsys):
    fast.main(["time", "--device", "cpu"])
    out = capsys.readouterr().out
    assert out.count("100% of the limit") == 2 and "one row, with chapter 07's LeanRows" in out
    times = [float(line.split(" ms")[0].split()[-1]) for line in out.splitlines() if " ms" in line]
    assert len(times) == 6 and all(time > 0 for time in times)
