"""The page in which the exported policies themselves decide, each in a worker of its own, beside what was recorded."""

from __future__ import annotations

import base64
import zlib
from collections.abc import Callable
from typing import Any

from agentmixer.contract.manifest import MODEL_FILE
from agentmixer.errors import AgentMixerError
from agentmixer.report.onnxruntime_web import VERSION, WebRuntime
from agentmixer.report.page import Page, Section, rendered, source
from agentmixer.report.pieces import subject
from agentmixer.report.replay_data import SAME
from agentmixer.report.replay_section import replay_section
from agentmixer.runtime.bundle import AgentFiles, Bundle
from agentmixer.tasks.scene import Scene
from agentmixer.validate.recording import Episode, Recording

#: Most bytes of the page, and what everything takes that is neither runtime nor model nor recording.
MOST_BYTES, _REST = 8_000_000, 150_000


def live_page(
    bundle: Bundle, recording: Recording, scene: Callable[[Episode], Scene | None], runtime: WebRuntime
) -> Page:
    """The page of a bundle and of its recorded episodes, as many as fit. scene: see `replay_data.packed`.

    Raises AgentMixerError if the models leave no room for an episode, or if the agents draw their actions."""
    if bundle.sampled:
        raise AgentMixerError(
            f"the agents of {bundle.path} draw their actions, so that a page cannot decide again what was recorded; agentmixer report "
            "without --live shows the episodes"
        )
    task = bundle.team.task
    packed = {"script": _text(runtime.script), "wasm": _text(runtime.wasm)}
    agents = [_agent(files) for files in bundle.agents.values()]
    used = sum(map(len, packed.values())) + sum(len(agent["model"]) for agent in agents)
    replay = replay_section(recording, task, scene, MOST_BYTES - _REST - used, exact=True)
    if replay is None:
        raise AgentMixerError(
            f"the models of {bundle.path} and the runtime leave no room for an episode in a page of {MOST_BYTES / 1e6:g} MB; "
            "agentmixer report without --live shows the episodes alone"
        )
    live = Section(
        name="live",
        title="Decided here",
        body=rendered("live.html", version=VERSION, same=f"{SAME:g}", agents=len(bundle.agents)),
        css=source("live.css"),
        script=source("live.js"),
        data={
            "runtime": {"version": VERSION} | packed,
            "worker": source("live_worker.js"),
            "agents": agents,
            "same": SAME,
        },
    )
    return Page(
        subject=subject(bundle),
        headline="The exported policies decide in this page.",
        tone="open",
        lead=(
            "Each agent's model runs in a worker of its own, which is sent that agent's observation and nothing else. What was "
            "recorded when the team was rehearsed is decided once more, and compared.",
        ),
        sections=(replay, live),
        notes=(
            f"Bundle {bundle.path.name}. ONNX Runtime Web {VERSION}, copyright Microsoft Corporation, MIT licence, is part of "
            "this file.",
        ),
        allowed={"script-src": "blob: 'wasm-unsafe-eval'", "worker-src": "blob:"},
        most_bytes=MOST_BYTES,
    )


def _agent(files: AgentFiles) -> dict[str, Any]:
    """What an agent's worker is given."""
    manifest = files.manifest
    state = manifest.state
    return {
        "name": manifest.agent,
        "sha256": manifest.files[MODEL_FILE],
        "model": _text(files.model),
        "obs": manifest.tensor("obs").shape[0],
        "mask": manifest.tensor("action_mask").shape[0] if manifest.mask_rule == "forbid" else 0,
        "state": None if state is None else {"input": state.input, "output": state.output, "size": state.size},
    }


def _text(data: bytes) -> str:
    return base64.b64encode(zlib.compress(data)).decode()
