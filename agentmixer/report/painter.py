"""One moment of a scene as a picture, with Pillow."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from agentmixer.tasks.scene import Scene, Shape

Colour = tuple[int, int, int]

PAPER, INK = (250, 250, 247), (40, 44, 52)
#: What agents are told apart by, again from the first one when there are more.
AGENTS: tuple[Colour, ...] = (
    (31, 99, 176), (0, 133, 119), (122, 78, 171), (88, 122, 20), (0, 122, 165), (150, 90, 40), (84, 92, 180), (60, 130, 80),
)  # fmt: skip
ROLES: dict[str, Colour] = {
    "other": (196, 62, 48), "goal": (222, 160, 30), "wall": (110, 114, 122), "ground": (218, 219, 214), "mark": (226, 110, 20),
}  # fmt: skip
HEALTHY, LOST = (70, 160, 70), (205, 205, 200)
#: Pictures are drawn so many times larger and then made smaller, which smooths edges.
FINER = 2
#: From where a figure in three dimensions is looked at: turned about the vertical, and from above. Degrees.
TURNED, ABOVE = 20.0, 15.0


class View(NamedTuple):
    """The part of a scene that a picture shows, in the scene's units: its middle, width and height."""

    middle: np.ndarray
    width: float
    height: float


def view(scene: Scene) -> View:
    """The part of a scene in which anything is ever shown; all of a scene in three dimensions."""
    if scene.centre is not None:
        return View(np.zeros(3), 2 * scene.width, 2 * scene.height)
    kinds = np.array([shape.kind for shape in scene.shapes])[:, None]
    sizes = np.array([shape.size for shape in scene.shapes])[:, None]
    ends = np.where(kinds == "line", scene.to, scene.at)
    half = np.where(kinds == "rectangle", scene.to / 2, np.where(kinds == "line", 0.0, sizes))
    letters = np.array([0.3 * len(shape.label) if shape.kind == "text" else 0.0 for shape in scene.shapes])
    half[..., 0] += letters * sizes[:, 0]
    shown = scene.shown
    low = np.minimum(scene.at, ends)[shown] - np.broadcast_to(half, scene.at.shape)[shown]
    high = np.maximum(scene.at, ends)[shown] + np.broadcast_to(half, scene.at.shape)[shown]
    whole = np.array([scene.width, scene.height])
    if not len(low):
        return View(whole / 2, scene.width, scene.height)
    # Beside them stays some room for bars and names, and nothing is drawn very large.
    first, last = np.maximum(low.min(0) - 0.03 * whole, 0), np.minimum(high.max(0) + 0.06 * whole, whole)
    wide, high_ = np.maximum(last - first, whole / 3)
    return View((first + last) / 2, float(wide), float(high_))


def paint(scene: Scene, moment: int, part: View, width: int, height: int, only: int | None = None) -> Image.Image:
    """A part of a scene at a moment, fitted into width x height pixels. only: the agent of which only what it sees is
    drawn."""
    size = (width * FINER, height * FINER)
    image = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(image, "RGBA")
    at, to, depth, scale = _placed(scene, moment, part, size)
    shown = scene.shown[moment] & (True if only is None else scene.seen[moment, only])
    if only is not None and np.isfinite(scene.sight[only]):
        _sight(draw, scene, moment, at, scale, only)
    for k in np.argsort(depth, kind="stable"):
        if shown[k]:
            _shape(draw, scene.shapes[k], at[k], to[k], float(scene.level[moment, k]), scale)
            if scene.centre is None:
                _kind(draw, scene.shapes[k], at[k], scale)
    return image.resize((width, height), Image.Resampling.BOX)


