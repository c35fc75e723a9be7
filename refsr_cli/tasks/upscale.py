"""Image files in, larger image files out."""

import time
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from refsr_cli.comparison import compare
from refsr_cli.config import DEFAULT_SCALE, LARGEST_RESULT, UpscaleConfig
from refsr_cli.engine import Progress, Restored, Skipped, open_upscaler, restored_as
from refsr_cli.errors import BadData, BadFile, BadImage, BadSetting, Failed, RefsrError
from refsr_cli.files import make_room_for
from refsr_cli.images import Picture, check_size, read_image, write_image
from refsr_cli.inference.guided import RefUse
from refsr_cli.inference.results import Enlarged, Result, Using, finished
from refsr_cli.inference.upscaler import Upscaler
from refsr_cli.reference.bank import RefBank
from refsr_cli.restoration.strength import Restoration
from refsr_cli.targets import Job, OpenedReference, RefSkipped, find_inputs, open_references, plan, references_for


@dataclass(frozen=True)
class Upscaled:
    """One file written."""

    source: str
    target: str
    width: int
    height: int
    seconds: float
    refs: tuple[RefUse, ...] = ()
    references: int = 0
    """How many there were to choose from."""
    restoration: Restored | None = None
    """What was known of how it was degraded, and how strongly that was removed; None where restoration is off."""
    kind: str = "upscaled"


@dataclass(frozen=True)
class Total:
    """The end of a run over several files."""

    upscaled: int
    skipped: int
    failed: int
    seconds: float
    kind: str = "total"


def upscale(
    config: UpscaleConfig, on_download: Callable[[int, int | None], None] | None = None
) -> Iterator[Using | Progress | Upscaled | Skipped | RefSkipped | Failed | Total]:
    """Enlarges every input. What is wrong with the request is raised before anything is read; what is wrong with one
    file is yielded as Failed, and the rest are done."""
    begin = time.perf_counter()
    try:
        found, missing = find_inputs(config)
        planned = plan(found, config)
    except (OSError, RuntimeError) as error:  # RuntimeError: a link that leads to itself
        raise BadFile(f"the inputs and outputs cannot be looked at: {error}") from None
    yield from missing
    jobs = [job for job in planned if not (config.skip_existing and _is_there(job.target))]
    yield from (Skipped(str(job.source), str(job.target)) for job in planned if job not in jobs)
    failed = len(missing)
    if jobs:
        opened = yield from open_references(config, planned)
        scale = None if config.weights else config.scale or DEFAULT_SCALE
        upscaler, using = open_upscaler(config, scale, on_download, with_refs=bool(opened))
        if upscaler.model.needs_ref and not opened:
            using = replace(using, note="; ".join(filter(None, (using.note, _NO_REFERENCE))))
        yield using
        for option, extra in (("--trust-map", config.trust_map), ("--compare", config.compare)):
            if extra and upscaler.model.needs_ref:
                raise BadSetting(
                    f"{option} shows how far references are believed, which {using.model} does not tell; leave it out, "
                    "or use refnet"
                )
        for record in _upscale_all(jobs, upscaler, opened, config):
            failed += isinstance(record, Failed)
            yield record
    if len(planned) + len(missing) > 1:
        done = len(jobs) - failed + len(missing)
        yield Total(done, len(planned) - len(jobs), failed, time.perf_counter() - begin)


_NO_REFERENCE = "this net is made for references, and gets none but the picture itself; name photos with --ref"


