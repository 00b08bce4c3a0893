"""Held-out AUC and loss by round: a line for the mean of the seeds, a band for their spread."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

_WAYS = {
    "pooled": ("#588157", "--", "all records pooled"),
    "federation": ("#c8553d", "-", "federation"),
    "dropping": ("#e8a33d", "-", "one of four away in every third round"),
    "thin": ("#6d597a", ":", "federation, one entry of eight travels"),
}
_ALONE = "#9fb4c3"


def draw(found: Mapping[str, Any]) -> str:
    """An SVG of one task, with nothing in it that changes from day to day."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "rexis"
    from matplotlib import pyplot as plt

    figure, panels = plt.subplots(1, 2, figsize=(9.6, 3.8))
    for axes, name in zip(panels, ("auc", "loss"), strict=True):
        first = True
        for way, runs in found["curves"].items():
            colour, style, label = _WAYS.get(way, (_ALONE, "-", ""))
            if way not in _WAYS and first:
                first, label = False, "each alone"
            _line(axes, runs, name, colour, style, label)
        axes.set_xlabel("round")
        axes.set_ylabel(f"held-out {name.upper() if name == 'auc' else name}")
        axes.spines[["top", "right"]].set_visible(False)
    # Below the panels: a curve that fails lies where a legend would find room.
    lines, labels = panels[0].get_legend_handles_labels()
    figure.legend(
        lines, labels, frameon=False, fontsize=8, loc="lower center", ncols=len(lines)
    )
    figure.suptitle(f"{found['title']} ({found['seeds']} seeds)", fontsize=10)
    figure.tight_layout(rect=(0, 0.06, 1, 1))
    out = io.StringIO()
    figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    plt.close(figure)
    text = out.getvalue()
    lines = text[text.index("<svg") :].splitlines()
    return "\n".join(line.rstrip() for line in lines) + "\n"


def _line(
    axes: Any,
    runs: Sequence[Sequence[Mapping[str, float]]],
    name: str,
    colour: str,
    style: str,
    label: str,
) -> None:
    by_round = [[score[name] for score in scores] for scores in zip(*runs, strict=True)]
    numbers = range(len(by_round))
    means = [sum(one) / len(one) for one in by_round]
    axes.plot(numbers, means, color=colour, linestyle=style, label=label, linewidth=1.4)
    low, high = [min(one) for one in by_round], [max(one) for one in by_round]
    axes.fill_between(numbers, low, high, color=colour, alpha=0.15, linewidth=0)
