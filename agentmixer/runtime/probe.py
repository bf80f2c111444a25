"""What an agent heeds: how much each element of its observation moves its action, tried on recorded observations.

T is the number of recorded decisions that are tried, D the length of the observation, A the number of logits or means.
"""

from __future__ import annotations

import msgspec
import numpy as np

from agentmixer.contract.manifest import NOISE, Tolerances
from agentmixer.contract.spec import Box
from agentmixer.errors import AgentMixerError
from agentmixer.runtime import golden, profile
from agentmixer.runtime.actions import allowed, ranges
from agentmixer.runtime.agent import Agent, InvalidDecision
from agentmixer.runtime.bundle import AgentFiles
from agentmixer.runtime.guard import check_model, cost
from agentmixer.runtime.status import Watch

#: Most recorded decisions that are tried, and most work in all (`guard.Cost.work`), which bounds them for large agents.
DECISIONS, MAX_WORK = 128, 1 << 36
#: The step of a finite difference, as a share of an element's range.
STEP = 0.01
#: Where an element is put to see what extreme inputs do.
EXTREME = 1e6
#: A real-valued action has changed that moved by more than this share of its range.
CHANGE = 0.01
#: How many values of each element are tried beside each recorded one.
_TRIED = 8
#: Most numbers that one run of the model computes.
_BATCH = 1 << 22


class Heed(msgspec.Struct, frozen=True):
    """One element. index: in the observation; slope: by how much the logit or mean that moves most moves, as a mean over decisions, if the
    element moves by its range, from small steps; changed: share of decisions, 0 to 1, whose action is another if the element is at its
    95 % quantile than at its 5 % quantile; heeded: some tried value changed some output; extreme: share of decisions whose action is another if
    the element is 1e6 or -1e6; invalid: how many of those 2 T decisions were no valid action."""

    name: str
    index: int
    slope: float
    changed: float
    heeded: bool
    extreme: float
    invalid: int


class Probe(msgspec.Struct, frozen=True):
    """What was found of one agent. digest: SHA-256 of its agent.json; decisions: T; elements: all, those that change the most
    actions first; of a long observation those that the profile has figures of; zeros: the action on an observation of zeros, where all
    is legal and an episode begins, None if it is no valid one; refused: how many of the elements `Agent.act` refuses if they are
    infinite."""

    agent: str
    digest: str
    decisions: int
    elements: tuple[Heed, ...]
    zeros: int | float | list[int] | list[float] | str | None
    refused: int

    @property
    def unheeded(self) -> tuple[str, ...]:
        """Elements that changed nothing, whatever was tried."""
        return tuple(heed.name for heed in self.elements if not heed.heeded)


