"""What export writes: actors only, by the conventions, and the same policy everywhere."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
import torch
from conftest import box_spec, tiny_algorithm, tiny_spec, unlike_spec
from onnx import TensorProto, helper
from torch import nn

from agentmixer.contract.manifest import MODEL_FILE, OPSET, Tolerances
from agentmixer.contract.spec import Box, TaskSpec
from agentmixer.errors import AgentMixerError
from agentmixer.export import exporter as exporting
from agentmixer.export.exporter import Exported, evaluators, side_by_side
from agentmixer.export.graph import check, export_graph
from agentmixer.runtime.bundle import read_bundle
from agentmixer.runtime.golden import Golden, parse, replay, silence
from agentmixer.runtime.onnx_graph import OPERATORS
from agentmixer.train import checkpoint
from agentmixer.train import run as runs
from agentmixer.train.algorithms import AgentMixerPPO
from agentmixer.train.algorithms.base import Sees
from agentmixer.train.deployed import DeployedActor
from agentmixer.train.joint_policy import ILLEGAL, mask_logits
from agentmixer.train.networks import Actor
from agentmixer.train.run import Run


def model_of(exported: Exported, agent: str = "agent_0") -> onnx.ModelProto:
    return onnx.load(exported.path / "agents" / agent / MODEL_FILE)


def test_the_graph_has_the_declared_inputs_and_outputs(exported: Exported) -> None:
    graph = model_of(exported).graph

    def shape(value: onnx.ValueInfoProto) -> tuple[str, int, list[str | int]]:
        tensor = value.type.tensor_type
        return value.name, tensor.elem_type, [d.dim_param or d.dim_value for d in tensor.shape.dim]

    assert [shape(v) for v in graph.input] == [
        ("obs", TensorProto.FLOAT, ["batch", 97]),
        ("action_mask", TensorProto.BOOL, ["batch", 10]),
        ("state_in", TensorProto.FLOAT, ["batch", 16]),
    ]
    assert [shape(v) for v in graph.output] == [
        ("action", TensorProto.INT64, ["batch"]),
        ("logits", TensorProto.FLOAT, ["batch", 10]),
        ("state_out", TensorProto.FLOAT, ["batch", 16]),
    ]


def test_only_allowed_operators_of_one_opset(exported: Exported) -> None:
    model = model_of(exported)
    assert [(o.domain, o.version) for o in model.opset_import] == [("", OPSET)]
    assert {node.op_type for node in model.graph.node} <= set(OPERATORS)


def test_nothing_of_pm_or_critic_is_written(exported: Exported, trained: Run) -> None:
    """The weights in the graph are this actor's and no more: their count is the actor's parameters at most."""
    _, tensors = checkpoint.read(checkpoint.latest(trained))
    actor = sum(t.numel() for name, t in tensors.items() if name.startswith("model.actor."))
    everything = sum(t.numel() for name, t in tensors.items() if name.startswith("model."))
    for agent in exported.parity:
        written = sum(int(np.prod(i.dims)) for i in model_of(exported, agent).graph.initializer)
        assert written <= actor < everything
    names = (str(f.relative_to(exported.path)) for f in exported.path.rglob("*") if f.is_file())
    files = sorted(name for name in names if not name.startswith("reports/"))  # other tests report on this bundle
    assert files == sorted(
        [f"agents/agent_{i}/{f}" for i in range(5) for f in ("agent.json", "golden.npz", "policy.onnx", "profile.npz")]
        + ["team.json"]
    )


def test_no_path_or_stack_trace_of_the_exporting_machine_is_written(exported: Exported) -> None:
    here = str(Path(exporting.__file__).parents[2]).encode()
    for file in exported.path.rglob("policy.onnx"):
        data = file.read_bytes()
        assert here not in data
        assert b".py" not in data


def test_golden_traces_are_long_and_hold_resets_masks_and_extremes(exported: Exported) -> None:
    for files in read_bundle(exported.path).agents.values():
        golden = parse(files.golden, files.manifest)
        assert len(golden.reset) >= 200
        assert golden.reset[0]
        assert golden.reset.sum() >= 2
        assert (~golden.action_mask).any()
        assert np.abs(golden.obs[-16:]).max() > 10
        assert np.take_along_axis(golden.action_mask, golden.action[:, None], 1).all()
        assert (golden.policy[~golden.action_mask] == np.float32(ILLEGAL)).all()


def test_torch_onnxruntime_and_the_reference_evaluator_agree(exported: Exported) -> None:
    for agent, parity in exported.parity.items():
        assert set(parity) == {"torch", "onnxruntime", "reference"}
        for kind, result in parity.items():
            assert result.passed, (agent, kind)
            assert result.steps >= 200
            assert result.policy_error < 1e-5
            assert result.different_actions == result.near_ties


@pytest.mark.parametrize("shared", [True, False])
def test_each_agents_graph_is_its_own_slice_of_the_stack(shared: bool) -> None:
    """Random weights, random observations: the exported graph equals the stacked network, agent by agent."""
    spec = tiny_spec()
    actor = Actor(3, shared, 7, 4, hidden=8, layers=2)
    for p in actor.parameters():
        nn.init.normal_(p, std=0.5)
    obs, h = torch.randn(3, 20, 7), torch.randn(3, 20, 8)
    mask = torch.rand(3, 20, 4) < 0.5
    mask[..., 1] = True
    with torch.no_grad():
        raw, _, after = actor(obs, h)
    want = mask_logits(raw, mask)
    for i in range(3):
        single = DeployedActor(actor, spec, i)
        model = export_graph(single, {"agent": spec.agents[i]})
        for kind, step in evaluators(single, model).items():
            action, logits, state = step(obs[i].numpy(), mask[i].numpy(), h[i].numpy(), silence(len(obs[i])))
            np.testing.assert_allclose(logits, want[i].numpy(), atol=1e-5, rtol=1e-5, err_msg=kind)
            np.testing.assert_allclose(state, after[i].numpy(), atol=1e-5, rtol=1e-5, err_msg=kind)
            np.testing.assert_array_equal(action, want[i].argmax(-1).numpy(), err_msg=kind)


def test_one_row_does_not_depend_on_the_batch_it_is_in(exported: Exported) -> None:
    from agentmixer.runtime.agent import make_session

    files = read_bundle(exported.path).agents["agent_3"]
    golden, session = parse(files.golden, files.manifest), make_session(files.model)
    feed = {"obs": golden.obs, "action_mask": golden.action_mask, "state_in": golden.state_out}
    whole = session.run(None, feed)
    for row in range(0, len(golden.obs), 17):
        alone = session.run(None, {name: array[row : row + 1] for name, array in feed.items()})
        for a, b in zip(alone, whole, strict=True):
            np.testing.assert_allclose(a[0], b[row], atol=1e-6)


def test_a_broken_policy_does_not_pass_parity(exported: Exported) -> None:
    """The replay notices a frozen state, a dropped mask and swapped observation columns."""
    files = read_bundle(exported.path).agents["agent_0"]
    golden, model = parse(files.golden, files.manifest), onnx.load_from_string(files.model)
    actor = SimpleNamespace(inputs=["obs", "action_mask", "state_in"], outputs=None, memory=16)
    good, space = evaluators(actor, model)["onnxruntime"], files.manifest.action_space  # type: ignore[arg-type]
    swap = np.arange(97)
    swap[[90, 91]] = [91, 90]
    broken = {
        "frozen state": lambda o, m, s, n: good(o, m, np.zeros_like(s), n),
        "no mask": lambda o, m, s, n: good(o, np.ones_like(m), s, n),
        "swapped columns": lambda o, m, s, n: good(o[:, swap], m, s, n),
    }
    for run in (lambda step: step, lambda step: side_by_side(golden, step)):
        assert replay(golden, run(good), space, Tolerances()).passed
        for name, step in broken.items():
            assert not replay(golden, run(step), space, Tolerances()).passed, name


def test_episodes_side_by_side_are_the_episodes_one_after_the_other() -> None:
    """Episodes of 1, 4 and 2 steps, and a policy that counts an episode's steps and adds up its observations."""
    reset = np.array([1, 1, 0, 0, 0, 1, 0], bool)
    obs = np.arange(7, dtype=np.float32)[:, None]
    empty = np.zeros((7, 2), np.float32)
    golden = Golden(obs, np.ones((7, 1), bool), reset, np.zeros(7, np.int64), empty, empty, silence(7))
    calls = []

    def step(obs: np.ndarray, mask: np.ndarray, state: np.ndarray, noise: np.ndarray) -> list[np.ndarray]:
        calls.append(len(obs))
        after = state + np.concatenate([np.ones_like(obs), obs], 1)
        return [after[:, 0].astype(np.int64), after, after]

    answer = side_by_side(golden, step)
    assert calls == [3, 2, 1, 1]
    told = [answer(obs[t : t + 1], golden.action_mask[t : t + 1], empty[:1]) for t in range(7)]
    assert [out[0].tolist() for out in told] == [[1], [1], [2], [3], [4], [1], [2]]
    assert [out[2][0, 1] for out in told] == [0, 1, 3, 6, 10, 5, 11]


