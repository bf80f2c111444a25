"""Is what was deployed as good as what was trained, to within a margin that was stated beforehand?

A test that finds no difference shows nothing: few episodes never find one. Two one-sided tests (TOST; Schuirmann
1987) turn the question round: unless the data say otherwise, the difference is taken to be as large as the margin.
Both arms play the same episodes, so the tests are paired.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import stats

from agentmixer.contract.spec import TaskSpec
from agentmixer.errors import AgentMixerError
from agentmixer.intervals import FEWEST, MARGIN
from agentmixer.validate.arms import Played

ALPHA = 0.05


@dataclass(frozen=True)
class Equivalence:
    """A mean paired difference and whether it lies within ±margin. All but p and n in the unit of the differences."""

    mean: float
    #: Ends of the interval of confidence 1 - 2 alpha (90 %): within ±margin just where the test is passed.
    #: None with too few pairs.
    low: float | None
    high: float | None
    #: The larger of the two one-sided p-values. None with too few pairs, and where all differences are equal.
    p: float | None
    margin: float
    n: int
    equivalent: bool


def tost(differences: np.ndarray, margin: float, alpha: float = ALPHA) -> Equivalence:
    """Two one-sided t tests of paired differences [n] against -margin and +margin.

    Where all differences are the same number the t statistic has no denominator: equivalence is then that number's
    lying within the margin, without a p. It holds for the pairs seen: n equal pairs leave room for a share of up
    to 1 - alpha^(1/n), about 3/n, of unequal ones among those not seen. Fewer than FEWEST pairs never show equivalence.
    No difference at all is within any margin, 0 included.

    Raises AgentMixerError without any difference, or if one, the margin or alpha makes no sense."""
    d = np.asarray(differences, np.float64)
    if d.ndim != 1 or len(d) == 0 or not np.isfinite(d).all():
        raise AgentMixerError(f"equivalence needs one finite difference a pair of episodes, got shape {d.shape}")
    if not 0 <= margin < np.inf:
        raise AgentMixerError(f"the margin is {margin}; it must be a finite number, 0 or more")
    if not 0 < alpha < 0.5:
        raise AgentMixerError(f"alpha is {alpha}; it must lie between 0 and 0.5")
    n, mean = len(d), float(d.mean())
    if n < FEWEST:
        return Equivalence(mean, None, None, None, margin, n, False)
    error = 0.0 if np.ptp(d) == 0 else float(stats.sem(d))
    if error == 0:  # also where differences differ by less than a variance can say
        mean = float(d[0])
        within = abs(mean) < margin or mean == 0
        return Equivalence(mean, mean, mean, None, margin, n, within)
    above, below = stats.t.sf((mean + margin) / error, n - 1), stats.t.cdf((mean - margin) / error, n - 1)
    reach = error * float(stats.t.ppf(1 - alpha, n - 1))
    p = float(max(above, below))
    return Equivalence(mean, mean - reach, mean + reach, p, margin, n, p < alpha)


def equivalence(deployed: Played, actors: Played, spec: TaskSpec, margin: float = MARGIN) -> Equivalence:
    """Deployed minus actors over the same episodes: win rates where the task knows wins, returns elsewhere.

    margin: of win rates themselves, 0.05 being 5 wins in 100; of returns as a share of the actors' mean return,
    without its sign. Raises AgentMixerError if they did not play equally many episodes."""
    if len(deployed.returns) != len(actors.returns):
        raise AgentMixerError(
            f"{len(deployed.returns)} episodes cannot be paired with {len(actors.returns)}; play as many with each arm"
        )
    if spec.reports_wins:
        return tost(deployed.won.astype(float) - actors.won.astype(float), margin)
    return tost(deployed.returns - actors.returns, margin * abs(float(actors.returns.mean())))


def sentence(found: Equivalence, wins: bool) -> str:
    """The result in words, without a verdict before it. wins: whether win rates were compared."""
    what = "win rate" if wins else "return"
    if found.low is None or found.high is None:
        return (
            f"{what}, deployed - actors: {found.mean:+.3g}; {found.n} pairs of episodes are too few to show equivalence, "
            f"play at least {FEWEST} (--episodes)"
        )
    how = (
        f"all {found.n} pairs differ by the same; up to {1 - ALPHA ** (1 / found.n):.0%} of other pairs may not"
        if found.p is None
        else f"TOST of {found.n} pairs, p = {found.p:.2g}"
    )
    return (
        f"{what}, deployed - actors: {found.mean:+.3g}, 90 % interval [{found.low:+.3g}, {found.high:+.3g}], "
        f"{'within' if found.equivalent else 'not shown to be within'} ±{found.margin:.3g} ({how})"
    )
