"""Chapter 13: which rows see which rows, the loss, the bound, exact caches, and drafts that change no distribution."""

import json
import math
from importlib import import_module

from experiments import block_diffusion as page
from helpers import LETTERS, Unigram, log_of, made_up_text, make_model, refusal, write_settings
from plumbing import checkpoint, cli, text, views

import pytest
import torch
import torch.nn as nn

transformer = import_module("03_transformer")
diffusion = import_module("04_diffusion")
gpt = import_module("07_train_gpt")
fast = import_module("11_fast_decoding")
hybrid = import_module("13_block_diffusion")

CPU = torch.device("cpu")


def make_hybrid(vocab_size=5, seq_len=16, std=0.4, seed=0, **changes):
    torch.manual_seed(seed)
    shape = {"n_layer": 2, "n_head": 2, "n_embd": 16, "causal": True, "conv": 3} | changes
    model = hybrid.Hybrid(transformer.TransformerConfig(seq_len, **shape, vocab_size=vocab_size))
    for parameter in model.eval().requires_grad_(False).parameters():
        nn.init.normal_(parameter, std=std)
    return model


def random_tokens(*shape, below=5, seed=1):
    torch.manual_seed(seed)
    return torch.randint(below, shape)


def logits_of(model, tokens, starts):
    return model(tokens, hybrid.two_streams(starts, model.config.conv))[0]


def continued(model, prompt, length, *arguments, **named):
    """Write a text with draft and verify. Return the text and its number of passes."""
    passes = list(hybrid.draft_and_verify(model, prompt, length, *arguments, **named))
    return prompt + [token for step in passes for token in step.new], len(passes)


# 1. Who sees whom

CONVOLUTIONS = [{"conv": 0}, {"conv": 3}, {"conv": 5}, {"conv": 3, "conv_in": "every"}]


@pytest.mark.parametrize("shape", CONVOLUTIONS, ids=str)
@pytest.mark.parametrize("starts", [[1, 2, 3, 4, 5, 6], [1, 1, 1, 1, 1, 1], [1, 2, 2, 4, 4, 4], [1, 1, 1, 4, 5, 5]])
def test_no_row_sees_what_it_must_not(shape, starts):
    """When one token changes, exactly those rows change that are allowed to see this token."""
    model, T = make_hybrid(**shape), len(starts)
    starts = torch.tensor(starts)
    tokens = random_tokens(1, 2 * T, below=6)
    before = logits_of(model, tokens, starts)
    for changed in range(2 * T):
        other = tokens.clone()
        other[0, changed] = (tokens[0, changed] + 1) % 6
        moved = (logits_of(model, other, starts) - before).abs().amax((0, 2)) > 1e-6
        for row in range(2 * T):
            if row < T:  # clean, at position `row`
                may = changed < T and changed <= row
            elif changed < T:  # a noisy row sees the clean rows before its block
                may = changed < starts[row - T]
            else:
                may = starts[changed - T] == starts[row - T]
            assert moved[row] == may, (changed, row)


def test_the_convolution_reads_the_visible_row_at_each_position():
    rows = hybrid.two_streams(torch.tensor([1, 2, 2, 2, 5]), width=3)
    assert rows.conv_rows[5 + 3].tolist() == [2 + 6, 2 + 7, 2 + 8]  # at position 4 of the block 2 … 4: all noisy
    assert rows.conv_rows[5 + 1].tolist() == [2 + 0, 2 + 1, 2 + 6]  # where the block starts: clean before it
    assert rows.conv_rows[0].tolist() == [0, 1, 2]  # the first clean row, after two rows of zeros
    for row, near in enumerate(rows.conv_rows.tolist()):
        assert all(i < 2 or rows.visible[row, i - 2] for i in near)