def fitted(frame: np.ndarray, width: int, height: int) -> Image.Image:
    """A picture that an environment rendered, [H, W, 3], in the middle of width x height pixels."""
    image = Image.fromarray(frame)
    factor = min(width / image.width, height / image.height)
    small = image.resize((max(1, round(image.width * factor)), max(1, round(image.height * factor))))
    paper = Image.new("RGB", (width, height), PAPER)
    paper.paste(small, ((width - small.width) // 2, (height - small.height) // 2))
    return paper


def colour(shape: Shape) -> Colour:
    """A shape's colour: an agent's own, else its role's."""
    if shape.role == "agent":
        return AGENTS[(shape.agent or 0) % len(AGENTS)]
    return ROLES[shape.role]


def font(height: float) -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    """Letters so many pixels high."""
    return ImageFont.load_default(max(6.0, height))


def _placed(
    scene: Scene, moment: int, part: View, size: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """Places [K, 2] of shapes and of their ends in pixels, the order to draw them in, and pixels for a unit."""
    at, to = scene.at[moment].astype(np.float64), scene.to[moment].astype(np.float64)
    if scene.centre is None:
        scale, middle = min(size[0] / part.width, size[1] / part.height) * 0.96, part.middle
        flip = np.array([scale, -scale])
        sizes = np.array([shape.kind == "rectangle" for shape in scene.shapes])
        ends = np.where(sizes[:, None], to * scale, (to - middle) * flip + np.array(size) / 2)
        return (at - middle) * flip + np.array(size) / 2, ends, np.zeros(len(at)), scale
    turned, above = np.radians([TURNED, ABOVE])
    right = np.array([np.cos(turned), np.sin(turned), 0.0])
    away = np.array([-np.sin(turned) * np.cos(above), np.cos(turned) * np.cos(above), -np.sin(above)])
    seen = np.stack([right, -np.cross(right, away)])  # rows: to the right, downwards
    scale = min(size) / max(part.width, part.height)
    near = [(points - scene.centre[moment]) @ seen.T * scale + np.array(size) / 2 for points in (at, to)]
    far = (at - scene.centre[moment]) @ -away
    grounds = np.array([shape.role == "ground" for shape in scene.shapes])
    return near[0], near[1], np.where(grounds, -np.inf, far), scale


def _sight(draw: ImageDraw.ImageDraw, scene: Scene, moment: int, at: np.ndarray, scale: float, only: int) -> None:
    for k, shape in enumerate(scene.shapes):
        if shape.kind == "circle" and shape.agent == only and scene.shown[moment, k]:
            reach = float(scene.sight[only]) * scale
            draw.ellipse(_box(at[k], reach, reach), fill=(255, 255, 255), outline=ROLES["wall"], width=FINER)


def _shape(draw: ImageDraw.ImageDraw, shape: Shape, at: np.ndarray, to: np.ndarray, level: float, scale: float) -> None:
    ink, size = colour(shape), shape.size * scale
    if shape.kind == "rectangle":
        strength = round(255 * level) if np.isfinite(level) else 255
        draw.rectangle(_box(at, to[0] / 2, to[1] / 2), fill=(*ink, strength), outline=ink if strength < 255 else None)
    elif shape.kind == "line":
        draw.line([*at, *to], fill=ink, width=max(FINER, round(size)))
        if size > 3 * FINER:
            for end in (at, to):
                draw.ellipse(_box(end, size / 2, size / 2), fill=ink)
    elif shape.kind == "text":
        draw.text((at[0], at[1]), shape.label, fill=INK, anchor="mm", font=font(size))
    elif shape.role == "mark":
        draw.ellipse(_box(at, size, size), outline=ink, width=max(2 * FINER, round(size / 8)))
    else:
        draw.ellipse(_box(at, size, size), fill=ink)
        if shape.agent is not None and size > 6 * FINER:
            draw.text((at[0], at[1]), str(shape.agent), fill=PAPER, anchor="mm", font=font(size))
        if np.isfinite(level):
            _bar(draw, at, size, level)


def _kind(draw: ImageDraw.ImageDraw, shape: Shape, at: np.ndarray, scale: float) -> None:
    """Below a circle, what its label says behind the comma: a unit's type, or how big an agent is."""
    if shape.kind == "circle" and "," in shape.label and shape.size * scale > 6 * FINER:
        kind = shape.label.rpartition(", ")[2]
        draw.text((at[0], at[1] + shape.size * scale), kind, fill=ROLES["wall"], anchor="mt", font=font(8.0 * FINER))


def _bar(draw: ImageDraw.ImageDraw, at: np.ndarray, size: float, level: float) -> None:
    """A bar above a circle, full at level 1."""
    half, thick, top = max(size, 6.0 * FINER), 2.0 * FINER, at[1] - size - 5 * FINER
    draw.rectangle((at[0] - half, top, at[0] + half, top + thick), fill=LOST)
    draw.rectangle((at[0] - half, top, at[0] - half + 2 * half * min(1.0, max(0.0, level)), top + thick), fill=HEALTHY)


def _box(at: np.ndarray, half_width: float, half_height: float) -> tuple[float, float, float, float]:
    return at[0] - half_width, at[1] - half_height, at[0] + half_width, at[1] + half_height
