"""Checks of the exercises for chapter 10. check.py calls check_NAME with the learner's function NAME."""

import math
from importlib import import_module
from itertools import permutations

from plumbing import measures

import torch

diffusion = import_module("04_diffusion")
tools = import_module("exercises.checks.tools")


def check_predict_measures(f):
    answer = f()
    assert tools.are_numbers(answer, 4), "The function must return a list of four numbers."
    known = measures.known_words(["the bat sat on the mat"], set(measures.words_of("the cat sat on the sofa")))
    copied = measures.longest_copy(["to be good"], "not to be")
    apart = measures.divergence(measures.count_runs(["aaaaa"]), measures.count_runs(["bbbbb"]))
    wanted = {"share of known words": known, "share of distinct runs": measures.distinct(["abababab"]),
              "length of the longest copy": copied, "divergence": apart}
    for (name, mine), yours in zip(wanted.items(), answer):
        assert tools.close(yours, mine, 1e-3), f"The {name} is another number."


def check_paired_difference(f):
    N = 200
    hard = 3 * torch.rand(N)  # some windows are harder for both models
    a, b = hard + torch.rand(N), hard + torch.rand(N) + 0.3
    answer = f(a, b)
    assert tools.are_numbers(answer, 2), "The function must return two finite numbers, the mean and its error."
    mean, error = measures.mean_and_error(b - a)
    assert not tools.close(answer[0], -mean), "The sign of the mean is wrong: a lower number is better."
    assert tools.close(answer[0], mean), "The mean of the difference is not right."
    alone = math.hypot(measures.mean_and_error(a)[1], measures.mean_and_error(b)[1])
    same = tools.close(answer[1], alone, 0.01 * alone)
    assert not same, "This would be the error if the models had met different windows. Use the pairs."
    spread = tools.close(answer[1], error * N**0.5, 0.01)
    assert not spread, "This is the spread of the windows, and not the error of their mean."
    assert tools.close(answer[1], error, 0.01 * error), "The standard error is not right."


def check_nll_in_order(f):
    for T, time_conditioned in ((1, False), (3, False), (4, True)):
        model = tools.small_model(4, std=0.8, time_conditioned=time_conditioned)
        x0 = torch.randint(4, (T,))
        before = x0.clone()
        table = diffusion.losses_of_all_sets(model, x0)
        orders = list(permutations(range(T)))
        for order, true in zip(orders, diffusion.nll_of_each_order(table, T)):
            answer = f(model, x0, list(order))
            assert isinstance(answer, float), "The function must return a float."
            assert torch.equal(x0, before), "The given text must stay as it is."
            assert not tools.close(answer, -true), "The sign is wrong: -log p is positive."
            blind = table[frozenset(range(T))].sum()  # the result of a single pass over masks only
            assert T == 1 or not tools.close(answer, blind), "The model must see the tokens that are already written."
            right = tools.close(answer, true, 1e-4)
            assert right, f"For the order {order}, the result is not -log p. Each pass also needs its t, k / T."
