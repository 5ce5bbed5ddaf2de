"""threads.py on a machine without real time: the faster number is chosen, and what the user set stays."""

from types import SimpleNamespace

import pytest
import torch

from plumbing import threads


@pytest.fixture
def machine(monkeypatch):
    """A machine with two threads. `speeds` are products per second for one thread and for two."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    machine = SimpleNamespace(clock=0.0, speeds={1: 100.0, 2: 180.0}, number=2, measured=0, changes=0)

    def speed(number, operands):
        machine.clock += threads.SLICE
        machine.measured += 1
        return machine.speeds[number]

    def use(number):
        machine.changes += number != machine.number
        machine.number = number

    monkeypatch.setattr(threads, "speed", speed)
    monkeypatch.setattr(threads, "time", SimpleNamespace(perf_counter=lambda: machine.clock))
    monkeypatch.setattr(torch, "get_num_threads", lambda: machine.number)
    monkeypatch.setattr(torch, "set_num_threads", use)
    return machine


def run_for(machine, chosen, seconds):
    """Do steps of 10 products for so many seconds."""
    end = machine.clock + seconds
    while machine.clock < end:
        chosen.begin_step()
        machine.clock += 10 / machine.speeds[machine.number]
        chosen.end_step()


@pytest.mark.parametrize("of_all, best", [(180, 2), (140, 2), (110, 1), (20, 1)])
def test_the_faster_number_is_chosen_in_a_second(machine, of_all, best):
    machine.speeds = {1: 100, 2: of_all}
    chosen = threads.Threads("cpu")
    chosen.choose()
    assert machine.number == best and machine.clock < 1.1
    chosen.restore()
    assert machine.number == 2


def test_a_quiet_machine_is_measured_only_once(machine):
    chosen = threads.Threads("cpu")
    chosen.choose()
    before = machine.measured
    run_for(machine, chosen, 1000)
    assert machine.measured == before and machine.changes == 0


def test_a_machine_that_becomes_busy_and_quiet_again(machine):
    chosen = threads.Threads("cpu")
    chosen.choose()
    run_for(machine, chosen, 30)
    machine.speeds = {1: 90.0, 2: 15.0}
    run_for(machine, chosen, 10)
    assert machine.number == 1
    before = machine.measured
    run_for(machine, chosen, 600)
    assert machine.number == 1 and 0 < (machine.measured - before) * threads.SLICE < 0.02 * 600
    machine.speeds = {1: 100.0, 2: 180.0}
    run_for(machine, chosen, 300)
    assert machine.number == 2 and machine.changes == 2


def test_slow_steps_alone_do_not_change_the_number(machine):
    """A processor that has become slow as a whole, or evaluations between the steps."""
    chosen = threads.Threads("cpu")
    chosen.choose()
    run_for(machine, chosen, 10)
    machine.speeds = {1: 30.0, 2: 50.0}
    before = machine.measured
    run_for(machine, chosen, 100)
    assert machine.number == 2 and machine.changes == 0 and machine.measured - before <= 8


@pytest.mark.parametrize("name, value", [("OMP_NUM_THREADS", "2"), ("MKL_NUM_THREADS", "2"), ("WORLD_SIZE", "2")])
def test_a_number_that_the_user_or_torchrun_set_stays(machine, monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    machine.speeds = {1: 100.0, 2: 1.0}
    chosen = threads.Threads("cpu")
    chosen.choose()
    run_for(machine, chosen, 200)
    chosen.restore()
    assert machine.number == 2 and machine.measured == 0


def test_with_a_gpu_or_one_thread_there_is_nothing_to_choose(machine):
    assert threads.may_choose("cpu") and not threads.may_choose("cuda")
    machine.number = 1
    assert not threads.may_choose("cpu")


def test_measuring_draws_no_random_numbers_and_uses_the_number(monkeypatch):
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    monkeypatch.setattr(threads, "SLICE", 0.001)
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    torch.set_num_threads(2)
    chosen = threads.Threads("cpu")
    chosen.choose()
    assert torch.get_num_threads() in (1, 2)
    chosen.restore()
    assert torch.get_num_threads() == 2 and torch.equal(torch.rand(3), expected)
