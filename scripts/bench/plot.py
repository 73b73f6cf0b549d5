"""The plot of the README: an SVG, in light and dark, that needs nothing to draw."""

from __future__ import annotations

from goals import Results, Timing
from samples import Role
from table import arrow

WIDTH = 860
LEFT = 190  # where the bars begin
RIGHT = 110  # room for the figures behind them
BAR = 11
GAP = 3
GROUP = 3 * (BAR + GAP) + 12
TOP = 64

STYLE = """
  text { font: 12px system-ui, sans-serif; fill: #24292f }
  .title { font-weight: 600; font-size: 14px }
  .figure { font-size: 11px; fill: #57606a }
  .ours { fill: #0969da } .server { fill: #8c959f } .lightrag { fill: #e0a458 }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3 } .figure { fill: #9da7b3 }
    .ours { fill: #58a6ff } .server { fill: #6e7681 } .lightrag { fill: #bb8009 }
  }
"""


def render(results: Results) -> str:
    """The pairs of the largest size at which there is something beside this tool."""
    size = max((size for size in results.sizes() if shown(results, size)), default=0)
    pairs = shown(results, size)
    parts = [text(16, 24, f"Moving {size:,} records: seconds, each pair on a scale of its own", "title"), *legend()]
    for number, pair in enumerate(pairs):
        parts += group(results, pair, size, TOP + number * GROUP)
    height = TOP + len(pairs) * GROUP
    body = "\n".join(f"  {part}" for part in parts)
    extent = f'viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {extent} role="img">\n<style>{STYLE}</style>\n{body}\n</svg>\n'


def shown(results: Results, size: int) -> list[str]:
    return [pair for pair in results.pairs(size) if results.slower_side(pair, size)]


def legend() -> list[str]:
    entries = (("ours", "this tool"), ("server", "the slower server's own loader or reader"), ("lightrag", "LightRAG's tool"))
    parts, x = [], 16
    for kind, label in entries:
        parts += [rectangle(x, 37, BAR, kind), text(x + BAR + 5, 47, label)]
        x += 40 + 7 * len(label)
    return parts


def group(results: Results, pair: str, size: int, top: int) -> list[str]:
    bars = (
        ("ours", results.by_role(pair, size, Role.OURS)),
        ("server", results.slower_side(pair, size)),
        ("lightrag", results.by_role(pair, size, Role.LIGHTRAG)),
    )
    longest = max(timing.median for _, timing in bars if timing)
    parts = [text(16, top + 2 * BAR + GAP, arrow(pair))]
    for number, (kind, timing) in enumerate(bars):
        if timing is None:
            continue
        y = top + number * (BAR + GAP)
        width = max(1.0, (WIDTH - LEFT - RIGHT) * timing.median / longest)
        parts += [rectangle(LEFT, y, width, kind), text(LEFT + width + 5, y + BAR - 1, label(kind, timing), "figure")]
    return parts


def label(kind: str, timing: Timing) -> str:
    seconds = f"{timing.median:.2f} s" if timing.median < 10 else f"{timing.median:.1f} s"
    return f"{seconds} {timing.name}" if kind == "server" else seconds


def rectangle(x: float, y: float, width: float, kind: str) -> str:
    return f'<rect class="{kind}" x="{x}" y="{y}" width="{width:.1f}" height="{BAR}" rx="2"/>'


def text(x: float, y: float, content: str, kind: str = "") -> str:
    attribute = f' class="{kind}"' if kind else ""
    escaped = content.replace("&", "&amp;").replace("<", "&lt;")
    return f'<text{attribute} x="{x:.1f}" y="{y}">{escaped}</text>'
