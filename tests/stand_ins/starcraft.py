"""A stand-in for StarCraft II's binary: enough of its protocol for unmodified smacv2 and pysc2 to play whole episodes.

It is started as the game is, with -listen ADDRESS -port PORT -dataDir FOLDER; `installed.py` lays out that folder, and
`misbehaviour.py` says what it can be told to do wrong. It needs websockets and pys2clientprotocol. The same
commands give the same game. It shows sizes, messages and failures; its battles say nothing about win rates.

It writes to its standard output and stays when its player dies, so that whoever plays must cope with both.
"""

from __future__ import annotations

import functools
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

from battle import ALLY, KINDS, MAP_SIZE, Attack, Battle, Heal, Kind, Move, Order, Unit
from installed import MISBEHAVIOUR, begin_launch
from misbehaviour import Fault, parse
from s2clientprotocol import raw_pb2, sc2api_pb2
from websockets.exceptions import ConnectionClosed
from websockets.sync.server import ServerConnection, serve

Request, Response = sc2api_pb2.Request, sc2api_pb2.Response

#: A game that is asked nothing for so many seconds ends, so that one that was forgotten does not stay for ever.
PATIENCE = 600
#: The map brings nine unit types of its own for the allies, numbered after the game's own, in the order of their names.
GAME_TYPES = 2000
ALLY_TYPES = {GAME_TYPES + place: KINDS[name] for place, name in enumerate(sorted(KINDS))}
#: The game's own numbers, which enemies have.
ENEMY_TYPES = {
    4: KINDS["colossus"], 9: KINDS["baneling"], 48: KINDS["marine"], 51: KINDS["marauder"], 54: KINDS["medivac"],
    73: KINDS["zealot"], 74: KINDS["stalker"], 105: KINDS["zergling"], 107: KINDS["hydralisk"],
}  # fmt: skip
UNIT_TYPES: dict[int, Kind] = ALLY_TYPES | ENEMY_TYPES
#: Abilities, as the game numbers them; any other one is taken as "stop".
MOVE, ATTACK, HEAL = 16, 23, 386
#: Requests that make sense before a game is joined.
BEFORE_JOINING = ("ping", "create_game", "join_game")


