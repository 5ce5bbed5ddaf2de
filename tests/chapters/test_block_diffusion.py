"""Chapter 13: what each row sees, a bound for each block size, exact caches, drafts that change no distribution."""

import functools
import json
import math
from importlib import import_module

import pytest
import torch
import torch.nn as nn
from helpers import ROOT, log_of, refusal, seeded, write_settings

from plumbing import blocks, buffers, checkpoint, sampling
from plumbing.reports import block_diffusion as report
from plumbing.reports import block_measures

transformer = import_module("03_transformer")
diffusion = import_module("04_diffusion")
generation = import_module("06_generate")
gpt = import_module("07_train_gpt")
fast = import_module("11_fast_decoding")
hybrid = import_module("13_block_diffusion")


def make_model(vocab_size=5, seq_len=16, std=0.4, seed=0, build=hybrid.Hybrid, **changes):
    torch.manual_seed(seed)
    shape = {"n_layer": 2, "n_head": 2, "n_embd": 16, "causal": True, "conv": 3} | changes
    model = build(transformer.TransformerConfig(vocab_size, seq_len, **shape)).eval().requires_grad_(False)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=std)
    return model


def logits_of(model, tokens, starts):
    return model(tokens, hybrid.two_streams(starts, model.config.conv))[0]


# 1. Who sees whom


@pytest.mark.parametrize("conv", [0, 3, 5])
@pytest.mark.parametrize("starts", [[1, 2, 3, 4, 5, 6], [1, 1, 1, 1, 1, 1], [1, 2, 2, 4, 4, 4], [1, 1, 1, 4, 5, 5]])
def test_no_row_sees_what_it_must_not(conv, starts):
    """Change one token at a time and see which outputs move: exactly those of the rows that may see it."""
    model, T = make_model(conv=conv), len(starts)
    tokens = torch.randint(6, (1, 2 * T), generator=seeded(1))
    before = logits_of(model, tokens, torch.tensor(starts))
    for changed in range(2 * T):
        other = tokens.clone()
        other[0, changed] = (tokens[0, changed] + 1) % 6
        moved = (logits_of(model, other, torch.tensor(starts)) - before).abs().amax((0, 2)) > 1e-6
        for row in range(2 * T):
            if row < T:  # clean, at position `row`
                may = changed < T and changed <= row
            elif changed < T:  # a noisy row sees the clean rows before its block
                may = changed < starts[row - T]
            else:
                may = starts[changed - T] == starts[row - T]
            assert moved[row] == may, (changed, row)


def test_a_block_of_one_mask_sees_what_the_next_token_stream_sees():
    starts = torch.arange(1, 9)
    visible, T = hybrid.two_streams(starts).visible, 8
    clean, noisy = visible[:T, :T], visible[T:, :T]
    assert torch.equal(clean, noisy)  # the clean row at position p - 1 and the noisy row at p
    assert torch.equal(visible[T:, T:], torch.eye(T, dtype=torch.bool)) and not visible[:T, T:].any()


def test_the_convolution_reads_the_visible_row_at_each_position():
    rows = hybrid.two_streams(torch.tensor([1, 2, 2, 2, 5]), width=3)
    assert rows.near[5 + 3].tolist() == [2 + 6, 2 + 7, 2 + 8]  # at position 4 of the block 2 … 4: all noisy
    assert rows.near[5 + 1].tolist() == [2 + 0, 2 + 1, 2 + 6]  # at position 2, where the block starts: clean before it
    assert rows.near[0].tolist() == [0, 1, 2]  # the first clean row, after two rows of zeros
    for row, near in enumerate(rows.near.tolist()):
        assert all(i < 2 or rows.visible[row, i - 2] for i in near)


