"""`report.json` for programs, a table for the terminal, `report.html` for people.

The page is one file with its pictures inside; it loads nothing.  Numbers are drawn from the
report only, never from the demo's variables, so the page cannot say what the report does not.
"""

import html
import io
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

Report = Mapping[str, Any]

_COLOURS = ("#2a6f97", "#c8553d", "#588157", "#8e5572", "#6c757d", "#b08900")
_NO_METADATA = dict.fromkeys(("Creator", "Date", "Format", "Type"))
"""Without its usual metadata a picture names no address of another place."""
_STYLE = """
body{font:16px/1.5 system-ui,sans-serif;max-width:980px;margin:2rem auto;padding:0 1rem;color:#1d2b36}
h1{font-size:1.6rem;margin:0} h2{font-size:1.15rem;margin:2rem 0 .5rem}
p.lead{color:#4a5b68;margin:.2rem 0 1rem} figure{margin:0} svg{max-width:100%;height:auto}
table{border-collapse:collapse;width:100%} td,th{padding:.35rem .6rem;border-bottom:1px solid #dde4ea;text-align:left}
td.n{text-align:right;font-variant-numeric:tabular-nums} .ok{color:#2d6a4f;font-weight:600} .no{color:#b02a1b;font-weight:700}
code{background:#f1f4f6;padding:0 .25rem;border-radius:3px;font-size:.9em} .two{display:grid;grid-template-columns:1fr 1fr;gap:1rem}
@media(max-width:720px){.two{grid-template-columns:1fr}}
"""


def write(folder: Path, report: Report) -> None:
    """Both files; the JSON first, since a page without numbers is of no use."""
    (folder / "report.json").write_text(json.dumps(report, indent=2) + "\n")
    (folder / "report.html").write_text(page(report))


def page(report: Report) -> str:
    """The whole page as text."""
    checks = "".join(_check_row(check) for check in report["checks"])
    good = sum(1 for check in report["checks"] if check["holds"])
    return f"""<!doctype html><html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width,initial-scale=1">
<title>Rexis demo report</title><style>{_STYLE}</style></head><body>
<h1>Four clinics, one model, no shared records</h1>
<p class="lead">{good} of {len(report["checks"])} claims checked true in this run,
{report["seconds"]["total"]:.0f} s on this machine.</p>
<h2>What was checked</h2><table><tr><th>claim</th><th>seen</th><th></th></tr>{checks}</table>
<h2>Training</h2><div class="two"><figure>{_curves(report)}</figure>
<figure>{_bars(report["training"]["auc"])}</figure></div>
<h2>Who sent what to whom</h2><figure>{_flows(report["flows"])}</figure>
<h2>Receipts</h2>{_receipts(report)}
<h2>Processes</h2><p>{_processes(report["processes"])}</p>
<p class="lead">Data: {html.escape(report["data"]["source"])}</p>
</body></html>
"""


def _check_row(check: Mapping[str, Any]) -> str:
    mark = '<td class="ok">true</td>' if check["holds"] else '<td class="no">FALSE</td>'
    claim, seen = html.escape(check["claim"]), html.escape(str(check["seen"]))
    return f"<tr><td>{claim}</td><td>{seen}</td>{mark}</tr>"


def _curves(report: Report) -> str:
    import matplotlib as mpl

    mpl.use("svg")
    from matplotlib import pyplot as plt

    rounds = report["training"]["rounds"]
    names = sorted(rounds[0]["loss"]) if rounds else []
    figure, (top, bottom) = plt.subplots(2, 1, figsize=(5.2, 4.6), sharex=True)
    numbers = [entry["round"] for entry in rounds]
    for colour, name in zip(_COLOURS, names, strict=False):
        losses = [entry["loss"][name] for entry in rounds]
        top.plot(numbers, losses, color=colour, label=name, marker="o", markersize=3)
    top.set_ylabel("training loss, per clinic")
    top.legend(frameon=False, ncols=4, fontsize=8)
    aucs = [entry["auc"] for entry in rounds]
    bottom.plot(
        numbers, aucs, color="#1d2b36", marker="o", markersize=3, label="federation"
    )
    auc = report["training"]["auc"]
    bottom.axhline(auc["pooled"], color="#588157", linestyle="--", label="pooled")
    bottom.set_ylabel("held-out AUC")
    bottom.set_xlabel("round")
    bottom.legend(frameon=False, fontsize=8, loc="lower right")
    for axes in (top, bottom):
        axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata=_NO_METADATA)
    plt.close(figure)
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def _bars(auc: Mapping[str, Any]) -> str:
    entries = [(f"{name} alone", value) for name, value in auc["local"].items()]
    entries += [("federation", auc["federated"]), ("all pooled", auc["pooled"])]
    if "logistic" in auc:
        entries.append(("logistic, pooled", auc["logistic"]))
    rows = []
    for index, (name, value) in enumerate(entries):
        y, width = 30 + 34 * index, 300 * max(0.0, (value - 0.5) / 0.5)
        colour = "#c8553d" if name == "federation" else "#9fb4c3"
        rows.append(
            f'<text x="120" y="{y + 15}" text-anchor="end" font-size="13">{html.escape(name)}</text>'
            f'<rect x="130" y="{y}" width="{width:.1f}" height="20" fill="{colour}"/>'
            f'<text x="{135 + width:.1f}" y="{y + 15}" font-size="13">{value:.3f}</text>'
        )
    height = 40 + 34 * len(entries)
    return (
        f'<svg viewBox="0 0 490 {height}" role="img" aria-label="AUC on held-out patients">'
        f'<text x="130" y="16" font-size="12" fill="#4a5b68">AUC on held-out patients'
        f" (bars start at chance, 0.5)</text>{''.join(rows)}</svg>"
    )