def test_a_block_of_the_whole_window_is_the_dllm_of_chapter_04():
    model = make_hybrid(conv=0)
    dllm = make_model(5, n_layer=2)
    dllm.load_state_dict({name: value for name, value in model.state_dict().items() if name in dllm.state_dict()})
    tokens = random_tokens(3, 16, below=6)
    rows = hybrid.make_rows(torch.arange(16), torch.zeros(16, dtype=torch.long), 0)
    torch.testing.assert_close(model(tokens, rows)[0], dllm(tokens), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("shape", CONVOLUTIONS, ids=str)
def test_the_clean_stream_is_the_gpt_of_chapter_07(shape):
    model, windows = make_hybrid(**shape), random_tokens(4, 17)
    other = page.as_gpt(model)
    starts = 1 + torch.arange(16) // 4 * 4
    both = torch.cat((windows[:, :-1], windows[:, 1:]), 1)
    torch.testing.assert_close(logits_of(model, both, starts)[:, :16], other(windows[:, :-1]), atol=1e-5, rtol=1e-5)
    assert hybrid.clean_nll(model, windows) == pytest.approx(gpt.nll(other, windows), abs=1e-6)


# 2. Blocks and masks


def test_the_blocks_of_each_size_cover_equally_many_positions():
    torch.manual_seed(0)
    T, whole = 4000, 0
    covered = dict.fromkeys(hybrid.SIZES, 0)
    for _ in range(40):
        starts = hybrid.draw_starts(T)
        first, size = torch.unique_consecutive(starts, return_counts=True)
        assert first[0] == 1 and torch.equal(first[1:], 1 + size.cumsum(0)[:-1])  # each starts where the last one ends
        if len(size) == 1:
            whole += 1
        else:
            for n in size.tolist()[:-1]:  # the last one may be cut
                covered[n] += n
    assert 1 <= whole <= 12  # one in eight
    shares = torch.tensor([*covered.values()]) / sum(covered.values())
    assert (shares - 1 / len(shares)).abs().max() < 0.04


def test_every_number_of_masks_of_a_block_is_equally_likely():
    starts = torch.tensor([1] * 4 + [5] * 1 + [6] * 3)
    x = torch.zeros(6000, 8, dtype=torch.long)
    torch.manual_seed(0)
    xt, share = hybrid.mask_blocks(x, starts, 9)
    for here, size in ((slice(0, 4), 4), (slice(4, 5), 1), (slice(5, 8), 3)):
        masked = xt[:, here] == 9
        k = masked.sum(1)
        assert torch.equal(share[:, here], (k / size)[:, None].expand(-1, size))
        shares = torch.bincount(k, minlength=size + 1)[1:] / len(x)
        assert torch.allclose(shares, torch.full((size,), 1 / size), atol=0.02)
        assert torch.allclose(masked.float().mean(0), masked.float().mean().expand(size), atol=0.03)


def test_whole_hides_this_share_of_the_small_blocks_completely():
    starts = torch.tensor([1] * 16 + [17] * 17)
    x = torch.zeros(4000, 33, dtype=torch.long)
    for whole, small in ((0.0, 1 / 16), (0.25, 0.25 + 0.75 / 16), (1.0, 1.0)):  # k may be the whole block by itself
        torch.manual_seed(0)
        xt, share = hybrid.mask_blocks(x, starts, 9, whole)
        found = (share == 1).float().mean(0)
        assert torch.equal((xt == 9).all(1), (share == 1).all(1))
        assert abs(found[0] - small) < 0.02 and abs(found[16] - 1 / 17) < 0.02  # the second block is too large


# 3. The loss


class Levels(nn.Module):
    """A hybrid with three probabilities of token 0: one in the clean stream, one in the noisy stream, one in drafts.

    Its vector at a row is the number of the row. It records the rows and the previous tokens of all drafts.
    """

    def __init__(self, clean, noisy, drafts):
        super().__init__()
        self.config = transformer.TransformerConfig(32, vocab_size=2, causal=True)
        self.levels, self.drafts = (clean, noisy), drafts

    def logits(self, p):
        return torch.stack((p, 1 - p), -1).log()

    def forward(self, tokens, rows):
        B, T = len(tokens), tokens.shape[1] // 2
        self.tokens = tokens
        p = torch.tensor(self.levels).repeat_interleave(T).expand(B, -1)
        return self.logits(p), torch.arange(2 * T).float().expand(B, -1)[..., None]

    def draft_logits(self, x, previous):
        self.seen = x[..., 0], previous
        return self.logits(torch.full(x.shape[:-1], self.drafts))


def test_the_loss_weighs_clean_tokens_masks_and_drafts():
    model, windows = Levels(0.9, 0.5, 0.2), torch.zeros(6, 33, dtype=torch.long)
    drafted = []
    for seed in range(8):
        torch.manual_seed(seed)
        loss = hybrid.hybrid_loss(model, windows).item()
        drafted.append(len(model.seen[0]) > 0)
        expected = -2 * math.log(0.9) - math.log(0.5) / 2 - drafted[-1] * math.log(0.2) / 2
        assert loss == pytest.approx(expected, abs=1e-5)
    assert 4 <= sum(drafted) < 8  # sometimes there is only one block, too large for drafts


def test_a_draft_sees_the_vector_of_its_mask_and_the_two_tokens_before_it(monkeypatch):
    starts = torch.tensor([1] * 3 + [4] * 1 + [5] * 28)
    monkeypatch.setattr(hybrid, "draw_starts", lambda T: starts)
    windows = random_tokens(40, 33, below=2)
    model = Levels(0.9, 0.5, 0.2)
    torch.manual_seed(0)
    hybrid.hybrid_loss(model, windows)
    xt = model.tokens[:, 32:]
    assert torch.equal(model.tokens[:, :32], windows[:, :-1])
    rows, previous = (part.long().tolist() for part in model.seen)
    expected = []
    for b in range(40):
        for position in range(1, 33):
            start = int(starts[position - 1])
            whole = bool((xt[b][starts == start] == 2).all())
            if whole and 0 < position - start < hybrid.SMALL:
                before = [int(windows[b, position - 1]), int(windows[b, position - 2])]
                expected.append((32 + position - 1, before))  # the noisy row at this position
    assert list(zip(rows, previous)) == expected and len(expected) > 20


def test_the_gradient_reaches_every_weight():
    model = make_hybrid().requires_grad_(True)
    torch.manual_seed(0)
    hybrid.hybrid_loss(model, random_tokens(8, 17)).backward()
    assert all(parameter.grad.abs().max() > 0 for parameter in model.parameters())


# 4. The bound


class UnigramHybrid(Unigram):
    def forward(self, tokens, rows):
        return super().forward(tokens), None


@pytest.mark.parametrize("size", [1, 2, 4, 16])
def test_the_bound_of_a_model_of_known_likelihood(size):
    frequencies = torch.tensor([0.5, 0.25, 0.125, 0.125])
    torch.manual_seed(1)
    windows = torch.multinomial(frequencies, 400 * 17, replacement=True).view(400, 17)
    exact = -frequencies.log()[windows[:, 1:]].mean().item()
    model = UnigramHybrid(transformer.TransformerConfig(vocab_size=4, causal=True), frequencies)
    mean, error = hybrid.block_nelbo(model, windows, size, draws=4)
    assert abs(mean - exact) < 4 * error and error < 0.02
    if size == 1:
        assert mean == pytest.approx(exact, abs=1e-6)  # nothing is drawn at random


def test_the_bound_agrees_with_the_derivation_of_chapter_04():
    """Compare the estimate with an enumeration of all orders, for one block after the first token."""
    model, window = make_hybrid(vocab_size=3, seq_len=3), torch.tensor([[2, 0, 1, 1]])
    rows = hybrid.two_streams(torch.ones(3, dtype=torch.long), 3)

    class Inside(nn.Module):  # the noisy stream, with the clean one fixed
        config = model.config

        def forward(self, tokens, t=None):
            both = torch.cat((window[:, :-1].expand(len(tokens), -1), tokens), 1)
            return model(both, rows)[0][:, 3:]

    table = diffusion.losses_of_all_sets(Inside(), window[0, 1:])
    exact = diffusion.nelbo_by_orders(table, 3).item() / 3
    mean, error = hybrid.block_nelbo(model, window.expand(4000, -1), 3)
    assert abs(mean - exact) < 4 * error


# 5. Caches


@pytest.mark.parametrize("shape", CONVOLUTIONS, ids=str)
def test_rows_in_the_buffer_equal_rows_that_are_computed_again(shape):
    """The passes contain drafts and masks. Some drafts are kept, and others are overwritten."""
    model, tokens = make_hybrid(**shape), random_tokens(1, 14)
    whole, kept = page.as_gpt(model)(tokens)[0], hybrid.KeptRows(model, 1, 60)
    n = 0
    for known, accepted, drafts in ((3, 0, 0), (1, 2, 3), (1, 0, 3), (1, 3, 3), (1, 1, 1)):
        rows = hybrid.rows_of_pass(known, drafts, 2, model.config.conv, CPU)
        wrong = (tokens[:, n + known + accepted : n + known + drafts] + 1) % 5  # refused drafts are other tokens
        masks = torch.full((1, 2 * (drafts + 1)), 5)
        final = known + accepted
        logits, _ = model(torch.cat((tokens[:, n : n + final], wrong, masks), 1), rows, kept)
        torch.testing.assert_close(logits[0, :final], whole[n : n + final], atol=1e-5, rtol=1e-5)
        n = kept.n = n + final
    assert n == 13


def test_the_drafts_see_the_text_before_them_whatever_is_accepted():
    model, tokens = make_hybrid(), random_tokens(1, 9)
    rows = hybrid.rows_of_pass(4, 2, 3, 3, CPU)
    masks = torch.full((1, 9), 5)
    logits, _ = model(torch.cat((tokens[:, :6], masks), 1), rows)
    for accepted in range(3):  # the block behind it, computed alone
        n = 4 + accepted
        positions = torch.tensor([*range(n), n + 1, n + 2, n + 3])  # the token at n has no row
        alone = hybrid.make_rows(positions, torch.tensor([-1] * n + [n] * 3), 3)
        expected, _ = model(torch.cat((tokens[:, :n], masks[:, :3]), 1), alone)
        here = slice(6 + 3 * accepted, 9 + 3 * accepted)
        torch.testing.assert_close(logits[:, here], expected[:, -3:], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("shape", CONVOLUTIONS, ids=str)
def test_blocks_are_written_with_exact_rows(shape):
    model, canvas = make_hybrid(**shape), torch.full((2, 15), 5)
    canvas[:, :3] = torch.tensor([[1, 2, 3], [4, 0, 1]])
    seen = []

    class Watched(hybrid.CleanBlockModel):
        def __call__(self, block, t):
            logits = super().__call__(block, t)
            tokens, start, end = self.put(block)[0], self.start, self.end
            rows = hybrid.make_rows(torch.arange(end), torch.tensor([-1] * start + [start] * (end - start)),
                                    model.config.conv)
            torch.testing.assert_close(logits, model(tokens[:, :end], rows)[0][:, start:], atol=1e-5, rtol=1e-5)
            seen.append((start, end))
            return logits

    torch.manual_seed(0)
    states = list(fast.denoise_blocks(model, canvas, 6, block=4, reader=Watched))
    assert seen == [(3, 7)] * 2 + [(7, 11)] * 2 + [(11, 15)] * 2 and len(states) == 6
    assert (states[-1].canvas != 5).all() and torch.equal(states[-1].canvas[:, :3], canvas[:, :3])


# 6. Draft and verify


def test_greedy_text_is_the_greedy_text_of_the_gpt_over_many_windows():
    model = make_hybrid(vocab_size=12, seq_len=32, std=1.0, seed=1)  # other models soon repeat one character
    expected = gpt.write(page.as_gpt(model), torch.tensor([[3, 1, 4]]), 147, temperature=0)[0].tolist()
    assert len(set(expected[-100:])) > 2
    prompt = [3, 1, 4]
    for drafts in (1, 4):
        written, passes = continued(model, prompt, 150, 0, drafts=drafts)
        assert written == expected and passes <= 147
    assert prompt == [3, 1, 4]  # the caller's list stays as it is


class Markov(hybrid.Hybrid):
    """A hybrid with a known table of next-token probabilities, and another table for its drafts."""

    def __init__(self, table, drafts, seq_len=64):
        super().__init__(transformer.TransformerConfig(seq_len, 1, 1, 2, vocab_size=len(table), causal=True))
        self.table, self.drafts = table.log(), drafts.log()

    def forward(self, tokens, rows, kept=None):
        known = tokens.clamp(max=len(self.table) - 1)
        return self.table[known], torch.zeros(*tokens.shape, 2)

    def draft_logits(self, x, previous):
        return self.drafts[previous[..., 0]]


@pytest.mark.parametrize(("temperature", "top_k", "drafts"), [(1.0, None, 3), (0.6, None, 2), (1.3, 2, 4)])
def test_drafted_text_has_exactly_the_distribution_of_the_gpt(temperature, top_k, drafts):
    """A chi-square test of 4,000 transitions. Each token depends only on the token before it."""
    table = torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.3, 0.6], [0.25, 0.35, 0.4]])
    wrong = torch.tensor([[0.2, 0.2, 0.6], [0.3, 0.4, 0.3], [0.1, 0.8, 0.1]])
    torch.manual_seed(5)
    n = 4000
    written, passes = continued(Markov(table, wrong), [0], n + 1, temperature, top_k, drafts)
    assert 1.2 < n / passes < drafts + 1
    written = torch.tensor(written)
    counts = torch.bincount(written[:-1] * 3 + written[1:], minlength=9).view(3, 3).double()

    def chi_square(table):
        expected = hybrid.probabilities(table.log(), temperature, top_k).double() * counts.sum(1, keepdim=True)
        possible = expected > 0
        difference = (counts - expected)[possible].square() / expected[possible]
        return difference.sum().item(), int(possible.sum()) - 3, counts[~possible].sum().item()

    distance, freedom, impossible = chi_square(table)
    assert impossible == 0 and distance < freedom + 5 * math.sqrt(2 * freedom)
    assert chi_square(wrong)[0] > 150  # the test can tell the two apart