def test_export_refuses_to_overwrite_what_the_user_named(trained: Run, exported: Exported) -> None:
    with pytest.raises(AgentMixerError, match="exists already"):
        exporting.export(trained, exported.path)


def test_a_failed_export_leaves_nothing_behind(trained: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(trained.path, tmp_path / "run")
    monkeypatch.setattr(DeployedActor, "__init__", _with_a_wrong_bias(DeployedActor.__init__))
    with pytest.raises(AgentMixerError, match=r"agent_0: torch departs .* nothing was exported"):
        exporting.export(runs.load(tmp_path / "run"), tmp_path / "bundle")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["run"]


def _with_a_wrong_bias(real: object) -> object:
    def init(self: DeployedActor, actor: Actor, spec: TaskSpec, index: int, sampled: bool) -> None:
        real(self, actor, spec, index, sampled)  # type: ignore[operator]
        self.head.bias.data += torch.linspace(0, 0.1, 10)

    return init


@pytest.mark.parametrize(
    ("node", "words"),
    [
        (helper.make_node("RandomUniformLike", ["x"], ["y"]), "operator RandomUniformLike"),
        (helper.make_node("Erf", ["x"], ["y"]), "operator Erf"),
    ],
)
def test_a_graph_outside_the_conventions_is_refused(node: onnx.NodeProto, words: str) -> None:
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 3]) for name in ("x", "y")]
    graph = helper.make_graph([node], "policy", value[:1], value[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)])
    with pytest.raises(AgentMixerError, match=words):
        check(model)


