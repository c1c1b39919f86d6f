"""Mermaid's flowcharts as SVG, so that the book needs no script from elsewhere.

The part of the language that the pages use: ``flowchart TD``, boxes ``name["label"]`` with
``<br>`` for a new line, arrows ``a --> b``. A site that draws Mermaid (GitHub) shows the same.

Layers by the longest way down, long arrows bent at each layer, crossings lessened by
barycentres (Sugiyama et al. 1981), places by the means of neighbours.
"""

from __future__ import annotations

import html
import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

_BOX = re.compile(r'(\w+)(?:\["(.*?)"\])?')
_LETTER, _LINE, _PADDING = 6.9, 17, 11  # pixels
_BESIDE, _BELOW = 16, 46  # pixels between boxes, between layers
_BEND = 10.0  # pixels that an arrow takes of a layer that it only passes


class NoFlowchart(Exception):
    """A line that is not of the language; the message quotes it."""


@dataclass
class _Node:
    """A box, or (without lines) where an arrow passes a layer."""

    lines: list[str]
    layer: int = 0
    x: float = 0.0
    y: float = 0.0
    above: list[str] = field(default_factory=list)
    below: list[str] = field(default_factory=list)

    @property
    def width(self) -> float:
        longest = max((len(line) for line in self.lines), default=0)
        return longest * _LETTER + 2 * _PADDING if self.lines else _BEND

    @property
    def height(self) -> float:
        return max(1, len(self.lines)) * _LINE + 2 * _PADDING


def parse(source: str) -> tuple[dict[str, str], list[tuple[str, str]]]:
    """Labels by name, and arrows.

    Raises:
        NoFlowchart: a line that is not understood.
    """
    first, *lines = [line.strip() for line in source.strip().splitlines()]
    if first != "flowchart TD":
        raise NoFlowchart(first)
    labels: dict[str, str] = {}
    arrows: list[tuple[str, str]] = []
    for line in filter(None, lines):
        boxes = [_BOX.fullmatch(part.strip()) for part in line.split("-->")]
        names = []
        for box in boxes:
            if box is None:
                raise NoFlowchart(line)
            name, label = box.groups()
            labels[name] = label or labels.get(name, name)
            names.append(name)
        arrows += itertools.pairwise(names)
    return labels, arrows


def draw(source: str) -> str:
    """The flowchart as an ``<svg>`` that takes its colours from the page.

    Raises:
        NoFlowchart: a line that is not understood.
    """
    labels, arrows = parse(source)
    nodes = {name: _Node(re.split("<br/?>", label)) for name, label in labels.items()}
    _layer(nodes, arrows)
    ways = [_bent(nodes, *arrow) for arrow in arrows]
    layers = _ordered(nodes)
    _place(nodes, layers)
    return _svg(nodes, ways)


def fence(source: str, *_: Any, **__: Any) -> str:
    """For pymdownx.superfences, which gives more than is wanted."""
    return f'<div class="flowchart">{draw(source)}</div>'


def _layer(nodes: dict[str, _Node], arrows: Sequence[tuple[str, str]]) -> None:
    """As far down as the longest way; what has nothing above it as near as what is below it."""
    for _ in nodes:
        for a, b in arrows:
            nodes[b].layer = max(nodes[b].layer, nodes[a].layer + 1)
    if any(nodes[b].layer <= nodes[a].layer for a, b in arrows):
        raise NoFlowchart("its arrows go in a circle")
    for name, node in nodes.items():
        if all(b != name for _, b in arrows):
            node.layer = min(nodes[b].layer for a, b in arrows if a == name) - 1


def _bent(nodes: dict[str, _Node], a: str, b: str) -> list[str]:
    """The way of an arrow, layer by layer; adds the nodes that it passes."""
    way = [a]
    for layer in range(nodes[a].layer + 1, nodes[b].layer):
        way.append(f"{a}>{b}>{layer}")
        nodes[way[-1]] = _Node([], layer)
    way.append(b)
    for upper, lower in itertools.pairwise(way):
        nodes[upper].below.append(lower)
        nodes[lower].above.append(upper)
    return way