def test_verification_draws_the_missing_probability():
    """If we sum over all drafts, the first new token has the distribution p for every q."""
    p, q = torch.tensor([[0.6, 0.3, 0.1], [0.2, 0.2, 0.6]]), torch.tensor([[0.1, 0.8, 0.1]])
    torch.manual_seed(0)
    counts, n = torch.zeros(3), 6000
    for _ in range(n):
        draft = int(diffusion.pick(q[0]))
        accepted, token = hybrid.verify(p, q, [draft])
        counts[draft if accepted else token] += 1
    assert torch.allclose(counts / n, p[0], atol=0.02)


@pytest.mark.parametrize("temperature, top_k", [(0, None), (0.7, None), (1.5, 2)])
def test_probabilities_are_those_with_which_chapter_04_draws(temperature, top_k):
    torch.manual_seed(0)
    logits = torch.randn(5)
    drawn = diffusion.draw(logits.expand(20_000, -1), temperature, top_k)
    shares = torch.bincount(drawn, minlength=5) / len(drawn)
    assert torch.allclose(shares, hybrid.probabilities(logits, temperature, top_k), atol=0.02)
    with pytest.raises(FloatingPointError):
        diffusion.pick(hybrid.probabilities(logits * math.nan, temperature, top_k))


def test_states_show_every_draft_and_the_given_text_stays():
    model, mask = make_hybrid(), 5
    canvas = torch.full((2, 20), mask)
    canvas[0, :4], canvas[1, :1] = torch.tensor([1, 2, 3, 4]), 0
    torch.manual_seed(0)
    states = list(hybrid.stream(model, canvas, 1.0))
    assert (states[-1].canvas != mask).all() and torch.equal(states[-1].canvas[0, :4], canvas[0, :4])
    assert sum(state.committed.sum() for state in states) == 16 + 19
    before, refused = canvas, 0
    for state in states:
        assert torch.equal(before[~state.committed], state.canvas[~state.committed])
        assert ((state.confidence > 0) & (state.confidence <= 1))[state.canvas != mask].all()
        row = int(state.committed.any(1).nonzero())
        first, count = int(state.committed[row].int().argmax()), int(state.committed[row].sum())
        new, tried = state.canvas[row, first : first + count], state.drafts[row, first : first + count]
        assert torch.equal(new[:-1], tried[:-1])  # all new tokens but the last one are accepted drafts
        assert tried[-1] == -1 or tried[-1] != new[-1]  # the last one replaces a refused draft, or had none
        shown = [style for cells in views.page(state, canvas != mask, list("abcde░"), 80) for _, style in cells]
        refused += shown.count("refused")
        assert shown.count("refused") == ((state.canvas == mask) & (state.drafts >= 0)).sum()
        before = state.canvas
    assert refused > 0