def test_a_block_of_the_whole_window_is_the_dllm_of_chapter_04():
    model = make_model(conv=0)
    dllm = make_model(conv=0, causal=False, build=transformer.Transformer)
    dllm.load_state_dict({name: value for name, value in model.state_dict().items() if name in dllm.state_dict()})
    tokens = torch.randint(6, (3, 16), generator=seeded(1))
    rows = hybrid.make_rows(torch.arange(16), torch.zeros(16, dtype=torch.long))
    torch.testing.assert_close(model(tokens, rows)[0], dllm(tokens), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("conv", [0, 3])
def test_the_clean_stream_is_the_gpt_of_chapter_07(conv):
    model = make_model(conv=conv)
    windows = torch.randint(5, (4, 17), generator=seeded(1))
    other = block_measures.as_gpt(model)
    starts = 1 + torch.arange(16) // 4 * 4
    both = torch.cat((windows[:, :-1], windows[:, 1:]), 1)
    torch.testing.assert_close(logits_of(model, both, starts)[:, :16], other(windows[:, :-1]), atol=1e-5, rtol=1e-5)
    assert hybrid.nll(model, windows) == pytest.approx(gpt.nll(other, windows), abs=1e-6)


# 2. Blocks and masks


def test_blocks_cover_the_text_and_have_the_sizes_of_training():
    torch.manual_seed(0)
    seen = set()
    for _ in range(300):
        starts = blocks.draw_starts(100)
        first, size = torch.unique_consecutive(starts, return_counts=True)
        assert first[0] == 1 and torch.equal(first[1:], 1 + size.cumsum(0)[:-1])  # each starts where the last one ends
        assert all(n in (*blocks.SIZES, 100) for n in size.tolist()[:-1])
        seen |= set(size.tolist()[:-1] if len(size) > 1 else size.tolist())
    assert seen >= set(blocks.SIZES) | {100}


def test_every_number_of_masks_of_a_block_is_equally_likely():
    starts = torch.tensor([1] * 4 + [5] * 1 + [6] * 3)
    x = torch.zeros(6000, 8, dtype=torch.long)
    xt, weight = blocks.mask_blocks(x, starts, 9, generator=seeded(0))
    for here, size in ((slice(0, 4), 4), (slice(4, 5), 1), (slice(5, 8), 3)):
        masked = xt[:, here] == 9
        k = masked.sum(1)
        assert torch.equal(weight[:, here], (size / k)[:, None].expand(-1, size))
        shares = torch.bincount(k, minlength=size + 1)[1:] / len(x)
        assert torch.allclose(shares, torch.full((size,), 1 / size), atol=0.02)
        assert torch.allclose(masked.float().mean(0), masked.float().mean().expand(size), atol=0.03)
    whole = blocks.mask_blocks(x, starts, 9, whole=1.0, generator=seeded(0))[0]
    assert (whole == 9).all()


class Frequencies(nn.Module):
    """A hybrid that knows the frequencies of the tokens and nothing else. Its likelihood is known."""

    def __init__(self, frequencies):
        super().__init__()
        self.config = transformer.TransformerConfig(len(frequencies), 16, causal=True)
        self.logits = frequencies.log()

    def forward(self, tokens, rows, kept=None):
        return self.logits.expand(*tokens.shape, -1), self.logits.expand(*tokens.shape, -1)

    def follow(self, x, previous):
        return x


@pytest.mark.parametrize("size", [1, 2, 4, 16])
def test_the_bound_of_a_model_of_known_likelihood(size):
    frequencies = torch.tensor([0.5, 0.25, 0.125, 0.125])
    windows = torch.multinomial(frequencies, 400 * 17, replacement=True, generator=seeded(1)).view(400, 17)
    exact = -frequencies.log()[windows[:, 1:]].mean().item()
    mean, error = hybrid.block_nelbo(Frequencies(frequencies), windows, size, draws=4)
    assert abs(mean - exact) < 4 * error and error < 0.02
    if size == 1:
        assert mean == pytest.approx(exact, abs=1e-6)  # nothing is drawn at random


def test_the_bound_agrees_with_the_derivation_of_chapter_04():
    """For one block behind the first token, enumerate all orders; the estimate must agree within its error."""
    model, window = make_model(vocab_size=3, seq_len=3, conv=0), torch.tensor([[2, 0, 1, 1]])
    rows = hybrid.two_streams(torch.ones(3, dtype=torch.long))

    class Inside(nn.Module):  # the noisy stream, with the clean one fixed
        config = model.config

        def forward(self, tokens, t=None):
            both = torch.cat((window[:, :-1].expand(len(tokens), -1), tokens), 1)
            return model(both, rows)[0][:, 3:]

    steps, _ = diffusion.derive_bound(Inside(), window[0, 1:])
    exact = steps["NELBO: mean of -log p(text | order)"] / 3
    mean, error = hybrid.block_nelbo(model, window.expand(4000, -1), 3)
    assert abs(mean - exact) < 4 * error
    assert steps["NLL: -log of the mean of p(text | order)"] / 3 <= exact + 1e-9


# 3. Caches


def test_rows_in_the_buffer_equal_rows_that_are_computed_again():
    """Passes with drafts and masks, of which some drafts are kept and others are written over."""
    model, text = make_model(), torch.randint(5, (1, 14), generator=seeded(2))
    kept, whole, n = buffers.Kept(model, 1, 60), block_measures.as_gpt(model)(text)[0], 0
    for known, accepted, drafts in ((3, 0, 0), (1, 2, 3), (1, 0, 3), (1, 3, 3), (1, 1, 1)):
        rows = hybrid.rows_of_pass(known, (2,) * (drafts + 1), 3, torch.device("cpu"))
        wrong = (text[:, n + known + accepted : n + known + drafts] + 1) % 5  # the refused drafts are other tokens
        masks = torch.full((1, 2 * (drafts + 1)), 5)
        tokens = torch.cat((text[:, n : n + known + accepted], wrong, masks), 1)
        logits, _ = model(tokens, rows, kept)
        final = known + accepted
        torch.testing.assert_close(logits[0, :final], whole[n : n + final], atol=1e-5, rtol=1e-5)
        n = kept.n = n + final
    assert n == 13


def test_the_drafts_see_the_text_before_them_whatever_is_accepted():
    model, text = make_model(), torch.randint(5, (1, 9), generator=seeded(3))
    rows = hybrid.rows_of_pass(4, (3, 3, 3), 3, torch.device("cpu"))
    masks = torch.full((1, 9), 5)
    logits, _ = model(torch.cat((text[:, :6], masks), 1), rows)
    for accepted in range(3):  # the block behind it, computed alone
        n = 4 + accepted
        alone = hybrid.make_rows(torch.arange(n + 3), torch.tensor([-1] * n + [n] * 3), 3)
        expected, _ = model(torch.cat((text[:, :n], masks[:, :3]), 1), alone)
        here = slice(6 + 3 * accepted, 9 + 3 * accepted)
        torch.testing.assert_close(logits[:, here], expected[:, -3:], atol=1e-5, rtol=1e-5)


def test_blocks_are_written_with_exact_rows():
    model, canvas = make_model(), torch.full((2, 15), 5)
    canvas[:, :3] = torch.tensor([[1, 2, 3], [4, 0, 1]])
    how = fast.Decoding(block=4)
    seen = []

    class Watched(hybrid.BlockNetwork):
        def __call__(self, canvas, start, end, fresh):
            logits = super().__call__(canvas, start, end, fresh)
            rows = hybrid.make_rows(torch.arange(end), torch.tensor([-1] * start + [start] * (end - start)), 3)
            torch.testing.assert_close(logits, self.model(canvas[:, :end], rows)[0][:, start:], atol=1e-5, rtol=1e-5)
            seen.append((start, end))
            return logits

    states = list(fast.decode(model, canvas, 6, generator=seeded(0), how=how, network=Watched))
    assert seen == [(3, 7)] * 2 + [(7, 11)] * 2 + [(11, 15)] * 2 and states[-1].nfe == 6
    assert (states[-1].canvas != 5).all() and torch.equal(states[-1].canvas[:, :3], canvas[:, :3])


# 4. Draft and verify


def test_greedy_text_is_the_greedy_text_of_the_gpt_over_2000_characters():
    model = make_model(vocab_size=12, seq_len=32, std=1.0, seed=1)  # others soon repeat one character
    other = block_measures.as_gpt(model)
    expected = gpt.generate(other, torch.tensor([[3, 1, 4]]), 1997, temperature=0)[0].tolist()
    assert len(set(expected[-200:])) > 2
    for drafts in (1, 4):
        text = [3, 1, 4]
        passes = sum(1 for _ in hybrid.draft_and_verify(model, text, 2000, 0, drafts=drafts))
        assert text == expected and passes <= 1997


class Markov(nn.Module):
    """A hybrid whose next token depends on the last one, by a known table, and whose drafts follow another table."""

    def __init__(self, table, drafts, seq_len=64):
        super().__init__()
        self.config = transformer.TransformerConfig(len(table), seq_len, 1, 1, 2, causal=True)
        self.table, self.drafts, self.head = table.log(), drafts.log(), nn.Linear(2, len(table))

    def forward(self, tokens, rows, kept=None):
        known = tokens.clamp(max=len(self.table) - 1)
        return self.table[known], torch.zeros(*tokens.shape, 2)

    def follow(self, x, previous):
        return self.drafts[previous[..., 0]]


@pytest.mark.parametrize(("temperature", "top_k", "drafts"), [(1.0, None, 3), (0.6, None, 2), (1.3, 2, 4)])
def test_drafted_text_has_exactly_the_distribution_of_the_gpt(temperature, top_k, drafts):
    """Chi-square of 50,000 transitions. A token that is drawn given the one before it is independent of the rest."""
    table = torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.3, 0.6], [0.25, 0.35, 0.4]])
    wrong = torch.tensor([[0.2, 0.2, 0.6], [0.3, 0.4, 0.3], [0.1, 0.8, 0.1]])
    model, text, n = Markov(table, wrong), [0], 50_000
    passes = sum(1 for _ in hybrid.draft_and_verify(model, text, n + 1, temperature, top_k, seeded(5), drafts))
    assert 1.2 < n / passes < drafts + 1
    text = torch.tensor(text)
    counts = torch.bincount(text[:-1] * 3 + text[1:], minlength=9).view(3, 3).double()
    expected = sampling.probabilities(table.log(), temperature, top_k).double() * counts.sum(1, keepdim=True)
    possible = expected > 0
    assert counts[~possible].sum() == 0
    chi_square = ((counts - expected)[possible].square() / expected[possible]).sum().item()
    freedom = int(possible.sum()) - 3
    assert chi_square < freedom + 5 * math.sqrt(2 * freedom)
    blind = sampling.probabilities(wrong.log(), temperature, top_k).double() * counts.sum(1, keepdim=True)
    assert ((counts - blind)[blind > 0].square() / blind[blind > 0]).sum() > 1000  # the test can tell the two apart


