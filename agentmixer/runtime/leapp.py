"""One agent described for LEAPP, NVIDIA's format for policies: leapp.yaml, which stands beside the agent's graph."""

from __future__ import annotations

import hashlib

import numpy as np

from agentmixer.contract.manifest import MODEL_FILE, AgentManifest, TensorSpec, sha256
from agentmixer.contract.spec import Discrete

#: The version of LEAPP's file format that is written here. LEAPP 0.7.2 writes the same.
CONFIG_VERSION = "1.3"
#: What the agent is called in the file: a caller gives `policy/obs` and gets `policy/action`.
NODE = "policy"


def description(model: bytes, manifest: AgentManifest) -> bytes:
    """leapp.yaml of one agent. model: policy.onnx, which it points to and whose digests it holds."""
    state = manifest.state
    fed_back = (state.input, state.output) if state else ()
    given, returned = (
        ", ".join(tensor.name for tensor in tensors if tensor.name not in fed_back)
        for tensors in (manifest.inputs, manifest.outputs)
    )
    feedback = f"{NODE}/{state.output}: [{NODE}/{state.input}]" if state else ""
    # YAML takes 1e-06 for a word, so that no exponent may be written.
    frequency = np.format_float_positional(1 / manifest.control_period_s, trim="0")
    return f"""\
models:
  {NODE}:
    inputs:
{_tensors(manifest.inputs, manifest)}
    outputs:
{_tensors(manifest.outputs, manifest)}
    parameters:
      model_path: {MODEL_FILE}
      md5sum: "{hashlib.md5(model, usedforsecurity=False).hexdigest()}"
      sha256sum: "{sha256(model)}"
      backend: onnx
      opset_version: {manifest.opset}

pipeline:
  data_flow: {{}}
  feedback_flow: {{{feedback}}}
  inputs: {{{NODE}: [{given}]}}
  outputs: {{{NODE}: [{returned}]}}
  configs: {{frequency: {frequency}}}

system information:
  leapp config version: "{CONFIG_VERSION}"
  agentmixer version: {_quoted(manifest.source.agentmixer)}
""".encode()


def _tensors(tensors: tuple[TensorSpec, ...], manifest: AgentManifest) -> str:
    lines = []
    for tensor in tensors:
        shape = ", ".join(map(str, (1, *tensor.shape)))
        names = ", ".join(map(_quoted, _elements(tensor, manifest)))
        more = f", element_names: [[{names}]]" if names else ""
        lines.append(f"    - {{name: {tensor.name}, dtype: {tensor.dtype}, shape: [{shape}], type: tensor{more}}}")
    return "\n".join(lines)


def _elements(tensor: TensorSpec, manifest: AgentManifest) -> tuple[str, ...]:
    """Names of the elements of a tensor's last axis; none where nobody has named them."""
    # One name an action, or one an element of the action: whichever the space has.
    named = ("action_mask", "logits") if isinstance(manifest.action_space, Discrete) else ("action", "mean")
    return tensor.elements or (manifest.action_names if tensor.name in named else ())


def _quoted(text: str) -> str:
    """A name as YAML spells it, whatever is in it."""
    plain = "".join(c if c.isascii() and c.isprintable() and c not in '"\\' else f"\\U{ord(c):08x}" for c in text)
    return f'"{plain}"'
