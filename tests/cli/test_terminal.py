"""Nothing that somebody else wrote reaches the terminal as anything but text."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path

import pytest
from agentmixer_cli.app import app
from agentmixer_cli.terminal import Terminal
from commands import agentmixer
from conftest import make_run
from hostile import spell
from made_bundle import made_bundle
from rich.table import Table
from rich.text import Text
from typer.testing import CliRunner

from agentmixer.errors import printable

#: Clears the screen, sets the title, turns the writing around, and rings.
EVIL = "\x1b[2J\x1b]0;owned\x07\u202egnp.exe\x9b31m\x00"
COMMANDS = Path(__file__).parents[2] / "cli" / "agentmixer_cli"


def test_what_is_not_printable_is_spelled_out() -> None:
    assert printable(EVIL) == r"\x1b[2J\x1b]0;owned\x07\u202egnp.exe\x9b31m\x00"
    assert printable("a\nb\tc\r") == "a b c "
    assert printable("\udcff") == r"\udcff"  # how Python holds a byte of a file name that is not UTF-8
    assert printable("Grüße, 漢字 🙂") == "Grüße, 漢字 🙂"


@pytest.mark.parametrize("what", [EVIL, Text(EVIL), f"two\n{EVIL}"], ids=["text", "styled", "lines"])
def test_a_terminal_shows_and_does_not_obey(what: str | Text) -> None:
    out = io.StringIO()
    terminal = Terminal(file=out, force_terminal=True, color_system="standard", width=300)
    terminal.print(what, style="bold red", markup=False, highlight=False)
    table = Table(title=EVIL)
    table.add_column(EVIL)
    table.add_row(EVIL)
    terminal.print(table)
    shown = out.getvalue()
    assert "\x1b[1;31m" in shown  # colours are Rich's own
    left = re.sub(r"\x1b\[[0-9;]*m", "", shown)
    assert left.count(r"\x1b[2J") == 4
    assert all(letter.isprintable() or letter == "\n" for letter in left)


def test_a_link_in_foreign_markup_leads_nowhere() -> None:
    out = io.StringIO()
    terminal = Terminal(file=out, force_terminal=True, color_system="standard", width=300)
    terminal.print("[link=\x1bcX]d[/link]")
    assert out.getvalue() == "d\n"


def test_a_strangers_run_does_not_spoil_the_list(tmp_path: Path) -> None:
    """Its preset is a link, or markup that ends nothing."""
    for i, preset in enumerate(("[link=\\u001bcX]d[/link]", "[/x]")):
        config = make_run(tmp_path / "runs" / str(i)).path / "config.toml"
        config.write_text(config.read_text().replace('preset = "default"', f'preset = "{preset}"'))
    shown = CliRunner().invoke(app, ["runs", "--root", str(tmp_path / "runs")], env={"COLUMNS": "200"})
    assert shown.exit_code == 0
    assert "[/x]" in shown.output
    assert "[link=" in shown.output
    assert all(letter.isprintable() or letter == "\n" for letter in shown.output)


def test_what_is_no_terminal_has_80_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    out = io.StringIO()
    terminal = Terminal(file=out)
    path = "runs/" + "x" * 90
    terminal.sentence(f"ok   {'word ' * 13}return 1.23 [-0.05, 2.51], see {path}; {'and ' * 20}so on", indent=5)
    lines = out.getvalue().splitlines()
    assert [line for line in lines if len(line) > 80] == [f"     {path};"]
    assert all(line.startswith(("ok   ", "     ")) for line in lines)
    assert any("[-0.05, 2.51]," in line for line in lines)  # in one line, though its brackets hold a space


def test_every_command_prints_on_it() -> None:
    """No command makes a console of its own or writes text from elsewhere past it."""
    for file in COMMANDS.glob("*.py"):
        text = file.read_text()
        if file.name != "terminal.py":
            assert not re.search(
                r"\bConsole\(|\bprint\(f|sys\.std(out|err)\.write", text.replace("console.print(f", "")
            ), file
            for echoed in re.findall(r"typer\.echo\(([^\n]*)", text):
                assert re.match(r"json\.dumps|\w+\.to_json\(|f?\"agentmixer |$", echoed), (file, echoed)


def test_names_of_files_and_scenarios_are_text(tmp_path: Path) -> None:
    name = EVIL.replace("\0", "")
    bundle = made_bundle(tmp_path / name)
    (bundle / "agents" / "a" / name).touch()
    team = json.loads((bundle / "team.json").read_text())
    team["task"]["scenario"] = team["source"]["run"] = name
    (bundle / "team.json").write_bytes(spell(team))
    for arguments in (["verify", name], ["verify", name + "x"], ["evaluate", name]):
        result = agentmixer(*arguments, cwd=tmp_path)
        assert result.returncode in (1, 2), result
        shown = result.stdout + result.stderr
        assert r"\x1b[2J" in shown
        assert all(letter.isprintable() or letter == "\n" for letter in shown), shown