def test_verification_draws_the_missing_probability():
    """Over all drafts, the first new token has the distribution p, whatever q is."""
    p, q = torch.tensor([[0.6, 0.3, 0.1], [0.2, 0.2, 0.6]]), torch.tensor([[0.1, 0.8, 0.1]])
    generator, counts, n = seeded(0), torch.zeros(3), 6000
    for _ in range(n):
        draft = [int(sampling.pick(q[0], generator))]
        accepted, token = hybrid.verify(p, q, draft, generator)
        counts[draft[0] if accepted else token] += 1
    assert torch.allclose(counts / n, p[0], atol=0.02)


def test_windows_are_those_of_chapter_07(monkeypatch):
    """A full window is halved at the same place: the model sees the same tokens before each character."""
    model, seen = make_model(seq_len=8, conv=0), []
    monkeypatch.setattr(hybrid.buffers.Kept, "__init__", record(hybrid.buffers.Kept.__init__, seen))
    text = [1]
    list(hybrid.draft_and_verify(model, text, 30, 1.0, generator=seeded(0), drafts=0))
    assert len(text) == 30 and len(seen) == 1 + math.ceil((30 - 9) / 5)  # 8 rows, then 4 old ones and 5 new ones


def record(function, calls):
    @functools.wraps(function)
    def wrapper(*arguments):
        calls.append(arguments)
        return function(*arguments)

    return wrapper