# 7. The program


@pytest.fixture
def command(tmp_path):
    (tmp_path / "verse.txt").write_text("abracadabra, simsalabim!\n" * 120, encoding="utf-8")
    path = write_settings(tmp_path / "tiny.yaml", seq_len=32, steps=40, evaluations=2, conv=3, cooldown=0)
    return ["--corpus", str(tmp_path / "verse.txt"), "--config", str(path), "--device", "cpu"]


def test_training_learns_resumes_and_writes(runs_folder, command, monkeypatch, capsys):
    monkeypatch.setattr(hybrid.training, "draw_curves", lambda *_: None)
    with monkeypatch.context() as patch:
        patch.setattr(hybrid, "show_results", lambda *_: None)
        hybrid.main([*command, "--run", "parts", "--steps", "20"])
        hybrid.main([*command, "--run", "parts"])
    hybrid.main([*command, "--run", "whole"])
    assert log_of(runs_folder / "parts")[-1]["NLL"] == log_of(runs_folder / "whole")[-1]["NLL"] < 2.2  # random: 2.6
    out = capsys.readouterr().out
    assert "characters per pass" in out and "blocks of   32, at most" in out

    def write(flags):
        hybrid.main(["write", "--checkpoint", "whole", "--seed", "1", "--quiet", *flags.split()])
        return capsys.readouterr().out

    one = write("--prompt abra --len 60")
    assert one == write("--prompt abra --len 60") and one.startswith("abra") and len(one.rstrip("\n")) <= 60
    seen = {one}
    for number, flags in enumerate(("--drafts 0", "--block 8", "--block 8 --steps 2", "--block 8 --threshold 0.2"), 2):
        seen.add(write(f"--prompt abra --len 60 {flags}"))
        assert len(seen) == number, flags


