"""Chapter 04: noise, loss, likelihood and the sampler, against what mathematics says of them."""

import dataclasses
import itertools
import math
import re
from importlib import import_module
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from helpers import Unigram, make_model, seeded

from plumbing import sampling

transformer = import_module("03_transformer")
diffusion = import_module("04_diffusion")

V, T = 7, 24
SCHEDULES = diffusion.NoiseSchedule.NAMES


def random_tokens(n, length=T, seed=0):
    return torch.randint(V, (n, length), generator=seeded(seed))


def unigram():
    frequencies = torch.tensor([0.3, 0.25, 0.2, 0.1, 0.08, 0.05, 0.02])
    config = transformer.TransformerConfig(V, T)
    return Unigram(config, frequencies), frequencies


class Spy(torch.nn.Module):
    """A model that records, for each call, the masked share of each row and the given noise level."""

    def __init__(self, model):
        super().__init__()
        self.model, self.config, self.seen = model, model.config, []

    def forward(self, tokens, t):
        self.seen.append(((tokens == V).float().mean(1), t))
        return self.model(tokens)


def random_model(vocab_size=V, length=T, seed=0, **switches):
    """A transformer whose prediction depends on everything it sees: fresh weights would hide mistakes."""
    return make_model(vocab_size, length, std=0.5, seed=seed, n_layer=2, **switches)


@pytest.fixture
def model():
    return random_model()


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedule_runs_from_clean_to_masked_and_its_weight_is_the_derivative(name):
    schedule = diffusion.NoiseSchedule(name)
    ends = schedule.alpha(torch.tensor([0.0, 1.0]))
    assert torch.allclose(ends, torch.tensor([1.0, 0.0]), atol=1e-6)
    t = torch.linspace(0.01, 0.99, 50, dtype=torch.float64, requires_grad=True)
    alpha = schedule.alpha(t)
    assert (alpha.diff() < 0).all()
    (slope,) = torch.autograd.grad(alpha.sum(), t)
    assert torch.allclose(schedule.weight(t), -slope / (1 - alpha), rtol=1e-8)


def test_unknown_schedule(monkeypatch):
    with pytest.raises(ValueError, match="choose from linear"):
        diffusion.NoiseSchedule("square")
    monkeypatch.setattr(diffusion.NoiseSchedule, "NAMES", ("linear", "square"))
    for formula in (diffusion.NoiseSchedule("square").alpha, diffusion.NoiseSchedule("square").weight):
        with pytest.raises(KeyError):  # a name without a formula is no other schedule
            formula(torch.tensor([0.5]))


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("t", [0.0, 0.1, 0.5, 0.9, 1.0])
def test_mask_fraction_and_visible_tokens(name, t):
    schedule = diffusion.NoiseSchedule(name)
    x0 = random_tokens(400, 100)
    xt = diffusion.mask_tokens(x0, torch.full((400,), t), V, schedule, seeded())
    hidden = xt == V
    expected = min(1.0, 1 - schedule.alpha(torch.tensor(t)).item())  # rounding: alpha(1) may be -4e-8
    tolerance = 5 * math.sqrt(expected * (1 - expected) / hidden.numel()) + 1e-6
    assert abs(hidden.float().mean().item() - expected) <= tolerance
    assert torch.equal(xt[~hidden], x0[~hidden])


def test_mask_exactly_hides_that_many_and_each_place_alike():
    x0 = random_tokens(6000)
    k = torch.arange(6000) % (T + 1)
    xt = diffusion.mask_exactly(x0, k, V, seeded())
    hidden = xt == V
    assert torch.equal(hidden.sum(1), k)
    assert torch.equal(xt[~hidden], x0[~hidden])
    assert (hidden.float().mean(0) - 0.5).abs().max() < 0.04


