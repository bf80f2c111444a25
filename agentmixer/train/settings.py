"""What a run is trained with, in three parts that change for different reasons: the team, the algorithm, the run."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Annotated, Any, Literal, Self, get_type_hints

import msgspec
from msgspec import Meta

from agentmixer.config import Interval, Settings, Width, about, checked, unknown
from agentmixer.errors import AgentMixerError

Deviation = Annotated[float, Meta(ge=1e-4, le=10.0)]
Episodes = Annotated[int, Meta(ge=1, le=10**6)]
#: Steps after which an episode that is judged is given up, where neither the task nor the user says otherwise.
JUDGE_LIMIT = 10_000


class TeamSettings(Settings, frozen=True):
    """What acts: the actors, and how far real-valued actions stray from their means while a team learns."""

    share_parameters: Annotated[bool, about("one actor network for all agents, who must then be alike")] = True
    recurrent_actor: Annotated[bool, about("give actors a GRU: memory that is carried along when deployed")] = True
    input_norm: Annotated[
        Literal["layer", "running"],
        about("normalise observations and state by LayerNorm, or by running mean and deviation"),
    ] = "layer"
    hidden: Annotated[Width, about("width of actors, and of critics that have no width of their own")] = 64
    layers: Annotated[int, Meta(ge=0, le=16), about("hidden layers after the first, actors and critics")] = 1
    std_low: Annotated[
        Deviation, about("least standard deviation of real-valued actions, in units of half the action range")
    ] = 0.05
    std_high: Annotated[
        Deviation, about("greatest standard deviation of real-valued actions, in units of half the action range")
    ] = 1.0

    def check(self) -> None:
        """Raise AgentMixerError if settings do not fit each other."""
        if self.std_low >= self.std_high:
            raise AgentMixerError(f"std_low is {self.std_low}; it must be below std_high, {self.std_high}")


class AgentMixerTeamSettings(TeamSettings, frozen=True):
    """Beside the actors, the Policy Modifier (PM) and how its output and the actors' policies make the joint policy."""

    joint: Annotated[
        Literal["gap", "gumbel"],
        about("joint policy over discrete actions: gap keeps the actors' modes by construction, gumbel is eq. 12"),
    ] = "gap"
    reach: Annotated[
        float,
        Meta(ge=1e-3, le=10.0),
        about("joint=gap: PM multiplies distances from the mode by e to the power of this at most"),
    ] = 3.0
    tau: Annotated[float, Meta(ge=1e-3), about("temperature of joint=gumbel, at the start")] = 1.0
    u_scale: Annotated[
        float,
        Meta(ge=1e-3, le=1.0),
        about("joint=gumbel: u is this times a sigmoid of PM's output; 1 is eq. 12, less bounds what PM can add"),
    ] = 1.0
    sigmoid_gain: Annotated[
        float,
        Meta(ge=1e-3, le=10.0),
        about("PM's output is multiplied by this before the sigmoid that makes u, or a standard deviation, of it"),
    ] = 1.0
    signal: Annotated[
        int,
        Meta(ge=0, le=64),
        about(
            "length of a random vector that PM sees beside the state, so that it can correlate agents; training only"
        ),
    ] = 0
    signal_per: Annotated[Literal["step", "episode"], about("how long a signal lasts")] = "step"
    pm: Annotated[
        Literal["mixer", "hypernetwork", "attention", "recurrent", "causal", "none"],
        about(
            "kind of Policy Modifier: recurrent is the mixer as the authors' code builds it, with a GRU over the state; "
            "causal tells each agent what the agents before it do; none leaves the actors' policies as they are, to see what PM is "
            "worth"
        ),
    ] = "mixer"
    pm_width: Annotated[Width, about("width of PM's state and policy features")] = 32
    pm_agent_hidden: Annotated[Width, about("hidden width of agent mixing")] = 16
    pm_channel_hidden: Annotated[Width, about("hidden width of channel mixing")] = 64

    def check(self) -> None:
        super().check()
        for name, needed in (("joint", "gap"), ("signal", 0)) if self.pm == "causal" else ():
            if (value := getattr(self, name)) != needed:
                raise AgentMixerError(
                    f"pm=causal needs {name}={needed}, and {name} is {value}; add --set pm=mixer to train with that"
                )


