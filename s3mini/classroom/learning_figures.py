"""Pictures of what notebooks 05 and 06 derive: advantages of a group, the clipped objective, the bootstrap."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from ..report.plots import COLOURS, GRID, INK, MUTED, OURS, Plot, styled
from ..reward import group_advantages

UP, DOWN = OURS, COLOURS["rag-dense"]
SHADES = (MUTED, OURS, COLOURS["ircot"])


@styled
def advantages_plot(groups: Mapping[str, Sequence[float]]) -> Plot:
    """Rewards of each group with their mean (above), and the advantages that become of them (below)."""
    figure = Figure(figsize=(9.6, 3.6), layout="constrained")
    panels = figure.subplots(2, len(groups), sharex="col", sharey="row", squeeze=False)
    for (name, rewards), above, below in zip(groups.items(), *panels, strict=True):
        advantages = group_advantages(rewards, len(rewards))
        places = range(1, len(rewards) + 1)
        mean = float(np.mean(rewards))
        above.bar(places, rewards, 0.6, color=MUTED)
        above.axhline(mean, color=INK, lw=1, ls="--")
        above.set_title(f"{name}\nmean {mean:.3g}")
        bars = below.bar(places, advantages, 0.6, color=[UP if a > 0 else DOWN for a in advantages])
        values = [f"{a:+.2f}" if a else "0" for a in advantages]
        labels = [value if values.index(value) == i else "" for i, value in enumerate(values)]
        below.bar_label(bars, labels, padding=1, fontsize=8.5, color=INK)
        below.axhline(0, color=INK, lw=1)
        below.margins(y=0.25)
        below.set_xlabel("episode")
        below.set_xticks(list(places))
    panels[0][0].set_ylabel("reward")
    panels[1][0].set_ylabel("advantage")
    told = "; ".join(
        f"{name}: {', '.join(f'{a + 0:+.2f}' for a in group_advantages(rewards, len(rewards)))}"
        for name, rewards in groups.items()
    )
    return Plot(f"Rewards of a group and the advantages made of them ({told})", figure)


@styled
def clipped_plot(epsilon: float) -> Plot:
    """The clipped objective against the ratio, for an advantage above and one below zero; its flat parts are thick."""
    ratio = np.linspace(0, 2, 401)
    figure = Figure(figsize=(9.6, 3.2), layout="constrained")
    for axes, advantage in zip(figure.subplots(1, 2), (1.0, -1.0), strict=True):
        clipped = np.clip(ratio, 1 - epsilon, 1 + epsilon)
        objective = np.minimum(ratio * advantage, clipped * advantage)
        flat = ratio > 1 + epsilon if advantage > 0 else ratio < 1 - epsilon
        axes.axvspan(1 - epsilon, 1 + epsilon, color=GRID, lw=0)
        axes.plot(ratio, ratio * advantage, "--", color=MUTED, lw=1.2, label="ratio · A")
        axes.plot(ratio, objective, color=OURS, lw=2, label="clipped objective")
        axes.plot(ratio[flat], objective[flat], color=DOWN, lw=4.5, label="flat: no push")
        axes.plot([1], [advantage], "o", color=INK, ms=5)
        axes.set(title=f"A = {advantage:+.0f}", xlabel="ratio", xlim=(0, 2))
        axes.set_xticks([0, 1 - epsilon, 1, 1 + epsilon, 2])
        axes.grid(axis="y")
        axes.legend(loc="upper left" if advantage > 0 else "lower left", fontsize=8)
    return Plot(
        f"The clipped objective: flat above {1 + epsilon:g} for a positive advantage, below {1 - epsilon:g} for a negative one",
        figure,
    )


@styled
def bootstrap_plot(draws: Mapping[str, Sequence[float]]) -> Plot:
    """Histograms of resampled means, a colour each, with the middle 95 % of each between two lines."""
    figure = Figure(figsize=(9.6, 3.2), layout="constrained")
    axes = figure.subplots()
    whole = np.concatenate([np.asarray(means, dtype=float) for means in draws.values()])
    edges = np.linspace(whole.min(), whole.max() + 1e-9, 41)
    told = []
    for (name, means), colour in zip(draws.items(), SHADES, strict=False):
        low, high = np.percentile(means, [2.5, 97.5])
        label = f"{name}: 95 % from {low:.3f} to {high:.3f}"
        axes.hist(means, edges.tolist(), color=colour, alpha=0.45, label=label)
        for end in (low, high):
            axes.axvline(end, color=colour, lw=1.5, ls="--")
        told.append(f"{name} {low:.3f} to {high:.3f}")
    axes.set(xlabel="mean of the questions drawn", ylabel="draws")
    axes.grid(axis="y")
    figure.legend(loc="outside upper left", ncols=2)
    return Plot(f"Resampled means; the middle 95 %: {', '.join(told)}", figure)
