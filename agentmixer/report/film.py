"""A recorded episode as a film: joint and deployed side by side, moment after moment."""

from __future__ import annotations

import io
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from agentmixer.contract.spec import TaskSpec
from agentmixer.errors import AgentMixerError
from agentmixer.report.painter import INK, PAPER, ROLES, View, fitted, font, paint, view
from agentmixer.tasks import registry
from agentmixer.tasks.scene import Scene
from agentmixer.validate.recording import Episode, first_difference

#: Most pictures of a film. A longer episode is shown at every second moment, every third, and so on.
MOST = 200
#: How long a picture is shown, seconds: as long as the step took where that lies between these.
SHORTEST_S, LONGEST_S = 0.06, 0.2
#: Height of the lines of text above and below a picture, as a share of the picture's width.
TEXT = 0.045


class Film(NamedTuple):
    """Pictures, all of one size, which are drawn when they are asked for.

    draw: a moment -> its picture; moments: those that are shown; seconds: how long each; parted: the first step in which the
    arms act differently, None if they never do."""

    draw: Callable[[int], Image.Image]
    moments: list[int]
    seconds: float
    parted: int | None


def film(episodes: Sequence[Episode], spec: TaskSpec, size: int = 480, only: int | None = None) -> Film:
    """An episode, of one arm or of two side by side. size: pixels, width of an arm's picture. only: the agent of which only
    what it sees is drawn, in each arm. Raises AgentMixerError if that cannot be told, or if an episode cannot be drawn."""
    if only is not None and any(episode.frames is not None for episode in episodes):
        raise AgentMixerError(
            "what one agent sees is not known of pictures that the environment renders; leave --agent out"
        )
    scenes = [
        None if one.frames is not None else registry.scene(spec, one.states, one.obs, one.actions) for one in episodes
    ]
    views = [None if scene is None else view(scene) for scene in scenes]
    part = _whole([one for one in views if one]) if scenes[0] else None
    moments = max(len(episode.states) for episode in episodes)
    every = -(-moments // MOST)
    parted = first_difference(*episodes) if len(episodes) == 2 else None

    def draw(moment: int) -> Image.Image:
        pairs = zip(episodes, scenes, strict=True)
        return _beside([_panel(*pair, part, spec, moment, size, only, parted) for pair in pairs])

    seconds = min(max(spec.control_period_s * every, SHORTEST_S), LONGEST_S)
    return Film(draw, [*range(0, moments - 1, every), moments - 1], seconds, parted)


def gif(film: Film, progress: Callable[[str], None] = lambda _: None) -> bytes:
    """The film as a GIF that repeats. progress: called with how far it is."""
    # One palette for all pictures, from some of them: what does not move stays the same, bit for bit, and costs nothing.
    some = [film.draw(moment) for moment in [*film.moments[:: max(1, len(film.moments) // 8)][:9], film.moments[-1]]]
    if film.parted is not None:
        some.append(film.draw(film.parted + 1))
    strip = Image.new("RGB", (some[0].width, some[0].height * len(some)))
    for number, picture in enumerate(some):
        strip.paste(picture, (0, number * picture.height))
    palette = strip.quantize(64)
    first, *others = [
        picture.quantize(palette=palette, dither=Image.Dither.NONE) for picture in _pictures(film, progress)
    ]
    buffer = io.BytesIO()
    duration = [round(film.seconds * 1000)] * (1 + len(others))
    duration[-1] = 2000
    first.save(buffer, "GIF", save_all=True, append_images=others, duration=duration, loop=0)
    return buffer.getvalue()


def mp4(film: Film, progress: Callable[[str], None] = lambda _: None) -> bytes:
    """The film as an MP4, made by the program ffmpeg. Raises AgentMixerError if there is none, or if it fails."""
    program = ffmpeg()
    width, height = film.draw(0).size
    with tempfile.TemporaryDirectory() as folder:
        made, pixels = Path(folder) / "film.mp4", Path(folder) / "film.rgb"
        with pixels.open("wb") as file:
            for picture in _pictures(film, progress):
                file.write(picture.tobytes())
            for _ in range(round(2 / film.seconds)):  # the end stays for two seconds
                file.write(picture.tobytes())
        given = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", f"{1 / film.seconds:.6f}", "-i", str(pixels)]  # fmt: skip
        wanted = ["-vf", "pad=ceil(iw/2)*2:ceil(ih/2)*2", "-pix_fmt", "yuv420p", "-movflags", "+faststart", str(made)]
        done = subprocess.run(
            [program, "-nostdin", "-loglevel", "error", *given, *wanted], capture_output=True, check=False
        )
        if done.returncode or not made.is_file():
            words = " ".join(done.stderr.decode(errors="replace").split())[:300]
            raise AgentMixerError(f"ffmpeg made no film ({words}); use --gif FILE")
        return made.read_bytes()


def ffmpeg() -> str:
    """Where the program ffmpeg is. Raises AgentMixerError if it is not on PATH."""
    program = shutil.which("ffmpeg")
    if program is None:
        raise AgentMixerError("--mp4 needs the program ffmpeg, which is not on PATH; install it, or use --gif FILE")
    return program


def _pictures(film: Film, progress: Callable[[str], None]) -> Iterator[Image.Image]:
    for number, moment in enumerate(film.moments, 1):
        progress(f"drawing picture {number:,} of {len(film.moments):,}")
        yield film.draw(moment)


def _panel(
    episode: Episode, scene: Scene | None, part: View | None, spec: TaskSpec, moment: int, size: int, only: int | None,
    parted: int | None,
) -> Image.Image:  # fmt: skip
    """An arm's picture with what it shows above and below. An arm that has ended stays at its end."""
    last = len(episode.states) - 1
    own = min(moment, last)
    if episode.frames is not None:
        high = round(size * episode.frames.shape[1] / episode.frames.shape[2])
        picture = fitted(episode.frames[own], size, min(max(high, size // 8), 2 * size))
    else:
        assert scene is not None and part is not None
        picture = paint(
            scene, own, part, size, min(max(round(size * part.height / part.width), size // 8), 2 * size), only
        )
    line = max(9, round(size * TEXT))
    panel = Image.new("RGB", (size, picture.height + 4 * line + 8), PAPER)
    panel.paste(picture, (0, 2 * line))
    draw = ImageDraw.Draw(panel)
    whose = "" if only is None else f", what {spec.agents[only]} sees"
    draw.text((6, line // 3), f"{episode.arm}, episode {episode.number}{whose}", fill=INK, font=font(line))
    told = f"step {own} of {last}, {own * spec.control_period_s:.4g} s, return {episode.rewards[:own].sum():.2f}"
    if own == last:
        told += f": {_end(episode, spec)}"
    draw.text((6, panel.height - 2 * line - 6), told, fill=INK, font=font(line * 0.9))
    under = scene.captions[own] if scene is not None and scene.captions and only is None else ""
    if scene is not None and only is not None:
        seen = scene.seen[own, only] & np.array([shape.role not in ("ground", "wall") for shape in scene.shapes])
        under = "" if seen.any() else "it sees nothing of this"
    if parted is not None and moment > parted:
        mark = ROLES["mark"]
        told = f"first different action: step {parted + 1}"
        draw.text((size - 6, line // 3), told, fill=mark, font=font(line * 0.7), anchor="ra")
        if moment == parted + 1:
            draw.rectangle((0, 0, panel.width - 1, panel.height - 1), outline=mark, width=4)
    draw.text((6, panel.height - line - 4), _cut(under, size, line), fill=INK, font=font(line * 0.9))
    return panel


def _whole(views: Sequence[View]) -> View:
    """What holds all of these parts, so that arms are drawn alike."""
    halves = [np.array([one.width, one.height]) / 2 for one in views]
    low = np.min([one.middle[:2] - half for one, half in zip(views, halves, strict=True)], 0)
    high = np.max([one.middle[:2] + half for one, half in zip(views, halves, strict=True)], 0)
    return View((low + high) / 2, *map(float, high - low))


def _cut(text: str, width: int, line: int) -> str:
    """As much of a text as fits into a line."""
    letters = font(line * 0.9)
    while text and letters.getlength(text) > width - 12:
        text = text[:-2]
    return text


def _end(episode: Episode, spec: TaskSpec) -> str:
    if not episode.ended:
        return "cut off"
    return ("won" if episode.won else "lost") if spec.reports_wins else "the end"


def _beside(panels: Sequence[Image.Image]) -> Image.Image:
    """Panels side by side with a line between them."""
    width, gap = sum(panel.width for panel in panels), 4 * (len(panels) - 1)
    whole = Image.new("RGB", (width + gap, max(panel.height for panel in panels)), ROLES["ground"])
    left = 0
    for panel in panels:
        whole.paste(panel, (left, 0))
        left += panel.width + 4
    return whole
