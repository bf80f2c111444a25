"""Records the three commands as they really run, for the top of README: docs/pictures/three-commands.gif.

    python docs/make_recording.py --steps 300000

Runs them in a pseudo-terminal in an empty folder, keeps what they print and when, and draws the terminal with Pillow. A command
that takes longer than a few seconds is shown faster. Where Chromium is and the commands left a report, it is photographed too.
"""

from __future__ import annotations

import argparse
import os
import pty
import select
import shutil
import struct
import subprocess
import sys
import tempfile
import time
from fcntl import ioctl
from pathlib import Path
from termios import TIOCSWINSZ

import pyte
from PIL import Image, ImageColor, ImageDraw, ImageFont

PICTURES = Path(__file__).parent / "pictures"
COLUMNS, ROWS = 92, 26
#: Seconds that one command is shown for at most, frames a second, and seconds that its end stays.
LONGEST, RATE, STAY = 7.0, 6, 2.5
FONTS = ("DejaVuSansMono.ttf", "LiberationMono-Regular.ttf", "Menlo.ttc")
GROUND, INK = "#16161e", "#d5d6db"
COLOURS = {
    "black": "#737aa2", "red": "#f7768e", "green": "#9ece6a", "brown": "#e0af68", "blue": "#7aa2f7", "magenta": "#bb9af7",
    "cyan": "#7dcfff", "white": INK,
}  # fmt: skip

#: What was printed, and how many seconds after the command began.
Events = list[tuple[float, bytes]]


def record(command: str, folder: Path) -> Events:
    """Run a command in a terminal of its own. Raises SystemExit with its code if it fails."""
    child, terminal = pty.fork()
    if not child:
        os.chdir(folder)
        os.environ.update(TERM="xterm-256color", COLUMNS=str(COLUMNS), LINES=str(ROWS))
        os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        os.execvp("sh", ["sh", "-c", f"exec {command}"])
    ioctl(terminal, TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
    begin, events = time.monotonic(), Events()
    while True:
        select.select([terminal], [], [])
        try:
            data = os.read(terminal, 1 << 16)
        except OSError:  # the other end is closed
            data = b""
        if not data:
            break
        events.append((time.monotonic() - begin, data))
    os.close(terminal)
    if code := os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]):
        sys.stdout.buffer.write(b"".join(data for _, data in events))
        raise SystemExit(code)
    return events


def paced(events: Events) -> Events:
    """The same in at most LONGEST seconds."""
    factor = min(1.0, LONGEST / max(events[-1][0], 1e-3)) if events else 1.0
    return [(moment * factor, data) for moment, data in events]


def font(size: int) -> ImageFont.FreeTypeFont:
    for name in FONTS:
        try:
            return ImageFont.truetype(name, size)
        except OSError:
            continue
    raise SystemExit(f"none of {', '.join(FONTS)} is installed; on Debian: apt-get install fonts-dejavu-core")


class Painter:
    """Draws a terminal's screen."""

    def __init__(self, size: int = 13):
        self.font = font(size)
        self.width, self.height = round(self.font.getlength("m")), size + 4

    def __call__(self, screen: pyte.Screen) -> Image.Image:
        image = Image.new("RGB", (COLUMNS * self.width + 16, ROWS * self.height + 16), GROUND)
        draw = ImageDraw.Draw(image)
        for row in range(ROWS):
            for column, cell in screen.buffer[row].items():
                if cell.data != " ":
                    colour = COLOURS.get(cell.fg.removeprefix("bright")) or (
                        f"#{cell.fg}" if len(cell.fg) == 6 else INK
                    )
                    letter = "•" if "\u2800" <= cell.data <= "\u28ff" else cell.data  # no such font has Braille's dots
                    draw.text((8 + column * self.width, 8 + row * self.height), letter, colour, self.font)
        return image


def film(recorded: list[tuple[str, Events]]) -> list[tuple[Image.Image, float]]:
    """Pictures, and how many seconds each stays. Commands are typed, then run; equal pictures in a row are one."""
    screen, paint = pyte.Screen(COLUMNS, ROWS), Painter()
    stream = pyte.ByteStream(screen)
    frames: list[tuple[Image.Image, float]] = []

    def show(seconds: float) -> None:
        image = paint(screen)
        if frames and frames[-1][0].tobytes() == image.tobytes():
            frames[-1] = image, frames[-1][1] + seconds
        else:
            frames.append((image, seconds))

    for command, events in recorded:
        stream.feed(b"\x1b[32m$\x1b[0m ")
        show(0.5)
        for word in command.split(" "):
            stream.feed(f"{word} ".encode())
            show(0.15)
        stream.feed(b"\r\n")
        left = paced(events)
        tick = 0
        while left:
            tick += 1
            while left and left[0][0] <= tick / RATE:
                stream.feed(left.pop(0)[1])
            show(1 / RATE)
        show(STAY)
    return frames


def palette() -> Image.Image:
    """Every colour of the text, and what lies between it and the ground, where letters have their edges."""
    ground, colours = ImageColor.getrgb(GROUND), [ImageColor.getrgb(colour) for colour in {INK, *COLOURS.values()}]
    mixed = [
        round(below + (above - below) * share / 8)
        for colour in colours for share in range(9) for below, above in zip(ground, colour, strict=True)
    ]  # fmt: skip
    image = Image.new("P", (1, 1))
    image.putpalette(mixed)
    return image


def save(frames: list[tuple[Image.Image, float]], file: Path) -> None:
    """One palette for all frames, so that a frame holds only what has changed."""
    images = [image.quantize(palette=palette(), dither=Image.Dither.NONE) for image, _ in frames]
    lengths = [round(seconds * 1000) for _, seconds in frames]
    images[0].save(file, save_all=True, append_images=images[1:], duration=lengths, loop=0, optimize=True)


def photograph(page: Path, part: str, file: Path) -> None:
    """A picture of a page, scrolled to the element of that id, made by Chromium."""
    browser = next((found for name in ("chromium", "google-chrome", "chrome") if (found := shutil.which(name))), None)
    if browser is None:
        print(f"no Chromium here: {file} is left as it is")
        return
    subprocess.run(
        [
            browser, "--headless", "--no-sandbox", "--hide-scrollbars", "--window-size=1200,760",
            "--virtual-time-budget=5000", f"--screenshot={file}", f"{page.as_uri()}#{part}",
        ],
        check=True, stderr=subprocess.DEVNULL,
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=300_000, help="training steps")
    steps = parser.parse_args().steps
    commands = [
        f"agentmixer train smacv2 protoss_5v5 --steps {steps}", "agentmixer export --per-agent onnx",
        "agentmixer deploy-sim",
    ]  # fmt: skip
    PICTURES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        recorded = [(command, record(command, Path(folder))) for command in commands]
        save(film(recorded), PICTURES / "three-commands.gif")
        for page in sorted(Path(folder).glob("bundles/*/reports/report.html")):
            photograph(page, "", PICTURES / "report.png")
            photograph(page, "replay", PICTURES / "replay.png")
    for file in sorted(PICTURES.iterdir()):
        print(f"{file.stat().st_size:>9,}  {file}")


if __name__ == "__main__":
    main()
