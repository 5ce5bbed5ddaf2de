"""Chapter 04: hiding, the loss, the sampler and the bound agree with the mathematics."""

import math
from importlib import import_module
from itertools import combinations, product
from types import SimpleNamespace

from helpers import make_model

import pytest
import torch
import torch.nn.functional as F

diffusion = import_module("04_diffusion")

V, T = 7, 24  # the mask is token 7


@pytest.fixture(autouse=True)
def usual_start():
    torch.manual_seed(0)


def random_model(vocab_size=V, length=T, timed=True):
    """A model whose prediction depends on the tokens, the positions and, if it is timed, the noise level."""
    return make_model(vocab_size, length, std=0.5, n_layer=2, time_conditioned=timed, positions="learned")


def random_tokens(n, length=T):
    return torch.randint(V, (n, length))


def shares(values, highest):
    """Return which share of `values` each of the numbers 0 … highest has."""
    return torch.bincount(values.flatten(), minlength=highest + 1) / values.numel()


def always(number):
    """A replacement for torch.rand that always returns the same value."""
    return lambda *shape, device=None: torch.full((*shape,), number)


ALMOST_ONE = 1 - 2**-24  # the largest number that torch.rand can return


# 1. Hiding and the loss


def test_hide_hides_exactly_k_tokens_and_never_the_given_ones():
    x0 = random_tokens(6000)
    for given in (0, 3):
        k = torch.arange(6000) % (T - given + 1)
        xt = diffusion.hide(x0, k, V, given)
        hidden = xt == V
        assert torch.equal(hidden.sum(1), k) and not hidden[:, :given].any()
        assert torch.equal(xt[~hidden], x0[~hidden])


def test_hide_takes_each_set_of_places_equally_often():
    hidden = diffusion.hide(random_tokens(30000, 5), torch.full((30000,), 2), V, given=1) == V
    for pair in combinations(range(1, 5), 2):
        assert hidden[:, pair].all(1).float().mean().item() == pytest.approx(1 / 6, abs=0.01)


def test_each_number_of_masks_is_equally_likely():
    k = torch.stack([diffusion.spread_evenly(6, 4) for _ in range(4000)])
    assert torch.allclose(shares(k, 4), torch.tensor([0, 0.25, 0.25, 0.25, 0.25]), atol=0.01)
    for position in range(6):
        assert torch.allclose(shares(k[:, position], 4)[1:], torch.full((4,), 0.25), atol=0.03)