def probe(files: AgentFiles, most: int = DECISIONS) -> Probe:
    """Try each element of an agent's observation on at most `most` decisions of its golden trace, with the mask and the recurrent state
    that were recorded, and without noise. Observations that lie outside the profile are left out, for a trace has noise at its end.

    Raises AgentMixerError if the files hold what an agent cannot be made of."""
    agent = Agent(files, greedy=True)
    seen, figures = golden.parse(files.golden, files.manifest), profile.parse(files.profile, files.manifest)
    taken = cost(check_model(files.model, files.manifest))
    names = files.manifest.tensor("obs").elements
    most = min(most, max(1, MAX_WORK // (_TRIED * len(figures.elements) * taken.work)))
    usual = np.flatnonzero(Watch(files.manifest, figures).usual(seen.obs))
    chosen = usual if len(usual) else np.arange(len(seen.obs))
    chosen = chosen[np.linspace(0, len(chosen) - 1, min(most, len(chosen))).astype(np.int64)]
    before = np.roll(seen.state_out, 1, 0)
    before[seen.reset] = 0
    policy = _Policy(agent, seen.action_mask[chosen], before[chosen], max(1, _BATCH // taken.elements))
    obs = seen.obs[chosen]
    base = policy.decide(obs[None])
    with np.errstate(over="ignore", invalid="ignore"):
        heeds = [
            _heed(policy, obs, base, index, names[index], quantiles)
            for index, quantiles in zip(figures.elements.tolist(), figures.quantiles, strict=True)
        ]
    heeds.sort(key=lambda heed: (-heed.changed, -heed.slope))
    return Probe(
        agent=files.manifest.agent,
        digest=files.digest,
        decisions=len(chosen),
        elements=tuple(heeds),
        zeros=_alone(agent, 0, 0.0),
        refused=sum(_alone(agent, heed.index, np.inf) == "refused" for heed in heeds),
    )


class _Policy:
    """The model on T decisions at once. mask [T, A] bool; state [T, H]; batch: how many rows it is given at a time."""

    def __init__(self, agent: Agent, mask: np.ndarray, state: np.ndarray, batch: int):
        self.manifest, self.mask, self.state, self._batch = agent.manifest, mask, state, batch
        self._session = agent.session

    def decide(self, obs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Actions [V, T] or [V, T, W] and logits or means [V, T, A] on V variants of the T observations, [V, T, D]."""
        manifest, variants = self.manifest, len(obs)
        feed = {"obs": obs.reshape(-1, obs.shape[-1])}
        if manifest.mask_rule == "forbid":
            feed["action_mask"] = np.tile(self.mask, (variants, 1))
        if manifest.noise:
            feed[NOISE] = np.zeros((len(feed["obs"]), manifest.noise), np.float32)
        if manifest.state:
            feed[manifest.state.input] = np.tile(self.state, (variants, 1))
        parts = [
            self._session.run(
                ["action", manifest.policy], {name: rows[at : at + self._batch] for name, rows in feed.items()}
            )
            for at in range(0, len(feed["obs"]), self._batch)
        ]
        action, policy = (np.concatenate(part) for part in zip(*parts, strict=True))
        shape = obs.shape[:2]
        return action.reshape(*shape, *action.shape[1:]), policy.reshape(*shape, *policy.shape[1:])

    def differ(self, one: np.ndarray, other: np.ndarray) -> np.ndarray:
        """Which of T actions are others, [T] bool."""
        space, rows = self.manifest.action_space, (one.reshape(len(one), -1), other.reshape(len(other), -1))
        if isinstance(space, Box) and not space.whole:
            apart = np.abs(rows[0] - rows[1])
            return np.asarray(~(apart <= 2 * CHANGE * ranges(space).scale).all(1))
        return np.asarray((rows[0] != rows[1]).any(1))


def _heed(
    policy: _Policy, obs: np.ndarray, base: tuple[np.ndarray, np.ndarray], index: int, name: str, quantiles: np.ndarray
) -> Heed:
    """One element. base: what is decided on `obs` as it was recorded; quantiles: the element's, at `profile.LEVELS`. The range of an
    element that never varied is its size, 1 at least."""
    least, low, high, largest = (float(quantiles[profile.LEVELS.index(level)]) for level in (0.0, 0.05, 0.95, 1.0))
    unit = largest - least or max(abs(largest), 1.0)
    own, ones = obs[:, index], np.ones(len(obs), np.float32)
    step = np.float32(STEP * unit)
    tried = np.stack(
        [own - step, own + step, low * ones, high * ones, own - unit, own + unit, -EXTREME * ones, EXTREME * ones]
    ).astype(np.float32)
    variants = np.tile(obs, (_TRIED, 1, 1))
    variants[..., index] = tried
    actions, outputs = policy.decide(variants)
    moved, by = np.abs(outputs[1] - outputs[0]).max(1), (tried[1] - tried[0]) / unit
    slopes = np.divide(moved, by, out=np.zeros(len(by)), where=by > 0)  # 0 where the step is lost in rounding
    near = Tolerances()
    same = np.abs(outputs - base[1]) <= near.absolute + near.relative * np.abs(base[1])
    extreme = policy.differ(actions[-2], base[0][0]) | policy.differ(actions[-1], base[0][0])
    space, masks = policy.manifest.action_space, None if isinstance(policy.manifest.action_space, Box) else policy.mask
    valid = [allowed(space, actions[v], masks) & np.isfinite(outputs[v]).all(1) for v in (-2, -1)]
    return Heed(
        name=name,
        index=index,
        slope=float(np.nan_to_num(slopes.mean())),
        changed=float(policy.differ(actions[2], actions[3]).mean()),
        heeded=not same.all(),
        extreme=float(extreme.mean()),
        invalid=int(sum((~part).sum() for part in valid)),
    )


def _alone(agent: Agent, index: int, value: float) -> int | float | list[int] | list[float] | str | None:
    """The action on an observation of zeros but this element, where all is legal and an episode begins: None if it is no valid one,
    "refused" if the agent refuses the observation."""
    obs = np.zeros(agent.manifest.tensor("obs").shape, np.float32)
    obs[index] = value
    mask = np.ones(agent.manifest.tensor("action_mask").shape, bool) if agent.manifest.mask_rule == "forbid" else None
    agent.reset()
    try:
        return agent.act(obs, mask).tolist()
    except InvalidDecision:
        return None
    except AgentMixerError:
        return "refused"
