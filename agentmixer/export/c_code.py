"""One agent as C for devices without Python: its graph compiled by emx-onnx-cgen, a header, and a self-test."""

from __future__ import annotations

import functools
import math
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from agentmixer import __version__
from agentmixer.contract.manifest import (
    C_FILE,
    C_HEADER_FILE,
    C_TEST_FILE,
    MODEL_FILE,
    AgentManifest,
    Tolerances,
    WhenUnusual,
    sha256,
)
from agentmixer.contract.spec import Box
from agentmixer.errors import AgentMixerError, printable
from agentmixer.runtime.actions import allowance, ranges
from agentmixer.runtime.bundle import MAX_C_FILE
from agentmixer.runtime.golden import Golden

#: How the self-test is compiled here, at export.
FLAGS = ("-std=c99", "-O2")
#: Seconds that compiling and running it may take.
TIMEOUT_S = 300


def c_files(model: bytes, manifest: AgentManifest, golden: Golden) -> dict[str, bytes]:
    """policy.h, policy.c and self_test.c of one agent, by name. model: policy.onnx, which is what they are made from.

    Raises AgentMixerError if emx-onnx-cgen is not installed, or if the files would be larger than a bundle's may be."""
    graph = _vectorised(onnx.load_from_string(model))
    written = {
        C_HEADER_FILE: _header(model, manifest),
        C_FILE: _compiled(graph) + _agent(manifest),
        C_TEST_FILE: _self_test(manifest, golden),
    }
    files = {name: text.encode() for name, text in written.items()}
    for name, data in files.items():
        if len(data) > MAX_C_FILE:
            raise AgentMixerError(
                f"agent {manifest.agent}: {name} would have {len(data):,} bytes, more than {MAX_C_FILE:,}; nothing was exported; "
                "export --per-agent onnx, or train with a smaller network (--set hidden=...)"
            )
    return files


def check_possible(when_unusual: WhenUnusual) -> None:
    """Raise AgentMixerError if emx-onnx-cgen is not installed, or if the agent is to do something about an unusual observation."""
    _compiler()
    if when_unusual != "report":
        raise AgentMixerError(
            f"C code does not hold observations against what was seen, so an agent as C cannot do --when-unusual {when_unusual.replace(' ', '-')}; "
            "export --per-agent onnx, or leave --when-unusual out and check observations in your own code"
        )


def run_self_test(files: Mapping[str, bytes]) -> str | None:
    """Compile the files with this machine's C compiler and run the self-test. Returns what it said; None without a compiler.

    Raises AgentMixerError if it does not compile, cannot be run, or does not decide as the trained network did."""
    compiler = next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None)
    if compiler is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        for name, data in files.items():
            (Path(folder) / name).write_bytes(data)
        _run([compiler, *FLAGS, "-o", "self_test", C_FILE, C_TEST_FILE, "-lm"], folder, "does not compile")
        return _run([f"{folder}/self_test"], folder, "does not decide as the trained network did")


def _run(command: list[str], folder: str, wrong: str) -> str:
    """What a command says. Raises AgentMixerError, in which the C code is said to be `wrong`, if it fails."""
    why = f"it took more than {TIMEOUT_S} s"
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=TIMEOUT_S)
        if not done.returncode:
            return done.stdout.strip()
        why = (done.stderr or done.stdout).strip()[:500]
    except OSError as error:
        wrong, why = "cannot be tried", f"no program runs in {tempfile.gettempdir()}: {error.strerror}; set TMPDIR"
    except subprocess.TimeoutExpired:
        pass
    raise AgentMixerError(
        f"the C code {wrong} on this machine ({why}); nothing was exported; agentmixer export --per-agent onnx writes no C"
    )


# ---- the graph, written for a C compiler -------------------------------------------------------------