def _is_there(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # a name that is too long, say: writing will tell
        return False


def _upscale_all(
    jobs: list[Job], upscaler: Upscaler, opened: list[OpenedReference], config: UpscaleConfig
) -> Iterator[Progress | Upscaled | Failed]:
    """One after the other, or a few small ones at once; meanwhile the next is read and the last one written."""
    alone = bool(opened or config.compare)
    with ThreadPoolExecutor(1) as beside:
        writer = _Writer(beside)
        for group in _in_groups(_ahead(jobs, config), upscaler, alone):
            if isinstance(group, Failed):
                yield from writer.news(wait=True)
                yield group
                continue
            try:
                if alone:
                    refs = RefBank(references_for(opened, group[0].job.source)) if opened else None
                    made = yield from writer.between(_enlarge(group[0], upscaler, refs, config))
                else:
                    made = yield from writer.between(_enlarge_alike(group, upscaler, config))
            except _EXPECTED as error:
                yield from writer.news(wait=True)
                yield from (_failed(read.job, error) for read in group)
                continue
            while made:
                yield from writer.news(wait=True)
                result = made.pop(0)
                large = result.enlarged.picture.width * result.enlarged.picture.height > _LARGE
                writer.begin(result.job, partial(_write, result, config))
                del result
                if large:
                    yield from writer.news(wait=True)
        yield from writer.news(wait=True)


_LARGE = 50_000_000
"""Pixels of a result that is written before the next one is begun, so that two of them need not be held."""
_LARGE_FILE = 30_000_000
"""Bytes of a picture that is not read before its turn."""
_EXPECTED = (RefsrError, OSError, MemoryError)
"""What may happen to one file while the others are fine."""


@dataclass(frozen=True)
class _Read:
    job: Job
    picture: Picture
    plan: Restoration
    """How it is restored."""
    begin: float
    """When it was asked for."""

    def like(self, other: "_Read") -> bool:
        """Whether both may be enlarged at once."""
        one, two = self.picture.pixels, other.picture.pixels
        opaque = self.picture.alpha is None and other.picture.alpha is None
        restored = [bool(read.plan.strength) for read in (self, other)]
        return opaque and restored[0] == restored[1] and (one.shape, one.dtype) == (two.shape, two.dtype)


@dataclass(frozen=True)
class _Made:
    job: Job
    enlarged: Enlarged
    begin: float
    at_once: int = 1
    """How many were made in the same time."""
    compared: Picture | None = None
    references: int = 0
    """How many there were."""
    restores: bool = False
    """Whether pictures are restored where they need it."""


class _Writer:
    """Writes one result while the next one is made."""

    def __init__(self, beside: ThreadPoolExecutor) -> None:
        self._beside = beside
        self._pending: tuple[Job, Future[Upscaled]] | None = None

    def begin(self, job: Job, write: Callable[[], Upscaled]) -> None:
        self._pending = job, self._beside.submit(write)

    def news(self, *, wait: bool = False) -> Iterator[Upscaled | Failed]:
        """What became of the last one, once it is told."""
        if self._pending and (wait or self._pending[1].done()):
            (job, writing), self._pending = self._pending, None
            try:
                yield writing.result()
            except _EXPECTED as error:
                yield _failed(job, error)

    def between(
        self, steps: Generator[Progress, None, list[_Made]]
    ) -> Generator[Progress | Upscaled | Failed, None, list[_Made]]:
        """`steps`, and the news as they come."""
        while True:
            try:
                step = next(steps)
            except StopIteration as end:
                made: list[_Made] = end.value
                return made
            yield from self.news()
            yield step


def _ahead(jobs: list[Job], config: UpscaleConfig) -> Iterator[tuple[Job, Callable[[], Picture]]]:
    """Each job, and what gives its picture or raises what is wrong with it. The picture after it is read meanwhile, but
    for a large one and one that an earlier job may write."""
    written = {job.target.resolve() for job in jobs}

    def early(job: Job) -> bool:
        try:
            return job.source.resolve() not in written and job.source.stat().st_size < _LARGE_FILE
        except OSError:  # to be told in its turn
            return False

    with ThreadPoolExecutor(1) as beside:
        following: list[Future[Picture]] = []
        for number, job in enumerate(jobs):
            reading = following.pop() if following else None
            following += [beside.submit(_read, its, config) for its in jobs[number + 1 : number + 2] if early(its)]
            yield job, reading.result if reading else partial(_read, job, config)
            del reading


def _in_groups(
    ahead: Iterator[tuple[Job, Callable[[], Picture]]], upscaler: Upscaler, alone: bool
) -> Iterator[list[_Read] | Failed]:
    """Those that follow each other, are alike and are best enlarged at once, unless each is to be `alone`; and what
    cannot be read."""
    group: list[_Read] = []
    for job, picture_of in ahead:
        begin = time.perf_counter()
        try:
            picture = picture_of()
            read = _Read(job, picture, upscaler.plan(picture), begin)
        except _EXPECTED as error:
            if group:
                yield group
                group = []
            yield _failed(job, error)
            continue
        if group and not read.like(group[0]):
            yield group
            group = []
        group.append(read)
        single = alone or read.picture.alpha is not None
        if len(group) >= (1 if single else upscaler.together(read.picture.height, read.picture.width)):
            yield group
            group = []
    if group:
        yield group


def _failed(job: Job, error: Exception) -> Failed:
    if isinstance(error, MemoryError):
        return Failed(str(job.source), f"not enough memory for the result of {job.source}; ask for a smaller size")
    return Failed(str(job.source), str(error))


def _read(job: Job, config: UpscaleConfig) -> Picture:
    """The picture, if its result may be written. Raises what is wrong with it."""
    if job.target.exists() and not config.overwrite:
        raise BadImage(f"{job.target} exists already; give --overwrite, --skip-existing or another --output")
    picture = read_image(job.source, allow_large=config.allow_large)
    width, height = config.size_for(picture.width, picture.height)
    if width * height > LARGEST_RESULT and not config.allow_large:
        raise BadImage(f"{job.source} would become {width}x{height} pixels; if that is right, add --allow-large")
    factor = max(width / picture.width, height / picture.height)
    if factor**2 * picture.width * picture.height > LARGEST_RESULT and not config.allow_large:
        raise BadImage(
            f"{job.source} would be enlarged {factor:.0f} times to be shrunk to {width}x{height}; give a size of its "
            "shape, or add --allow-large"
        )
    check_size(job.target, width, height)
    if config.trust_map:
        check_size(config.trust_map, width, height)
    for path in (job.target, config.trust_map, config.compare):
        if path:
            make_room_for(path)
    return picture


def _enlarge(
    read: _Read, upscaler: Upscaler, refs: RefBank | None, config: UpscaleConfig
) -> Generator[Progress, None, list[_Made]]:
    """One by itself, perhaps with references."""
    job, picture = read.job, read.picture
    if refs is not None and not len(refs):
        raise BadData(f"of the references nothing is left for {job.source} but itself")
    width, height = config.size_for(picture.width, picture.height)
    steps = upscaler.enlarge(picture, height, width, refs, read.plan)
    enlarged = yield from _told([job], steps, upscaler.work(picture, height, width, refs, read.plan))
    sheet = None
    if config.compare:
        plain = finished(upscaler.enlarge(picture, height, width, plan=read.plan)).picture
        sheet = compare(picture, plain, enlarged)
    return [_Made(job, enlarged, read.begin, compared=sheet, references=len(refs or ()), restores=upscaler.restores)]


def _enlarge_alike(
    group: list[_Read], upscaler: Upscaler, config: UpscaleConfig
) -> Generator[Progress, None, list[_Made]]:
    """Several at once, or one, without references."""
    if len(group) == 1:
        return (yield from _enlarge(group[0], upscaler, None, config))
    pictures, first = [read.picture for read in group], group[0]
    width, height = config.size_for(first.picture.width, first.picture.height)
    steps = upscaler.enlarge_alike(pictures, height, width, [read.plan for read in group])
    work = upscaler.work(first.picture, height, width, plan=first.plan)
    large = yield from _told([read.job for read in group], steps, work)
    return [
        _Made(read.job, enlarged, first.begin, len(group), restores=upscaler.restores)
        for read, enlarged in zip(group, large, strict=True)
    ]


def _told(jobs: list[Job], steps: Generator[int, None, Result], work: int) -> Generator[Progress, None, Result]:
    """The progress of `jobs`, one after the other, by the pixels that `steps` have done, and what these give."""
    done = 0
    yield Progress(str(jobs[0].source), 0, work)
    while True:
        try:
            done += next(steps)
        except StopIteration as end:
            result: Result = end.value
            return result
        number, part = divmod(done, work)
        for finished_one in jobs[:number]:
            yield Progress(str(finished_one.source), work, work)
        if number < len(jobs):
            yield Progress(str(jobs[number].source), part, work)


def _write(made: _Made, config: UpscaleConfig) -> Upscaled:
    job, enlarged = made.job, made.enlarged
    write_image(job.target, enlarged.picture, quality=config.quality)
    if config.trust_map and enlarged.trust is not None:
        write_image(config.trust_map, Picture(enlarged.trust[..., None], None, "png", None, None, None))
    if config.compare and made.compared:
        write_image(config.compare, made.compared)
    width, height = enlarged.picture.width, enlarged.picture.height
    seconds = (time.perf_counter() - made.begin) / made.at_once
    return Upscaled(
        str(job.source),
        str(job.target),
        width,
        height,
        seconds,
        enlarged.uses,
        made.references,
        restored_as(enlarged.restoration, enlarged.picture.format) if made.restores else None,
    )