def test_states_show_every_draft_and_the_given_text_stays():
    model, mask = make_model(vocab_size=5, seq_len=16), 5
    canvas = torch.full((2, 20), mask)
    canvas[0, :4], canvas[1, :1] = torch.tensor([1, 2, 3, 4]), 0
    states = list(hybrid.write(model, canvas, None, 1.0, None, seeded(0)))
    assert (states[-1].canvas != mask).all() and torch.equal(states[-1].canvas[0, :4], canvas[0, :4])
    assert sum(state.committed.sum() for state in states) == 16 + 19 and states[-1].nfe == len(states) - 1
    for before, state in zip(states, states[1:]):
        assert torch.equal(before.canvas[~state.committed], state.canvas[~state.committed])
        assert ((state.confidence > 0) & (state.confidence <= 1))[state.canvas != mask].all()
        row = int(state.committed.any(1).nonzero())
        first, count = int(state.committed[row].int().argmax()), int(state.committed[row].sum())
        new, tried = state.canvas[row, first : first + count], state.drafts[row, first : first + count]
        assert torch.equal(new[:-1], tried[:-1])  # all new tokens but the last one are accepted drafts
        assert tried[-1] == -1 or tried[-1] != new[-1]  # the last one replaces a refused draft, or had none


# 5. The program


