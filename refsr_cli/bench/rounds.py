"""Measures by turns: every contender in a process of its own, so that what one does to memory and allocator does not
touch the others, and each in turn, so that what else the machine does hits all alike."""

import multiprocessing
import signal
import time
import warnings
from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import torch

from refsr_cli.allocator import keep_buffers
from refsr_cli.bench.contenders import CONTENDERS, Task
from refsr_cli.errors import RefsrError
from refsr_cli.images import Pixels
from refsr_cli.inference.device import pick_device

_PEAK_CHANNELS, _PEAK_SIDE = 256, 96
_PATIENCE = 3.0
"""Seconds in which a process may end by itself."""


@dataclass(frozen=True)
class Run:
    """One run of one contender."""

    seconds: float
    peak_bytes: int | None
    """By how much the memory of its process, or of the device, grew beyond what it held before; None where that cannot
    be told."""


class Bench:
    """A process that runs one contender when it is asked to."""

    def __init__(self, name: str, task: Task) -> None:
        self.name = name
        context = multiprocessing.get_context("spawn")
        self._ours, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, name, task), daemon=True)
        with _deaf_to_interrupts():  # also while the process starts
            self._process.start()
        theirs.close()
        self._answer("be made ready")

    def run(self, pixels: Pixels) -> Run:
        """Raises RefsrError where it cannot."""
        run = self._ask(pixels, "run")
        assert isinstance(run, Run)
        return run

    def result(self) -> Pixels:
        """What the last run gave."""
        return np.asarray(self._ask("result", "tell its result"))

    def close(self) -> None:
        """Ends the process."""
        self._ours.close()
        self._process.join(_PATIENCE)
        self._process.kill()
        self._process.join()

    def _ask(self, question: object, what: str) -> object:
        with suppress(OSError):  # then it has ended, which the answer tells
            self._ours.send(question)
        return self._answer(what)

    def _answer(self, what: str) -> object:
        try:
            answer = self._ours.recv()
        except (EOFError, OSError):
            raise RefsrError(f"{self.name} cannot {what}: its process ended; it may have run out of memory") from None
        if isinstance(answer, str):
            raise RefsrError(f"{self.name} cannot {what}: {answer}")
        return answer


@contextmanager
def _deaf_to_interrupts() -> Iterator[None]:
    """What is started meanwhile stays so: the one that asks ends it."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def benches(names: Sequence[str], task: Task) -> Iterator[tuple[list[Bench], dict[str, str]]]:
    """A bench for each contender, and why those that are missing cannot take part."""
    opened, failed = [], {}
    with ExitStack() as stack:
        for name in names:
            try:
                bench = Bench(name, task)
            except RefsrError as error:
                failed[name] = str(error)
                continue
            stack.callback(bench.close)
            opened.append(bench)
        yield opened, failed


def by_turns(
    opened: Sequence[Bench], pixels: Pixels, rounds: int
) -> Generator[int, None, tuple[dict[str, list[Run]], dict[str, str]]]:
    """`rounds` runs of each after one to warm up, whose memory is told; and why those that are missing failed. Yields
    the number of rounds done."""
    runs: dict[str, list[Run]] = {bench.name: [] for bench in opened}
    failed: dict[str, str] = {}
    for number in range(rounds + 1):
        for bench in opened:
            if bench.name in failed:
                continue
            try:
                runs[bench.name].append(bench.run(pixels))
            except RefsrError as error:
                failed[bench.name] = str(error)
                del runs[bench.name]
        yield number + 1
    return runs, failed


def convolution_peak(device: str, precision: torch.dtype, rounds: int = 5) -> float:
    """Operations a second that the device reaches in the convolution it is best at: 3x3, 256 channels."""
    chosen = pick_device(device)
    channels, side = _PEAK_CHANNELS, _PEAK_SIDE if chosen.type == "cpu" else 4 * _PEAK_SIDE
    layer = torch.nn.Conv2d(channels, channels, 3, padding=1).to(chosen, precision)
    layer = layer.to(memory_format=torch.channels_last)
    x = torch.rand(1, channels, side, side).to(chosen, precision, memory_format=torch.channels_last)
    best = float("inf")
    with torch.inference_mode():
        for _ in range(rounds + 1):
            begin = time.perf_counter()
            layer(x)
            wait(chosen)
            best = min(best, time.perf_counter() - begin)
    return 2 * 9 * channels**2 * side**2 / best


def _serve(connection: Connection, name: str, task: Task) -> None:
    """Of the process: makes the contender ready, then runs it on what comes, until nobody listens."""
    with suppress(OSError, EOFError):
        _answer(connection, name, task)


def _answer(connection: Connection, name: str, task: Task) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # where that is not inherited
    warnings.simplefilter("ignore")  # of other people's code
    contender, device = CONTENDERS[name], pick_device(task.device)
    try:
        if contender.own:
            keep_buffers()
        enlarge = contender.open(task)
    except Exception as error:
        connection.send(f"{type(error).__name__}: {error}".splitlines()[0])
        return
    connection.send(None)
    result: Pixels | None = None
    while True:
        asked = connection.recv()
        if isinstance(asked, str):
            connection.send(result)
            continue
        try:
            before = _forget_peak(device)
            begin = time.perf_counter()
            result = enlarge(asked)
            wait(device)
            seconds = time.perf_counter() - begin
            peak = _peak(device)
            answer: Run | str = Run(seconds, None if before is None or peak is None else max(0, peak - before))
        except Exception as error:
            answer = f"{type(error).__name__}: {error}".splitlines()[0]
        connection.send(answer)


def wait(device: torch.device) -> None:
    """Until all that was asked of it is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


_STATUS = Path("/proc/self/status")


def _forget_peak(device: torch.device) -> int | None:
    """Bytes held now; what is highest is counted anew from here."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.memory_allocated(device)
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return None
    return _held("VmRSS")


def _peak(device: torch.device) -> int | None:
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else _held("VmHWM")


def _held(field: str) -> int | None:
    try:
        lines = _STATUS.read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:")), None)