def test_mask_exactly_spares_what_is_given():
    x0 = random_tokens(6000)
    k = torch.arange(6000) % (T - 2)  # 0 ... T - 3
    xt = diffusion.mask_exactly(x0, k, V, seeded(), given=3)
    hidden = xt == V
    assert torch.equal(hidden.sum(1), k) and not hidden[:, :3].any()
    assert torch.equal(xt[~hidden], x0[~hidden])
    assert (hidden[:, 3:].float().mean(0) - 0.5).abs().max() < 0.04


def test_stratified_puts_one_in_each_stratum():
    values = sampling.stratified(50, generator=seeded())
    assert torch.equal((values * 50).long().sort().values, torch.arange(50))
    assert not torch.equal(values, values.sort().values)


@pytest.mark.parametrize("name", SCHEDULES)
def test_nelbo_of_a_unigram_model_is_its_cross_entropy_for_each_schedule(name):
    model, frequencies = unigram()
    x0 = random_tokens(20000)
    exact = -frequencies.log()[x0].mean().item()
    mean, error = diffusion.nelbo_by_schedule(model, x0, diffusion.NoiseSchedule(name))
    assert 0 < error < 0.05
    assert abs(mean - exact) < 4 * error


def test_nelbo_by_counts_is_exact_for_a_unigram_model_and_less_noisy():
    model, frequencies = unigram()
    x0 = torch.multinomial(frequencies, 4000 * T, replacement=True, generator=seeded()).view(4000, T)
    exact = -frequencies.log()[x0].mean().item()
    mean, error = diffusion.nelbo(model, x0)
    assert abs(mean - exact) < 4 * error
    assert abs(mean - -(frequencies * frequencies.log()).sum().item()) < 0.02  # and so near the entropy
    assert error < diffusion.nelbo_by_schedule(model, x0, diffusion.NoiseSchedule())[1]


# The derivation


@pytest.mark.parametrize("switches", [{}, {"time_conditioned": True, "positions": "learned"}])
@pytest.mark.parametrize("text", [[4, 1], [0, 2, 2], [3, 1, 2, 0]])
def test_every_step_of_the_derivation_gives_the_same_bound(text, switches):
    model = random_model(5, len(text), seed=len(text), **switches)
    steps, ell = diffusion.derive_bound(model, torch.tensor(text))
    nll, orders, *others = steps.values()
    assert len(others) == 2 + len(SCHEDULES)
    assert nll < orders - 1e-3  # the orders differ, so the bound is not exact
    assert others == pytest.approx([orders] * len(others), abs=1e-4)
    assert 0 < ell(torch.tensor([0.5], dtype=torch.float64)).item() < orders


def test_the_first_step_is_a_likelihood_and_the_bound_is_above_it():
    """The probabilities of all texts add up to one."""
    model = random_model(3, 3)
    steps = [list(diffusion.derive_bound(model, torch.tensor(text))[0].values())
             for text in itertools.product(range(3), repeat=3)]
    assert sum(math.exp(-nll) for nll, *_ in steps) == pytest.approx(1, abs=1e-5)
    assert all(nll <= bound for nll, bound, *_ in steps)


def test_the_likelihood_agrees_with_writing_one_token_after_another(model):
    """One order by hand: position 1 first, then position 0; and the other way round."""
    p1 = model(torch.tensor([[V, V]]))[0, 1].softmax(-1)[5] * model(torch.tensor([[V, 5]]))[0, 0].softmax(-1)[3]
    p0 = model(torch.tensor([[V, V]]))[0, 0].softmax(-1)[3] * model(torch.tensor([[3, V]]))[0, 1].softmax(-1)[5]
    nll, bound, *_ = diffusion.derive_bound(model, torch.tensor([3, 5]))[0].values()
    assert nll == pytest.approx(-((p0 + p1) / 2).log().item(), abs=1e-5)
    assert bound == pytest.approx(-(p0.log() + p1.log()).item() / 2, abs=1e-5)