@pytest.fixture
def command(tmp_path):
    (tmp_path / "verse.txt").write_text("abracadabra, simsalabim!\n" * 120, encoding="utf-8")
    path = write_settings(tmp_path / "tiny.yaml", seq_len=32, steps=40, conv=3)
    return ["--corpus", str(tmp_path / "verse.txt"), "--config", str(path), "--device", "cpu"]


def test_training_learns_both_resumes_draws_and_writes(runs_folder, command, capsys):
    command += ["--cooldown", "0"]  # otherwise the learning rate depends on the number of steps
    hybrid.main([*command, "--run", "parts", "--steps", "20"])
    hybrid.main([*command, "--run", "parts"])
    hybrid.main([*command, "--run", "whole"])
    assert log_of(runs_folder / "parts")[-1]["NLL"] == log_of(runs_folder / "whole")[-1]["NLL"] < 2.2  # random: 2.6
    assert "characters per pass" in capsys.readouterr().out
    for name in ("curve.png", "block_curve.png", "block_visible.png"):
        assert (runs_folder / "whole" / name).stat().st_size > 5000
    hybrid.main(["--write", "--run", "whole", "--prompt", "abra", "--len", "60", "--seed", "1", "--quiet"])
    one = capsys.readouterr().out
    hybrid.main(["--write", "--run", "whole", "--prompt", "abra", "--len", "60", "--seed", "1", "--quiet"])
    assert capsys.readouterr().out == one and one.startswith("abra") and len(one.rstrip("\n")) <= 60
    hybrid.main("--write --run whole --len 40 --block 8 --steps 2 --num 2 --order margin --seed 1".split())
    assert "10 NFE" in capsys.readouterr().out  # 39 masks: five blocks of two passes
    hybrid.main(["--write", "--run", "whole", "--prompt", "abracadabra" * 2, *"--len 40 --block 8 --steps 2".split()])
    assert "6 NFE" in capsys.readouterr().out  # 18 masks
    hybrid.main("--write --run whole --len 20 --block 8 --threshold 0.9".split())
    assert " NFE" in capsys.readouterr().out