@pytest.mark.parametrize("length, prompt, passes", [(32, 2, 4 * 2), (32, 16, 2 * 2), (56, 0, 4 * 2 + 3 * 2)])
def test_steps_count_the_passes_of_a_block(length, prompt, passes):
    """In the last case, 56 tokens need two windows: 32 tokens in four blocks, then 24 tokens in three blocks."""
    model = make_hybrid(seq_len=32)
    canvas = torch.full((1, length), 5)
    canvas[:, : max(1, prompt)] = 1
    settings = hybrid.Write(block=8, steps=2)
    assert len(list(hybrid.stream_blocks(model, canvas, settings))) == passes


@pytest.mark.parametrize(("flags", "word"), [
    ("write --confidence", "block"), ("write --steps 4", "block"), ("write --drafts -1", "drafts"),
    ("write --block -1", "block"), ("--time-conditioned", "noise level")])  # fmt: skip
def test_mistakes_end_in_a_clear_message(flags, word):
    assert word in refusal(hybrid.main, flags.split())


# 8. The shipped model and the page


def test_the_shipped_hybrid_drafts_what_it_accepts():
    folder = checkpoint.RUNS / "shakespeare-hybrid"
    model, tokenizer, _ = checkpoint.load(folder, kinds=("hybrid",), build=hybrid.Hybrid)
    prompt = tokenizer.encode("ROMEO:\n")
    torch.manual_seed(1)
    _, passes = continued(model, prompt, 150, 0.8)
    assert (150 - 7) / passes > 2
    expected = gpt.write(page.as_gpt(model), torch.tensor([prompt]), 60, 0)[0].tolist()
    assert continued(model, prompt, 67, 0)[0] == expected