def _flows(flows: Mapping[str, Any]) -> str:
    nodes: list[str] = flows["nodes"]
    centre_x, centre_y, radius = 480.0, 235.0, 175.0
    places = {}
    for index, name in enumerate(nodes):
        angle = 2 * math.pi * index / len(nodes) - math.pi / 2
        places[name] = (
            centre_x + 1.75 * radius * math.cos(angle),
            centre_y + radius * math.sin(angle),
        )
    kinds = list(dict.fromkeys(edge["kind"] for edge in flows["edges"]))
    colour = dict(zip(kinds, _COLOURS, strict=False))
    arrows = "".join(
        _arrow(places[e["from"]], places[e["to"]], kinds.index(e["kind"]), e, colour)
        for e in flows["edges"]
        if e["from"] != e["to"]
    )
    circles = "".join(
        f'<circle cx="{x:.0f}" cy="{y:.0f}" r="30" fill="#fff" stroke="#1d2b36" stroke-width="1.5"/>'
        f'<text x="{x:.0f}" y="{y + 4:.0f}" text-anchor="middle" font-size="12">{html.escape(name)}</text>'
        for name, (x, y) in places.items()
    )
    legend = "".join(
        f'<rect x="8" y="{10 + 20 * i}" width="14" height="4" fill="{colour[kind]}"/>'
        f'<text x="28" y="{16 + 20 * i}" font-size="12">{html.escape(kind)}</text>'
        for i, kind in enumerate(kinds)
    )
    return (
        '<svg viewBox="0 0 960 470" role="img" aria-label="who sent what to whom">'
        f"{arrows}{circles}{legend}</svg>"
    )


def _arrow(
    start: tuple[float, float],
    end: tuple[float, float],
    lane: int,
    edge: Mapping[str, Any],
    colour: Mapping[str, str],
) -> str:
    (x1, y1), (x2, y2) = start, end
    length = math.hypot(x2 - x1, y2 - y1)
    dx, dy = (x2 - x1) / length, (y2 - y1) / length
    bend = 14.0 + 13.0 * lane
    mx, my = (x1 + x2) / 2 - dy * bend, (y1 + y2) / 2 + dx * bend
    tip_x, tip_y = x2 - 33 * dx, y2 - 33 * dy
    hint = f"{edge['from']} to {edge['to']}: {edge['kind']}, {edge['count']} times, {edge['bytes']:,} bytes"
    width = 1.0 + min(3.0, math.log10(1 + edge["bytes"]) / 2.5)
    shade = colour[edge["kind"]]
    left = f"{tip_x - 8 * dx - 4 * dy:.1f},{tip_y - 8 * dy + 4 * dx:.1f}"
    right = f"{tip_x - 8 * dx + 4 * dy:.1f},{tip_y - 8 * dy - 4 * dx:.1f}"
    return (
        f"<g><title>{html.escape(hint)}</title>"
        f'<path d="M{x1 + 31 * dx:.1f} {y1 + 31 * dy:.1f} Q{mx:.1f} {my:.1f} {tip_x:.1f} {tip_y:.1f}"'
        f' fill="none" stroke="{shade}" stroke-width="{width:.1f}" opacity=".75"/>'
        f'<polygon points="{tip_x:.1f},{tip_y:.1f} {left} {right}" fill="{shade}"/></g>'
    )


def _receipts(report: Report) -> str:
    inference = report["inference"]
    caught = "".join(
        f"<li>host <b>{html.escape(entry['host'])}</b>, receipt <code>{entry['receipt'][:16]}</code>: "
        f"{html.escape(entry['what'])}</li>"
        for entry in inference["caught_detail"]
    )
    return (
        f"<p>{inference['receipts']} receipts anchored, {inference['audited']} replayed by the verifier, "
        f"{inference['passed']} passed, {inference['tampered']} altered on purpose, "
        f"{inference['caught']} caught.</p><ul>{caught}</ul>"
    )


def _processes(processes: Mapping[str, int]) -> str:
    return ", ".join(
        f"{html.escape(name)} <code>{pid}</code>" for name, pid in processes.items()
    )


def print_table(report: Report) -> None:
    """The claims and the numbers, in the terminal."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    table = Table(title="Rexis demo", title_justify="left")
    table.add_column("claim")
    table.add_column("seen")
    table.add_column("")
    for check in report["checks"]:
        mark = "[green]true[/]" if check["holds"] else "[bold red]FALSE[/]"
        table.add_row(check["claim"], str(check["seen"]), mark)
    console.print(table)
    auc = report["training"]["auc"]
    numbers = Table(title="AUC on held-out patients", title_justify="left")
    for name in (*auc["local"], "federation", "pooled"):
        numbers.add_column(name, justify="right")
    values = (*auc["local"].values(), auc["federated"], auc["pooled"])
    numbers.add_row(*(f"{value:.3f}" for value in values))
    console.print(numbers)
