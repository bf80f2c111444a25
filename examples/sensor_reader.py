"""A pole on a cart: its sensors are wired to the agent by name, and one of them wrong. `agentmixer audit` finds which.

    agentmixer train gymnasium CartPole-v1 --steps 50000
    agentmixer export --elements examples/cart.toml
    python examples/sensor_reader.py bundles/<bundle>/agents/agent_0 --log cart.npz
    agentmixer audit bundles/<bundle>/agents/agent_0 --log cart.npz

The cart is gymnasium's. Its sensors speak as real ones do: millimetres, and an inclinometer in degrees. `--mended` wires it right.
"""

import argparse
import math
from collections.abc import Iterator
from pathlib import Path

import gymnasium

from agentmixer.runtime import Agent


def sensors(actions: list[int], decisions: int) -> Iterator[tuple[bool, dict[str, float]]]:
    """What the cart's sensors say before each decision, and whether an episode begins. The cart does the newest of `actions`."""
    cart, fresh = gymnasium.make("CartPole-v1"), True
    for number in range(decisions):
        if not fresh:
            seen, _, fell, over, _ = cart.step(actions[-1])
            fresh = fell or over
        if fresh:
            seen, _ = cart.reset(seed=number)
        x, speed, angle, turning = map(float, seen)
        yield (
            fresh,
            {"encoder_mm": 1e3 * x, "wheel_mm_s": 1e3 * speed, "tilt_deg": math.degrees(angle), "gyro": turning},
        )
        fresh = False


def wired(reading: dict[str, float], mended: bool) -> dict[str, float]:
    """The sensors' readings as the agent's elements."""
    tilt = reading["tilt_deg"]
    return {
        "cart.position": reading["encoder_mm"] / 1e3,
        "cart.speed": reading["wheel_mm_s"] / 1e3,
        "pole.angle": math.radians(tilt) if mended else tilt,  # the bug: the agent expects radians
        "pole.speed": reading["gyro"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="the agent's folder")
    parser.add_argument("--log", type=Path, default=Path("cart.npz"), help="where to write what the agent was fed")
    parser.add_argument("--decisions", type=int, default=400, help="how many")
    parser.add_argument("--mended", action="store_true", help="without the bug")
    asked = parser.parse_args()
    agent = Agent.load(asked.folder)
    obs, actions, unusual = agent.observation(), [0], 0
    with agent.logging(asked.log):
        for fresh, reading in sensors(actions, asked.decisions):
            if fresh:
                agent.reset()
            obs.update(wired(reading, asked.mended))
            action, status = agent.step(obs)
            actions.append(int(action))
            unusual += not status.usual
    print(f"{asked.decisions} decisions, {unusual} of them unusual; see {asked.log}")


if __name__ == "__main__":
    main()
