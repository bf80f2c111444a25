"""Names and meanings of elements and actions, from a file."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import box_spec, tiny_spec

from agentmixer.contract.spec import Element
from agentmixer.errors import AgentMixerError
from agentmixer.export.elements import described


def test_a_file_names_and_explains(tmp_path: Path) -> None:
    spec, file = tiny_spec(), tmp_path / "elements.toml"
    first, second = spec.obs_names[0][:2]
    agent = spec.agents[1]
    file.write_text(
        f'[all."{first}"]\nname = "gyro.x"\nunit = "rad/s"\nlow = -10\nhigh = 10\nframe = "body"\n'
        f'[{agent}."{second}"]\ngroup = "imu"\n[{agent}.actions]\n0 = "left"\naction_1 = "right"\n'
    )
    found = described(spec, file)
    gyro = Element("rad/s", -10.0, 10.0, "body")
    assert [names[0] for names in found.obs_names] == ["gyro.x"] * spec.num_agents
    assert [names[1:] for names in found.obs_names] == [names[1:] for names in spec.obs_names]
    assert [elements[0] for elements in found.obs_elements] == [gyro] * spec.num_agents
    assert found.obs_elements[1][1] == Element(group="imu") and found.obs_elements[0][1] == Element()
    assert found.action_names[1][:3] == ("left", "right", "action_2") and found.action_names[0] == ()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[all", "is not TOML"),
        ("[agent_9.x]\nunit = 'm'", "speaks of an agent 'agent_9'"),
        ("[all.no_such]\nunit = 'm'", "observes no 'no_such'"),
        ("[AGENT.no_such]\nunit = 'm'", "observes no 'no_such'"),
        ("[all.OBS]\nunits = 'm'", "element 'OBS' .*unknown field `units`"),
        ("[all.OBS]\nlow = 'little'", "element 'OBS' .*float"),
        ("[all.OBS]\nname = 'NEXT'", "the name 'NEXT' twice"),
        ("[all.actions]\n99 = 'left'", "got '99' = 'left'"),
        ("[all]\nactions = 3", "is a table of names"),
    ],
)
def test_what_is_wrong_in_a_file_is_named(tmp_path: Path, text: str, words: str) -> None:
    spec, file = box_spec(), tmp_path / "elements.toml"
    for word, name in zip(("OBS", "NEXT"), spec.obs_names[0], strict=False):
        text, words = text.replace(word, name), words.replace(word, name)
    file.write_text(text.replace("AGENT", spec.agents[0]))
    with pytest.raises(AgentMixerError, match=words):
        described(spec, file)
