"""What a new user sees first: the help of each verb, and what an unknown word is met with."""

from __future__ import annotations

import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import typer
from command_line import segnas

from segnas.cli import main
from segnas.verbs import app

VERBS = [
    *("run", "search", "retrain", "evaluate", "predict", "export", "report", "compare", "latency", "count"),
    *("benchmark", "zoo", "systems"),
]
HELPS = [(), *((verb,) for verb in VERBS), ("data",), ("data", "check")]


@pytest.mark.parametrize("verb", HELPS, ids=" ".join)
def test_help_fits_80_columns_and_its_examples_are_commands(verb: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    answer = segnas(*verb, "--help")
    assert (answer.status, answer.err) == (0, "")
    lines = answer.out.splitlines()
    assert lines[0].startswith(" ".join(("Usage: segnas", *verb)))
    assert max(map(len, lines)) <= 80
    assert "..." not in answer.out.partition("Commands:")[2].partition("Examples:")[0], "no description is cut short"
    assert answer.out == segnas(*verb, "-h").out
    examples = [shlex.split(line)[1:] for line in lines if line.startswith("    segnas ")]
    assert examples or verb in [("zoo",), ("systems",), ("data",)]
    for words in examples:
        command, place = typer.main.get_command(app), 0
        while hasattr(command, "commands"):
            command, place = command.commands[words[place]], place + 1
        if words[place:] != ["--help"]:
            command.make_context(words[place - 1], words[place:])  # raises for an option or an argument that is not there


@pytest.mark.parametrize("words", [(), ("data",)])
def test_no_verb_shows_the_help(words: tuple[str, ...]) -> None:
    answer = segnas(*words)
    assert (answer.status, answer.out) == (0, segnas(*words, "--help").out)


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ("serch auto-deeplab", "'search'?; see segnas --help"),
        ("data chek somewhere", "'check'?; see segnas data --help"),
        ("data check", "'DIR'; see segnas data check --help"),
        ("data check somewhere --jsn", "; see segnas data check --help"),
        ("evaluate", "'RUN'; see segnas evaluate --help"),
        ("predict runs/first", "'IMAGE'; see segnas predict --help"),
        ("run auto-deeplab --dta demo", "--data"),
        ("run auto-deeplab --dta demo", "; see segnas run --help"),
        ("count auto-deeplab-s --classes 0", "'--classes'"),
        ("count auto-deeplab-s --classes many", "'--classes'"),
        ("search auto-deeplab --out", "--out"),
        ("--verbose", "--verbose; see segnas --help"),
    ],
)
def test_a_mistyped_command_is_one_line(words: str, complaint: str) -> None:
    assert complaint in segnas(*words.split()).complaint


def test_ctrl_c_before_there_is_anything_to_save(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(name: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("segnas.data.check.check", interrupted)
    answer = segnas("data", "check", "demo")
    assert (answer.status, answer.out, answer.err) == (130, "", "segnas: stopped\n")


PRESSED = """
import os, runpy, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell ignores it for what it starts in the background
class Finder:
    def find_spec(self, name, *others):
        if name == "torch":
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Finder())
sys.argv = ["segnas", "systems"]
"""
STARTS = {
    "python -m segnas": "runpy.run_module('segnas', run_name='__main__')",
    "segnas": "import importlib; module, name = '{script}'.split(':'); getattr(importlib.import_module(module), name)()",
}


@pytest.mark.parametrize("start", STARTS)
def test_ctrl_c_while_torch_is_loaded_is_one_line(start: str) -> None:
    project = tomllib.loads((Path(__file__).resolve().parents[2] / "pyproject.toml").read_text())["project"]
    words = [sys.executable, "-c", PRESSED + STARTS[start].format(script=project["scripts"]["segnas"])]
    answer = subprocess.run(words, capture_output=True, text=True, timeout=60)
    assert (answer.returncode, answer.stdout, answer.stderr) == (130, "", "segnas: stopped\n")


def test_an_error_of_our_own_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(name: str) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("segnas.data.check.check", wrong)
    with pytest.raises(ZeroDivisionError):
        main(["data", "check", "demo"])
