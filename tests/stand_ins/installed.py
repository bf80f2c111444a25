"""Lays out a folder as $SC2PATH names one, with the stand-in in place of StarCraft II and an empty map."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

BASE_BUILD = 75689  # of 4.10, the newest for Linux
MAP = "32x32_flat.SC2Map"
#: In the folder: what to do wrong, and a file for each launch, named by its number, with its process's id.
MISBEHAVIOUR, LAUNCHES = "misbehaviour.txt", "launches"


def install(folder: Path, base_build: int = BASE_BUILD, python: str = sys.executable) -> Path:
    """Makes the folder, where no game is yet, and returns it. python: an interpreter with the stand-in's packages."""
    binary = folder / "Versions" / f"Base{base_build}" / "SC2_x64"
    binary.parent.mkdir(parents=True)
    program = Path(__file__).resolve().parent / "starcraft.py"
    binary.write_text(f'#!/bin/sh\nexec {shlex.quote(python)} {shlex.quote(str(program))} "$@"\n')
    binary.chmod(0o755)
    maps = folder / "Maps" / "SMAC_Maps"
    maps.mkdir(parents=True)
    (maps / MAP).write_bytes(b"the stand-in needs no map, only a file")
    (folder / LAUNCHES).mkdir()
    return folder


def misbehave(folder: Path, *lines: str) -> None:
    """What games launched from now on do wrong, in the words of misbehaviour.py; nothing, without any lines."""
    (folder / MISBEHAVIOUR).write_text("".join(line + "\n" for line in lines))


def begin_launch(folder: Path) -> int:
    """Of a game that is starting: its number among all launches from this folder, from 1. Leaves its process's id."""
    number = 1
    while True:
        try:
            with (folder / LAUNCHES / str(number)).open("x") as file:
                file.write(str(os.getpid()))
            return number
        except FileExistsError:
            number += 1


def process_ids(folder: Path) -> Iterator[int]:
    """Of all games launched so far, in order, running or not."""
    number = 1
    while (file := folder / LAUNCHES / str(number)).exists():
        yield int(file.read_text())
        number += 1