def test_the_bound_is_exact_where_the_order_does_not_matter():
    model, frequencies = unigram()
    text = torch.tensor([0, 6, 3])
    exact = -frequencies.log()[text].sum().item()
    steps, ell = diffusion.derive_bound(model, text)
    assert list(steps.values()) == pytest.approx([exact] * len(steps), abs=1e-4)
    assert ell(torch.tensor([0.0, 0.3, 1.0], dtype=torch.float64)).tolist() == pytest.approx([exact / 3] * 3, abs=1e-5)


def test_both_estimates_agree_with_the_derivation():
    model, text = random_model(5, 3, seed=1), torch.tensor([[3, 1, 4]])
    exact = list(diffusion.derive_bound(model, text[0])[0].values())[1] / 3
    estimates = [diffusion.nelbo(model, text, draws=4000, batch_size=4000)]
    for name in SCHEDULES:
        estimates.append(diffusion.nelbo_by_schedule(model, text.repeat(4000, 1), diffusion.NoiseSchedule(name)))
    for mean, error in estimates:
        assert abs(mean - exact) < 4 * error


def test_the_training_loss_is_the_mean_of_ell_with_weight_t():
    """simple_loss and diffusion_loss estimate the same number."""
    model, x0 = random_model(5, 3, seed=1), torch.tensor([[3, 1, 4]]).repeat(20000, 1)
    _, ell = diffusion.derive_bound(model, x0[0])
    t = (torch.arange(1000, dtype=torch.float64) + 0.5) / 1000
    exact = (2 * t * ell(t)).mean().item()
    torch.manual_seed(0)
    assert diffusion.simple_loss(model, x0).item() == pytest.approx(exact, abs=0.05)
    assert diffusion.diffusion_loss(model, x0).item() == pytest.approx(exact, abs=0.03)


def test_the_training_loss_with_weight_1_over_t_is_the_bound():
    model, x0 = random_model(5, 3, seed=8), torch.tensor([[3, 1, 4]]).repeat(20000, 1)
    exact = list(diffusion.derive_bound(model, x0[0])[0].values())[1] / 3
    torch.manual_seed(0)
    assert diffusion.diffusion_loss(model, x0, weight="1/t").item() == pytest.approx(exact, abs=0.03)
    assert abs(diffusion.diffusion_loss(model, x0).item() - exact) > 0.2


def test_nelbo_equals_the_sum_over_every_mask_of_a_short_text(model):
    """Two tokens have three masks: {1}, {2} with k = 1, and {1, 2} with k = 2."""
    x0 = torch.tensor([[3, 5]])

    def loss(xt):
        return diffusion.masked_cross_entropy(model, x0, xt, torch.tensor([0.5])).sum().item()

    one = (loss(torch.tensor([[V, 5]])) + loss(torch.tensor([[3, V]]))) / 2
    both = loss(torch.tensor([[V, V]])) / 2
    exact = (one + both) / 2  # k uniform, (T/k) Σ / T
    mean, error = diffusion.nelbo(model, x0, draws=4000, batch_size=4000)
    assert abs(mean - exact) < 4 * error + 1e-4


def test_nelbo_of_what_follows_a_given_token_equals_the_sum_over_every_mask(model):
    """One token is known; two others have the masks {1}, {2} and {1, 2}, seen as 1/3 and 2/3 of the row."""
    x0 = torch.tensor([[2, 3, 5]])

    def loss(xt, t):
        return diffusion.masked_cross_entropy(model, x0, torch.tensor([xt]), torch.tensor([t])).sum().item()

    one = (loss([2, V, 5], 1 / 3) + loss([2, 3, V], 1 / 3)) / 2
    exact = (one + loss([2, V, V], 2 / 3) / 2) / 2
    mean, error = diffusion.nelbo(model, x0, draws=4000, batch_size=4000, given=1)
    assert abs(mean - exact) < 4 * error + 1e-4