def test_the_views_of_a_text_by_draft_and_verify(runs_folder, command, tmp_path, capsys):
    hybrid.main([*command, "--run", "small", "--steps", "5"])
    gif, html = tmp_path / "a.gif", tmp_path / "a.html"
    hybrid.main(["--write", "--len", "40", "--gif", str(gif), "--html", str(html)])
    assert gif.read_bytes()[:3] == b"GIF" and "abra" not in html.name and len(html.read_text(encoding="utf-8")) > 5000


def test_the_limit_of_a_recording_counts_the_passes_of_all_texts(runs_folder, command, tmp_path, monkeypatch):
    hybrid.main([*command, "--run", "small", "--steps", "5"])
    monkeypatch.setattr(hybrid.generation, "MAX_RECORDED", 3 * 40 * 80)  # a text of 40 characters has up to 77 passes
    flags = ["--write", "--len", "40", "--html", str(tmp_path / "a.html")]
    hybrid.main(flags)
    assert "too long" in refusal(hybrid.main, [*flags, "--num", "3"])


@pytest.mark.parametrize(("flags", "word"), [
    ("--prompt abra", "--write"), ("--write --order margin", "--block"), ("--write --block 4 --drafts 2", "--drafts"),
    ("--write --block 4 --cache dual", "--cache"), ("--write --prompt=", "prompt"), ("--positions learned", "rotary"),
    ("--write --len 0", "len"), ("--write --prompt abracadabra --len 5", "--len"), ("--write --prompt xyz", "x"),
    ("--write --topk 99", "--topk"), ("--write --fresh", "--fresh"),
    ("--write --n-layer 9", "--n-layer"), ("--write --steps 4", "--steps"),
    ("--write --run none", "none"), ("--write --drafts 99", "drafts")])
def test_mistakes_end_in_a_clear_message(runs_folder, command, flags, word):
    if flags.startswith("--write") and "none" not in flags:
        hybrid.main([*command, "--run", "small", "--steps", "2"])
    assert word in refusal(hybrid.main, flags.split() if "positions" not in flags else [*command, *flags.split()])


def test_models_of_other_chapters_are_named_as_such(runs_folder, tiny, command):
    info = {"kind": "dllm"}
    checkpoint.save(runs_folder / "plain", tiny.model, tiny.tokenizer, info)
    assert "not a hybrid" in refusal(hybrid.main, ["--write", "--run", "plain"])
    hybrid.main([*command, "--run", "small", "--steps", "2"])
    for name in ("06_generate", "11_fast_decoding"):
        flags = ["--checkpoint", "small"] + ["--write"] * (name[0] == "1")
        assert "13_block_diffusion.py --write --run small" in refusal(import_module(name).main, flags)
    assert "13_block_diffusion.py" in refusal(gpt.main, ["--write", "--run", "small"])


# 6. The page and the shipped model


def test_the_page_is_made_of_its_numbers():
    results = json.loads((ROOT / "docs" / "block_diffusion.json").read_text(encoding="utf-8"))
    assert (ROOT / "docs" / "block_diffusion.md").read_text(encoding="utf-8") == report.page(results)
    assert results["info"]["tokens"] <= 2 * results["shipped"]["gpt"]["tokens"]


def test_the_shipped_hybrid_drafts_what_it_accepts():
    model, tokenizer, info = checkpoint.load(checkpoint.SHIPPED_HYBRID, build=hybrid.Hybrid)
    assert sum(path.stat().st_size for path in checkpoint.SHIPPED_HYBRID.iterdir()) < 10_000_000
    text = tokenizer.encode("ROMEO:\n")
    passes = sum(1 for _ in hybrid.draft_and_verify(model, text, 200, 0.8, generator=seeded(1)))
    assert (200 - 7) / passes > 2
    text = tokenizer.encode("ROMEO:\n")
    expected = gpt.generate(block_measures.as_gpt(model), torch.tensor([text]), 120, 0)[0].tolist()
    list(hybrid.draft_and_verify(model, text, 127, 0))
    assert text == expected
