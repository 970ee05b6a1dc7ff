"""What a live bar looks like: one line where it fits, else its figures below it, whole ones, down to 40 columns.

units ━━━━━━━━━━ 43/256 0:00:12  items 43/128  running 164  tokens/s 1290  student share 0.944

units ━━━━━━━━━━ 43/256 0:00:12
  items 43/128  running 164  tokens/s 1290  student share 0.944
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.cells import cell_len, set_cell_size
from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.progress import BarColumn, MofNCompleteColumn, ProgressColumn, SpinnerColumn, Task, TimeElapsedColumn
from rich.progress import Progress as RichProgress
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

_BAR, _GAP, _INDENT = 10, "  ", "  "
_TITLE_SHARE, _SHORTEST = 0.4, 8  # of a line, at the most, and in cells


def live_bar(console: Console) -> RichProgress:
    """Tasks have a field `figures`: words that are each shown whole, or cut where one alone is wider than a line."""
    return RichProgress(_Fitted(), console=console)


def spinner(console: Console) -> RichProgress:
    """For what nobody knows the length of: it turns, and counts the seconds."""
    return RichProgress(SpinnerColumn(), _Said(), TimeElapsedColumn(), console=console, transient=True)


def lines(words: Sequence[str], first: int, width: int) -> list[str]:
    """The words over lines: as many as `first` cells take, then further lines of `width`. The first may be empty.

    >>> lines(["items 4/128", "running 164"], 30, 40), lines(["items 4/128", "running 164"], 20, 40)
    (['items 4/128  running 164'], ['', 'items 4/128  running 164'])
    """
    text = _GAP.join(words)
    if cell_len(text) <= first:
        return [text]
    rows = [""]
    for word in (_cut(word, width) for word in words):
        longer = f"{rows[-1]}{_GAP}{word}" if rows[-1] else word
        if len(rows) == 1 or cell_len(longer) > width:
            rows.append(word)
        else:
            rows[-1] = longer
    return rows


def _cut(text: str, width: int) -> str:
    return text if cell_len(text) <= width else set_cell_size(text, max(0, width - 1)) + "…"


class _Said(ProgressColumn):
    """What is waited for, on as many lines as it takes."""

    def render(self, task: Task) -> Text:
        return Text(task.description, overflow="fold")


class _Fitted(ProgressColumn):
    """The whole line of a task, since columns beside each other squeeze one another, and the bar is lost first."""

    max_refresh = None

    def __init__(self) -> None:
        super().__init__()
        self._count, self._bar = MofNCompleteColumn(), BarColumn(bar_width=_BAR)

    def render(self, task: Task) -> _Line:
        left = task.time_remaining
        return _Line(
            task, self._bar.render(task), self._count.render(task), "-:--:--" if left is None else _clock(left)
        )


class _Line:
    def __init__(self, task: Task, bar: ProgressBar, count: Text, left: str) -> None:
        self._task, self._bar, self._count, self._left = task, bar, count, left

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        return Measurement(1, options.max_width)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        width = options.max_width
        room = min(int(_TITLE_SHARE * width), width - _BAR - self._count.cell_len - 2)
        title = _cut(self._task.description, max(_SHORTEST, room))
        table, used = Table.grid(padding=(0, 1, 0, 0)), 0
        cells: list[Text | ProgressBar] = []
        for part, needs in self._parts(title):
            if used + needs > width:
                break
            used += needs + 1
            table.add_column(no_wrap=True, width=needs)
            cells.append(part)
        first, *further = lines(self._task.fields["figures"], width - used - 1, width - len(_INDENT))
        if first:
            table.add_column(no_wrap=True)
            cells.append(Text(f" {first}"))
        table.add_row(*cells)
        yield table
        for line in further:
            yield Text(_INDENT + line, no_wrap=True, overflow="ellipsis")

    def _parts(self, title: str) -> Iterator[tuple[Text | ProgressBar, int]]:
        yield Text(title), cell_len(title)
        yield self._bar, _BAR
        yield self._count, self._count.cell_len
        yield Text(self._left, style="progress.remaining"), len(self._left)


def _clock(seconds: float) -> str:
    minutes, second = divmod(int(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{second:02}"
