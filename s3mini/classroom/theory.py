"""The formulas of notebooks 05 to 08 on plain numbers: what their exercises are checked against.

Training itself uses none of this: TRL makes the loss, `statistics` the intervals, `owndata` the passages.
"""

import math
from collections.abc import Sequence

import numpy as np


def clipped_loss(ratio: float, advantage: float, epsilon: float) -> float:
    """Minus PPO's clipped objective for one token (Schulman et al. 2017, equation 7)."""
    clipped = min(max(ratio, 1 - epsilon), 1 + epsilon)
    return -min(ratio * advantage, clipped * advantage)


def k3(logp: float, reference: float) -> float:
    """Schulman's estimator of the KL divergence from one sampled token's two log-probabilities, never below 0."""
    difference = reference - logp
    return math.exp(difference) - difference - 1


def gae(rewards: Sequence[float], values: Sequence[float], gamma: float, lam: float) -> list[float]:
    """Generalised advantage estimation (Schulman et al. 2016): one advantage a token.

    Args:
        rewards: what each token brought; in search only the last one's is not zero.
        values: the critic's guess before each token. After the last there is nothing more to come.
    """
    advantages: list[float] = []
    later, following = 0.0, 0.0
    for reward, value in zip(reversed(rewards), reversed(values), strict=True):
        later = reward + gamma * following - value + gamma * lam * later
        following = value
        advantages.append(later)
    return advantages[::-1]


def paired_interval(
    a: Sequence[float], b: Sequence[float], draws: Sequence[Sequence[int]]
) -> tuple[float, float, float]:
    """The mean of ``a - b`` and its 95 % percentile interval over ``draws`` of questions (rows of indices)."""
    differences = np.asarray(a, dtype=float) - np.asarray(b, dtype=float)
    low, high = np.percentile(differences[np.asarray(draws)].mean(axis=1), [2.5, 97.5])
    return float(differences.mean()), float(low), float(high)


def cuts(sentences: Sequence[int], limit: int) -> list[int]:
    """Where `owndata.passages.Cutter` ends its passages, in words from the text's beginning.

    ``sentences``: how many words each sentence has; ``limit``: the most that a passage may have.
    """
    from ..owndata.passages import Cutter

    text = " ".join(" ".join(["word"] * (count - 1) + ["word."]) for count in sentences)
    return [len(text[:end].split()) for _, end in Cutter(limit).cut("", text)]


def growth(sizes: Sequence[float], values: Sequence[float]) -> tuple[float, float]:
    """Exponent and factor of value = factor · size^exponent, by least squares in logarithms."""
    exponent, offset = np.polyfit(np.log(sizes), np.log(values), 1)
    return float(exponent), float(np.exp(offset))
