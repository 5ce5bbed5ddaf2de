"""Chapter 11: rules on distributions made by hand, caches against no cache, and the properties of every sampler."""

import functools
import hashlib
import itertools
import json
import math
import random
import re
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import get_args

import pytest
import torch
from helpers import refusal

from plumbing import checkpoint, cli, tokenizers
from plumbing.reports import decoding_ways
from plumbing.reports import fast_decoding as report

transformer = import_module("03_transformer")
diffusion = import_module("04_diffusion")
generation = import_module("06_generate")
fast = import_module("11_fast_decoding")

ROOT = Path(__file__).resolve().parents[2]
V, T = 7, 24
CACHES = get_args(fast.Decoding.__annotations__["cache"])
RULES = {"threshold": 0.3, "factor": 1.5, "entropy": 1.5, "stable": 0.05, "apart": 3}
METHODS = [*({"order": name} for name in fast.ORDERS), *({name: number} for name, number in RULES.items())]


def proposals(confidence, masked=None, quota=1, logits=None, **more):
    """Proposals for texts (B, b): the likeliest tokens, and the rest of the probability shared evenly."""
    c = torch.tensor(confidence)
    rest = ((1 - c) / (V - 1))[..., None].expand(*c.shape, V - 1)
    logits = torch.cat((c[..., None], rest), -1).log() if logits is None else logits
    masked = torch.ones_like(c, dtype=torch.bool) if masked is None else torch.tensor(masked).bool()
    values = dict(logits=logits, before=None, confidence=c, masked=masked, quota=torch.full((len(c),), quota),
                  alphas=(0.0, 1.0), generator=torch.Generator().manual_seed(0))
    return fast.Proposals(**values | more)


def chosen(how, *arguments, **more):
    return fast.Decoding(**how).choose(proposals(*arguments, **more)).int().tolist()


def make_model(seed=0, **changes):
    """An untrained model whose predictions differ between positions."""
    torch.manual_seed(seed)
    config = transformer.TransformerConfig(V, T, **dict(n_layer=2, n_head=2, n_embd=16) | changes)
    model = transformer.Transformer(config).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    return model


class Fixed:
    """A model whose logits depend on the position alone. It counts its calls and rows."""

    def __init__(self, logits):
        self.logits, self.config = logits, SimpleNamespace(mask_id=logits.shape[-1], vocab_size=logits.shape[-1])
        self.calls, self.rows = 0, 0

    def __call__(self, tokens, t=None, positions=None, cache=None):
        self.calls, self.rows = self.calls + 1, self.rows + tokens.shape[1]
        return self.logits[positions].expand(len(tokens), -1, -1)

    def make_cache(self, batch, rows):
        return "a cache"


def canvas_of(B=3):
    """Texts with some given tokens, not equally many in each."""
    canvas = torch.full((B, T), V)
    canvas[:, 0], canvas[:, 10] = 1, 2
    canvas[1, 3:9], canvas[-1, 20:] = 3, 4
    return canvas


def run(model, canvas, steps=None, seed=0, temperature=1.0, **how):
    generator = torch.Generator().manual_seed(seed)
    return list(fast.decode(model, canvas, steps, temperature, generator=generator, how=fast.Decoding(**how)))


# Rules


def test_threshold_takes_all_confident_proposals_and_at_least_the_best():
    two = [[0.95, 0.5, 0.9, 0.2], [0.3, 0.4, 0.2, 0.1]]
    how = {"threshold": 0.9}
    assert chosen(how, two) == [[1, 0, 1, 0], [0, 1, 0, 0]]
    assert chosen(how, two, [[0, 1, 1, 1], [1, 0, 1, 0]]) == [[0, 0, 1, 0], [1, 0, 0, 0]]
    assert chosen(how, two, quota=3) == [[1, 1, 1, 0], [1, 1, 1, 0]]  # a budget asks for more