def test_the_page_is_measured(runs_folder, tmp_path, monkeypatch):
    """This uses tiny models and few texts."""
    monkeypatch.setattr(text, "load", lambda name: text.Corpus(name, made_up_text()))
    letters = text.Characters(LETTERS)
    model = make_hybrid(letters.vocab_size, 16)
    checkpoint.save(runs_folder / "small", model, letters, {"kind": "hybrid", "tokens": 1, "command": "none"})
    info = {"step": 1, "train": {"batch_size": 1}}
    checkpoint.save(runs_folder / "shakespeare", make_model(letters.vocab_size), letters, info)
    checkpoint.save(runs_folder / "shakespeare-gpt", make_model(letters.vocab_size, causal=True), letters,
                    info | {"kind": "gpt"})
    monkeypatch.setitem(page.SIZES, "quick", (4, 2, 2, (0, 2, 3), (64,)))
    monkeypatch.setattr(page, "LENGTH", 20)
    monkeypatch.setattr(page, "STEADY", 1000)  # such short texts say little about speed
    monkeypatch.setattr(page, "KEPT", 8)
    values = page.measure(page.Command(checkpoint="small", size="quick", device="cpu"))
    values = json.loads(json.dumps(values | {"tables": page.tables(values)}))
    assert [point["size"] for point in values["curve"]] == [1, 2, 4, 8, 16]
    assert [line["drafts"] for line in values["speed"]] == [0, 2, 3] and values["speed"][0]["per_pass"] == 1
    page.draw(values, tmp_path)
    assert (tmp_path / "block_diffusion_curve.png").is_file()
    assert values["sample"] in page.pages.fill("block_diffusion", values)


def test_a_table_of_speeds_from_a_busy_machine_is_refused():
    page.check_steady([300.0, 290.0, 315.0])
    with pytest.raises(cli.UserError, match="115 and then 303"):
        page.check_steady([303.0, 115.0, 299.0])
