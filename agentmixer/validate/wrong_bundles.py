"""Every way in which a bundle is made wrong in one thing: its graphs, its manifests or its golden traces."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import msgspec
import numpy as np
from onnx import helper, numpy_helper

from agentmixer.contract.manifest import NOISE, TensorSpec
from agentmixer.export.graph_step import graph_step
from agentmixer.runtime import profile
from agentmixer.runtime.golden import dump
from agentmixer.train.joint_policy import ILLEGAL
from agentmixer.validate.draft import LEAK, DoesNotApply, Draft


def _swap_columns(draft: Draft) -> None:
    obs = draft.golden().obs
    size = obs.shape[1]
    if size < 2:
        raise DoesNotApply("observations of one element")
    apart = np.abs(obs[:, :, None] - obs[:, None]).sum(0)
    a, b = np.unravel_index(int(apart.argmax()), apart.shape)
    order = np.arange(size)
    order[[a, b]] = order[[b, a]]
    draft.redirect("obs", "swapped")
    matrix = draft.constant("swap", np.eye(size, dtype=np.float32)[order])
    draft.prepend(helper.make_node("MatMul", ["obs", matrix], ["swapped"]))


def _drop_normaliser(draft: Draft) -> None:
    value, dropped = "obs", []
    while (node := next(node for node in draft.graph.node if node.input[0] == value)).op_type not in {"Gemm", "MatMul"}:
        dropped.append(node)
        value = node.output[0]
    if not dropped:
        raise DoesNotApply("no normaliser")
    draft.redirect(value, "obs")
    used = {name for node in draft.graph.node if node not in dropped for name in node.input}
    for node in dropped:
        for name in node.input:
            for tensor in [t for t in draft.graph.initializer if t.name == name and name not in used]:
                draft.graph.initializer.remove(tensor)
        draft.graph.node.remove(node)


def _zero_state(draft: Draft) -> None:
    draft.memory()
    draft.redirect("state_in", "forgotten")
    draft.prepend(helper.make_node("Mul", ["state_in", draft.constant("zero", np.array(0, np.float32))], ["forgotten"]))


def _freeze_state(draft: Draft) -> None:
    draft.memory()
    index = draft.producer("state_out")
    draft.graph.node[index].output[0] = "state_next"
    draft.redirect("state_out", "state_next")
    draft.graph.node.append(helper.make_node("Identity", ["state_in"], ["state_out"]))


def _stale_logits(draft: Draft) -> None:
    draft.memory()
    draft.redirect("state_out", "state_in", draft.producer("state_out") + 1)


def _flip_mask_bit(draft: Draft) -> None:
    draft.mask()
    legal = draft.golden().action_mask.sum(0)
    bit = int(legal.argmax())
    keep, flip = np.ones(legal.size, np.float32), np.zeros(legal.size, np.float32)
    keep[bit], flip[bit] = 0, 1
    index = draft.producer("logits")
    where = draft.graph.node[index]
    raw, illegal = where.input[1], np.float32(ILLEGAL)
    for name, mine, theirs in (("legal_side", keep, flip), ("illegal_side", flip, keep)):
        scaled, shift = draft.constant(f"{name}_scale", mine), draft.constant(f"{name}_shift", theirs * illegal)
        draft.graph.node.insert(index, helper.make_node("Add", [f"{name}_scaled", shift], [name]))
        draft.graph.node.insert(index, helper.make_node("Mul", [raw, scaled], [f"{name}_scaled"]))
    where.input[1], where.input[2] = "legal_side", "illegal_side"


def _forget_mask(draft: Draft) -> None:
    draft.mask()
    index = draft.producer("logits")
    raw = draft.graph.node[index].input[1]
    draft.graph.node.remove(draft.graph.node[index])
    draft.graph.node.insert(index, helper.make_node("Identity", [raw], ["logits"]))


def _logits_before_mask(draft: Draft) -> None:
    draft.mask()
    index = draft.producer("logits")
    raw = draft.graph.node[index].input[1]
    draft.graph.node[index].output[0] = "masked"
    draft.redirect("logits", "masked")
    draft.graph.node.insert(index, helper.make_node("Identity", [raw], ["logits"]))


def _ignore_noise(draft: Draft) -> None:
    node = draft.noise()
    node.CopyFrom(helper.make_node("Identity", [node.input[0]], [node.output[0]]))


def _noise_after_mask(draft: Draft) -> None:
    draft.mask()
    node, index = draft.noise(), draft.producer("logits")
    where = draft.graph.node[index]
    where.input[1], where.output[0] = node.input[0], "masked"
    draft.graph.node.remove(node)
    # As much noise as an illegal action needs to be drawn.
    large = draft.constant("large", np.array(-ILLEGAL, np.float32))
    draft.graph.node.insert(index, helper.make_node("Mul", [NOISE, large], ["large_noise"]))
    draft.graph.node.insert(index + 1, helper.make_node("Add", ["masked", "large_noise"], ["logits"]))


def _half_the_noise(draft: Draft) -> None:
    node = draft.noise()
    draft.prepend(helper.make_node("Mul", [NOISE, draft.constant("half", np.array(0.5, np.float32))], ["less_noise"]))
    node.input[1] = "less_noise"


def _hidden_input(draft: Draft) -> None:
    draft.add_hidden_input()


def _declared_input(draft: Draft) -> None:
    draft.add_hidden_input()
    manifest = draft.manifests[draft.name]
    state = TensorSpec("state", "float32", (draft.team.task.state_size,))
    draft.manifests[draft.name] = msgspec.structs.replace(manifest, inputs=(*manifest.inputs, state))


def _wide_observation(draft: Draft) -> None:
    task, manifest = draft.team.task, draft.manifests[draft.name]
    elements = manifest.tensor("obs").elements
    wider = (*elements, *(f"state.{i}" for i in range(task.state_size)))
    draft.redirect("obs", "own_and_state")
    matrix = np.full((len(wider), len(elements)), LEAK, np.float32)
    matrix[: len(elements)] = np.eye(len(elements))
    draft.prepend(helper.make_node("MatMul", ["obs", draft.constant("mix", matrix)], ["own_and_state"]))
    draft.graph.input[0].type.tensor_type.shape.dim[1].dim_value = len(wider)
    inputs = [
        TensorSpec("obs", "float32", (len(wider),), wider) if tensor.name == "obs" else tensor
        for tensor in manifest.inputs
    ]
    draft.manifests[draft.name] = msgspec.structs.replace(manifest, inputs=tuple(inputs), obs_elements=())
    seen = np.pad(draft.golden().obs, ((0, 0), (0, task.state_size)))
    measured = profile.measure(seen, draft.golden().reset, seen, draft.golden().action, manifest.action_space)
    draft.profiles[draft.name] = profile.dump(measured)
    names = tuple(wider if i == manifest.index else names for i, names in enumerate(task.obs_names))
    told = (
        ()
        if not task.obs_elements
        else tuple(() if i == manifest.index else own for i, own in enumerate(task.obs_elements))
    )
    draft.team = msgspec.structs.replace(
        draft.team, task=msgspec.structs.replace(task, obs_names=names, obs_elements=told)
    )


def _swap_graphs(draft: Draft) -> None:
    a, b = draft.name, draft.other()
    draft.models[a], draft.models[b] = draft.models[b], draft.models[a]


def _swap_folders(draft: Draft) -> None:
    a, b = draft.name, draft.other()
    _swap_graphs(draft)
    draft.manifests[a], draft.manifests[b] = draft.manifests[b], draft.manifests[a]
    for kept in (draft.goldens, draft.profiles):
        kept[a], kept[b] = kept[b], kept[a]
    for name in (a, b):
        index = draft.team.task.agents.index(name)
        draft.manifests[name] = msgspec.structs.replace(draft.manifests[name], agent=name, index=index)


def _golden_of_the_wrong(draft: Draft) -> None:
    """Weights that are off by 1 %, and a golden trace recorded from them."""
    # Of int8 the scales, which come after the weights.
    names = ("head.weight", "head.weight.scale")
    weight = [tensor for tensor in draft.graph.initializer if tensor.name in names][-1]
    weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) * np.float32(1.01), weight.name))
    wrong, golden = graph_step(draft.models[draft.name].SerializeToString()), draft.golden()
    action, policy, state_out = golden.action.copy(), golden.policy.copy(), golden.state_out.copy()
    state = np.zeros((1, golden.state_out.shape[1]), np.float32)
    for t, fresh in enumerate(golden.reset):
        state = state * 0 if fresh else state
        action[t], policy[t], state_out[t] = (
            out[0]
            for out in wrong(golden.obs[t : t + 1], golden.action_mask[t : t + 1], state, golden.noise[t : t + 1])
        )
        state = state_out[t : t + 1]
    if np.allclose(policy, golden.policy, rtol=1e-5, atol=1e-5):
        raise DoesNotApply("these weights do not show in what it decides")
    draft.goldens[draft.name] = dump(golden._replace(action=action, policy=policy, state_out=state_out))


def _drop_start(draft: Draft) -> None:
    starts = [start for _, start in draft.whole_numbers().choices]
    action = draft.graph.node[draft.producer("action")]
    if action.op_type != "Add" or not any(starts):
        raise DoesNotApply("actions that count from 0")
    added = next(tensor for tensor in draft.graph.initializer if tensor.name == action.input[1])
    added.CopyFrom(
        numpy_helper.from_array(numpy_helper.to_array(added) - np.array(starts).reshape(added.dims), added.name)
    )


def _drop_scale(draft: Draft) -> None:
    draft.real_values()
    value, dropped = "action", []
    while value != "mean":
        node = draft.graph.node[draft.producer(value)]
        if node.op_type in {"Add", "Mul"}:
            dropped.append(node)
        # Clamping takes the value first; adding and scaling take the value and a constant, in either order.
        value = next(name for name in node.input if any(name in other.output for other in draft.graph.node))
    if dropped:
        draft.redirect(dropped[0].output[0], "mean")
    for node in dropped:
        draft.graph.node.remove(node)


def _drop_clamp(draft: Draft) -> None:
    draft.real_values()
    index = draft.producer("action")
    value = draft.graph.node[index].input[0]
    while draft.graph.node[draft.producer(value)].op_type in {"Min", "Max", "Clip"}:
        value = draft.graph.node[draft.producer(value)].input[0]
    draft.graph.node.remove(draft.graph.node[index])
    draft.graph.node.append(helper.make_node("Identity", [value], ["action"]))


class Mutation(NamedTuple):
    """One way to be wrong. comparable: whether the mutant takes what the original takes, so that both can be run."""

    name: str
    what: str
    make: Callable[[Draft], None]
    comparable: bool = True


MUTATIONS = (
    Mutation("columns swapped", "two columns of the observation change places in the graph", _swap_columns),
    Mutation("normaliser dropped", "the observation reaches the first layer raw", _drop_normaliser),
    Mutation("state zeroed", "the recurrent state that comes in counts as zeros", _zero_state),
    Mutation("state frozen", "the state that goes out is the one that came in", _freeze_state),
    Mutation("stale logits", "logits are those of the state before this step", _stale_logits),
    Mutation("mask bit flipped", "one action is legal where it is not, and the other way round", _flip_mask_bit),
    Mutation("mask forgotten", "logits and action know no mask", _forget_mask),
    Mutation("logits before the mask", "the action is masked, the logits given out are not", _logits_before_mask),
    Mutation("noise ignored", "the action is the mode, where it should be drawn", _ignore_noise),
    Mutation("noise halved", "the action is drawn by half of the noise, from a sharper policy", _half_the_noise),
    Mutation("noise after the mask", "noise reaches actions that the mask forbids", _noise_after_mask),
    Mutation("hidden input", "the graph reads the global state; the manifest is silent", _hidden_input, False),
    Mutation("hidden input, declared", "the same, and the manifest lists it", _declared_input, False),
    Mutation("wider observation", "the global state comes as further elements of obs, all manifests agree",
             _wide_observation, False),
    Mutation("graphs permuted", "agent 0 has agent 1's graph and the other way round", _swap_graphs),
    Mutation("folders permuted", "the same with golden traces, manifests rewritten to fit", _swap_folders),
    Mutation("golden of the wrong", "weights 1 % off, and the golden trace recorded from them", _golden_of_the_wrong),
    Mutation("start dropped", "whole numbers count from 0, where the space says from another", _drop_start),
    Mutation("scale dropped", "actions stay in units of half their range", _drop_scale),
    Mutation("clamp dropped", "actions may leave their bounds", _drop_clamp),
)  # fmt: skip