def test_a_graph_with_a_free_dimension_is_refused() -> None:
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", "d"]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "policy", value[:1], value[1:])
    with pytest.raises(AgentMixerError, match="not fixed"):
        check(helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)]))


@pytest.mark.parametrize("norm", ["layer", "running"])
@pytest.mark.parametrize("recurrent", [True, False])
def test_ragged_real_valued_agents_are_exported_without_their_padding(recurrent: bool, norm: str) -> None:
    """Padded in the stack, unpadded in the graph: same means, actions scaled and bounded inside."""
    spec = box_spec()
    algorithm = tiny_algorithm(spec, share_parameters=False, recurrent_actor=recurrent, input_norm=norm)
    actor = algorithm.team.actor
    for p in actor.parameters():
        nn.init.normal_(p, std=0.7)
    obs = torch.randn(2, 30, 5) * 2 + 1
    obs[1, :, 3:] = 0
    actor.body.observe(obs)
    h = torch.randn(2, 30, actor.body.memory)
    mask = torch.ones(2, 30, 3, dtype=torch.bool)
    mask[1, :, 2:] = False
    with torch.no_grad():
        raw, _, after = actor(obs, h)
        want = algorithm.team.to_task(algorithm.team.joint_policy.policy(raw, mask))
    for i, (size, space) in enumerate(zip(spec.obs_sizes, spec.action_spaces, strict=True)):
        assert isinstance(space, Box)
        single = DeployedActor(actor, spec, i)
        assert single.inputs == ["obs", "state_in"][: 1 + recurrent]
        model = export_graph(single, {"agent": spec.agents[i]})
        assert [d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim][1:] == [size]
        for kind, step in evaluators(single, model).items():
            action, mean, state = step(obs[i, :, :size].numpy(), mask[i].numpy(), h[i].numpy(), silence(len(obs[i])))
            np.testing.assert_allclose(action, want[i, :, : space.n], atol=1e-5, rtol=1e-5, err_msg=kind)
            np.testing.assert_allclose(mean, raw[i, :, : space.n], atol=1e-5, rtol=1e-5, err_msg=kind)
            assert (action >= np.float32(space.low)).all()
            assert (action <= np.float32(space.high)).all()
            assert ((action == np.float32(space.low)) | (action == np.float32(space.high))).any()
            if recurrent:
                np.testing.assert_allclose(state, after[i], atol=1e-5, rtol=1e-5, err_msg=kind)