def test_nelbo_with_given_tokens_counts_the_others_only():
    model, frequencies = unigram()
    x0 = torch.multinomial(frequencies, 4000 * T, replacement=True, generator=seeded()).view(4000, T)
    x0[:, :2] = 6  # the rarest symbol, twice: were it counted, the loss would be far higher
    exact = -frequencies.log()[x0[:, 2:]].mean().item()
    spy = Spy(model)
    mean, error = diffusion.nelbo(spy, x0, batch_size=4000, given=2)
    assert abs(mean - exact) < 4 * error  # the bound is tight for this model
    (share, t), = spy.seen
    assert torch.allclose(share, t)  # the noise level is the share of the whole row, as in the sampler


def test_nelbo_error_is_the_spread_over_seeds(model):
    x0 = random_tokens(40)
    runs = torch.tensor([diffusion.nelbo(model, x0, seed=seed) for seed in range(200)])
    means, errors = runs.T
    assert 0.75 < errors.mean() / means.std() < 1.4


def test_nelbo_is_reproducible(model):
    x0 = random_tokens(30)
    assert diffusion.nelbo(model, x0) == diffusion.nelbo(model, x0)
    assert diffusion.nelbo(model, x0, seed=1) != diffusion.nelbo(model, x0)


def test_loss_of_a_unigram_model_and_its_noise_limit():
    model, frequencies = unigram()
    x0 = random_tokens(5000)
    exact = -frequencies.log()[x0].mean().item()
    assert abs(diffusion.diffusion_loss(model, x0, 0.8, seeded()).item() - exact) < 0.02
    spy = Spy(model)
    diffusion.diffusion_loss(spy, x0, 0.5, seeded())
    (share, t), = spy.seen
    assert torch.allclose(share, t)  # the given noise level is the share of masks in the input
    assert share.min() > 0 and share.max() <= 0.5 + 1 / T