def _ordered(nodes: dict[str, _Node]) -> list[list[str]]:
    """Names by layer, from left to right, with few crossings."""
    count = max(node.layer for node in nodes.values()) + 1
    layers = [[n for n, node in nodes.items() if node.layer == layer] for layer in range(count)]
    best, least = layers, _crossings(nodes, layers)
    for sweep in range(24):
        layers, downwards = [list(layer) for layer in layers], sweep % 2 == 0
        for layer in layers if downwards else layers[::-1]:
            place = {name: i for each in layers for i, name in enumerate(each)}

            def middle(
                name: str, place: dict[str, int] = place, downwards: bool = downwards
            ) -> float:
                near = nodes[name].above if downwards else nodes[name].below
                return sum(map(place.__getitem__, near)) / len(near) if near else place[name]

            layer.sort(key=middle)
        crossings = _crossings(nodes, layers)
        if crossings < least:
            best, least = layers, crossings
    return best


def _crossings(nodes: dict[str, _Node], layers: list[list[str]]) -> int:
    place = {name: i for layer in layers for i, name in enumerate(layer)}
    count = 0
    for layer in layers:
        ends = [(place[n], place[below]) for n in layer for below in nodes[n].below]
        for (a, b), (c, d) in itertools.combinations(ends, 2):
            count += (a - c) * (b - d) < 0
    return count


def _place(nodes: dict[str, _Node], layers: list[list[str]]) -> None:
    y = 0.0
    for layer in layers:
        height = max(nodes[name].height for name in layer)
        x = 0.0
        for name in layer:
            node = nodes[name]
            node.x, node.y = x + node.width / 2, y + height / 2
            x += node.width + _BESIDE
        y += height + _BELOW
    for sweep in range(60):
        for layer in layers if sweep % 2 else layers[::-1]:
            wanted = []
            for name in layer:
                near = nodes[name].above + nodes[name].below
                wanted.append(sum(nodes[n].x for n in near) / len(near) if near else 0.0)
            for name, x in zip(layer, _apart([nodes[n].width for n in layer], wanted)):
                nodes[name].x = x


def _apart(widths: list[float], wanted: list[float]) -> list[float]:
    """Places in this order, none over another, near to those that are wanted.

    Neighbours that would overlap become a block, which lies at the mean of its wishes.
    """
    offsets = [0.0]
    for a, b in itertools.pairwise(widths):
        offsets.append(offsets[-1] + (a + b) / 2 + _BESIDE)
    blocks: list[tuple[float, int]] = []  # place of the first row less its offset, members
    for x, offset in zip(wanted, offsets):
        at, members = x - offset, 1
        while blocks and blocks[-1][0] > at:
            before, count = blocks.pop()
            at = (at * members + before * count) / (members + count)
            members += count
        blocks.append((at, members))
    starts = [at for at, members in blocks for _ in range(members)]
    return [start + offset for start, offset in zip(starts, offsets)]


def _svg(nodes: dict[str, _Node], ways: list[list[str]]) -> str:
    left = min(node.x - node.width / 2 for node in nodes.values()) - 2
    right = max(node.x + node.width / 2 for node in nodes.values()) + 2
    bottom = max(node.y + node.height / 2 for node in nodes.values()) + 2
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" width="{right - left:.0f}" '
        f'style="min-width: min({0.8 * (right - left):.0f}px, 34rem)" '
        f'viewBox="{left:.0f} -2 {right - left:.0f} {bottom + 4:.0f}" font-size="13">',
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" '
        'markerHeight="7" orient="auto"><path d="M0,0 L8,4 L0,8 z"/></marker></defs>',
    ]
    for way in ways:
        parts.append(f'<path marker-end="url(#tip)" d="{_curve([nodes[n] for n in way])}"/>')
    for node in nodes.values():
        if not node.lines:
            continue
        x, y = node.x - node.width / 2, node.y - node.height / 2
        size = f'width="{node.width:.0f}" height="{node.height:.0f}"'
        parts.append(f'<rect x="{x:.1f}" y="{y:.1f}" {size} rx="5"/>')
        for i, line in enumerate(node.lines):
            baseline = y + _PADDING + (i + 0.78) * _LINE
            parts.append(
                f'<text x="{node.x:.1f}" y="{baseline:.1f}" text-anchor="middle">'
                f"{html.escape(line)}</text>"
            )
    return "".join([*parts, "</svg>"])


def _curve(way: list[_Node]) -> str:
    """From the lower edge of the first to the upper edge of the last, straight through layers."""
    path = f"M{way[0].x:.1f},{way[0].y + way[0].height / 2:.1f}"
    for upper, lower in itertools.pairwise(way):
        begin, end = upper.y + upper.height / 2, lower.y - lower.height / 2
        half = (begin + end) / 2
        path += f" L{upper.x:.1f},{begin:.1f}"
        path += f" C{upper.x:.1f},{half:.1f} {lower.x:.1f},{half:.1f} {lower.x:.1f},{end:.1f}"
    return path
