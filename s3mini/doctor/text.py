"""The doctor's findings and the downloader's plan, as tables in a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from ..hub.download import Planned, room_lacking
from ..hub.sizes import Part
from .examine import Check, Examination, size
from .needs import total

_STYLES = {"ok": "green", "note": "yellow", "missing": "bold red"}


def show(what: RenderableType) -> None:
    """Print to standard output, in the terminal's width."""
    Console(highlight=False).print(what)


def show_examination(found: Examination) -> None:
    """Every table, then what is missing and how to get it."""
    profile = found.profile
    show(Text.assemble(("profile ", "dim"), (profile.name, "bold"), ("  " + profile.description, "dim")))
    show(checks_table("This machine", found.machine))
    show(checks_table("Packages", found.packages))
    show(checks_table("Data and models", found.data))
    show(memory_table(found))
    show(hours_table(found))
    show(verdict(found))


def _table(title: str, *columns: str, right: Sequence[str] = ()) -> Table:
    table = Table(
        title=title,
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        expand=True,
    )
    for name in columns:
        table.add_column(
            name, justify="right" if name in right else "left", overflow="fold", no_wrap=name in right
        )
    return table


def checks_table(title: str, checks: Sequence[Check]) -> RenderableType:
    """What there is and what is needed, a row each."""
    table = _table(title, "", "here", "needed", "state")
    table.columns[0].ratio, table.columns[1].ratio, table.columns[2].ratio = 3, 4, 4
    table.columns[3].no_wrap = True
    for check in checks:
        table.add_row(check.what, check.has, check.needed, Text(check.state, _STYLES[check.state]))
    return table


def memory_table(found: Examination) -> RenderableType:
    """Bytes and where they come from: GPUs, memory, disk."""
    table = _table("What it needs, computed", "", "", "size", "how", right=("size",))
    table.columns[0].ratio, table.columns[1].ratio, table.columns[3].ratio = 2, 3, 5

    def add(where: str, parts: Sequence[Part], last: bool = True) -> None:
        for number, part in enumerate(parts):
            table.add_row(where if number == 0 else "", part.what, size(part.size), Text(part.why, "dim"))
        if last:
            table.add_section()

    shown: set[str] = set()
    for parts_of, name in ((found.training, "GPU, training"), (found.answering, "GPU, evaluating")):
        for role, parts in parts_of or ():
            if role not in shown:
                add(f"GPU: {role}", parts, last=False)
                shown.add(role)
        if parts_of:
            table.add_row(Text(name, "bold"), "together", Text(size(total(parts_of)), "bold"), "")
    table.add_section()
    add("memory", found.memory)
    add("disk, build", found.disk)
    return table


def hours_table(found: Examination) -> RenderableType:
    """Hours by stage."""
    table = _table("How long it takes", "stage", "time", "how", right=("time",))
    table.columns[2].ratio = 1
    for stage, hours, why in found.hours:
        table.add_row(stage, duration(hours), Text(why, "dim"))
    known = [hours for _, hours, _ in found.hours if hours is not None]
    if len(known) > 1:
        table.add_row(Text("together", "bold"), Text(duration(sum(known)), "bold"), "")
    if not found.assumed:
        return table
    note = f"For {found.assumed}: 40 % of its operations and 60 % of its memory traffic reached" + (
        "; search on 16 cores." if "laid out" in found.assumed else "; search on these cores."
    )
    return Group(table, Text(note, "dim"))


def duration(hours: float | None) -> str:
    """Hours for people."""
    if hours is None:
        return "?"
    if hours >= 48:
        return f"{hours / 24:.1f} days"
    if hours >= 1:
        return f"{hours:.1f} h"
    return f"{hours * 60:.0f} min" if hours * 60 >= 1 else f"{hours * 3600:.0f} s"


def verdict(found: Examination) -> RenderableType:
    """Ready, or each thing that is missing with its remedy; equal remedies once."""
    lines: list[RenderableType] = [Text()]
    for state, heading in (("missing", "Missing"), ("note", "To know")):
        remedies: dict[str, list[str]] = {}
        for check in found.checks:
            if check.state == state and check.remedy:
                remedies.setdefault(check.remedy, []).append(check.what)
        if remedies:
            lines.append(Text(heading, _STYLES[state]))
        for remedy, names in remedies.items():
            shown = ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
            lines.append(Text.assemble("  ", (shown, "bold"), "\n    ", remedy))
    name = found.profile.name
    lines.append(
        Text(f"Ready for {name}.", "bold green")
        if found.ready
        else Text(f"Not ready for {name}.", "bold red")
    )
    return Group(*lines)


def downloads_table(planned: Sequence[Planned]) -> RenderableType:
    """What would come, and where it would lie."""
    table = _table(
        "From the hub", "item", "what", "to come", "on disk", "state", right=("to come", "on disk")
    )
    table.columns[0].ratio, table.columns[1].ratio = 3, 4
    for one in planned:
        source = one.item.sources[0].repo
        about = f"{one.item.about}\n{source}" if not one.item.model else one.item.about
        guess = "" if one.listed or one.done else "≈ "
        keep = one.to_fetch if one.item.model else one.to_keep
        come = "" if one.done else guess + size(one.to_fetch)
        state = Text("here", "green") if one.done else Text("to come", "yellow")
        table.add_row(
            one.item.key.replace("--", "/"), about, come, "" if one.done else guess + size(keep), state
        )
    open_ones = [one for one in planned if not one.done]
    lines: list[RenderableType] = [table]
    whole = sum(one.to_fetch for one in open_ones)
    lines.append(Text(f"{len(open_ones)} of {len(planned)} to come, {size(whole)}", "bold"))
    if any(not one.listed for one in open_ones):
        lines.append(Text("≈: the hub did not answer; sizes as known beforehand", "dim"))
    for where, need, free in room_lacking(planned):
        lines.append(Text(f"too little room in {where}: {size(need)} needed, {size(free)} free", "bold red"))
    return Group(*lines)
