"""Pictures of tables."""

from collections.abc import Mapping
from pathlib import Path

from refsr_cli.files import replacing


def plot_gains(path: Path, title: str, xlabel: str, gains: Mapping[str, tuple[float, float]]) -> None:
    """A PNG with a bar for each kind: mean gain and, as a mark, that of the picture that gained least, in
    dB. Kinds named `NAME:AMOUNT` stand together. Raises BadFile."""
    from matplotlib.figure import Figure

    groups = list(dict.fromkeys(_group(name) for name in gains))
    figure = Figure(figsize=(9, 0.6 + 0.34 * len(gains)), layout="constrained")
    axes = figure.subplots()
    names = list(gains)
    for row, name in enumerate(names):
        mean, _ = gains[name]
        bar = axes.barh(row, mean, color=f"C{groups.index(_group(name))}", height=0.7)
        axes.bar_label(bar, [f"{round(mean, 2) + 0.0:+.2f}"], padding=3, fontsize=8)
    axes.plot([gains[name][1] for name in names], range(len(names)), "k|", markersize=10, label="gained least")
    axes.set(yticks=range(len(names)), yticklabels=names, xlabel=xlabel)
    axes.invert_yaxis()
    axes.axvline(0, color="black", linewidth=0.8)
    axes.margins(x=0.12)
    axes.grid(axis="x", alpha=0.3)
    axes.set_title(title, loc="left")
    axes.legend(loc="lower right", bbox_to_anchor=(1, 1), frameon=False)
    with replacing(path) as unfinished:
        figure.savefig(unfinished, format="png", dpi=100)


def _group(name: str) -> str:
    kind = name.partition(":")[0]
    return "same scene" if kind.startswith("L") else kind
