"""The part of a page in which recorded episodes are watched: joint and deployed team side by side, and what one agent sees."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from agentmixer.contract.spec import Box, Discrete, TaskSpec
from agentmixer.errors import AgentMixerError
from agentmixer.report.episode_scenes import scenes
from agentmixer.report.page import Section, rendered, source
from agentmixer.report.pieces import paragraph
from agentmixer.report.replay_data import packed
from agentmixer.runtime.bundle import Bundle
from agentmixer.tasks.scene import Scene
from agentmixer.validate.recording import Episode, Recording, load

#: Most bytes of recorded episodes in a report: what is left of 3 MB beside everything else there.
BUDGET = 2_300_000


def recorded(bundle: Bundle, report: Path, run: Path | None = None) -> Section | None:
    """What deploy-sim recorded beside its `report`; None where it recorded nothing. run: see `episode_scenes.scenes`."""
    file = report.with_suffix(".npz")
    if not os.path.lexists(file):
        return None
    try:
        return replay_section(load(file, bundle.team.task), bundle.team.task, scenes(bundle, run))
    except AgentMixerError as error:
        return Section("replay", "Watch it", paragraph(f"The recorded episodes cannot be shown: {error}."))


def replay_section(
    recording: Recording, spec: TaskSpec, scene: Callable[[Episode], Scene | None], budget: int = BUDGET,
    exact: bool = False,
) -> Section | None:  # fmt: skip
    """Episodes to watch; None if not even a part of one fits. Arguments as of `replay_data.packed`."""
    found = packed(recording, spec, scene, budget, exact)
    if not found.episodes:
        return None
    return Section(
        name="replay",
        title="Watch it",
        body=rendered("replay.html", told=found.told),
        css=source("replay.css"),
        script="".join(map(source, ("replay_data.js", "scene_canvas.js", "replay_player.js"))),
        data={"episodes": found.episodes, "masked": spec.has_action_mask, "period": spec.control_period_s}
        | _agents(spec),
    )


def _agents(spec: TaskSpec) -> dict[str, Any]:
    """What the page knows of each agent. Agents that see the same elements share their names."""
    unlike = list(dict.fromkeys(spec.obs_names))
    return {
        "agents": spec.agents,
        "elements": unlike,
        "elementsOf": [unlike.index(names) for names in spec.obs_names],
        "sizes": [space.size for space in spec.action_spaces],
        "choices": [space.n for space in spec.action_spaces],
        "starts": [space.start if isinstance(space, Discrete) else 0 for space in spec.action_spaces],
        "real": [isinstance(space, Box) and not space.whole for space in spec.action_spaces],
        "discrete": [isinstance(space, Discrete) for space in spec.action_spaces],
        "actionNames": [spec.actions_of(agent) for agent in range(spec.num_agents)],
    }
