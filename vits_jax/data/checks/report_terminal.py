"""A report on the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from vits_jax.data.checks.report import Report
from vits_jax.data.unusable import LeftOut

_BAR = 40  # columns of the longest bar
_SPEAKERS = 20  # shown
_WARNED = 40  # shown


def show(report: Report, console: Console) -> None:
    """Print everything of a report; rows that are only warned of up to a number."""
    console.rule(escape(report.source))
    console.print(f"[bold]{escape(report.last_line())}[/bold], {report.sample_rate} Hz")
    for note in report.notes:
        console.print(f"[yellow]{escape(note)}[/yellow]", soft_wrap=True)
    _rows("not used", "red", report.left_out, None, console)
    _rows("used, but look at them", "yellow", report.warned, _WARNED, console)
    _lengths(report, console)
    _speakers(report, console)
    _symbols(report, console)
    _training(report, console)


def _rows(
    title: str, style: str, items: Sequence[LeftOut], limit: int | None, console: Console
) -> None:
    if not items:
        console.print(f"[green]no rows {title}[/green]")
        return
    counts: dict[str, int] = {}
    for item in items:
        counts[item.kind] = counts.get(item.kind, 0) + 1
    kinds = ", ".join(f"{count} {kind}" for kind, count in counts.items())
    console.print(f"\n[{style} bold]{title}: {len(items)}[/] ({escape(kinds)})", soft_wrap=True)
    # A row is a line that can be searched and cut, however narrow the terminal.
    for item in items[:limit]:
        shown = f"[dim]{escape(item.where)}[/dim] {escape(item.name)}: {escape(item.reason)}"
        console.print(f"  {shown}", soft_wrap=True, highlight=False)
    if limit is not None and len(items) > limit:
        console.print(f"  … and {len(items) - limit} more: --json and --html have all of them")


def _lengths(report: Report, console: Console) -> None:
    edges, counts = report.histogram()
    table = Table("seconds", "utterances", "", title="lengths", title_justify="left", box=None)
    most = max(counts) or 1
    for low, high, count in zip(edges, edges[1:], counts):
        bar = "█" * round(_BAR * count / most) or ("▏" if count else "")
        table.add_row(f"{low:g} – {high:g}", str(count), f"[cyan]{bar}[/cyan]")
    console.print()
    console.print(table)


def _speakers(report: Report, console: Console) -> None:
    if len(report.speakers) < 2:
        return
    table = Table("speaker", "utterances", "minutes", title="speakers", title_justify="left")
    for name, (count, seconds) in list(report.speakers.items())[:_SPEAKERS]:
        table.add_row(escape(name), str(count), f"{seconds / 60:.1f}")
    console.print(table)
    if len(report.speakers) > _SPEAKERS:
        console.print(f"… and {len(report.speakers) - _SPEAKERS} more")


def _symbols(report: Report, console: Console) -> None:
    def line(title: str, text: str) -> None:
        console.print(f"[bold]{title}[/bold]: {escape(text)}", soft_wrap=True, highlight=False)

    used = report.symbols.most_common()
    line(f"symbols used ({len(used)})", "  ".join(f"{symbol} {count}" for symbol, count in used))
    line(f"not used ({len(report.unused)})", " ".join(map(repr, report.unused)))
    if report.missing:
        unknown = ", ".join(f"{symbol!r} × {n}" for symbol, n in report.missing.most_common())
        line(f"unknown, left out ({len(report.missing)})", unknown)


def _training(report: Report, console: Console) -> None:
    training = report.training
    if training is None:
        return
    table = Table(
        *("rows", "phoneme ids", "frames", "batches an epoch"),
        title=training.title,
        title_justify="left",
    )
    for bucket, batches in training.buckets:
        shape = (bucket.rows, bucket.phonemes, bucket.frames, batches)
        table.add_row(*map(str, shape))
    console.print(table)
    console.print(
        f"{training.utterances} utterances to train on, {training.steps_per_epoch} steps an epoch, "
        f"padding: {100 * training.padding:.1f} % of the frames, "
        f"{100 * training.phoneme_padding:.1f} % of the phonemes"
    )
    if training.unheard:
        console.print(
            f"{training.unheard} held-out utterances are longer than all that is trained on: "
            "validation does without them"
        )
    if training.memory is not None:
        console.print(f"about {training.memory / 1e9:.1f} GB of memory for the largest batch")