class RunSettings(Settings, frozen=True):
    """How long a run is, how many environments it steps, and when it is judged and saved."""

    total_steps: Annotated[int, Meta(ge=1, le=10**12), about("environment steps to train for")] = 1_000_000
    num_envs: Annotated[int, Meta(ge=1, le=100_000), about("environments stepped together")] = 128
    pipelined: Annotated[
        bool,
        about(
            "decide for one half of the environments while the other is simulated (an odd number is not halved); pays "
            "where JAX simulates and takes long"
        ),
    ] = False
    rollout_length: Annotated[int, Meta(ge=1, le=10_000), about("steps of each environment between two updates")] = 16
    eval_interval: Annotated[Interval, about("steps between decentralised greedy evaluations; 0 for none")] = 100_000
    eval_episodes: Annotated[Episodes, about("episodes of each such evaluation")] = 128
    final_episodes: Annotated[
        Episodes, about("episodes of the two evaluations at the end, decentralised and joint")
    ] = 200
    env_restarts: Annotated[
        int,
        Meta(ge=0, le=10**9),
        about("how often an environment of others' code that fails may be made anew; its episode is not learned from"),
    ] = 0
    workers: Annotated[
        Literal["processes", "ray"],
        about(
            "where environments of others' code are stepped: processes of this machine, or the Ray cluster RAY_ADDRESS"
        ),
    ] = "processes"
    judge_limit: Annotated[
        int,
        Meta(ge=1, le=10**9),
        about("steps after which an episode that is judged is given up and lost, where the task has no episode limit"),
    ] = JUDGE_LIMIT
    checkpoint_interval: Annotated[Interval, about("steps between checkpoints; 0 for one at the end")] = 100_000

    @property
    def lanes(self) -> int:
        """How many tasks share a run's environments: two if pipelined and if there are two halves."""
        return 2 if self.pipelined and self.num_envs % 2 == 0 else 1


def read_steps(typed: str) -> str:
    """What --steps was given, as the setting total_steps takes it. Raises AgentMixerError that names the option."""
    return str(checked("--steps", typed, get_type_hints(RunSettings, include_extras=True)["total_steps"]))


class AlgorithmSettings(Settings, frozen=True):
    """Base of what an algorithm's file adds: how a team learns."""

    def fitted(self, team: Any, run: RunSettings, given: Collection[str]) -> Self:
        """These settings, with those that the user has not `given` made to fit the others. What cannot be made to fit
        is left to `check`."""
        return self

    def check(self, team: Any, run: RunSettings) -> None:
        """Raise AgentMixerError if settings do not fit each other, the team's or the run's."""


class Config(msgspec.Struct, frozen=True):
    """All that is set of a run. To a user it is one set of keys: no two parts have a key in common.

    team is a `TeamSettings` and algorithm an `AlgorithmSettings`, of the algorithm's own classes."""

    team: Any
    algorithm: Any
    run: RunSettings

    @property
    def parts(self) -> dict[str, Settings]:
        """The three parts by their names, as config.toml has them."""
        return {"team": self.team, "algorithm": self.algorithm, "run": self.run}

    def as_dict(self) -> dict[str, Any]:
        """Every setting by its key."""
        return {key: value for part in self.parts.values() for key, value in part.as_dict().items()}

    def check_options(self, given: Iterable[str], known: Iterable[str] | None) -> None:
        """Raise AgentMixerError that names --set if an option of the task is given that is a setting. known: names of the
        task's options; None if they are not known."""
        for key in set(given) & set(self.as_dict()):
            if known is not None and key not in known:
                raise AgentMixerError(f"{key} is a setting and not an option of the task; use --set {key}=...")

    def replace(self, overrides: dict[str, Any], options: Iterable[str] = ()) -> Self:
        """A copy with overrides applied and checked, whichever part they belong to; see `Settings.replace`.

        options: names of the task's options. Raises AgentMixerError that names --env-arg if an override is one of them."""
        known = self.as_dict()
        for key in set(overrides) & set(options) - set(known):
            raise AgentMixerError(
                f"{key} is an option of the task and not a setting; use --env-arg {key}={overrides[key]}"
            )
        unknown(overrides, known)
        changed = {
            name: part.replace({key: value for key, value in overrides.items() if key in part.names()})
            for name, part in self.parts.items()
        }
        return msgspec.structs.replace(self, **changed)

    def fitted(self, given: Collection[str]) -> Self:
        """A copy whose settings fit each other as far as settings that the user has not `given` can be changed for that.
        Called once all overrides are in."""
        return msgspec.structs.replace(self, algorithm=self.algorithm.fitted(self.team, self.run, given))

    def check(self) -> None:
        """Raise AgentMixerError if settings do not fit each other. Called once all overrides are in."""
        self.team.check()
        self.algorithm.check(self.team, self.run)
