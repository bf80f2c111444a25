"""One agent on a device: numpy in, numpy out."""

from __future__ import annotations

from pathlib import Path
from typing import NoReturn

import numpy as np
import onnxruntime

from agentmixer.contract.manifest import AgentManifest
from agentmixer.errors import AgentMixerError
from agentmixer.runtime.bundle import AgentFiles, read_agent
from agentmixer.runtime.guard import check_model
from agentmixer.runtime.locality import check_locality


def make_session(model: bytes) -> onnxruntime.InferenceSession:
    """A session on one CPU thread that never spins. `model` is the graph's bytes, already checked (`guard.check_model`)."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


# A search in the bytes takes half the time of ndarray.all() and .any(), which matters beside a 20 µs graph.
def _all(flags: np.ndarray) -> bool:
    return b"\x00" not in flags.tobytes()


def _any(flags: np.ndarray) -> bool:
    return b"\x01" in flags.tobytes()


class Agent:
    """One team member, acting from its own observations and its own recurrent state alone.

    >>> agent = Agent.load("bundle/agents/agent_0")
    >>> agent.reset()
    >>> action = agent.act(obs, action_mask)
    """

    def __init__(self, files: AgentFiles):
        """Use `Agent.load` unless the files are verified already.

        Raises AgentMixerError, before onnxruntime sees it, if the model holds what export does not write, does not
        match its manifest or depends on what is not local; and if it cannot be loaded."""
        self.manifest: AgentManifest = files.manifest
        check_locality(check_model(files.model, files.manifest), files.manifest)
        try:
            self._session = make_session(files.model)
        except Exception as error:  # onnxruntime's exceptions have no common base below Exception
            raise AgentMixerError(
                f"agent {self.manifest.agent}: the model cannot be loaded ({error}); export the bundle again"
            ) from error
        self._check_contract()
        state = self.manifest.state
        self._outputs = ["action", self.manifest.policy] + ([state.output] if state else [])
        self._obs_shape = self.manifest.tensor("obs").shape
        self._masked = self.manifest.mask_rule == "forbid"
        self._mask_shape = self.manifest.tensor("action_mask").shape if self._masked else ()
        self._zeros = np.zeros((1, self.manifest.memory), np.float32)
        self._state_input = state.input if state else None
        self._feed: dict[str, np.ndarray] = {}
        self.reset()
        #: What the last decision was the mode of, [A]: logits (an illegal action has a very negative one) or
        #: means in units of half the action range.
        self.policy: np.ndarray | None = None

    @classmethod
    def load(cls, folder: str | Path, trusted: str | Path | None = None, name: str | None = None) -> Agent:
        """Read, verify and load one agent's folder. Raises AgentMixerError naming what is wrong.

        trusted: file of the public key that must have signed it; name: which agent it must be."""
        return cls(read_agent(Path(folder), None if trusted is None else Path(trusted), name))

    def reset(self) -> None:
        """A new episode: forget the recurrent state."""
        if self._state_input:
            self._feed[self._state_input] = self._zeros

    @property
    def state(self) -> np.ndarray:
        """The recurrent state that the next decision starts from, [H] float32; H is 0 without memory."""
        return (self._feed[self._state_input] if self._state_input else self._zeros)[0]

    def act(self, obs: np.ndarray, action_mask: np.ndarray | None = None) -> np.ndarray:
        """Decide. obs [D] float32; action_mask [A] bool, where the task masks.

        Returns the action: [] int64, or [A] float32 in the task's own units and within its bounds.

        Raises AgentMixerError for a wrong shape or dtype, a value that is not finite, a missing mask or
        one that allows nothing, or an observation so large that the policy overflows; the recurrent state is then unchanged."""
        if type(obs) is not np.ndarray or obs.shape != self._obs_shape or obs.dtype != np.float32:
            self._refuse(obs, "obs", self._obs_shape, "float32")
        if not _all(np.isfinite(obs)):
            where = int(np.flatnonzero(~np.isfinite(obs))[0])
            name = self.manifest.tensor("obs").elements[where]
            raise AgentMixerError(
                f"agent {self.manifest.agent}: obs[{where}] ({name}) is {obs[where]}; send finite numbers only"
            )
        feed = self._feed
        feed["obs"] = obs[None]
        if self._masked:
            mask = action_mask
            if type(mask) is not np.ndarray or mask.shape != self._mask_shape or mask.dtype != np.bool_:
                self._refuse(mask, "action_mask", self._mask_shape, "bool")
            if not _any(mask):
                raise AgentMixerError(
                    f"agent {self.manifest.agent}: action_mask allows no action; at least one must be legal"
                )
            feed["action_mask"] = mask[None]
        elif action_mask is not None:
            raise AgentMixerError(f"agent {self.manifest.agent}: this task has no action mask; call act(obs)")
        action, policy, *state = self._session.run(self._outputs, feed)
        if not _all(np.isfinite(state[0] if state else policy)):
            raise AgentMixerError(
                f"agent {self.manifest.agent}: the observation is finite but so large that the policy overflowed; "
                "send observations in the task's own units"
            )
        if self._state_input:
            feed[self._state_input] = state[0]
        self.policy = policy[0]
        return action[0]

    def _refuse(self, array: object, name: str, shape: tuple[int, ...], dtype: str) -> NoReturn:
        got = f"{array.dtype} {list(array.shape)}" if isinstance(array, np.ndarray) else type(array).__name__
        raise AgentMixerError(
            f"agent {self.manifest.agent}: {name} must be a numpy array {dtype} {list(shape)}, got {got}"
        )

    def _check_contract(self) -> None:
        """onnxruntime has understood the graph's inputs and outputs as the guard has."""
        types = {"tensor(float)": "float32", "tensor(bool)": "bool", "tensor(int64)": "int64"}
        for kind, declared, actual in (
            ("inputs", self.manifest.inputs, self._session.get_inputs()),
            ("outputs", self.manifest.outputs, self._session.get_outputs()),
        ):
            wanted = [(spec.name, spec.dtype, tuple(spec.shape)) for spec in declared]
            found = [(node.name, types.get(node.type, node.type), tuple(node.shape[1:])) for node in actual]
            if wanted != found:
                raise AgentMixerError(
                    f"agent {self.manifest.agent}: the model's {kind} {found} are not the manifest's {wanted}; export the bundle again"
                )
