"""A page that shows a comparison of speeds, and needs nothing beside it."""

import base64
import io
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1000px; margin: 2rem auto; padding: 0 1rem; color: #222 }
h1 { font-size: 1.5rem } h2 { font-size: 1.15rem; margin-top: 2rem }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums }
th, td { padding: .3rem .6rem; text-align: right; border-bottom: 1px solid #ddd }
th { border-bottom: 2px solid #888 } td:nth-child(-n+2), th:nth-child(-n+2) { text-align: left }
tr.own { background: #eef6ff } small { color: #666 } img { max-width: 100% }
"""

Row = Mapping[str, Any]


def html_report(processor: str, timings: Sequence[Row], growth: Sequence[Row]) -> str:
    """`timings` and `growth` have the fields of the records of `refsr bench`."""
    pictures = list(dict.fromkeys((row["model"], row["width"], row["height"], row["scale"]) for row in timings))
    parts = [f"<h1>refsr bench</h1><p>{escape(processor)}. Medians of runs by turns; memory is what it grew by.</p>"]
    for model, width, height, scale in pictures:
        rows = [row for row in timings if (row["model"], row["width"], row["height"]) == (model, width, height)]
        parts.append(f"<h2>{escape(model)}: {width}x{height} to {scale * width}x{scale * height}</h2>{_table(rows)}")
        parts.append(f'<img alt="speed of {escape(model)}" src="{_speeds(rows)}">')
    scored = [row for row in timings if row["psnr"] is not None]
    if scored:
        parts.append(f'<h2>Speed and quality</h2><img alt="speed and quality" src="{_qualities(scored)}">')
    for its in growth:
        title = f"{its['model']}: time and {its['against']} (exponent {its['exponent']:.2f})"
        parts.append(f'<h2>{escape(title)}</h2><img alt="{escape(title)}" src="{_growth(its)}">')
    page = "\n".join(parts)
    head = f'<meta charset="utf-8"><title>refsr bench</title><style>{_STYLE}</style>'
    return f'<!doctype html><html lang="en">{head}{page}</html>\n'


def _table(rows: Sequence[Row]) -> str:
    heads = ("", "", "ms", "± %", "MP/s", "x plain", "of peak", "MiB", "PSNR")
    lines = ["<tr>" + "".join(f"<th>{head}</th>" for head in heads) + "</tr>"]
    for row in rows:
        cells = (
            f"<b>{escape(row['variant'])}</b>",
            f"<small>{escape(row['what'])}</small>",
            f"{row['milliseconds']:.1f}",
            f"{100 * row['spread']:.0f}",
            f"{row['megapixels_per_second']:.2f}",
            _or_dash(row["ratio_to_plain"], "{:.2f}"),
            _or_dash(row["peak_share"], "{:.0%}"),
            _or_dash(row["peak_mib"], "{:.0f}"),
            _or_dash(row["psnr"], "{:.2f}"),
        )
        own = ' class="own"' if row["variant"].startswith("refsr") else ""
        lines.append(f"<tr{own}>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
    return f"<table>{''.join(lines)}</table>"


def _or_dash(value: float | None, form: str) -> str:
    return "–" if value is None else form.format(value)


def _speeds(rows: Sequence[Row]) -> str:
    figure, axes = _figure(0.5 + 0.4 * len(rows))
    names = [row["variant"] for row in rows]
    colors = ["C0" if name.startswith("refsr") else "0.6" for name in names]
    speeds = [row["megapixels_per_second"] for row in rows]
    bars = axes.barh(names, speeds, color=colors)
    axes.bar_label(bars, [f"{speed:.2f}" for speed in speeds], padding=3)
    axes.invert_yaxis()
    axes.set(xlabel="megapixels of the result a second", xscale="log")
    axes.set_xlim(right=3 * max(speeds))  # room for the number beside the longest
    _round_numbers(axes.xaxis)
    return _embedded(figure)


def _qualities(rows: Sequence[Row]) -> str:
    figure, axes = _figure(4.5)
    models = list(dict.fromkeys(row["model"] for row in rows))
    variants = list(dict.fromkeys(row["variant"] for row in rows))
    for row in rows:
        marker, color = "osD^vP*"[models.index(row["model"]) % 7], f"C{variants.index(row['variant']) % 10}"
        label = f"{row['model']} {row['variant']}"
        axes.plot(row["megapixels_per_second"], row["psnr"], marker, color=color, markersize=9, alpha=0.8, label=label)
    axes.set(xlabel="megapixels of the result a second", ylabel="PSNR of luma (dB)", xscale="log")
    axes.grid(alpha=0.3)
    _round_numbers(axes.xaxis)
    drawn, labels = axes.get_legend_handles_labels()
    once = dict(zip(labels, drawn, strict=True))
    figure.legend(once.values(), once.keys(), loc="outside right upper")
    return _embedded(figure)


def _growth(its: Row) -> str:
    figure, axes = _figure(3.5)
    axes.plot(its["amounts"], its["seconds"], "o-")
    axes.set(xlabel=its["against"], ylabel="seconds", xscale="log", yscale="log")
    axes.set_xticks(its["amounts"], [f"{amount:.2g}" for amount in its["amounts"]])
    axes.minorticks_off()
    _round_numbers(axes.yaxis)
    axes.grid(alpha=0.3)
    return _embedded(figure)


def _round_numbers(axis: Any) -> None:
    """1, 2, 5, 10 and so on along a logarithmic axis."""
    from matplotlib.ticker import LogLocator, NullFormatter

    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter("{x:g}")
    axis.set_minor_formatter(NullFormatter())


def _figure(height: float) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, height), layout="constrained")
    return figure, figure.subplots()


def _embedded(figure: Any) -> str:
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=110)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