class Game:
    """One process's game: it answers requests, counts episodes and steps from 1, and misbehaves as it was told.

    An episode begins where allies are asked for while no unit is there, a step where actions are sent.
    """

    def __init__(self, number: int, faults: list[Fault]):
        self.number = number
        self.faults = faults
        self.battle = Battle()
        self.status = sc2api_pb2.launched
        self.episode = 0
        self.step = 0

    def answer(self, request: Request) -> Response:
        """Every request is answered by the method of its name."""
        response = Response(id=request.id)
        name = request.WhichOneof("request") or "nothing"
        handler: Callable[[Request, Response], None] | None = getattr(self, f"answer_{name}", None)
        if handler is None:
            response.error.append(f"the stand-in does not know the request {name}")
        elif self.status != sc2api_pb2.in_game and name not in BEFORE_JOINING:
            response.error.append(f"{name} was asked for before a game was joined")
        else:
            getattr(response, name).SetInParent()
            handler(request, response)
        response.status = self.status
        return response

    # What it does wrong.

    def told_to(self, kind: str) -> list[Fault]:
        """Faults of a kind whose conditions hold now."""
        now = {"game": self.number, "episode": self.episode, "step": self.step}
        return [fault for fault in self.faults if fault.kind == kind and fault.holds(**now)]

    def begin(self, moment: str) -> None:
        """A game, an episode or a step begins: the time to be late, to hang or to crash."""
        for fault in self.told_to("late"):
            if fault.moment == moment:
                time.sleep(float(fault.details["seconds"]))
        if any(fault.moment == moment for fault in self.told_to("hang")):
            time.sleep(PATIENCE)  # and then the alarm ends it
        if any(fault.moment == moment for fault in self.told_to("crash")):
            os.kill(os.getpid(), signal.SIGKILL)

    # Requests.

    def answer_ping(self, _: Request, response: Response) -> None:
        response.ping.game_version, response.ping.base_build = "4.10.0", 75689
        for fault in self.told_to("version"):
            response.ping.game_version = fault.details["name"]
            response.ping.base_build = int(fault.details["build"])
        response.ping.data_build = response.ping.base_build
        response.ping.data_version = "B89B5D6FA7CBF6452E721311BFBC6CB2"

    def answer_create_game(self, _: Request, response: Response) -> None:
        if self.told_to("refuse"):
            response.create_game.error = sc2api_pb2.ResponseCreateGame.InvalidMapData
            response.create_game.error_details = "the stand-in was told to refuse the map"
        else:
            self.status = sc2api_pb2.init_game

    def answer_join_game(self, _: Request, response: Response) -> None:
        response.join_game.player_id = ALLY
        self.status = sc2api_pb2.in_game

    def answer_game_info(self, _: Request, response: Response) -> None:
        """A flat map that can be walked on everywhere."""
        start = response.game_info.start_raw
        start.map_size.x = start.map_size.y = MAP_SIZE
        start.playable_area.p1.x = start.playable_area.p1.y = MAP_SIZE
        for grid, bits, filling in ((start.pathing_grid, 1, b"\xff"), (start.terrain_height, 8, b"\x7f")):
            grid.bits_per_pixel = bits
            grid.size.x = grid.size.y = MAP_SIZE
            grid.data = filling * (MAP_SIZE * MAP_SIZE * bits // 8)

    def answer_data(self, _: Request, response: Response) -> None:
        """What matters is how many unit types there are."""
        for number in range(GAME_TYPES + len(ALLY_TYPES)):
            kind = UNIT_TYPES.get(number)
            response.data.units.add(unit_id=number, name=kind.name if kind else f"unit {number}")

    def answer_debug(self, request: Request, _: Response) -> None:
        creating = [command.create_unit for command in request.debug.debug if command.HasField("create_unit")]
        if creating and creating[0].owner == ALLY and not self.battle.units:
            self.episode, self.step = self.episode + 1, 0
            self.begin("episode")
        if not self.told_to("no_units"):
            for new in creating:
                for _unit in range(new.quantity):
                    kind = UNIT_TYPES[new.unit_type]
                    self.battle.create(kind, new.unit_type, new.owner, new.pos.x, new.pos.y)
        if not self.told_to("no_kills"):
            for command in request.debug.debug:
                for tag in command.kill_unit.tag:
                    self.battle.units.pop(tag, None)

    def answer_action(self, request: Request, response: Response) -> None:
        self.step += 1
        self.begin("step")
        for action in request.action.actions:
            command = action.action_raw.unit_command
            for tag in command.unit_tags:
                if tag in self.battle.units:
                    self.battle.units[tag].order = order_in(command)
            response.action.result.append(1)

    def answer_step(self, request: Request, response: Response) -> None:
        self.battle.peaceful = bool(self.told_to("peace"))
        self.battle.step(request.step.count)
        response.step.simulation_loop = self.battle.loop

    def answer_observation(self, _: Request, response: Response) -> None:
        observation = response.observation.observation
        observation.game_loop = self.battle.loop
        observation.raw_data.SetInParent()
        for unit in self.battle.units.values():
            observation.raw_data.units.append(seen(unit))


def order_in(command: raw_pb2.ActionRawUnitCommand) -> Order:
    if command.ability_id == MOVE:
        return Move(command.target_world_space_pos.x, command.target_world_space_pos.y)
    if command.ability_id == ATTACK:
        return Attack(command.target_unit_tag)
    if command.ability_id == HEAL:
        return Heal(command.target_unit_tag)
    return None


def seen(unit: Unit) -> raw_pb2.Unit:
    """A unit as an observation tells of it."""
    message = raw_pb2.Unit(
        tag=unit.tag,
        unit_type=unit.type_id,
        owner=unit.owner,
        health=unit.health,
        health_max=unit.kind.health,
        shield=unit.shield,
        shield_max=unit.kind.shield,
        energy=unit.energy,
        weapon_cooldown=unit.cooldown,
    )
    message.pos.x, message.pos.y = unit.x, unit.y
    return message


def converse(game: Game, connection: ServerConnection) -> None:
    """Answers one request after the other until told to quit. Requests come in text frames but are not text."""
    while True:
        try:
            request = Request.FromString(connection.recv(decode=False))
        except ConnectionClosed:
            return  # the process goes on; a player that dies leaves it behind
        signal.alarm(PATIENCE)
        if request.WhichOneof("request") == "quit":
            os._exit(0)
        connection.send(game.answer(request).SerializeToString())


def main(arguments: list[str]) -> None:
    signal.alarm(PATIENCE)
    options = dict(zip(arguments[::2], arguments[1::2], strict=False))
    folder = Path(options["-dataDir"])
    misbehaviour = folder / MISBEHAVIOUR
    game = Game(begin_launch(folder), parse(misbehaviour.read_text() if misbehaviour.exists() else ""))
    game.begin("game")
    # Without pings of the server's own: whoever plays reads nothing while it thinks, however long.
    address, port = options["-listen"], int(options["-port"])
    handler = functools.partial(converse, game)
    with serve(handler, address, port, compression=None, max_size=None, ping_interval=None) as server:
        print(f"stand-in for StarCraft II: game {game.number} listens on {address}:{port}", flush=True)
        server.serve_forever()


if __name__ == "__main__":
    main(sys.argv[1:])
