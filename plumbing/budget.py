"""A time budget: how many steps of training fit into it, together with the evaluations and the last, longer one.

Nobody knows in advance how fast a machine is, how long it compiles, and what else it will have to do. So a run measures
its speed and plans the number of its steps, first after 2 percent of its time, and again and again until it ends.
"""

from collections import deque

AGAIN = 0.02  # share of the budget between two plans
WINDOW = 0.1  # share of the budget over which the speed is averaged, so that a short disturbance changes little
SETTLED = 0.2  # share of the training after which the number of steps hardly grows: the learning rate will soon fall
GROWTH, GROWTH_OF_REST = 1.05, 1.1  # how much it may grow then: all steps in total, and the remaining ones in one plan
LAST_SHARE = 0.2  # share of the budget that is kept free for the last evaluation; a longer one is shortened
TOLERANCE = 1.02  # a run may take so much longer, for a last evaluation that does not quite fit
REHEARSAL = 8  # windows of validation text with which a run measures, at its start, how fast it evaluates
SAMPLE = 64  # passes of the sample at an evaluation, for the plans before the first evaluation


class Budget:
    """The plans of one run.

    limit: seconds of the whole run; 0: no budget, and no method does anything then. steps: the largest number of steps.
    every: steps between two evaluations. seconds: a function that returns the seconds since the run began. step: the
    steps that are done. compiled: whether the first step compiles the model, so that its time says nothing of others.
    """

    def __init__(self, limit, steps, every, seconds, step=0, compiled=True):
        self.limit, self.most, self.steps, self.every, self.seconds = limit, steps, steps, every, seconds
        self.marks = deque([] if compiled else [(0.0, step)])  # (seconds of training, steps) at the last plans
        self.start = 0.0  # the seconds of training when the measurement began
        self.ceiling = None  # a number of steps that no later plan exceeds
        self.next = 0.0  # the seconds of training at which the next plan is due
        self.ended = self.pauses = seconds()  # when the last step ended; all time that was no training
        self.evaluation = 0.0  # seconds of a usual evaluation
        self.pause = 0.0  # seconds from step to step with a usual evaluation, its sample and saving
        self.factor = 0.0  # how many times as long as a usual evaluation the last one takes
        self.evaluated, self.shortened = False, {}

    def rehearse(self, model, evaluate, windows, count):
        """Measure how long evaluations will take, those on `windows` and the last one, on `count` windows.

        evaluate: (model, windows, draws) → any. The last evaluation has 4 draws, and not every `evaluate` uses them.
        """
        few, times, self.count = windows[:REHEARSAL], [], count
        for draws in (1, 1, 4):  # the first time takes longer
            began = self.seconds()
            evaluate(model, few, draws)
            times.append(max(1e-6, self.seconds() - began))
        self.evaluation = times[1] / len(few) * len(windows)
        self.pause = self.evaluation + times[1] / len(few) * SAMPLE
        self.factor = min(4.0, max(1.0, times[2] / times[1])) * count / len(windows)

    def begin_step(self):
        """Note that a step begins now. What took time since the last step was an evaluation, and no training."""
        now = self.seconds()
        self.pauses += now - self.ended
        if self.evaluated:
            self.pause, self.evaluated = now - self.ended, False

    def is_due(self, step):
        """Return whether `step` steps are the time for a new plan. The caller then waits for its device, and plans."""
        self.ended = self.seconds()
        early = step >= self.steps and self.ceiling is None
        return bool(self.limit) and (early or step % self.every == 0 or self.ended - self.pauses >= self.next)

    def plan(self, step):
        """Return the number of steps of the whole run, now that `step` steps are done. It may be just these."""
        self.ended = now = self.seconds()
        trained = now - self.pauses
        self.next = trained + AGAIN * self.limit
        self.marks.append((trained, step))
        while len(self.marks) > 2 and trained - self.marks[1][0] > WINDOW * self.limit:
            self.marks.popleft()
        if self.ceiling is None and len(self.marks) > 2 and self.pace(-2) < 0.5 * self.pace(0):
            self.marks = deque([self.marks[-2], self.marks[-1]])  # what came before was still compilation
            self.start = self.marks[0][0]
        left = self.limit - now - self.pause - self.reserve()
        if step == self.marks[0][1]:  # only compilation was measured so far
            self.start = trained
            return self.steps if now < self.limit else step
        pace = self.pace(0)
        fitting = step + max(0, int(left / (pace + self.pause / self.every)))
        evaluations = (fitting - 1) // self.every - (step - 1) // self.every  # before the last one
        fitting = step + max(0, int((left - evaluations * self.pause) / pace))
        fitting = min(fitting, self.every * ((step - 1) // self.every + evaluations + 1))  # no more evaluations
        if self.ceiling is not None:
            fitting = min(fitting, self.ceiling, self.steps + int((GROWTH_OF_REST - 1) * (self.steps - step)))
        elif trained - self.start > SETTLED * (trained - self.start + left):
            self.ceiling = int(GROWTH * fitting)
        self.steps = min(self.most, max(step, fitting))
        return self.steps

    def pace(self, number):
        """Return the seconds per step since the mark of this number."""
        (began, first), (ended, last) = self.marks[number], self.marks[-1]
        return max(1e-9, (ended - began) / (last - first))

    def reserve(self):
        """Return the seconds of the last evaluation, beyond those of a usual one."""
        return min(self.factor * self.evaluation, max(self.evaluation, LAST_SHARE * self.limit))

    def evaluate(self, evaluate, *arguments):
        """Return evaluate(*arguments), and remember how long it took: it is one of the usual evaluations."""
        began = self.seconds()
        result = evaluate(*arguments)
        self.evaluation, self.evaluated = self.seconds() - began, True
        return result

    def affordable(self):
        """Return the number of windows that the last evaluation can use in the time that is left, or None for all.

        They are never fewer than those with which it takes as long as a usual evaluation.
        """
        if not self.factor:  # there is no budget
            return None
        left = TOLERANCE * self.limit - self.seconds() - max(0.0, self.pause - self.evaluation)
        share = max(1.0, left / max(1e-9, self.evaluation)) / self.factor
        if share >= 1:
            return None
        self.shortened = {"windows": max(2, int(share * self.count))}
        return self.shortened["windows"]

    def remark(self):
        """Return what a report must add to the result of a shortened last evaluation, or an empty text."""
        return f"; time was left for {self.shortened['windows']} of {self.count} windows" if self.shortened else ""
