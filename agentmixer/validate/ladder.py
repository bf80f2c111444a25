"""The parity ladder: the trained actors in torch against the exported graphs, from one step upwards.

| rung | what it meets |
|---|---|
| single step | every played observation as the first of an episode |
| played observations | the same, with the memory the trained actors had then |
| extreme observations | zeros, denormals, ±1e6, spikes, the ends of what play showed, the largest numbers there are |
| free-running | 200 steps with the graph's own memory fed back and resets at random places; only with memory |
| batches | rows alone against the same rows in batches of 2 to 64 |

Each agent climbs alone. The rung above, whole episodes in closed loop, is `agentmixer deploy-sim`.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch

from agentmixer.contract.manifest import AgentManifest, Tolerances
from agentmixer.contract.results import Check, Report, judged
from agentmixer.export.episodes import own_action, record
from agentmixer.export.graph_step import graph_step
from agentmixer.runtime.agent import Agent
from agentmixer.runtime.bundle import AgentFiles, Bundle
from agentmixer.runtime.golden import Golden, StepFunction, is_close, replay
from agentmixer.train.run import Run
from agentmixer.train.team import Team
from agentmixer.validate.source_run import check_task, exported_team, source_run

#: Steps recorded; the last sixteenth of a recording is noise, so that 1,020 are played.
RECORDED = 1_088
FREE_STEPS = 200
BATCHES = range(2, 65)
#: Chance of a reset at each step of the free-running rung.
RESET_RATE = 0.05
SEED = 4_000_037
#: How many of an observation's elements a report names.
NAMED = 3


@dataclass(frozen=True, kw_only=True)
class RungCheck(Check):
    """How one agent did on one rung: passed if nothing is beyond the tolerances. Errors are absolute maxima over legal
    logits (or means and actions) and memory; None if one was not finite."""

    observations: int
    largest_error: float | None
    different_actions: int
    near_ties: int
    #: Observations left out because rounding alone moves the trained network by more than the tolerance (float32
    #: against float64), or makes it overflow: there is no answer to hold the graph to.
    undetermined: list[str]
    #: Output elements that are not the same bits (rung `batches` only).
    different_bits: int | None
    #: The first observation with an output beyond the tolerances: which, its most unusual elements, the
    #: action expected and the one that the graph takes.
    first: dict[str, Any] | None


@dataclass(frozen=True, kw_only=True)
class ParityReport(Report):
    """All rungs of all agents."""

    task: str
    scenario: str
    checks: tuple[RungCheck, ...]


class _Trace(NamedTuple):
    """What an agent is held to on a rung. T independent steps from given memories state_in [T, M], or one free run
    (state_in None). labels: what each observation is called in a report."""

    golden: Golden
    state_in: np.ndarray | None
    labels: list[str]
    undetermined: tuple[str, ...] = ()


def climb(bundle: Bundle, run: Run | None = None, progress: Callable[[str], None] = lambda _: None) -> ParityReport:
    """Hold every agent's graph against the actor it was exported from, rung by rung.

    run: as `source_run.source_run` gives it. Calls `progress` with how far it is. Raises AgentMixerError if the
    run is gone or is not the bundle's, or a graph does not fit its manifest."""
    run = run or source_run(bundle)
    with contextlib.closing(run.make_task(1)) as task:
        check_task(task, bundle, run)
        algorithm = exported_team(bundle, run, task)
        recorded = record(algorithm.team, task, RECORDED, progress, bundle.sampled)
    played = [Golden(*(array[: RECORDED - RECORDED // 16] for array in golden)) for golden in recorded]
    rungs: list[RungCheck] = []
    for number, ((name, files), seen) in enumerate(zip(bundle.agents.items(), played, strict=True), 1):
        climbing = f"climbing: {name}, agent {number} of {len(played)}"
        progress(climbing)
        for rung in climb_agent(algorithm.team, files, seen, bundle.team.tolerances):
            rungs.append(rung)
            progress(f"{climbing}, past {rung.name}")
    spec = bundle.team.task
    return ParityReport(bundle=str(bundle.path), task=spec.name, scenario=spec.scenario, checks=tuple(rungs))


def climb_agent(team: Team, files: AgentFiles, played: Golden, tolerances: Tolerances) -> Iterator[RungCheck]:
    """One agent on every rung, lowest first. played: what its trained actor did, as `record` tells it.

    Raises AgentMixerError if the graph does not fit its manifest."""
    Agent(files, seed=0)  # refuses a graph that does not fit its manifest
    manifest, generator = files.manifest, np.random.default_rng(SEED)
    step = graph_step(files.model)
    nothing = np.zeros_like(played.state_out)
    before = np.where(played.reset[:, None], nothing, np.roll(played.state_out, 1, 0))
    labels = _labels(played.reset)
    fresh = _answers(team, manifest.index, played.obs, played.action_mask, nothing, played.noise)
    traces = {
        "single step": _Trace(fresh, nothing, labels),
        "played observations": _Trace(played, before, labels),
        "extreme observations": _extremes(team, manifest, played, before, tolerances, generator),
    }
    if manifest.memory:
        traces["free-running"] = _free(team, manifest.index, played, labels, generator)
    for rung, trace in traces.items():
        yield _judge(rung, manifest, step, trace, played, tolerances)
    yield _batches(manifest, step, played, before, labels, tolerances)


@torch.no_grad()
def _answers(team: Team, index: int, obs: np.ndarray, mask: np.ndarray, state: np.ndarray, noise: np.ndarray) -> Golden:
    """What the trained (stacked) network does in T independent steps of agent `index`, every one from the memory and with the noise
    given: obs [T, D], mask [T, A], state [T, M], noise [T, A] or [T, 0]."""
    spec, dtype = team.spec, next(team.actor.parameters()).dtype

    def place(array: np.ndarray, width: int, kind: torch.dtype) -> torch.Tensor:
        stacked = torch.zeros(spec.num_agents, len(array), width, dtype=kind)
        stacked[index, :, : array.shape[1]] = torch.from_numpy(array)
        return stacked

    policy, _, after = team.step(
        place(obs, max(spec.obs_sizes), dtype),
        place(mask, team.actions, torch.bool),
        place(state, team.actor.body.memory, dtype),
    )
    policy = policy + place(noise, team.actions, dtype)
    action, space = team.to_task(team.joint_policy.actor_mode(policy))[index], spec.action_spaces[index]
    mine, given = own_action(spec, index, action), policy[index, :, : space.n].numpy()
    return Golden(obs, mask, np.ones(len(obs), bool), mine, given, after[index].numpy(), noise)


def _labels(reset: np.ndarray) -> list[str]:
    episodes = np.cumsum(reset) - 1
    starts = np.flatnonzero(reset)
    return [f"episode {e}, step {t - starts[e]} of play" for t, e in enumerate(episodes)]


def _extremes(
    team: Team, manifest: AgentManifest, played: Golden, before: np.ndarray, tolerances: Tolerances,
    generator: np.random.Generator,
) -> _Trace:  # fmt: skip
    """Observations that play never shows, from no memory and, where there is any, from memories of play."""
    size, elements = played.obs.shape[1], manifest.tensor("obs").elements
    named: dict[str, np.ndarray] = {
        "all zero": np.zeros(size),
        "the least of each element in play": played.obs.min(0),
        "the greatest of each element in play": played.obs.max(0),
    }
    for value in (1e-40, 1e6, 1e30, float(np.finfo(np.float32).max)):
        named |= {f"all {value:.3g}": np.full(size, value), f"all {-value:.3g}": np.full(size, -value)}
    for draw in range(8):
        named[f"random signs of 1e6, draw {draw}"] = generator.choice([-1e6, 1e6], size)
    middle = np.median(played.obs, 0)
    for j, element in enumerate(elements):
        spike = np.zeros(size)
        spike[j] = 1
        for value in (1, 1e6, -1e6):
            named[f"all zero but {element} = {value:g}"] = value * spike
        named[f"the median of play but {element} = 1e6"] = np.where(spike, 1e6, middle)
    obs, labels = np.array(list(named.values()), np.float32), list(named)
    rows = np.arange(len(obs)) % len(played.obs)
    state = np.zeros((len(obs), manifest.memory), np.float32)
    if manifest.memory:
        obs, rows = np.tile(obs, (2, 1)), np.tile(rows, 2)
        state = np.concatenate([state, before[generator.integers(1, len(before), len(state))]])
        labels = [f"{label}, {where}" for where in ("no memory", "memory of play") for label in labels]
    mask, noise = played.action_mask[rows], played.noise[rows]
    answers = _answers(team, manifest.index, obs, mask, state, noise)
    precise = copy.copy(team)
    precise.actor = copy.deepcopy(team.actor).double()
    exact = _answers(precise, manifest.index, obs, mask, state, noise)
    answered = is_close(answers.policy, exact.policy, tolerances)
    answered &= is_close(answers.state_out, exact.state_out, tolerances)
    kept = Golden(*(array[answered] for array in answers))
    names = {known: [n for n, a in zip(labels, answered, strict=True) if a == known] for known in (True, False)}
    return _Trace(kept, state[answered], names[True], tuple(names[False]))


def _free(team: Team, index: int, played: Golden, labels: list[str], generator: np.random.Generator) -> _Trace:
    """A stretch of play as one run of the trained network on its own memory, forgetting at random places."""
    obs, mask = played.obs[:FREE_STEPS], played.action_mask[:FREE_STEPS]
    reset = generator.random(FREE_STEPS) < RESET_RATE
    reset[0] = True
    state = np.zeros((1, played.state_out.shape[1]), np.float32)
    rows = []
    for t in range(FREE_STEPS):
        row, before = slice(t, t + 1), np.zeros_like(state) if reset[t] else state
        rows.append(_answers(team, index, obs[row], mask[row], before, played.noise[row]))
        state = rows[-1].state_out
    golden = Golden(*(np.concatenate(column) for column in zip(*rows, strict=True)))._replace(reset=reset)
    return _Trace(golden, None, [f"free step {t} ({labels[t]})" for t in range(FREE_STEPS)])


def _judge(
    rung: str, manifest: AgentManifest, step: StepFunction, trace: _Trace, played: Golden, tolerances: Tolerances,
    different_bits: int | None = None,
) -> RungCheck:  # fmt: skip
    """Replay a trace and name the first observation beyond the tolerances."""
    given = None if trace.state_in is None else iter(trace.state_in)
    acted = []

    def watched(obs: np.ndarray, mask: np.ndarray, state: np.ndarray, noise: np.ndarray) -> list[np.ndarray]:
        out = step(obs, mask, state if given is None else next(given)[None], noise)
        acted.append(out[0][0])
        return out

    with np.errstate(invalid="ignore", over="ignore"):
        result = replay(trace.golden, watched, manifest.action_space, tolerances)
    error, first = max(result.policy_error, result.state_error), None
    if (t := result.first_failure) is not None:
        first = {
            "observation": trace.labels[t],
            "index": t,
            "unusual": unusual(trace.golden.obs[t], played.obs, manifest.tensor("obs").elements),
            "expected": trace.golden.action[t].tolist(),
            "got": _plain(acted[t]),
        }
    return RungCheck(
        name=rung,
        subject=manifest.agent,
        status=judged(not first),
        sentence=_sentence(first) if first else f"{result.steps:,} steps, nothing beyond the tolerances",
        observations=result.steps,
        largest_error=error if np.isfinite(error) else None,
        different_actions=result.different_actions,
        near_ties=result.near_ties,
        undetermined=list(trace.undetermined),
        different_bits=different_bits,
        first=first,
    )


def _sentence(first: dict[str, Any]) -> str:
    told = [
        f"{e['element']} = {e['value']:g} ({e['mean_in_play']:.3g} ± {e['sd_in_play']:.2g} in play)"
        for e in first["unusual"]
    ]
    return f"first at {first['observation']}; expected action {first['expected']}, got {first['got']}" + (
        "; most unusual: " + ", ".join(told) if told else ""
    )


def _plain(action: np.ndarray) -> Any:
    return action.tolist() if np.isfinite(action).all() else str(action.tolist())


def _batches(
    manifest: AgentManifest, step: StepFunction, played: Golden, before: np.ndarray, labels: list[str],
    tolerances: Tolerances,
) -> RungCheck:  # fmt: skip
    """Rows in batches of every size against the same rows alone, both in ONNX Runtime."""
    rows = np.arange(sum(BATCHES)) % len(played.obs)
    given = (played.obs, played.action_mask, before, played.noise)
    alone = [step(*(array[r : r + 1] for array in given)) for r in rows]
    batched, bits, start = [], 0, 0
    names = []
    for size in BATCHES:
        chosen = rows[start : start + size]
        out = step(*(array[chosen] for array in given))
        for i, row in enumerate(chosen):
            batched.append([array[i : i + 1] for array in out])
            pairs = zip(alone[start + i], batched[-1], strict=True)
            bits += sum(int((_bits(a) != _bits(b)).sum()) for a, b in pairs)
            names.append(f"row {i} of a batch of {size} ({labels[row]})")
        start += size
    action, policy, state = (np.concatenate(column) for column in zip(*alone, strict=True))
    always = np.ones(len(rows), bool)
    golden = Golden(played.obs[rows], played.action_mask[rows], always, action, policy, state, played.noise[rows])
    remaining = iter(batched)
    return _judge(
        "batches",
        manifest,
        lambda *_: next(remaining),
        _Trace(golden, None, names),
        played,
        tolerances,
        bits,
    )


def _bits(array: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(array).view(np.uint32 if array.dtype == np.float32 else array.dtype)


def unusual(obs: np.ndarray, played: np.ndarray, elements: tuple[str, ...]) -> list[dict[str, Any]]:
    """The elements of obs [D] that lie furthest from play [T, D], in standard deviations of each; furthest first.

    One that never varied in play and is different now comes before all others; those as in play are left out."""
    mean, spread = played.mean(0, dtype=np.float64), played.std(0, dtype=np.float64)
    away = np.abs(obs - mean)
    # Rounding of the mean is no distance.
    distance = np.where(away <= 1e-6 * np.maximum(np.abs(mean), 1), 0, away / np.maximum(spread, 1e-30))
    order = np.argsort(-distance, kind="stable")[:NAMED]
    return [
        {"element": elements[j], "value": float(obs[j]), "mean_in_play": float(mean[j]), "sd_in_play": float(spread[j])}
        for j in order
        if distance[j] > 0
    ]
