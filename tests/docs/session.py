"""A page of documentation, read as its reader would: what stands in fences is typed, one block after the other.

    ```console           what follows `$ ` is typed into one shell, which lives as long as the page; the other lines are
                         what must come, `...` standing for anything
    ```console second    in another terminal: its last command goes on until the end of the page, and is ended by Ctrl-C
    ```python            runs in one Python, in the shell's environment
    ```text              what the block of Python before it must have printed

Owns these forms.  Refuses to know which pages there are, and what is running before they begin.
"""

from __future__ import annotations

import io
import os
import re
import select
import signal
import subprocess
import sys
import time
from contextlib import redirect_stdout, suppress
from pathlib import Path
from typing import Final, NamedTuple
from unittest import mock

PATIENCE_S: Final = 60.0
MARK: Final = r"\n-- over: %s\n"
OVER: Final = re.compile(rb"(.*)\n-- over: (\d+)\n", re.DOTALL)
FAILS: Final = ("Error: ", "--- ")
"""How the output of a command begins whose exit status is not 0: a refusal, a difference."""
FENCE: Final = re.compile(r"^```(\w*)( \w+)?\n(.*?)^```$", re.DOTALL | re.MULTILINE)


class Block(NamedTuple):
    """What is in a fence, and in which line of the page it begins."""

    kind: str
    text: str
    line: int


class Step(NamedTuple):
    """A command, and what it prints."""

    command: str
    output: str


def blocks(page: Path) -> list[Block]:
    text = page.read_text()
    return [
        Block(found[1] + (found[2] or ""), found[3], text.count("\n", 0, found.start()) + 2)
        for found in FENCE.finditer(text)
    ]


def steps(block: Block) -> list[Step]:
    """`> ` goes on with the command of the line before."""
    found = re.findall(r"^\$ (.*(?:\n> .*)*)\n((?:(?!\$ ).*\n)*)", block.text, re.MULTILINE)
    assert found, f"line {block.line}: a console without a command"
    return [Step(command.replace("\n> ", "\n"), output) for command, output in found]


def matches(said: str, shown: str) -> bool:
    pattern = ".*".join(map(re.escape, shown.split("...")))
    return re.fullmatch(pattern, said, re.DOTALL) is not None


class Terminal:
    """A bash, and what it prints."""

    def __init__(self, folder: Path, env: dict[str, str], *words: str) -> None:
        self._process: Final = subprocess.Popen(
            ["bash", "--norc", *words],
            bufsize=0,
            cwd=folder,
            env=env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self._said = b""

    def _take(self, end: re.Pattern[bytes]) -> re.Match[bytes]:
        """What it prints up to there."""
        assert self._process.stdout is not None
        deadline = time.monotonic() + PATIENCE_S
        while (found := end.match(self._said)) is None:
            left = max(0.0, deadline - time.monotonic())
            assert select.select([self._process.stdout], [], [], left)[0], f"no end after {self._said!r}"
            some = os.read(self._process.stdout.fileno(), 1 << 16)
            assert some, f"it ended after {self._said!r}"
            self._said += some
        self._said = self._said[found.end() :]
        return found

    def run(self, command: str) -> tuple[str, int]:
        """What it prints, and its exit status; `$?` is the same for the next command."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{command}\n_s=$?; printf '{MARK}' $_s; (exit $_s)\n".encode())
        found = self._take(OVER)
        return found[1].decode(), int(found[2])

    def lines(self, number: int) -> str:
        """The next so many that it prints."""
        return self._take(re.compile(rb"(?:[^\n]*\n){%d}" % number))[0].decode()

    def interrupt(self) -> tuple[str, int]:
        """Ctrl-C; what was printed and not taken yet, and the exit status."""
        self._process.send_signal(signal.SIGINT)
        rest, _ = self._process.communicate(timeout=PATIENCE_S)
        return (self._said + rest).decode(), self._process.returncode

    def close(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        with self._process:
            pass


class Session:
    """Plays a page in a folder."""

    def __init__(self, folder: Path, env: dict[str, str]) -> None:
        self._folder: Final = folder
        self._env: Final = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", **env}
        self._first: Final = Terminal(folder, self._env)
        self._second: Final[list[tuple[Terminal, str, str]]] = []
        self._names: Final[dict[str, object]] = {"__name__": "__page__"}
        self._printed = ""

    def play(self, page: Path) -> None:
        """All of it.  AssertionError: what came is not what is shown."""
        for block in blocks(page):
            where = f"{page.name}, line {block.line}"
            match block.kind:
                case "console":
                    for step in steps(block):
                        self._type(where, step)
                case "console second":
                    self._in_second(where, block)
                case "python":
                    self._python(f"{page}, from line {block.line}", block.text)
                case "text":
                    assert matches(self._printed, block.text), f"{where}: {self._printed}"
        for terminal, where, rest in self._second:
            assert terminal.lines(rest.count("\n")) == rest, where
            assert terminal.interrupt() == ("", 130), where

    def _type(self, where: str, step: Step) -> None:
        said, status = self._first.run(step.command)
        assert matches(said, step.output), f"{where}: $ {step.command}\n{said}"
        assert (status != 0) == step.output.startswith(FAILS), f"{where}: $ {step.command}: status {status}"

    def _in_second(self, where: str, block: Block) -> None:
        """The last command's first line says that it is at work; those before it print nothing."""
        *before, (last, shown) = steps(block)
        terminal = Terminal(
            self._folder, self._env, "-c", "\n".join([*(step.command for step in before), f"exec {last}"])
        )
        first, newline, rest = shown.partition("\n")
        self._second.append((terminal, where, rest))
        assert terminal.lines(1) == first + newline, where

    def _python(self, where: str, text: str) -> None:
        env, _ = self._first.run("env -0")
        there = dict(entry.split("=", 1) for entry in env.split("\0") if entry)
        printed = io.StringIO()
        with mock.patch.dict(os.environ, there), redirect_stdout(printed):
            exec(compile(text, where, "exec"), self._names)
        self._printed = printed.getvalue()

    def close(self) -> None:
        """End both terminals, and what runs in them."""
        for terminal in (self._first, *(terminal for terminal, _, _ in self._second)):
            terminal.close()
