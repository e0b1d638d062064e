"""The doctor's examination and the downloader's plan, as tables in a terminal."""

from collections.abc import Sequence

from rich import box
from rich.console import Console, Group, JustifyMethod, RenderableType
from rich.table import Table
from rich.text import Text

from ..hub.download import Planned, disks
from .examine import Examination, size
from .footprint import Part, total

_STYLES = {"ok": "green", "note": "yellow", "missing": "bold red"}


def show(what: RenderableType) -> None:
    """Print to standard output, in the terminal's width."""
    Console(highlight=False).print(what)


def show_examination(seen: Examination) -> None:
    """Every table, then what is missing and how to get it."""
    profile = seen.profile
    show(Text.assemble(("profile ", "dim"), (profile.name, "bold"), ("  " + profile.description, "dim")))
    groups = {"This machine": seen.machine, "Packages": seen.packages, "Data and models": seen.data}
    for title, checks in groups.items():
        table = _table(title, ("", 3), ("here", 4), ("needed", 4), ("state", 0))
        for check in checks:
            table.add_row(check.what, check.has, check.needed, Text(check.state, _STYLES[check.state]))
        show(table)
    show(_memory_table(seen))
    show(_verdict(seen))


def _table(title: str, *columns: tuple[str, int], right: Sequence[str] = ()) -> Table:
    """Columns as (head, share of the width); a share of 0 is as wide as what stands in it."""
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, expand=True)
    table.pad_edge = False
    for head, share in columns:
        justify: JustifyMethod = "right" if head in right else "left"
        table.add_column(head, justify=justify, overflow="fold", ratio=share or None, no_wrap=not share)
    return table


def _memory_table(seen: Examination) -> RenderableType:
    """Bytes and where they come from: GPUs, memory, disk."""
    table = _table("What it needs, computed", ("", 2), ("", 3), ("size", 0), ("how", 5), right=("size",))

    def add(where: str, parts: Sequence[Part]) -> None:
        for number, part in enumerate(parts):
            table.add_row("" if number else where, part.what, size(part.size), Text(part.why, "dim"))

    shown: set[str] = set()
    for roles, name in ((seen.training, "GPU, training"), (seen.answering, "GPU, evaluating")):
        if roles is not None:
            for role in [role for role in roles if role not in shown]:
                add(f"GPU: {role}", roles[role])
            shown |= set(roles)
            table.add_row(Text(name, "bold"), "together", Text(size(total(roles)), "bold"), "")
    for where, parts in (("memory", seen.memory), ("disk, build", seen.disk)):
        table.add_section()
        add(where, parts)
    return table


def _verdict(seen: Examination) -> RenderableType:
    """Ready, or each thing that is missing with its remedy; equal remedies once."""
    lines: list[RenderableType] = [Text()]
    for state, heading in (("missing", "Missing"), ("note", "To know")):
        remedies: dict[str, list[str]] = {}
        for check in seen.checks:
            if check.state == state and check.remedy:
                remedies.setdefault(check.remedy, []).append(check.what)
        if remedies:
            lines.append(Text(heading, _STYLES[state]))
        for remedy, names in remedies.items():
            shown = ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
            lines.append(Text.assemble("  ", (shown, "bold"), "\n    ", remedy))
    ready, style = ("Ready", "bold green") if seen.ready else ("Not ready", "bold red")
    return Group(*lines, Text(f"{ready} for {seen.profile.name}.", style))


def downloads_table(planned: Sequence[Planned]) -> RenderableType:
    """What would come, and where it would lie."""
    columns = (("item", 3), ("what", 4), ("to come", 0), ("on disk", 0), ("state", 0))
    table = _table("From the hub", *columns, right=("to come", "on disk"))
    for one in planned:
        about = one.item.about if one.item.model else f"{one.item.about}\n{one.item.sources[0].repo}"
        guess = "" if one.listed else "≈ "
        sizes = ("", "") if one.done else (guess + size(one.to_fetch), guess + size(one.to_keep))
        state = Text("here", "green") if one.done else Text("to come", "yellow")
        table.add_row(one.item.key.replace("--", "/"), about, *sizes, state)
    coming = [one for one in planned if not one.done]
    whole = size(sum(one.to_fetch for one in coming))
    lines: list[RenderableType] = [table, Text(f"{len(coming)} of {len(planned)} to come, {whole}", "bold")]
    if any(not one.listed for one in coming):
        lines.append(Text("≈: the hub did not answer; sizes as known beforehand", "dim"))
    for disk in disks(planned):
        if disk.short:
            told = f"{size(disk.needed)} needed, {size(disk.free)} free"
            lines.append(Text(f"too little room in {disk.where}: {told}", "bold red"))
    return Group(*lines)