def test_one_batch_can_be_overfitted():
    torch.manual_seed(0)
    config = transformer.TransformerConfig(V, T, n_layer=2, n_head=2, n_embd=64, positions="learned")
    model, x0 = transformer.Transformer(config), random_tokens(2).repeat(8, 1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    before = diffusion.nelbo(model, x0)[0]
    for _ in range(150):
        loss = diffusion.diffusion_loss(model, x0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert before > 1.8
    assert diffusion.nelbo(model, x0)[0] < 0.2


RULES = [diffusion.scattered, diffusion.by_confidence]


@pytest.mark.parametrize("select", RULES)
@pytest.mark.parametrize("steps", [1, 5, 7, T, 1000])
def test_sampler_keeps_what_is_given_and_fills_the_rest(model, select, steps):
    canvas = torch.full((3, T), V)
    canvas[:, :4] = torch.tensor([1, 2, 3, 4])
    canvas[1, 10:12] = 5  # rows may have different numbers of masks
    states = list(diffusion.denoise(model, canvas, steps, select=select, mend=0, generator=seeded()))
    given = canvas != V
    assert torch.equal(states[0].canvas, canvas) and states[0].nfe == 0
    assert len(states) == 1 + min(steps, T - 4)
    for before, state in zip(states, states[1:]):
        assert torch.equal(state.canvas[given], canvas[given])
        known = before.canvas != V
        assert torch.equal(state.canvas[known], before.canvas[known])  # a committed token stays
        assert torch.equal(state.committed, (state.canvas != V) & ~known)  # and committed says what is new
        assert (state.committed.sum(1) >= 1).any()  # no pass is idle
        assert state.nfe == state.step == before.step + 1
    assert (states[-1].canvas != V).all() and (states[-1].canvas < V).all()
    committed_a_step = torch.stack([state.committed.sum(1) for state in states[1:]])
    assert committed_a_step.max() - committed_a_step[:, 0].min() <= 1  # an even pace


def test_isolation_is_the_way_to_higher_ground():
    score = torch.tensor([[3.0, 1.0, 2.0, 9.0, 4.0, 5.0], [1.0, 1.0, 0.5, 7.0, 2.0, 8.0]])
    masked, far = torch.tensor([[True, True, True, False, True, True], [True] * 6]), math.inf
    assert sampling.distance_to_surer(score, masked).tolist() == [[4, 1, 2, 0, 1, far], [3, 2, 1, 2, 1, far]]
    everything = torch.rand(20, 40, generator=seeded())
    hidden = torch.rand(20, 40, generator=seeded(1)) < 0.7
    found = sampling.distance_to_surer(everything, hidden)
    for row in range(20):
        for i in range(40):
            ways = [abs(i - j) for j in range(40) if hidden[row, j] and everything[row, j] > everything[row, i]]
            assert found[row, i] == (min(ways, default=far) if hidden[row, i] else 0)


def test_scattered_positions_are_far_apart_and_ignore_the_proposals():
    """No two of the selected positions (one in ten) are within three. Selection by confidence has such pairs."""
    confidence = torch.rand(50, 200, generator=seeded())
    masked, count = torch.ones(50, 200, dtype=torch.bool), torch.full((50,), 20)
    gaps = {}
    for select in RULES:
        chosen = select(confidence, masked, count, seeded())
        assert (chosen.sum(1) == 20).all()
        gaps[select] = chosen.nonzero()[:, 1].view(50, 20).diff(dim=1).amin()
    assert gaps[diffusion.scattered] > 3 and gaps[diffusion.by_confidence] == 1
    other = diffusion.scattered(1 - confidence, masked, count, seeded())
    assert torch.equal(other, diffusion.scattered(confidence, masked, count, seeded()))


# Correction


@pytest.mark.parametrize(("steps", "mend", "passes"), [
    (8, 0.5, 8), (7, 0.5, 7), (1, 0.5, 1), (8, 0, 8), (8, 0.25, 8), (1000, 0.5, 2 * 10 - 1), (1000, 0, 10)])
def test_a_share_of_the_passes_corrects(model, steps, mend, passes):
    canvas = torch.full((2, T), V)
    canvas[:, 10:] = 3
    canvas[1, 9] = 4  # this text has fewer masks
    states = list(diffusion.denoise(model, canvas, steps, mend=mend, generator=seeded()))
    assert len(states) == 1 + passes and states[-1].nfe == states[-1].step == passes
    correcting = min(int(mend * steps), 9)
    for before, state in zip(states, states[1:]):
        assert torch.equal(state.canvas[canvas != V], canvas[canvas != V])  # given tokens never change
        changed = state.canvas != before.canvas
        assert not (changed & ~state.committed).any()
    assert all(not (state.canvas == V).any() for state in states[passes - correcting :])
    assert all((state.canvas == V).any() for state in states[: passes - correcting])


def test_correction_repairs_what_was_written_without_seeing_its_neighbour():
    """Texts are pairs of equal letters. Two letters of one pass agree by chance alone; after correction, all do."""
    def predict(canvas, share):  # certain about a masked letter whose partner is visible, and undecided otherwise
        partner = canvas.view(len(canvas), -1, 2).flip(-1).flatten(1)
        return 20 * F.one_hot(partner, V + 1)[..., :V].float() + torch.zeros(V).index_fill(0, torch.tensor([0, 1]), 8.0)

    predict.config = SimpleNamespace(mask_id=V)
    canvas = torch.full((40, 20), V)
    agree = {}
    for steps, mend in ((1, 0), (31, 0.97)):
        *_, last = diffusion.denoise(predict, canvas, steps, temperature=1, mend=mend, generator=seeded())
        pairs = last.canvas.view(40, 10, 2)
        agree[mend] = (pairs[..., 0] == pairs[..., 1]).float().mean().item()
    assert agree[0] < 0.65 and agree[0.97] > 0.95


def test_doubtful_positions_are_far_apart_and_in_proportion_to_doubt():
    confidence = torch.full((4000, 40), 0.9)
    confidence[:, 20] = 0.5  # five times the doubt of each of the eight neighbours within four positions
    written = torch.ones(4000, 40, dtype=torch.bool)
    written[:, :4] = False
    back = diffusion.doubtful(confidence, written, seeded())
    assert not back[:, :4].any()
    for shift in range(1, diffusion.REACH + 1):
        assert not (back[:, shift:] & back[:, :-shift]).any()
    assert abs(back[:, 20].float().mean().item() - 5 / (5 + 2 * diffusion.REACH)) < 0.03
    assert abs(back[:, 10].float().mean().item() - 1 / (1 + 2 * diffusion.REACH)) < 0.03


def test_rule_commits_the_surest():
    confidence = torch.tensor([[0.1, 0.9, 0.5, 0.7], [0.4, 0.3, 0.2, 0.1]])
    masked = torch.tensor([[True, False, True, True], [True, True, True, True]])
    chosen = diffusion.by_confidence(confidence, masked, torch.tensor([2, 1]))
    assert chosen.tolist() == [[False, False, True, True], [True, False, False, False]]


def test_proposals_follow_temperature_and_top_k():
    logits = torch.tensor([2.0, 1.0, 0.0]).log_softmax(0).expand(1, 30000, 3)
    token, sure = diffusion.propose(logits, 0.5, generator=seeded())
    share = torch.bincount(token[0], minlength=3) / 30000
    assert torch.allclose(share, (logits[0, 0] / 0.5).softmax(0), atol=0.01)
    assert torch.allclose(sure[0], logits[0, 0].exp()[token[0]])  # how sure the model is, before temperature
    assert diffusion.propose(logits, 1.0, top_k=2, generator=seeded())[0].max() == 1
    assert (diffusion.propose(logits, 1.0, top_k=1, generator=seeded())[0] == 0).all()
    assert (diffusion.propose(logits, 0)[0] == 0).all()


def test_a_state_moves_to_a_device_and_is_built_with_names(model):
    state, *_ = diffusion.denoise(model, torch.full((2, T), V))
    moved = state.to("meta")
    assert {moved.canvas.device.type, moved.confidence.device.type, moved.committed.device.type} == {"meta"}
    assert (moved.step, moved.nfe, moved.canvas.shape) == (0, 0, state.canvas.shape)
    assert state.canvas.device.type == "cpu"
    with pytest.raises(TypeError):
        diffusion.State(state.canvas, state.confidence, state.committed, 0, 0)
    with pytest.raises(dataclasses.FrozenInstanceError):
        state.step = 1


def test_confidence_is_that_of_the_written_token_or_of_the_last_proposal(model):
    canvas = torch.full((1, T), V)
    canvas[0, :3] = torch.tensor([1, 2, 3])
    states = list(diffusion.denoise(model, canvas, 7, temperature=0, mend=0))
    for before, state in zip(states, states[1:]):
        best = model(before.canvas).softmax(-1).amax(-1)  # temperature 0 proposes the most probable tokens
        hidden = before.canvas == V
        assert torch.allclose(state.confidence[hidden], best[hidden])
        assert torch.equal(state.confidence[~hidden], before.confidence[~hidden])
    assert (states[-1].confidence[:, :3] == 1).all()


def test_seeds_reproduce(model):
    canvas = torch.full((2, T), V)

    def text(seed):
        *_, last = diffusion.denoise(model, canvas, 8, temperature=1.0, generator=seeded(seed))
        return last.canvas

    assert torch.equal(text(1), text(1))
    assert not torch.equal(text(1), text(2))


def test_nothing_to_fill(model):
    canvas = random_tokens(2)
    (state,) = diffusion.denoise(model, canvas)
    assert torch.equal(state.canvas, canvas)


def test_chapter_runs_and_brings_sentences_back(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(diffusion.files, "ROOT", tmp_path)
    diffusion.main([], steps=80)
    out = capsys.readouterr().out
    whole = [int(count) for count in re.findall(r"(\d+) of 20 are", out)]
    assert len(whole) == 8 and max(whole) >= 5
    assert whole[1] + whole[3] > whole[0] + whole[2]  # correction helps the random order
    assert f"{math.log(4) / 46:.3f}" in out  # the floor of the NELBO
    assert (tmp_path / "figures" / "04_bound.png").stat().st_size > 1000
    assert out.strip().splitlines()[-1].startswith("Next: 05_train.py")