@pytest.mark.parametrize(
    ("spec", "settings"),
    [
        (tiny_spec(), {}),
        (box_spec(), {"share_parameters": False, "recurrent_actor": False, "input_norm": "running"}),
        (unlike_spec(), {"share_parameters": False, "recurrent_actor": False}),
    ],
    ids=["discrete", "real-valued", "discrete from 2"],
)
def test_the_graph_is_the_one_that_torch_traces(spec: TaskSpec, settings: dict[str, object]) -> None:
    """The same operators in the same order with the same attributes and constants; names alone are the exporter's own."""
    actor = tiny_algorithm(spec, **settings).team.actor
    for parameter in actor.parameters():
        nn.init.normal_(parameter)
    actor.body.observe(torch.randn(spec.num_agents, 30, max(spec.obs_sizes)))
    single = DeployedActor(actor, spec, 0).eval()
    example = {
        "obs": torch.zeros(2, single.obs),
        "action_mask": torch.ones(2, single.actions, dtype=torch.bool),
        "state_in": torch.zeros(2, single.memory),
    }
    first, *rest = ({0: torch.export.Dim("batch")} for _ in single.inputs)
    program = torch.onnx.export(
        single, tuple(example[name] for name in single.inputs), dynamo=True, opset_version=OPSET, verbose=False,
        input_names=single.inputs, output_names=single.outputs,
        dynamic_shapes=(first, tuple(rest)) if rest else (first,),
    )  # fmt: skip
    assert program is not None
    assert _computed(export_graph(single, {})) == _computed(program.model_proto)


def _computed(model: onnx.ModelProto) -> list[object]:
    """Each operator as (operator, attributes, inputs); an input is a constant's elements, or which output of which operator."""
    origin: dict[str, object] = {
        tensor.name: onnx.numpy_helper.to_array(tensor).tolist() for tensor in model.graph.initializer
    }
    origin |= {value.name: value.name for value in model.graph.input}
    told: list[object] = []
    for node in model.graph.node:
        attributes = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
        told.append((node.op_type, attributes, [origin[name] for name in node.input]))
        origin |= {name: (len(told), i) for i, name in enumerate(node.output)}
    return [*told, {value.name: origin[value.name] for value in model.graph.output}]


def test_a_bundle_that_is_there_stays_unless_it_is_to_be_replaced(trained: Run, tmp_path: Path) -> None:
    place = exporting.export(trained, tmp_path / "bundle").path
    (place / "reports").mkdir()
    (place / "reports" / "deploy_sim.json").write_text("{}")
    with pytest.raises(AgentMixerError, match="exists already; choose another --out, or give --replace"):
        exporting.export(trained, place)
    assert (place / "reports" / "deploy_sim.json").is_file()
    exporting.export(trained, place, replace=True)
    assert not (place / "reports").exists()
    shutil.rmtree(place)
    place.mkdir()
    (place / "thesis.tex").touch()
    with pytest.raises(AgentMixerError, match="exists already and is no bundle"):
        exporting.export(trained, place, replace=True)
    assert sorted(tmp_path.rglob("*")) == [place, place / "thesis.tex"]


@pytest.mark.parametrize(
    "other", ["thesis.tex", "agents/notes.txt/x", "agents/agent_0/notes.txt", "agents/agent_0/deep/x", "more/x"]
)
def test_what_no_export_has_made_is_not_replaced(other: str, trained: Run, exported: Exported, tmp_path: Path) -> None:
    place = tmp_path / "bundle"
    shutil.copytree(exported.path, place)
    (place / other).parent.mkdir(parents=True, exist_ok=True)
    (place / other).write_text("precious")
    with pytest.raises(AgentMixerError, match="which no export has put there and which would be lost"):
        exporting.export(trained, place, replace=True)
    assert (place / other).read_text() == "precious"


@pytest.mark.parametrize("inner", ["inner", "agents/more", "reports/inner", "agents/agent_0/inner"])
def test_a_bundle_is_not_put_into_a_bundle(inner: str, trained: Run, exported: Exported, tmp_path: Path) -> None:
    place = tmp_path / "bundle"
    shutil.copytree(exported.path, place)
    before = sorted(place.rglob("*"))
    with pytest.raises(AgentMixerError, match=r"lies in the bundle .*, which would be none any more"):
        exporting.export(trained, place / inner)
    assert sorted(place.rglob("*")) == before


def test_agents_that_need_more_than_their_own_observation_are_not_exported(
    trained: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(AgentMixerPPO, "execution_sees", Sees.OTHERS_ACTIONS)
    with pytest.raises(
        AgentMixerError,
        match=r"agentmixer_ppo needs the actions of other agents to act.* agents of these can: agentmixer_sac",
    ):
        exporting.export(trained, tmp_path / "bundle")
    assert list(tmp_path.iterdir()) == []