def test_factor_stops_at_the_first_proposal_that_fails():
    # With f = 1 the bounds are 1/2, 2/3, 3/4, 4/5: the third is below its own, so the fourth cannot be reached.
    assert chosen({"factor": 1}, [[0.7, 0.95, 0.72, 0.71]]) == [[0, 1, 1, 0]]
    assert chosen({"factor": 1}, [[0.9, 0.95, 0.8, 0.82]]) == [[1, 1, 1, 1]]
    assert chosen({"factor": 1}, [[0.1, 0.2, 0.15, 0.1]]) == [[0, 1, 0, 0]]  # one is always taken
    assert chosen({"factor": 1}, [[0.9, 0.95, 0.8, 0.82]], [[1, 0, 0, 1]]) == [[1, 0, 0, 1]]


def test_entropy_bound_takes_the_most_certain_up_to_the_bound():
    confidence = [0.99, 0.9, 0.5, 0.8]
    probability = proposals([confidence]).probability
    entropy = torch.special.entr(probability).sum(-1)[0].sort().values  # of 0.99, 0.9, 0.8, 0.5
    first, second = entropy[0].item(), entropy[:2].sum().item()  # Σ H - max H of two and of three positions
    for gamma, expected in ((0, [1, 0, 0, 0]), (first + 1e-3, [1, 1, 0, 0]), (second + 1e-3, [1, 1, 0, 1])):
        assert chosen({"entropy": gamma}, [confidence]) == [expected]


def test_stable_needs_a_previous_prediction_that_agrees():
    now = [[0.95, 0.95, 0.6]]
    assert chosen({"stable": 0.01}, now) == [[1, 0, 0]]  # nothing to compare with: the quota
    before = proposals([[0.5, 0.951, 0.6]]).logits
    assert chosen({"stable": 0.01}, now, before=before) == [[0, 1, 0]]
    kl = sum(p * math.log(p / q) for p, q in ((0.95, 0.5), *[(0.05 / 6, 0.5 / 6)] * 6))
    assert chosen({"stable": kl + 1e-4}, now, before=before) == [[1, 1, 0]]
    assert chosen({"stable": kl - 1e-4}, now, before=before) == [[0, 1, 0]]


def test_margin_and_peak_depend_on_the_distribution_and_not_on_the_drawn_token():
    logits = torch.tensor([[[0.5, 0.45, 0.05], [0.4, 0.1, 0.5], [0.45, 0.275, 0.275]]]).log()
    drawn = [[0.05, 0.1, 0.45]]
    assert chosen({"order": "margin"}, drawn, logits=logits) == [[0, 0, 1]]
    assert chosen({"order": "peak"}, drawn, logits=logits, quota=2) == [[1, 1, 0]]


def test_a_rule_may_use_another_score():
    logits = torch.tensor([[[0.5, 0.45, 0.05], [0.6, 0.2, 0.2], [0.45, 0.275, 0.275]]]).log()  # margins .05, .4, .175
    for score, tau, expected in (("scattered", 0.44, [1, 0, 1]), ("confidence", 0.44, [1, 0, 1]),
                                 ("peak", 0.49, [1, 1, 0]), ("margin", 0.1, [0, 1, 1])):
        assert chosen({"threshold": tau, "order": score}, [[0.5, 0.2, 0.45]], logits=logits) == [expected]


def test_orders_of_chapter_04_are_its_selection_rules():
    torch.manual_seed(0)
    confidence, masked = torch.rand(9, 40), torch.rand(9, 40) < 0.7
    for order, select in (("scattered", diffusion.scattered), ("confidence", diffusion.by_confidence)):
        generator = torch.Generator().manual_seed(0)
        expected = select(confidence, masked, torch.full((9,), 5), generator).int().tolist()
        assert chosen({"order": order}, confidence.tolist(), masked.tolist(), quota=5) == expected


def test_random_order_takes_every_masked_place_alike():
    seen = proposals([[0.5] * 4] * 6000, [[0, 1, 1, 1]] * 6000)
    share = fast.Decoding(order="random").choose(seen).float().mean(0)
    assert share[0] == 0 and (share[1:] - 1 / 3).abs().max() < 0.03


