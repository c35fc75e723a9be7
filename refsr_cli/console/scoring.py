"""What `refsr eval` tells."""

from collections.abc import Iterator

from rich.markup import escape

from refsr_cli.console.words import Record, Words, warning


def _opened(record: Record) -> Iterator[str]:
    yield (
        f"{escape(record['dataset'])} x{record['scale']}, protocol {record['protocol']} ({record['description']}), "
        f"low resolution {escape(record['lr'])}"
    )
    if record["note"]:
        yield warning(record["note"])
    columns = f"{'image':<28}{'PSNR':>8}{'SSIM':>9}{'bicubic':>10}{'SSIM':>9}{'seconds':>9}"
    yield f"[bold]{columns}{'without refs':>14}{'used on':>9}[/bold]" if record["refs"] else f"[bold]{columns}[/bold]"


def _scores(name: str, record: Record) -> str:
    return (
        f"{escape(name[:27]):<28}{record['psnr']:8.2f}{record['ssim']:9.4f}"
        f"{record['bicubic_psnr']:10.2f}{record['bicubic_ssim']:9.4f}{record['seconds']:9.2f}"
        + ("" if record["alone_psnr"] is None else f"{record['alone_psnr']:14.2f}{record['ref_share']:9.0%}")
    )


def _gain(decibels: float) -> str:
    """Never a negative nothing."""
    return f"{round(decibels, 2) + 0.0:+.2f}"


def _measured(record: Record) -> Iterator[str]:
    yield _scores(record["image"], record)


def _summary(record: Record) -> Iterator[str]:
    yield f"[bold]{_scores('mean of ' + str(record['count']), record)}[/bold]"
    if record["refs"]:
        yield (
            f"references ({record['refs']}) for {record['with_refs']} of them: {_gain(record['gain'])} dB, "
            f"at worst {_gain(record['worst_gain'])} dB"
        )
    for name, why in (
        ("failed", "could not be read"),
        ("undefined", "have no PSNR or SSIM and are left out of its mean"),
    ):
        if record[name]:
            yield warning(f"{record[name]} images {why}")


def _stressing(record: Record) -> Iterator[str]:
    yield (
        f"{escape(record['dataset'])} x{record['scale']}, protocol {record['protocol']} ({record['description']}): "
        f"{record['tries']} kinds of references for {record['images']} images"
        + (f"; none has {', '.join(record['left_out'])}" if record["left_out"] else "")
    )
    yield f"[bold]{'references':<14}{'images':>7}{'PSNR':>9}{'gained':>9}{'at worst':>10}{'used on':>9}[/bold]"


def _stressed(record: Record) -> Iterator[str]:
    yield (
        f"{record['refs']:<14}{record['count']:7d}{record['psnr']:9.2f}{_gain(record['gain']):>9}"
        f"{_gain(record['worst_gain']):>10}{record['ref_share']:9.0%}"
    )


def _measured_cell(record: Record) -> Iterator[str]:
    if record["degradation"] == "clean":  # the first
        yield (
            f"[bold]{'degradation':<18}{'PSNR':>8}{'SSIM':>9}{'bicubic':>10}{'gained':>9}{'at worst':>10}"
            f"{'restored':>10}{'by refs' if record['ref_gain'] is not None else '':>9}[/bold]"
        )
    by_refs = f"{_gain(record['ref_gain']):>9}" if record["ref_gain"] is not None else ""
    yield (
        f"{record['degradation']:<18}{record['psnr']:8.2f}{record['ssim']:9.4f}{record['bicubic_psnr']:10.2f}"
        f"{_gain(record['gain']):>9}{_gain(record['worst_gain']):>10}{record['restoration']:10.2f}{by_refs}"
    )


def _plotted(record: Record) -> Iterator[str]:
    yield f"plot: [bold]{escape(str(record['path']))}[/bold]"


def _fetching(record: Record) -> Iterator[str]:
    done, count = record["done"], record["count"]
    if done in (0, count) or done % 50 == 0:
        yield (
            f"{record['dataset']}: {done} of {count} files of {record['source']} ({record['terms']}) "
            f"are in {escape(str(record['folder']))}"
        )


TOLD: Words = {
    "opened": _opened,
    "measured": _measured,
    "summary": _summary,
    "stressing": _stressing,
    "stressed": _stressed,
    "measured_cell": _measured_cell,
    "plotted": _plotted,
    "fetching": _fetching,
}
