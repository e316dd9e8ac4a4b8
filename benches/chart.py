"""A bar chart as SVG, written by hand: legible in light and dark, with no library."""

from html import escape
from typing import NamedTuple

from results import ROOT

WIDTH = 760
LEFT = 216  # Where bars begin; labels end before it.
RIGHT = 132  # What is kept free for the longest bar's number.
BAR, GAP = 16, 6
MARGIN, HEADING = 24, 52

# Also that of the charts that the tool draws.
STYLE = (ROOT / "src/bin/ndshm/commands/bench/chart.css").read_text().strip("\n")


class Bar(NamedTuple):
    label: str
    length: float
    shown: str
    ours: bool


class Panel(NamedTuple):
    """Groups of bars on one scale."""

    heading: str
    note: str
    groups: list[list[Bar]]


def svg(panels: list[Panel], description: str) -> str:
    y = MARGIN
    body = []
    for panel in panels:
        body.append(f'<text class="heading" x="{MARGIN}" y="{y + 14}">{escape(panel.heading)}</text>')
        body.append(f'<text class="faint" x="{MARGIN}" y="{y + 34}">{escape(panel.note)}</text>')
        y += HEADING
        top = y
        scale = (WIDTH - LEFT - RIGHT) / max(bar.length for group in panel.groups for bar in group)
        for group in panel.groups:
            for bar in group:
                body += bar_lines(bar, y, max(bar.length * scale, 1.5))
                y += BAR + GAP
            y += GAP
        y -= 2 * GAP
        body.append(f'<line class="axis" x1="{LEFT}" y1="{top - 4}" x2="{LEFT}" y2="{y + 4}"/>')
        y += MARGIN
    height = y
    return "\n".join([
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}" role="img">',
        f"<title>{escape(description)}</title>",
        f"<style>\n{STYLE}\n</style>",
        f'<rect class="ground" x="0.5" y="0.5" width="{WIDTH - 1}" height="{height - 1}" rx="6"/>',
        *body,
        "</svg>\n",
    ])


def bar_lines(bar: Bar, y: float, length: float) -> list[str]:
    kind = "ours" if bar.ours else "bar"
    baseline = y + BAR - 4
    return [
        f'<text class="label" x="{LEFT - 8}" y="{baseline}">{escape(bar.label)}</text>',
        f'<rect class="{kind}" x="{LEFT}" y="{y}" width="{length:.1f}" height="{BAR}" rx="2"/>',
        f'<text class="faint" x="{LEFT + length + 8:.1f}" y="{baseline}">{escape(bar.shown)}</text>',
    ]