def test_isolated_proposals_are_confident_and_far_apart():
    confidence = torch.rand(50, 200, generator=torch.Generator().manual_seed(0)).sort(1).values * 0.999
    confidence = confidence[:, torch.arange(200) % 100 * 2 + torch.arange(200) // 100]  # the surest stand together
    gaps = {}
    for order in ("isolated", "confidence"):
        taken = torch.tensor(chosen({"order": order}, confidence.tolist(), quota=20))
        assert (taken.sum(1) == 20).all()
        gaps[order] = taken.nonzero()[:, 1].view(50, 20).diff(dim=1).amin()
    assert gaps["isolated"] > 3 and gaps["confidence"] == 1


def test_noise_on_confidence_fades_with_the_masks():
    """One confidence is e times the other: when all is masked, the larger wins with probability e / (1 + e)."""
    rows = [[0.2 * math.e, 0.2] + [1e-30] * 8] * 20000
    first = fast.Decoding(order="noisy").choose(proposals(rows, logits=torch.zeros(1)))[:, 0].float().mean().item()
    assert abs(first - math.e / (1 + math.e)) < 0.02
    few = [[1, 1] + [0] * 8] * 20000  # a fifth as many masks, a fifth of the noise: odds of e⁵ to 1
    assert fast.Decoding(order="noisy").choose(proposals(rows, few, logits=torch.zeros(1)))[:, 0].float().mean() > 0.98


def test_apart_never_commits_neighbours_together():
    torch.manual_seed(0)
    confidence, masked = torch.rand(50, 40).tolist(), (torch.rand(50, 40) < 0.7)
    for distance in (1, 3, 8):
        taken = torch.tensor(chosen({"apart": distance}, confidence, masked.tolist())).bool()
        assert not (taken & ~masked).any() and taken.any(1).all()
        for row in taken:
            places = row.nonzero()[:, 0].tolist()
            assert all(b - a > distance for a, b in itertools.pairwise(places))
    assert chosen({"apart": 2}, [[0.5] * 4], [[1, 0, 0, 1]]) == [[1, 0, 0, 1]]


@pytest.mark.parametrize("name", diffusion.NoiseSchedule.NAMES)
def test_ancestral_leaves_as_many_masks_as_the_schedule_says(name):
    N, steps = 20_000, 4
    model, canvas = Fixed(torch.zeros(N, V)), torch.full((1, N), V)
    states = run(model, canvas, steps, order="ancestral", schedule=name)
    for state in states:
        visible = (state.canvas != V).double().mean().item()
        alpha = diffusion.NoiseSchedule(name).alpha(torch.tensor(1 - state.step / steps)).item()
        assert abs(visible - alpha) < 5 * (0.25 / N) ** 0.5
    assert model.calls == states[-1].nfe == steps


# The sampler


@pytest.mark.parametrize("cache, block", [("none", 0), ("prefix", 7), ("dual", 7), ("delayed", 0), ("delayed", 7)])
@pytest.mark.parametrize("method", METHODS, ids=str)
def test_every_method_fills_all_masks_and_nothing_else(method, cache, block):
    model, canvas = make_model(), canvas_of()
    start, given = canvas.clone(), canvas != V
    states = run(model, canvas, **method, block=block, cache=cache, remask=2)
    assert torch.equal(canvas, start) and torch.equal(states[0].canvas, start) and states[0].nfe == 0
    for before, state in itertools.pairwise(states):
        assert state.step == state.nfe == before.step + 1
        assert torch.equal(state.canvas[given], start[given]) and (state.confidence[given] == 1).all()
        assert not (state.committed & given).any()
        kept = ~state.committed & (state.canvas != V)  # a character that is taken back is masked before it changes
        assert torch.equal(state.canvas[kept], before.canvas[kept])
    assert (states[-1].canvas < V).all()
    first = next(number for number, state in enumerate(states) if (state.canvas < V).all())
    assert first <= (start == V).sum(1).max() + 4 * len(canvas) and len(states) - first <= 9


@pytest.mark.parametrize("method", METHODS, ids=str)
def test_a_budget_is_kept_block_by_block(method):
    model, canvas = make_model(), canvas_of()
    blocks = fast.plan_blocks(canvas == V, 8, 9)
    assert [(s, e) for s, e, _ in blocks] == [(1, 9), (9, 17), (17, 24)] and sum(n for *_, n in blocks) == 9
    states = run(model, canvas, 9, **method, block=8)
    if "order" in method:
        assert len(states) == 10
    assert len(states) <= 10
    ended = 0
    for start, end, _ in blocks:  # each is finished before the next is begun
        steps = [s.step for s in states if s.committed[:, start:end].any()]
        assert not steps or min(steps) > ended
        ended = max(steps, default=ended)


def test_blocks_are_planned_by_masks():
    masked = torch.zeros(2, 12, dtype=torch.bool)
    assert fast.plan_blocks(masked, 4) == []
    masked[0, 2:6] = masked[1, 10] = True
    assert fast.plan_blocks(masked, 4) == [(2, 6, 4), (10, 12, 1)]  # the block from 6 to 10 has nothing to write
    assert fast.plan_blocks(masked, 0) == [(0, 12, 4)] == fast.plan_blocks(masked, 0, 99)
    assert fast.plan_blocks(masked, 4, 1) == [(2, 6, 1), (10, 12, 1)]  # each at least one


def test_a_block_that_one_pass_finished_costs_one_pass():
    sure = torch.zeros(T, V)
    sure[:, 2] = 50
    for cache in ("none", "prefix", "dual"):
        model = Fixed(sure)
        states = run(model, torch.full((2, T), V), threshold=0.9, block=8, cache=cache)
        assert model.calls == states[-1].nfe == len(states) - 1 == 3


@pytest.mark.parametrize("cache", CACHES)
def test_passes_and_rows_are_what_the_model_computed(cache):
    model, block = Fixed(torch.randn(T, V)), 8 if cache != "delayed" else 0
    states = run(model, torch.full((1, T), V), 12, order="confidence", block=block, cache=cache)
    assert model.calls == states[-1].nfe == 12
    # 4 passes a block, the first of all 24 rows. Delayed: 24, 24, then the masks and the 2 just committed.
    rest = {"prefix": 3 * (24 + 16 + 8), "dual": 3 * (8 + 8 + 8), "none": 3 * 72}
    assert model.rows == (24 + sum(range(24, 2, -2)) if cache == "delayed" else 72 + rest[cache])


def test_guidance_counts_both_passes_and_zero_is_none():
    model, canvas = make_model(), canvas_of()
    plain, none, strong = (run(model, canvas, 6, order="confidence", **how) for how in ({}, {"guidance": 0.0},
                                                                                      {"guidance": 4.0}))
    assert torch.equal(plain[-1].canvas, none[-1].canvas) and plain[-1].nfe == 6
    assert strong[-1].nfe == 12 and not torch.equal(plain[-1].canvas, strong[-1].canvas)
    empty = torch.full((2, T), V)  # nothing given: nothing to follow
    plain, guided = (run(model, empty, 6, order="confidence", guidance=w)[-1].canvas for w in (0.0, 2.0))
    assert torch.equal(plain, guided)


def test_guidance_is_llada_s_formula():
    model, canvas = make_model(), canvas_of()
    network = fast.Network(model, canvas, fast.Decoding(guidance=1.5))
    known, unknown = model(canvas), model(torch.full_like(canvas, V))
    assert torch.allclose(network(canvas, 4, 9, True), (unknown + 2.5 * (known - unknown))[:, 4:9], atol=1e-5)


@pytest.mark.parametrize("shape", [{}, {"conv": 3}, {"conv": 3, "conv_in": "every"}, {"positions": "learned"},
                                   {"positions": "learned", "conv": 5},
                                   {"time_conditioned": True}], ids=str)
@pytest.mark.parametrize("cache", ["prefix", "dual", "delayed"])
def test_a_cache_refreshed_in_every_pass_is_no_cache(cache, shape):
    model, canvas = make_model(**shape), canvas_of()
    for method in ({"order": "confidence"}, {"threshold": 0.4}, {"apart": 3}):
        how = dict(**method, block=6)
        plain, refreshed, kept = (run(model, canvas, **how, **more) for more in
                                  ({}, {"cache": cache, "refresh": 1}, {"cache": cache}))
        assert len(plain) == len(refreshed) and not torch.equal(plain[-1].canvas[1], plain[-1].canvas[0])
        for a, b in zip(plain, refreshed):
            assert torch.equal(a.canvas, b.canvas) and torch.allclose(a.confidence, b.confidence, atol=1e-5)
        # Kept, it is another sampler: an approximation.
        assert not all(torch.allclose(a.confidence, b.confidence, atol=1e-5) for a, b in zip(plain, kept))


@pytest.mark.parametrize("shape", [{}, {"conv": 3}, {"positions": "learned"}], ids=str)
@pytest.mark.parametrize("cache", ["prefix", "dual", "delayed"])
def test_one_layer_knows_its_rows_from_the_tokens_of_their_last_pass(cache, shape):
    """In one layer a row's key and value depend on its token (and with `conv` on those beside it) alone, so a pass
    over the rows that changed is exact, whatever the others were computed from."""
    model, canvas = make_model(n_layer=1, **shape), canvas_of()
    how = fast.Decoding(order="confidence", block=0 if cache == "delayed" else 8, cache=cache)
    network, now = fast.Network(model, canvas, how), canvas.clone()
    network(now, 1, 9, True)
    now[:, 4:6] = torch.where(now[:, 4:6] == V, 5, now[:, 4:6])
    logits = network(now, 1, 9, False)
    rows = (canvas == V).any(0)[1:9] if cache == "delayed" else torch.ones(8, dtype=torch.bool)
    assert torch.allclose(logits[:, rows], model(now, torch.zeros(3))[:, 1:9][:, rows], atol=1e-5)


def test_blocks_of_the_whole_canvas_with_the_plain_rule_are_chapter_04():
    model, canvas = make_model(), canvas_of()
    for steps in (3, 8, 100):
        plain = list(diffusion.denoise(model, canvas, 2 * steps, 0.8, generator=torch.Generator().manual_seed(3)))
        ours = run(model, canvas, steps, 3, 0.8, remask=min(steps, int((canvas == V).sum(1).max()) - 1))
        assert len(plain) == len(ours)
        assert all(torch.equal(a.canvas, b.canvas) and a.nfe == b.nfe for a, b in zip(plain, ours))


def test_a_finished_text_does_not_disturb_the_others():
    model, canvas = make_model(), canvas_of()
    full = canvas.clone()
    full[0] = torch.where(full[0] == V, 0, full[0])
    for cache in CACHES:
        states = run(model, full, threshold=0.5, temperature=0.0, block=6, cache=cache)
        assert torch.equal(states[-1].canvas[0], full[0]) and not any(s.committed[0].any() for s in states)
        # Row by row the same texts come out, but for the rows that a batch's other texts made a cache compute.
        alone = run(model, full[1:], threshold=0.5, temperature=0.0, block=6, cache=cache)
        assert torch.equal(alone[-1].canvas, states[-1].canvas[1:])


def test_remasking_can_mend_what_was_drawn_too_early():
    """A model that knows that neighbours are equal: drawn at once they are not, taken back they see each other."""

    def model(tokens, t=None, positions=None, cache=None):
        known = torch.nn.functional.one_hot(tokens, 3)[..., :2].float()  # (B, T, 2), zero for the mask
        return 6 * (known.roll(1, 1) + known.roll(-1, 1))

    model.config = SimpleNamespace(mask_id=2, vocab_size=2)
    states = run(model, torch.full((64, 16), 2), 1, order="confidence", remask=40)
    equal = [(s.canvas == s.canvas.roll(1, 1)).float().mean().item() for s in (states[1], states[-1])]
    assert abs(equal[0] - 0.5) < 0.1 and equal[1] > 0.75


@pytest.mark.parametrize("how", [
    {"order": "nonsense"}, {"threshold": 1.5}, {"apart": 0}, {"entropy": -1}, {"factor": math.nan}, {"cache": "big"},
    {"cache": "dual"}, {"refresh": 2}, {"block": -1}, {"guidance": -1}, {"schedule": "square"},
    {"threshold": 0.9, "apart": 3}, {"order": "random", "apart": 3}], ids=str)
def test_invalid_settings_are_refused(how):
    with pytest.raises(ValueError):
        fast.Decoding(**how)


# The command


@pytest.fixture
def write(tmp_path, capsys):
    """A function that writes 40 characters with the given flags: (status line, text)."""
    model = make_model(n_layer=4)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(2)  # predictions that change with the visible text
    checkpoint.save(tmp_path, model, tokenizers.CharTokenizer("\n abcde"), {})

    def write(*flags, chapter=fast):
        mode = ["--write"] if chapter is fast else []
        chapter.main([*mode, "--checkpoint", str(tmp_path), "--device", "cpu", "--seed", "1", "--len", "40", *flags])
        header, _, text = capsys.readouterr().out.partition("\n\n")
        return header, text[:41]

    return write


def test_every_flag_changes_the_text(write):
    base = write()
    seen = [base[1]]
    for flags in ("--steps 9", "--order noisy --steps 9", "--order margin", "--order random --steps 9",
                  "--order ancestral", "--threshold 0.3", "--factor 1.5", "--entropy 1", "--stable 0.1", "--apart 3",
                  "--block 5", "--block 5 --cache prefix", "--block 5 --cache dual --order confidence",
                  "--block 16 --cache dual --refresh 3",
                  "--cache delayed", "--remask 3",
                  "--order margin --threshold 0.3 --block 32 --cache dual"):
        header, text = write(*flags.split())
        assert len(text) == 41 and tokenizers.MASK_CHAR not in text and text not in seen, flags
        seen.append(text)
    plain, guided = (write("--prompt", "abc", *w)[1] for w in ((), ("--guidance", "3")))
    assert plain != guided and guided.startswith("abc")
    assert write("--order", "scattered", "--steps", "9")[1] == seen[1]  # the default order


@pytest.mark.parametrize("temperature", ["0", "0.8"])
def test_guidance_that_overflows_ends_in_one_line(write, temperature):
    assert "--guidance is too large" in refusal(write, "--prompt", "abc", "--guidance", "1e308", "--temp", temperature)


def test_chapter_06_writes_the_same_with_the_same_settings(write):
    def text(*flags, chapter=fast):
        return write("--len", "20", *flags, chapter=chapter)[1][:20]  # one window

    hot = "--temp", "3"
    assert text(*hot, chapter=generation) == text(*hot, "--steps", "32", "--remask", "32")
    assert text("--fast", chapter=generation) == text("--steps", "16", "--remask", "16", "--temp", "0.85")
    assert text("--fast", *hot, chapter=generation) == text("--steps", "16", "--remask", "16", *hot)
    assert text("--fast", *hot, chapter=generation) != text(*hot, chapter=generation)


def test_steps_limit_an_adaptive_rule(write):
    steps = [int(write("--threshold", "1", *limit)[0].split()[1]) for limit in ((), ("--steps", "5"))]
    assert steps[0] == 40 and steps[1] <= 10


@pytest.mark.parametrize("flags", [
    "--write --order nonsense", "--write --order threshold", "--write --threshold 1.5", "--write --threshold x",
    "--write --apart 0", "--write --factor -1", "--write --order random --apart 3", "--write --threshold 1 --apart 3",
    "--write --cache huge", "--write --cache dual", "--write --block -1", "--write --refresh 2",
    "--write --block 4 --refresh -1", "--write --guidance 1", "--write --guidance 1 --infill ___",
    "--write --remask -1", "--write --stable nan", "--write --dllm shakespeare", "--write --out docs",
    "--write --fast", "--apart 3", "--prompt abc", "--temp 0.5", "--size huge"])
def test_a_wrong_flag_ends_with_a_message(flags, tmp_path, monkeypatch, capsys):
    checkpoint.save(tmp_path, make_model(), tokenizers.CharTokenizer("\n abcde"), {})
    monkeypatch.setattr("sys.argv", ["11_fast_decoding.py", "--checkpoint", str(tmp_path), *flags.split()])
    for module, name in ((generation, "generate"), (decoding_ways, "run")):
        monkeypatch.setattr(module, name, lambda *_: pytest.fail("the work began before the check"))
    with pytest.raises(SystemExit) as stop:
        cli.run(fast.main)
    out, err = capsys.readouterr()
    assert stop.value.code == 2 and out == "" and "Traceback" not in err
    assert "--write" in err or flags.startswith("--write") or "--size" in err


def test_help_lists_all_sizes_and_orders(capsys):
    assert {"auto", *decoding_ways.SIZES} == set(get_args(fast.Command.__annotations__["size"]))
    with pytest.raises(SystemExit):
        fast.main(["--help"])
    text = capsys.readouterr().out
    assert "{" + ",".join(fast.ORDERS) + "}" in text and "{" + ",".join(CACHES) + "}" in text
    assert all(f"--{name} FLOAT" in text for name in fast.RULES)


# Measuring and the page


REAL = dict(words=0.9, judge=1.5, distinct=0.5, divergence=0.2, words_error=0.01, judge_error=0.01,
            distinct_error=0.01, divergence_error=0.01)


def line(name="x", kind="rule", **values):
    row = dict(kind=kind, name=name, temperature=0.8, nfe=10.0, rows=5.0, rate=100.0, batch_rate=100.0,
               same_without=None, first="text")
    return row | REAL | values


def test_the_best_line_is_the_fastest_that_is_as_near_to_real_text():
    base = line("default", "default", rate=10.0)
    lines = [base, line("worse", rate=900.0, words=0.8), line("repeats", rate=800.0, judge=1.0, distinct=0.3),
             line("better than real text", rate=700.0, words=0.99), line("within the error", rate=300.0, words=0.88),
             line("slower", rate=200.0), line("GPT", "GPT", rate=1000.0)]
    part = {"table": lines, "real": REAL}
    assert report.best(part, base)["name"] == "within the error"
    assert report.best(part, line(rate=10.0, words=0.8))["name"] == "worse"  # as far from real text
    assert report.best({"table": lines[1:3], "real": REAL}, base) is None


def test_passes_of_a_text_do_not_include_waiting():
    """Two texts, one with a single blank: it needs one pass, however many the other text needs."""
    model, prompts = Fixed(torch.randn(T, V)), torch.tensor([[1] * 4 + [V] * 3, [1] * 6 + [V]])
    model.config.seq_len, model.config.causal = T, False
    sampler = functools.partial(fast.decode, how=fast.Decoding(threshold=1.0))
    way = decoding_ways.Way("rule", "", model, 99, 0.8, sampler, True)
    tokens, passes = way.write(prompts, 7, 0)
    assert (tokens < V).all() and passes == (3 + 1) / 2 and model.calls == 3


def test_the_committed_page_is_made_of_the_committed_numbers():
    results = json.loads((ROOT / "docs" / "fast_decoding.json").read_text(encoding="utf-8"))
    assert (ROOT / "docs" / "fast_decoding.md").read_text(encoding="utf-8") == report.page(results)


def test_the_page_from_two_tiny_runs(tmp_path, monkeypatch):
    draw = random.Random(0)
    text = " ".join("".join(draw.choices("abcdefgh", k=draw.randint(1, 6))) for _ in range(500))
    (tmp_path / "words.txt").write_text(text)
    tokenizer = tokenizers.CharTokenizer.from_text(text)
    for name in ("dllm", "gpt"):
        config = transformer.TransformerConfig(tokenizer.vocab_size, 16, 1, 2, 16, causal=name == "gpt")
        checkpoint.save(tmp_path / name, transformer.Transformer(config), tokenizer,
                        {"corpus_sha256": hashlib.sha256(text.encode()).hexdigest()})
    monkeypatch.setattr(decoding_ways, "LENGTHS", (12, 24))
    monkeypatch.setitem(decoding_ways.SIZES, "quick", (3, 2))
    fast.main(["--corpus", str(tmp_path / "words.txt"), "--dllm", str(tmp_path / "dllm"), "--gpt",
               str(tmp_path / "gpt"), "--size", "quick", "--device", "cpu", "--out", str(tmp_path / "docs")])
    page = (tmp_path / "docs" / "fast_decoding.md").read_text(encoding="utf-8")
    pictures = re.findall(r"!\[.*?\]\((.*?)\)", page)
    assert len(pictures) == 2 and all((tmp_path / "docs" / name).is_file() for name in pictures)
    results = json.loads((tmp_path / "docs" / "fast_decoding.json").read_text(encoding="utf-8"))
    assert report.page(results) == page  # a function of the numbers alone
    for part, length in zip(results["parts"], (12, 24)):
        by_name = {(row["name"], row["temperature"]): row for row in part["table"]}
        assert len(by_name) == len(part["table"]) and part["length"] == length
        assert by_name["GPT with KV cache", 0.9]["nfe"] == length - 1
        assert by_name["default", generation.DEFAULT[1]]["nfe"] >= by_name["--fast", generation.FAST[1]]["nfe"]
        for row in part["table"]:
            assert set(row["gaps"]) == set(report.MEASURES) == set(part["spread"])
            assert row["same_without"] is None or (row["same_without"], row["temperature"]) in by_name