def test_spread_evenly_takes_one_number_of_each_part_of_the_range():
    assert diffusion.spread_evenly(24, 24).sort().values.tolist() == list(range(1, 25))
    assert diffusion.spread_evenly(48, 24).sort().values.tolist() == [1 + i // 2 for i in range(48)]
    for _ in range(20):
        k = diffusion.spread_evenly(8, 24)
        assert ((k.sort().values - 1) // 3).tolist() == list(range(8))
        assert not torch.equal(k, k.sort().values)


def test_spread_evenly_accepts_a_limit_for_each_row_and_never_exceeds_it(monkeypatch):
    highest = torch.tensor([2, 5]).repeat(5)
    k = torch.stack([diffusion.spread_evenly(10, highest) for _ in range(4000)]).view(-1, 2)
    assert torch.allclose(shares(k[:, 0], 2)[1:], torch.full((2,), 1 / 2), atol=0.01)
    assert torch.allclose(shares(k[:, 1], 5)[1:], torch.full((5,), 1 / 5), atol=0.01)
    assert diffusion.spread_evenly(1000, 4.8).unique().tolist() == [1, 2, 3, 4, 5]
    monkeypatch.setattr(torch, "rand", always(ALMOST_ONE))
    assert diffusion.spread_evenly(3, 24).max() == 24


def test_the_training_loss_is_the_mean_of_minus_log_p_over_all_hidden_tokens():
    model, x0, k = random_model(), random_tokens(5), torch.tensor([1, 24, 7, 12, 3])
    torch.manual_seed(1)
    loss = diffusion.simple_loss(model, x0, k)
    torch.manual_seed(1)
    xt = diffusion.hide(x0, k, V)
    p = model(xt, k / T).softmax(-1)
    losses = [-p[b, i, x0[b, i]].log() for b in range(5) for i in range(T) if xt[b, i] == V]
    assert len(losses) == k.sum()
    assert loss.item() == pytest.approx((sum(losses) / len(losses)).item(), rel=1e-5)


# 2. What to write


@pytest.mark.parametrize("temperature, top_k", [(1.0, None), (0.5, None), (2.0, 2), (1.0, 100)])
def test_proposals_have_the_distribution_of_the_model_changed_by_temperature_and_top_k(temperature, top_k):
    logits = torch.tensor([1.0, 2.0, 0.0])
    token, probability = diffusion.propose(logits.expand(1, 30000, 3), temperature, top_k)
    expected = (logits / temperature).exp()
    if top_k == 2:
        expected[2] = 0
    assert torch.allclose(shares(token, 2), expected / expected.sum(), atol=0.01)
    assert torch.allclose(probability[0], logits.softmax(0)[token[0]])  # that of the model itself


@pytest.mark.parametrize("temperature, top_k", [(0, None), (1e-9, None), (0, 3), (1.0, 1)])
def test_temperature_zero_and_top_k_one_take_the_most_likely_token(temperature, top_k):
    logits = torch.randn(50, 20, V)
    assert torch.equal(diffusion.draw(logits, temperature, top_k), logits.argmax(-1))


def test_a_token_of_weight_zero_is_never_picked(monkeypatch):
    weights = torch.tensor([0.0, 3.0, 0.0, 1.0, 0.0])
    assert torch.allclose(shares(diffusion.pick(weights.expand(30000, 5)), 4), weights / 4, atol=0.01)
    for number, token in ((0.0, 3), (ALMOST_ONE, 1)):
        monkeypatch.setattr(torch, "rand", always(number))
        assert diffusion.pick(weights) == token


@pytest.mark.parametrize("temperature, top_k", [(0, None), (1.0, None), (1.0, 2)])
@pytest.mark.parametrize("number", [math.nan, math.inf])
def test_logits_that_are_no_numbers_are_an_error(temperature, top_k, number):
    logits = torch.zeros(2, 3, V)
    logits[1, 2, 4] = number
    with pytest.raises(FloatingPointError):
        diffusion.draw(logits, temperature, top_k)
    logits[1, 2, 4] = -math.inf  # a token that cannot occur is none
    diffusion.draw(logits, temperature, top_k)


# 3. Where to write


def test_the_distance_to_a_higher_score_is_that_of_a_loop():
    score, masked = torch.rand(8, 30).round(decimals=1), torch.rand(8, 30) < 0.7  # some scores are equal
    found = diffusion.distance_to_higher(score, masked)
    for row, i in product(range(8), range(30)):
        distances = [abs(i - j) for j in range(30) if masked[row, j] and score[row, j] > score[row, i]]
        assert found[row, i] == (min(distances, default=math.inf) if masked[row, i] else 0)


def test_by_confidence_writes_the_most_probable_proposals():
    confidence = torch.tensor([[0.1, 0.9, 0.5, 0.7], [0.4, 0.3, 0.2, 0.1], [0.5, 0.5, 0.5, 0.5]])
    masked = torch.tensor([[True, False, True, True], [True] * 4, [True] * 4])
    chosen = diffusion.by_confidence(None, confidence, masked, torch.tensor([2, 1, 3]))
    assert chosen[:2].tolist() == [[False, False, True, True], [True, False, False, False]]
    assert chosen[2].sum() == 3  # although all are equal


def test_scattered_writes_no_two_neighbours_while_there_is_room():
    masked, confidence = torch.ones(2000, 60, dtype=torch.bool), torch.rand(2000, 60)
    count = torch.full((2000,), 10)
    chosen = diffusion.scattered(None, confidence, masked, count)
    assert (chosen.sum(1) == 10).all()
    assert chosen.nonzero()[:, 1].view(2000, 10).diff(dim=1).amin() > 1
    torch.manual_seed(3)
    one = diffusion.scattered(None, confidence, masked, count)
    torch.manual_seed(3)
    assert torch.equal(one, diffusion.scattered(None, 1 - confidence, masked, count))  # it ignores the proposals
    often = diffusion.scattered(None, confidence, masked, torch.full((2000,), 24)).float().mean(0)
    assert (often - often.flip(0)).abs().max() < 0.1  # neither side is preferred


def blanks_of_different_numbers():
    """Four texts, with 24, 17, 3 and 0 masks."""
    canvas = random_tokens(4)
    for row, masks in enumerate((24, 17, 3)):
        canvas[row, T - masks :] = V
    return canvas


@pytest.mark.parametrize("steps", [1, 5, 7, 24, 1000])
def test_each_pass_of_unmask_writes_its_planned_share_of_each_text_and_changes_nothing_else(steps):
    canvas = blanks_of_different_numbers()
    states = list(diffusion.unmask(random_model(), canvas, steps))
    steps = min(steps, T)
    assert len(states) == steps
    before = canvas
    for step, state in enumerate(states, 1):
        assert torch.equal(state.committed, (state.canvas != V) & (before == V))
        assert torch.equal(state.canvas[~state.committed], before[~state.committed])
        written = ((state.canvas != V) & (canvas == V)).sum(1)
        assert written.tolist() == [math.ceil(masks * step / steps) for masks in (24, 17, 3, 0)]
        before = state.canvas


def test_a_pass_of_unmask_shows_the_rule_and_the_reader_what_the_model_says():
    model, canvas, seen = random_model(), blanks_of_different_numbers(), []

    def rule(*arguments):
        seen.append(arguments)
        return diffusion.by_confidence(*arguments)

    before, confidence = canvas, (canvas != V).float()  # given tokens are certain
    for state in diffusion.unmask(model, canvas, 7, temperature=0, select=rule):
        masked = before == V
        expected = model(before, masked.float().mean(1))  # the noise level is the share of masks
        probability, token = expected.softmax(-1).max(-1)
        confidence = torch.where(masked, probability, confidence)
        assert torch.allclose(seen[-1][0], expected) and torch.equal(seen[-1][2], masked)
        assert torch.allclose(seen[-1][1], confidence) and torch.allclose(state.confidence, confidence)
        assert torch.equal(state.canvas[state.committed], token[state.committed])
        assert torch.equal(seen[-1][3], state.committed.sum(1))
        before = state.canvas


def test_unmask_ends_early_when_a_rule_writes_more_than_its_share():
    states = list(diffusion.unmask(random_model(), blanks_of_different_numbers(), 24, select=lambda *a: a[2]))
    assert len(states) == 1 and not (states[0].canvas == V).any()


# 4. Correction


def test_doubtful_positions_are_far_apart_and_chosen_in_proportion_to_doubt():
    confidence = torch.full((4000, 40), 0.9)
    confidence[:, 20] = 0.5  # five times the doubt of each of the eight positions within reach
    written = torch.ones(4000, 40, dtype=torch.bool)
    written[:, :4] = False
    chosen = diffusion.doubtful(confidence, written)
    assert not chosen[:, :4].any() and chosen.any(1).all()
    for distance in range(1, diffusion.REACH + 1):
        assert not (chosen[:, distance:] & chosen[:, :-distance]).any()
    assert chosen[:, 20].float().mean().item() == pytest.approx(5 / 13, abs=0.03)
    assert chosen[:, 10].float().mean().item() == pytest.approx(1 / 9, abs=0.02)
    assert diffusion.doubtful(torch.ones(1, 40), written[:1]).any()  # even where the model was quite sure


def test_a_pass_of_correction_draws_hidden_tokens_again_and_changes_nothing_else(monkeypatch):
    model, canvas, temperatures = random_model(), random_tokens(4), []
    written = torch.arange(T).expand(4, T) >= 5

    def propose(logits, temperature, top_k):
        temperatures.append(temperature)
        assert top_k == 3
        return plain_propose(logits, temperature, top_k)

    plain_propose = diffusion.propose
    monkeypatch.setattr(diffusion, "propose", propose)
    before = diffusion.State(canvas, torch.rand(4, T), committed=None)
    for state in diffusion.correct(model, before, written, steps=4, temperature=2.0, top_k=3):
        hidden = state.committed
        assert hidden.any() and not (hidden & ~written).any()
        logits = model(before.canvas.masked_fill(hidden, V), hidden.float().mean(1))
        probability = logits.softmax(-1).gather(-1, state.canvas[..., None])[..., 0]
        assert torch.allclose(state.confidence, torch.where(hidden, probability, before.confidence))
        assert torch.equal(state.canvas[~hidden], before.canvas[~hidden])
        before = state
    assert temperatures == [2.0, 1.5, 1.0, 0.5]


def test_correction_repairs_what_was_written_without_seeing_its_neighbour():
    """The texts are pairs of equal letters. Letters of one pass agree by chance. After correction, all pairs agree."""

    def predict(canvas, share):
        partner = canvas.view(len(canvas), -1, 2).flip(-1).flatten(1)
        certain = F.one_hot(partner, V + 1)[..., :V]  # zero if the partner is hidden
        return 20 * certain + torch.tensor([8.0, 8.0, 0, 0, 0, 0, 0])

    predict.config = SimpleNamespace(mask_id=V)
    agree = []
    for steps, correction in ((1, 0), (31, 0.97)):
        *_, last = diffusion.denoise(predict, torch.full((40, 20), V), steps, correction=correction)
        pairs = last.canvas.view(40, 10, 2)
        agree.append((pairs[..., 0] == pairs[..., 1]).float().mean().item())
    assert agree[0] < 0.65 and agree[1] > 0.95


@pytest.mark.parametrize("steps, correction, unmasking, correcting", [
    (8, 0.5, 4, 4), (7, 0.5, 4, 3), (1, 0.5, 1, 0), (8, 0, 8, 0), (8, 0.25, 6, 2), (1000, 0.5, 10, 9), (1000, 0, 10, 0),
])  # fmt: skip
def test_a_share_of_the_passes_corrects_and_given_tokens_stay(steps, correction, unmasking, correcting):
    canvas = torch.full((2, T), V)
    canvas[:, 10:] = 3
    canvas[1, 9] = 4  # this text has fewer masks
    states = list(diffusion.denoise(random_model(), canvas, steps, correction=correction))
    finished = [not (state.canvas == V).any() for state in states]
    assert finished == [False] * (unmasking - 1) + [True] * (1 + correcting)
    for state in states:
        assert torch.equal(state.canvas[canvas != V], canvas[canvas != V])


def test_a_canvas_without_masks_yields_nothing():
    assert list(diffusion.denoise(random_model(), random_tokens(2))) == []


# 5. The bound, exactly


def test_the_likelihoods_of_all_texts_sum_to_one_and_the_bound_is_above_each():
    model, total = random_model(3, 3), 0.0
    for text in product(range(3), repeat=3):
        table = diffusion.losses_of_all_sets(model, torch.tensor(text))
        nll = diffusion.nll_of_text(table, 3)
        total += math.exp(-nll)
        assert nll < diffusion.nelbo_by_orders(table, 3)
    assert total == pytest.approx(1, abs=1e-5)


def test_likelihood_bound_and_area_of_two_tokens_by_hand():
    model = random_model(5, 2)
    hidden, first, second = (torch.tensor([row]) for row in ([5, 5], [5, 4], [3, 5]))  # token 5 is the mask
    one, half = torch.tensor([1.0]), torch.tensor([0.5])
    p = [model(hidden, one)[0, 0], model(hidden, one)[0, 1], model(first, half)[0, 0], model(second, half)[0, 1]]
    alone_0, alone_1, after_0, after_1 = (row.softmax(-1)[token] for row, token in zip(p, (3, 4, 3, 4)))
    table = diffusion.losses_of_all_sets(model, torch.tensor([3, 4]))
    right_first, left_first = alone_1 * after_0, alone_0 * after_1
    nll, bound = -((right_first + left_first) / 2).log(), -(right_first.log() + left_first.log()) / 2
    assert diffusion.nll_of_text(table, 2).item() == pytest.approx(nll.item(), abs=1e-5)
    assert diffusion.nelbo_by_orders(table, 2).item() == pytest.approx(bound.item(), abs=1e-5)
    t = torch.tensor([0, 0.3, 1], dtype=torch.float64)
    ell = -((1 - t) * (after_0 * after_1).log() + t * (alone_0 * alone_1).log()) / 2
    assert torch.allclose(diffusion.ell(table, 2, t), ell, atol=1e-5)


@pytest.mark.parametrize("text", [[4, 1], [0, 2, 2], [3, 1, 2, 0]], ids=str)
def test_the_bound_is_the_same_from_orders_from_counts_and_as_an_area(text):
    length = len(text)
    table = diffusion.losses_of_all_sets(random_model(5, length), torch.tensor(text))
    bound = diffusion.nelbo_by_orders(table, length).item()
    assert diffusion.nelbo_by_counts(table, length).item() == pytest.approx(bound, abs=1e-6)
    assert diffusion.nelbo_by_clock(table, length).item() == pytest.approx(bound, abs=1e-5)


# 6. The bound, estimated


@pytest.mark.parametrize("name", diffusion.NoiseSchedule.NAMES)
def test_a_schedule_runs_from_clean_to_masked_and_its_weight_is_the_derivative(name):
    schedule = diffusion.NoiseSchedule(name)
    assert torch.allclose(schedule.alpha(torch.tensor([0.0, 1.0])), torch.tensor([1.0, 0.0]), atol=1e-6)
    t = torch.linspace(0.01, 0.99, 50, dtype=torch.float64, requires_grad=True)
    alpha = schedule.alpha(t)
    (slope,) = torch.autograd.grad(alpha.sum(), t)
    assert torch.allclose(schedule.weight(t), -slope / (1 - alpha), rtol=1e-8)
    with pytest.raises(ValueError, match=name):
        diffusion.NoiseSchedule("square")


def test_mask_tokens_masks_at_the_rate_of_each_row_and_independently():
    x0, rate = random_tokens(5, 40000), torch.tensor([0, 0.1, 0.5, 0.9, 1])
    xt = diffusion.mask_tokens(x0, rate, V)
    hidden = xt == V
    assert torch.equal(xt[~hidden], x0[~hidden])
    assert torch.allclose(hidden.float().mean(1), rate, atol=0.01)
    assert torch.allclose((hidden[:, 1:] & hidden[:, :-1]).float().mean(1), rate.square(), atol=0.01)


def estimate(name, model, x0, seed=0):
    """Return the NELBO and its error, from numbers of masks or from random times of the named schedule."""
    if name == "counts":
        return diffusion.nelbo(model, x0, seed=seed)
    return diffusion.nelbo_by_schedule(model, x0, diffusion.NoiseSchedule(name), seed)


@pytest.mark.parametrize("name", ["counts", *diffusion.NoiseSchedule.NAMES])
def test_each_estimate_agrees_with_the_exact_bound(name):
    model, text = random_model(5, 4, timed=False), torch.tensor([[3, 1, 2, 0]])
    exact = diffusion.nelbo_by_counts(diffusion.losses_of_all_sets(model, text[0]), 4).item() / 4
    mean, error = estimate(name, model, text.repeat(10000, 1))
    assert error < 0.06 * exact and abs(mean - exact) < 4 * error


def test_the_error_of_an_estimate_from_random_times_is_its_spread_over_seeds():
    """The test needs the cosine schedule. The other two have an infinite variance, because 1/t is too large near 0."""
    model, x0 = random_model(5, 4, timed=False), torch.tensor([[3, 1, 2, 0]]).repeat(60, 1)
    means, errors = torch.tensor([estimate("cosine", model, x0, seed) for seed in range(200)]).T
    assert 0.8 < errors.mean() / means.std() < 1.3


@pytest.mark.parametrize("name", diffusion.NoiseSchedule.NAMES)
def test_random_times_are_spread_evenly_and_the_model_is_told_the_rate_of_masks(name):
    seen, n = [], 500

    def model(xt, t):
        seen.append(((xt == V).float().mean(1), t))
        return torch.zeros(*xt.shape, V)

    model.config = SimpleNamespace(mask_id=V)
    estimate(name, model, random_tokens(n, 2000))
    ((share, rate),) = seen
    assert (share - rate).abs().max() < 0.06
    if name == "linear":
        parts = (n * rate).sort().values
        assert torch.equal(parts.long(), torch.arange(n)) and parts.frac().std() > 0.2


class Forgetful(torch.nn.Module):
    """A model that knows the text 0, 1, …, 6. The more tokens are hidden, the less it knows, above all early tokens."""

    config = SimpleNamespace(mask_id=V)

    def forward(self, xt, t):
        weight = torch.arange(1, V + 1) * (1 - t[:, None])  # (B, T)
        return torch.eye(V) * weight[..., None]


def test_the_error_of_nelbo_is_that_of_masks_without_that_of_noise_levels():
    """Few masks are far easier for this model than many. An error that counts this difference would be too large."""
    x0 = torch.arange(V).repeat(7, 1)
    means, errors = torch.tensor([diffusion.nelbo(Forgetful(), x0, draws=3, seed=seed) for seed in range(400)]).T
    assert 0.85 < errors.square().mean().sqrt() / means.std() < 1.2


def test_nelbo_of_what_follows_a_given_token_is_the_mean_over_all_masks_of_the_rest():
    """Token 0 is given. The mask sets of the other two tokens are {1}, {2} and {1, 2}, so t is 1/3, 1/3 or 2/3."""
    model, x0 = random_model(length=3), torch.tensor([[2, 3, 5]])

    def loss(xt, t):
        return diffusion.hidden_losses(model, x0, torch.tensor([xt]), torch.tensor([t])).sum().item()

    one = (loss([2, V, 5], 1 / 3) + loss([2, 3, V], 1 / 3)) / 2
    exact = (one + loss([2, V, V], 2 / 3) / 2) / 2
    mean, error = diffusion.nelbo(model, x0, draws=4000, batch_size=1000, given=1)
    assert error < 0.03 * exact and abs(mean - exact) < 4 * error


def test_random_numbers_go_on_after_an_estimate_as_if_without_it():
    model, x0 = random_model(), random_tokens(10)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    estimate = diffusion.nelbo(model, x0)
    diffusion.nelbo_by_schedule(model, x0, diffusion.NoiseSchedule())
    assert torch.equal(torch.rand(3), expected)
    assert diffusion.nelbo(model, x0) == estimate != diffusion.nelbo(model, x0, seed=1)
