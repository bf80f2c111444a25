"""Pictures of an environment that renders them, taken while it is stepped."""

from __future__ import annotations

from typing import Any

import numpy as np

#: Most pixels of a picture either way. A larger picture is made smaller by a whole number.
MOST = 160


class Pictures:
    """See `tasks.base.Pictures`."""

    wanted = False
    now: np.ndarray | None = None
    final: np.ndarray | None = None

    def take(self, env: Any, start: bool) -> None:
        """Take the picture of a moment, if it is wanted and the environment was made with render_mode="rgb_array".

        start: of an episode, so that `final` stays the end of the one before."""
        if not self.wanted or getattr(env, "render_mode", None) != "rgb_array":
            return
        self.now = smaller(np.asarray(env.render()))
        if not start:
            self.final = self.now


def smaller(picture: np.ndarray) -> np.ndarray | None:
    """A picture [H, W, 3] uint8 of at most MOST pixels either way: each pixel is the mean of a square of its pixels. None if
    it is no such picture."""
    if picture.ndim != 3 or picture.shape[2] != 3 or picture.dtype != np.uint8 or not picture.size:
        return None
    by = -(-max(picture.shape[:2]) // MOST)
    height, width = (max(1, size // by) for size in picture.shape[:2])
    squares = picture[: height * by, : width * by]
    if squares.shape[:2] != (height * by, width * by):  # thinner than a square
        return np.ascontiguousarray(picture[::by, ::by])
    return squares.reshape(height, by, width, by, 3).mean((1, 3)).astype(np.uint8)
