"""One agent on a device: numpy in, numpy out."""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnxruntime

from agentmixer.contract.manifest import NOISE, AgentManifest, Tolerances
from agentmixer.contract.spec import Box, Discrete, MultiDiscrete
from agentmixer.errors import AgentMixerError
from agentmixer.runtime import profile
from agentmixer.runtime.actions import allowed, as_array, parts
from agentmixer.runtime.bundle import AgentFiles, read_agent
from agentmixer.runtime.certificate import check_locality
from agentmixer.runtime.guard import check_model
from agentmixer.runtime.log import Logger, check_place
from agentmixer.runtime.named import Observation, check_finite, named_action
from agentmixer.runtime.noise import Noise
from agentmixer.runtime.status import Outside, Status, Watch


def make_session(model: bytes) -> onnxruntime.InferenceSession:
    """A session on one CPU thread that never spins. `model` is the graph's bytes, already checked (`guard.check_model`)."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # Matrices of int8 are multiplied out once, not at every decision.
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


# These matter beside a graph of 20 µs: types are compared by identity, and all elements looked at in one product.
_FLOAT32, _BOOL = np.dtype(np.float32), np.dtype(np.bool_)


def _finite(array: np.ndarray) -> bool:
    """Whether all elements are. array: one dimension. Its product with itself is finite only if they are; where that
    overflows, each is looked at."""
    return math.isfinite(array.dot(array)) or bool(np.isfinite(array).all())


class InvalidDecision(AgentMixerError):
    """What the policy gave is no action of its space, not a legal one, or not finite: do the fallback action instead."""


class Agent:
    """One team member, acting from its own observations and its own recurrent state alone.

    Nothing that is given to an agent or got from one is shared with it: arrays may be changed afterwards. Several threads
    may call `act`. Without memory they get what each would get alone; with memory, decisions are made one after the other,
    in whatever order the threads come, and each starts from the state that the one before it left.

        agent = Agent.load("bundle/agents/agent_0")
        agent.reset()
        action = agent.act(obs, action_mask)
    """

    def __init__(self, files: AgentFiles, seed: int | None = None, greedy: bool = False):
        """Use `Agent.load`, which says what seed and greedy are, unless the files are verified already.

        Raises AgentMixerError, before onnxruntime sees it, if the model holds what export does not write, does not
        match its manifest or depends on what is not local; and if it cannot be loaded."""
        self.manifest: AgentManifest = files.manifest
        check_locality(check_model(files.model, files.manifest), files.manifest)
        try:
            #: What computes; its inputs and outputs are the manifest's.
            self.session = make_session(files.model)
        except Exception as error:  # onnxruntime's exceptions have no common base below Exception
            raise AgentMixerError(
                f"agent {self.manifest.agent}: the model cannot be loaded ({error}); export the bundle again"
            ) from error
        self._check_contract()
        state = self.manifest.state
        self._outputs = ["action", self.manifest.policy] + ([state.output] if state else [])
        self._obs_shape = self.manifest.tensor("obs").shape
        self._period = self.manifest.control_period_s
        self._masked = self.manifest.mask_rule == "forbid"
        self._mask_shape = self.manifest.tensor("action_mask").shape if self._masked else ()
        self._zeros = np.zeros((1, self.manifest.memory), np.float32)
        self._state_input = state.input if state else None
        self._space = space = self.manifest.action_space
        self._start, self._n = space.start if isinstance(space, Discrete) else None, space.n
        self._real_valued = isinstance(space, Box) and not space.whole
        self._fallback, self._tie = as_array(self.manifest.fallback_action, space), Tolerances().near_tie
        if isinstance(space, Box):  # compared in float32, which the graph clamps in
            self._low, self._high = np.asarray(space.low, np.float32), np.asarray(space.high, np.float32)
        self._lock = threading.Lock() if state or self.manifest.noise else contextlib.nullcontext()
        self._watch = Watch(self.manifest, profile.parse(files.profile, self.manifest))
        self._logger: Logger | None = None
        self._silence = np.zeros((1, self.manifest.noise), np.float32) if greedy else None
        #: What whole numbers are drawn by; its seed is the agent's own.
        self.noise = Noise(self.manifest.noise, seed, self.manifest.index)
        self.reset(0)
        #: What the last decision was read from, [A]: logits, with the noise in them (an illegal action has a very negative one), or
        #: means in units of half the action range.
        self.policy: np.ndarray | None = None

    @classmethod
    def load(
        cls, folder: str | Path, trusted: str | Path | None = None, name: str | None = None, inspect: bool = False,
        seed: int | None = None, greedy: bool = False,
    ) -> Agent:  # fmt: skip
        """Read, verify and load one agent's folder. Raises AgentMixerError naming what is wrong.

        trusted: file of the public key that must have signed it, and whose pin holds, if it has one; name: which agent it
        must be; inspect: let a sandboxed process decode and try it first, as `agentmixer verify` does, so that this one
        never decodes anything that did not pass (takes about half a second).

        seed: of the noise of a policy that was exported with --sampled, 0 to 2^62 - 1; the same seed gives the same noise, and the
        system gives one unless it is given (`noise.seed` tells it). greedy: draw nothing, and decide for the mode."""
        place, key = Path(folder), None if trusted is None else Path(trusted)
        if not inspect:
            return cls(read_agent(place, key, name), seed, greedy)
        from agentmixer.runtime.verify import inspected  # which itself loads agents

        return cls(inspected(place, key, name), seed, greedy)

    def __repr__(self) -> str:
        """Which agent this is, in one line. The strings of the manifest are quoted, so that none of them breaks the line."""
        manifest = self.manifest
        return (
            f"Agent(agent={manifest.agent!r}, task={manifest.task!r}, scenario={manifest.scenario!r}, "
            f"release={manifest.release}, memory={manifest.memory}, rate_hz={1 / manifest.control_period_s:g})"
        )

    def reset(self, episode: int | None = None) -> None:
        """A new episode: forget the recurrent state, and what `step` remembers of the observations.

        episode: its number, which noise is drawn by together with the seed; one more than the last one's unless given."""
        with self._lock:
            self._state = self._zeros
            self.noise.begin(episode)
            self._watch.reset()
            if self._logger is not None:
                self._logger.reset()

    @contextlib.contextmanager
    def logging(self, path: str | Path) -> Iterator[Logger]:
        """Log every decision in the block, and write the newest of them to `path` when it ends, however it ends.

        >>> with agent.logging("agent_0.npz"):
        ...     action = agent.act(obs, action_mask)

        A log has what the agent was given, as it was given, and what it decided, or the fallback action where it gave no valid
        decision (`runtime.log`). An observation that is refused is not in it. Raises AgentMixerError if nothing can be written
        there, or if the agent is being logged already."""
        if self._logger is not None:
            raise AgentMixerError(f"agent {self.manifest.agent} is being logged already; end that block first")
        place = Path(path)
        check_place(place)
        self._logger = logger = Logger(self.manifest)
        try:
            yield logger
        finally:
            self._logger = None
            logger.save(place)

    def observation(self, keep: bool = False) -> Observation:
        """An observation to be put together by name, and given to `act` or `step` again and again. keep: see `Observation`."""
        return Observation(self.manifest, keep)

    def named(self, action: np.ndarray) -> str | dict[str, float]:
        """An action by name: the name of one of a Discrete space; else each element's value by the element's name."""
        return named_action(self.manifest, action)

    @property
    def state(self) -> np.ndarray:
        """A copy of the recurrent state that the next decision starts from, [H] float32; H is 0 without memory."""
        return self._state[0].copy()

    def step(self, obs: np.ndarray | Observation, action_mask: np.ndarray | None = None) -> tuple[np.ndarray, Status]:
        """Decide as `act` does, and say what is unusual about the observation and the decision.

        Where the policy gives no valid decision, the fallback action is returned and the status says so. What else follows from an
        unusual observation is the manifest's `when_unusual`. One thread: a status compares an observation with the one before.

        Raises AgentMixerError as `act` does, and if `when_unusual` is "refuse" and an episode's first observation is outside what
        first observations were; not InvalidDecision."""
        begin = time.monotonic()
        given = seen = obs.array if isinstance(obs, Observation) else obs
        self._check(seen, action_mask)
        first, outside, stale = self._watch.look(seen)
        fallback = False
        if outside or stale:
            unusual = self.manifest.when_unusual
            if first and unusual == "refuse":
                self._watch.reset()
                raise self._out_of_depth(outside)
            fallback = unusual == "fall back"
            if outside and unusual == "clamp":
                given = self._watch.clamped(seen, first)
        try:
            action = self._fallback.copy() if fallback else self._decide(given, action_mask)
        except InvalidDecision:
            action, fallback = self._fallback.copy(), True
        if self._logger is not None:
            self._logger.add(seen, action_mask, action)
        if type(obs) is Observation and not obs.keep:
            obs.clear()
        seconds = time.monotonic() - begin
        late = seconds > self._period
        tie = not fallback and self._is_near_tie(action)
        return action, Status(late, outside, first, stale, tie, fallback, seconds)

    def act(self, obs: np.ndarray | Observation, action_mask: np.ndarray | None = None) -> np.ndarray:
        """Decide. obs [D] float32, or put together by name; action_mask [A] bool, where the task masks.

        Returns the action in the task's own terms: a whole number, [] int64; a row of whole numbers, [W] int64; or a row
        of real values within their bounds, [W] float32.

        Raises AgentMixerError for a wrong shape or dtype, a value that is not finite, a missing mask or
        one that allows nothing, and InvalidDecision if what the policy computes is not finite (an observation may be so
        large that it overflows), out of range or bounds, or masked; the recurrent state is then unchanged."""
        if isinstance(obs, Observation):
            return self._act_by_name(obs, action_mask)
        if (logger := self._logger) is None:
            return self._act(obs, action_mask)
        try:
            action = self._act(obs, action_mask)
        except InvalidDecision:
            logger.add(obs, action_mask, self._fallback)
            raise
        logger.add(obs, action_mask, action)
        return action

    def _act(self, obs: np.ndarray, action_mask: np.ndarray | None) -> np.ndarray:
        """Decide, see `act`."""
        self._check(obs, action_mask)
        if not _finite(obs):
            check_finite(self.manifest, obs)
        return self._decide(obs, action_mask)

    def _check(self, obs: np.ndarray, action_mask: np.ndarray | None) -> None:
        """Raises AgentMixerError for an observation of another shape or type, and for a mask that is none."""
        if type(obs) is not np.ndarray or obs.shape != self._obs_shape or obs.dtype is not _FLOAT32:
            self._check_array(obs, "obs", self._obs_shape, _FLOAT32)
        mask = action_mask
        if self._masked:
            if type(mask) is not np.ndarray or mask.shape != self._mask_shape or mask.dtype is not _BOOL:
                self._check_array(mask, "action_mask", self._mask_shape, _BOOL)
            if mask.tobytes().strip(b"\0\1"):  # type: ignore[union-attr]  # the graph would compute with another number
                raise AgentMixerError(
                    f"agent {self.manifest.agent}: action_mask has bytes other than 0 and 1, which are no bool; make it with "
                    "array != 0"
                )
        elif mask is not None:
            raise AgentMixerError(f"agent {self.manifest.agent}: this task has no action mask; call act(obs)")

    def _decide(self, obs: np.ndarray, mask: np.ndarray | None) -> np.ndarray:
        """Decide on a finite observation and a mask that are checked."""
        feed = {"obs": obs[None]}
        if mask is not None:
            feed["action_mask"] = mask[None]
        if self._state_input is None and not self.noise.size:
            return self._decided(feed, mask)
        with self._lock:
            if self.noise.size:
                feed[NOISE] = self.noise.draw()[None] if self._silence is None else self._silence
            if self._state_input is not None:
                feed[self._state_input] = self._state
            return self._decided(feed, mask)

    def _act_by_name(self, obs: Observation, action_mask: np.ndarray | None) -> np.ndarray:
        """Decide, and forget the elements unless they are kept. What is refused is kept, so that it can be mended."""
        try:
            action = self.act(obs.array, action_mask)
        except InvalidDecision:
            if not obs.keep:
                obs.clear()
            raise
        if not obs.keep:
            obs.clear()
        return action

    def _is_near_tie(self, action: np.ndarray) -> bool:
        """Whether another whole number was as good as the last decision's, to within the tolerance."""
        if self._start is None or self.policy is None:
            return False
        others = self.policy.tolist()  # faster than arrays, which have few elements here
        chosen = others.pop(int(action) - self._start)
        return bool(others) and max(others) >= chosen - self._tie

    def _out_of_depth(self, outside: tuple[Outside, ...]) -> AgentMixerError:
        worst = outside[0]
        return AgentMixerError(
            f"agent {self.manifest.agent} refuses to start: {worst.name} is {worst.value:g}, outside what first observations were "
            f"at export by {worst.by:.2g} of their range ({len(outside)} elements are outside); mend the observation, or export with "
            "another --when-unusual"
        )

    def _decided(self, feed: dict[str, np.ndarray], mask: np.ndarray | None) -> np.ndarray:
        """Run the graph and check what it gives; see `act`."""
        outputs = self.session.run(self._outputs, feed)
        action, policy = outputs[0][0], outputs[1][0]
        if self._start is not None:
            if not 0 <= (chosen := int(action) - self._start) < self._n or (mask is not None and not mask[chosen]):
                raise self._no_choice(action, mask)
        elif self._real_valued:
            if not ((self._low <= action) & (action <= self._high)).all():
                raise self._invalid(f"action {action}, which is out of bounds")
        elif not allowed(self._space, action[None], None if mask is None else mask[None])[0]:
            raise self._no_choice(action, mask)
        if not (_finite(policy) and (len(outputs) == 2 or _finite(outputs[2][0]))):
            raise self._invalid(
                "not finite: the observation is so large that the policy overflowed, or its weights are broken"
            )
        if self._state_input:
            self._state = outputs[2]
        self.policy = policy
        return action

    def _no_choice(self, action: np.ndarray, mask: np.ndarray | None) -> AgentMixerError:
        """Why whole numbers were decided for that cannot be."""
        if mask is not None and not isinstance(self._space, Box):
            for element, part in enumerate(parts(self._space, mask)):
                if not part.any():
                    of = f" for element {element}" if isinstance(self._space, MultiDiscrete) else ""
                    return AgentMixerError(
                        f"agent {self.manifest.agent}: action_mask allows no action{of}; at least one must be legal"
                    )
        return self._invalid(f"action {action}, which does not exist or is masked")

    def _invalid(self, what: str) -> InvalidDecision:
        return InvalidDecision(
            f"agent {self.manifest.agent}: its decision is {what}; do the fallback action, and verify the agent"
        )

    def _check_array(self, array: object, name: str, shape: tuple[int, ...], dtype: np.dtype) -> None:
        """Raises AgentMixerError if the array is not one of that shape and type."""
        if type(array) is np.ndarray and array.shape == shape and array.dtype == dtype:
            return
        kind = "" if type(array) is np.ndarray else f"{type(array).__name__} "
        got = f"{kind}{array.dtype} {list(array.shape)}" if isinstance(array, np.ndarray) else kind.strip()
        raise AgentMixerError(
            f"agent {self.manifest.agent}: {name} must be a numpy array {dtype} {list(shape)}, got {got}"
        )

    def _check_contract(self) -> None:
        """onnxruntime has understood the graph's inputs and outputs as the guard has."""
        types = {"tensor(float)": "float32", "tensor(bool)": "bool", "tensor(int64)": "int64"}
        for kind, declared, actual in (
            ("inputs", self.manifest.inputs, self.session.get_inputs()),
            ("outputs", self.manifest.outputs, self.session.get_outputs()),
        ):
            wanted = [(spec.name, spec.dtype, tuple(spec.shape)) for spec in declared]
            found = [(node.name, types.get(node.type, node.type), tuple(node.shape[1:])) for node in actual]
            if wanted != found:
                raise AgentMixerError(
                    f"agent {self.manifest.agent}: the model's {kind} {found} are not the manifest's {wanted}; export the bundle again"
                )