def _vectorised(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same function as operators that a C compiler turns into vector instructions without -ffast-math.

    Every matrix is stored as [in, out], so that neighbouring outputs are neighbours in memory and are summed side by side, each
    in the order that C prescribes. A matrix that is split after its product is split before."""
    graph = model.graph
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "DequantizeLinear":  # C multiplies nothing out, for that would take RAM
            whole, scale = (weights.pop(name) for name in node.input)
            weights[node.output[0]] = whole * scale[:, None]
    parts = {node.input[0]: list(node.output) for node in graph.node if node.op_type == "Split"}
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        if node.op_type == "Gemm":
            x, weight, bias = node.input
            outputs = parts.get(node.output[0], list(node.output))
            shares = zip(
                outputs,
                np.split(weights.pop(weight).T, len(outputs), 1),
                np.split(weights.pop(bias), len(outputs)),
                strict=True,
            )
            for k, (output, matrix, vector) in enumerate(shares):
                names = f"{weight}.{k}", f"{bias}.{k}"
                weights |= zip(names, (np.ascontiguousarray(matrix), vector), strict=True)
                nodes.append(helper.make_node("Gemm", [x, *names], [output], name=f"{node.name}_{k}"))
        elif node.op_type not in ("Split", "DequantizeLinear"):
            nodes.append(node)
    values = [*graph.input, *graph.output]
    for dim in (value.type.tensor_type.shape.dim[0] for value in values):
        dim.Clear()
        dim.dim_value = 1
    del model.metadata_props[:]
    constants = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    model.graph.CopyFrom(helper.make_graph(nodes, graph.name, graph.input, graph.output, constants))
    onnx.checker.check_model(model, full_check=True)
    return model


def _compiled(graph: onnx.ModelProto) -> str:
    """The C code of a graph, whose function is called `policy`. Nothing is allocated; what is computed lies on the stack."""
    code: str = _compiler().compile(graph)
    return code


@functools.cache  # what takes seconds is kept for the next agent: its templates
def _compiler() -> Any:
    try:
        from emx_onnx_cgen.compiler import Compiler, CompilerOptions
    except ImportError:
        raise AgentMixerError(
            "--per-agent c needs emx-onnx-cgen, which is not installed; pip install 'agentmixer[c]'"
        ) from None
    return Compiler(CompilerOptions(model_name="policy", large_temp_threshold_bytes=0, large_weight_threshold=0))


# ---- what a firmware programmer includes -------------------------------------------------------------


def _header(model: bytes, manifest: AgentManifest) -> str:
    kind = "float" if isinstance(manifest.action_space, Box) else "int32_t"
    mask = manifest.action_space.n if manifest.mask_rule == "forbid" else 0
    scenario = printable(manifest.scenario).replace("/*", "/ *").replace("*/", "* /")
    return f"""\
/* Agent {manifest.agent} of {manifest.task} {scenario}, team {manifest.team_id}, release {manifest.release}.
   Written by agentmixer {__version__} from {MODEL_FILE}. */
#ifndef AGENT_POLICY_H
#define AGENT_POLICY_H

#include <stdbool.h>
#include <stdint.h>

#define AGENT_NAME "{manifest.agent}"
#define AGENT_SHA256 "{sha256(model)}" /* of {MODEL_FILE} */
#define AGENT_PERIOD_S {manifest.control_period_s!r} /* from one decision to the next */
#define AGENT_OBS {manifest.tensor("obs").shape[0]} /* numbers in an observation; agent.json names them, in this order */
#define AGENT_MASK {mask} /* entries in a mask; 0: the task has none, give NULL */
#define AGENT_NOISE {manifest.noise} /* numbers that an action is drawn by; 0: nothing is drawn */
#define AGENT_ACTION {_width(manifest)} /* numbers in an action, in the task's own units */
#define AGENT_MEMORY {manifest.memory} /* numbers that are kept from one decision to the next */

typedef {kind} agent_action;

/* Unless it is AGENT_OK, the action is the fallback action, and what is kept has not changed. */
enum {{ AGENT_OK, AGENT_OBS_NOT_FINITE, AGENT_NOTHING_LEGAL, AGENT_NOT_FINITE }};

#ifdef __cplusplus
extern "C" {{
#endif

/* A new episode starts: forget what is kept. Call it before the first decision. */
void agent_reset(void);

{_decide(manifest)}

#ifdef __cplusplus
}}
#endif
#endif
"""


def _decide(manifest: AgentManifest) -> str:
    """The declaration of `agent_act`."""
    reads = "Decide: reads obs[AGENT_OBS] and mask[AGENT_MASK] (true: legal)"
    if not manifest.noise:
        return (
            f"/* {reads}, writes action[AGENT_ACTION]. */\n"
            "int agent_act(const float *obs, const bool *mask, agent_action *action);"
        )
    return f"""\
/* {reads} and noise[AGENT_NOISE], writes action[AGENT_ACTION].
   Noise is standard Gumbel, new for every decision: -logf(-logf(u)) for u drawn evenly from (0, 1). It must be finite. With zeros the
   action is the most likely one. */
int agent_act(const float *obs, const bool *mask, const float *noise, agent_action *action);"""


def _width(manifest: AgentManifest) -> int:
    return math.prod(manifest.tensor("action").shape)


def _agent(manifest: AgentManifest) -> str:
    """What follows the compiled graph in policy.c: `agent_reset` and `agent_act`."""
    space = manifest.action_space
    real = isinstance(space, Box)
    fallback = [_number(value, real) for value in np.ravel(manifest.fallback_action).tolist()]
    defined = {"AGENT_FALLBACK": _braced(fallback), "AGENT_SCORES": str(space.n)}
    if not isinstance(space, Box):
        # Where in the mask an element's smallest value stands, less that value.
        firsts = np.cumsum([0, *(n for n, _ in space.choices)])[:-1].tolist()
        defined["AGENT_SHIFT"] = _braced(
            [str(at - start) for at, (_, start) in zip(firsts, space.choices, strict=True)]
        )
    lines = "".join(f"#define {name} {value}\n" for name, value in defined.items())
    return f"\n{lines}typedef {'float' if real else 'int64_t'} agent_chosen;\n{_source('agent.c')}"


def _self_test(manifest: AgentManifest, golden: Golden) -> str:
    """A program that repeats the golden trace: whole numbers must be equal, real values within the tolerances."""
    steps, space = len(golden.reset), manifest.action_space
    action, real = golden.action.reshape(steps, -1), isinstance(space, Box)
    tables = [
        _table("float", "golden_obs", golden.obs),
        _table("bool", "golden_reset", golden.reset[:, None]),
        _table("agent_action", "golden_action", action),
        _table("bool", "golden_tie", _ties(manifest, golden)[:, None]),
    ]
    if manifest.mask_rule == "forbid":
        tables.append(_table("bool", "golden_mask", golden.action_mask))
    if manifest.noise:
        tables.append(_table("float", "golden_noise", golden.noise))
    if isinstance(space, Box):
        tables.append(_table("float", "golden_tolerance", allowance(space, action, Tolerances())))
    return f"""\
/* Repeats what agent {manifest.agent} decided when it was exported. Exits with 0 if every decision is the same. */

#include "{C_HEADER_FILE}"

#include <math.h>
#include <stddef.h>
#include <stdio.h>

#define STEPS {steps}
{"#define REAL_VALUED" if real else ""}
{"".join(tables)}{_source("self_test.c")}"""


def _ties(manifest: AgentManifest, golden: Golden) -> np.ndarray:
    """Where another action of whole numbers was as good to within twice the tolerance, [T] bool: one processor may decide for the one, and
    another for the other."""
    space, near, policy = manifest.action_space, 2 * Tolerances().near_tie, golden.policy
    if isinstance(space, Box):
        exact = ranges(space).centre + ranges(space).scale * policy
        between = np.abs(exact % 1 - 0.5) <= near + allowance(space, exact, Tolerances())
        return np.asarray(between.any(1) & space.whole)
    logits = [np.sort(own, 1) for own in np.split(policy, np.cumsum([n for n, _ in space.choices])[:-1], 1)]
    return np.any([own[:, -1] - own[:, -2] <= near for own in logits if own.shape[1] > 1], 0) | np.zeros(
        len(policy), bool
    )


def _source(name: str) -> str:
    """A file of `c_source/`."""
    return resources.files("agentmixer.export").joinpath("c_source", name).read_text()


def _number(value: float | int | bool, real: bool) -> str:
    """A number as C spells it; a real one exactly, in hexadecimal."""
    return f"{float(np.float32(value)).hex()}f" if real else str(int(value))


def _braced(numbers: Iterable[str]) -> str:
    return "{" + ", ".join(numbers) + "}"


def _table(kind: str, name: str, rows: np.ndarray) -> str:
    """A constant array [T, W] of C."""
    real = rows.dtype.kind == "f"
    lines = ",\n".join(_braced(_number(x, real) for x in row) for row in rows.tolist())
    return f"static const {kind} {name}[{rows.shape[0]}][{rows.shape[1]}] = {{\n{lines}\n}};\n"
