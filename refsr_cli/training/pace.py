"""How long a training takes: an estimate within the first step, and as many steps as fit into the time there is."""

import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import torch

from refsr_cli.models import MODELS
from refsr_cli.training.records import Pace
from refsr_cli.training.run import Run

PACE_STEPS, _SETTLED_STEPS = 10, 200
"""Steps after which the time for all of them is estimated, and after which the pace no longer changes but for
validations."""
_SETTLED_PIECES = 2
"""Pieces of the first step after which the time is estimated, where its batch is taken in pieces."""
_LONG_SECONDS = 7 * 86_400
"""Time for all steps from which a smaller net is advised on a CPU."""


def advanced(run: Run, pieces: int, interrupted: Callable[[], bool], *, estimate: bool) -> Iterator[int | Pace]:
    """A step of `run`: how many of the `pieces` of its batch are done, where there are several; with an `estimate` of
    the time for all steps during the first of them."""
    begin = time.monotonic()
    if pieces > 1:
        yield 0
    for done in run.advance(interrupted):
        if estimate and done == _SETTLED_PIECES and not run.step:
            yield estimated(run, 1 / (pieces * max(1e-9, time.monotonic() - begin)))
        begin = time.monotonic()
        yield done
    if pieces > 1:
        yield pieces


def estimated(run: Run, pace: float) -> Pace:
    """What is left of `run` at `pace` steps a second."""
    remaining, smaller = (run.config.steps - run.step) / pace, MODELS[run.config.model].smaller
    long = run.device.type == "cpu" and remaining > _LONG_SECONDS
    note = f"a CPU is too slow for {run.config.model}; {smaller} is the one it can train" if long and smaller else None
    return Pace(run.config.steps, pace, remaining, note)


class StepBudget:
    """As many steps as fit until `end`, a moment of `time.monotonic`, by the pace since the first step, validations
    included."""

    def __init__(self, run: Run, end: float) -> None:
        self._run, self._end, self._first = run, end, (0, 0.0)
        least = run.step + PACE_STEPS + 1  # until the pace is known; a run that had ended goes on
        run.config = replace(run.config, steps=max(run.config.steps, least))

    def step(self, done: int) -> None:
        """After each step, the `done`th of this command."""
        over = time.monotonic() >= self._end
        if not self._first[0]:
            self._first = self._run.step, time.monotonic()
        elif done in (PACE_STEPS, _SETTLED_STEPS) or self._run.group.any(over):
            self._fit()

    def validated(self, done: int) -> None:
        """After a validation, when `done` steps were made."""
        if done > _SETTLED_STEPS and self._run.step < self._run.config.steps:
            self._fit()

    def _fit(self) -> None:
        run, (first, began), now = self._run, self._first, time.monotonic()
        pace = (run.step - first) / max(1e-9, now - began)
        least = run.step if now >= self._end else run.step + 1
        steps = max(float(least), run.step + pace * (self._end - now))
        shared = run.group.mean(torch.tensor(steps, dtype=torch.float64, device=run.device))  # equal in all processes
        run.config = replace(run.config, steps=max(run.step, round(float(shared))))
        if run.group.leads:
            run.keep_settings()
