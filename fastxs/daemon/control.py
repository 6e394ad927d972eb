"""CONTROL: what `xenstore-control` asks of the daemon.  Replies are C xenstored's, byte for byte (SPEC 6.3), but for
`turns`, `fastxs-check` and `commit`, which are ours.

Owns the commands' names, arguments and texts; what they look at belongs to the Engine and the trace file.  Who may
ask is decided before anything comes here.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, NamedTuple

from fastxs._core import ControlError
from fastxs.daemon.config import SWITCHES
from fastxs.daemon.logs import TraceFile, log, open_to_append, printable

if TYPE_CHECKING:
    from fastxs._core import Engine
    from fastxs.daemon.update import LiveUpdate

__all__ = ["COMMANDS", "Control"]

OK: Final = "OK"

ANSWER_MAX: Final = 4000
"""Bytes of faults in an answer; what may be in it is a little more (SPEC 1.1)."""

SOFT_PREFIX: Final = "soft-"
"""`soft-memory` is a quota of its own to the Engine; `quota-soft` shows and sets it as `memory`."""


class Control:
    """Answers CONTROL requests; an instance is the Engine's `control` callback."""

    def __init__(self) -> None:
        self.engine: Engine
        self.trace: TraceFile
        self.update: LiveUpdate | None = None
        self.conn_id = 0

    def __call__(self, conn_id: int, domid: int, words: list[bytes]) -> bytes | None:
        """The reply's payload, its closing NUL included, or None: later; ControlError carries the error word."""
        if not words:
            raise ControlError("EINVAL")
        name, *arguments = map(os.fsdecode, words)  # loses no byte: a file's name goes back to the kernel as it came
        command = COMMANDS.get(name)
        if command is None or not command.least <= len(arguments) <= command.most:
            raise ControlError("EINVAL")
        log.debug("control", conn_id=conn_id, domid=domid, words=[printable(word) for word in words])
        self.conn_id = conn_id
        answer = command.answer(self, *arguments)
        return None if answer is None else os.fsencode(answer) + b"\0"

    def check(self) -> str:
        self.fastxs_check()
        return OK

    def fastxs_check(self) -> str:
        """As `check`, for those who want to know what it found: a fault in each line."""
        faults = self.engine.check()
        for fault in faults:
            log.error("check found a fault", fault=fault)
        log.info("store checked", faults=len(faults))
        return _lines(faults)

    def log(self, *change: str) -> str:
        trace = self.trace
        if not change:
            lines = (f"{name:<8s}: {'on' if name in trace.switches else 'off'}\n" for name in SWITCHES)
            return "Log switch settings:\n" + "".join(lines)
        if change[0] == "on":
            self._open(None)
        elif change[0] == "off":
            trace.close()
        else:
            try:
                trace.switch(change[0])
            except ValueError:
                raise ControlError("EINVAL") from None
        return OK

    def logfile(self, path: str) -> str:
        self._open(path)
        return OK

    def _open(self, path: str | None) -> None:
        # C answers OK here whatever happens to the file; the log says what did.
        try:
            self.trace.open(path)
        except (OSError, ValueError) as error:
            log.error("cannot open the trace file", error=_shown(error))

    def memreport(self, *path: str) -> str:
        report = "".join(f"{name:<24s}: {size:12d} bytes\n" for name, size in self.engine.memory().items())
        try:
            if path:
                with open(open_to_append(self.trace.name(path[0]), 0o644), "w") as file:
                    file.write(report)
            elif not self.trace.write(report):
                raise ControlError("EINVAL")
        except (OSError, ValueError) as error:
            log.error("cannot write the memory report", error=_shown(error))
            raise ControlError("EINVAL") from None
        return OK

    def print(self, text: str) -> str:
        log.info("control", text=printable(os.fsencode(text)))
        return OK

    def quota(self, *words: str) -> str:
        match words:
            case ():
                return self._limits(soft=False)
            case ("set", name, value):
                return self._set(name, value, soft=False)
            case ("max",):
                return self._highest(reset=False)
            case ("max", "-r"):
                return self._highest(reset=True)
            case (domid,) if domid != "set":
                return self._accounts(_c_int(domid))
            case _:
                raise ControlError("EINVAL")

    def quota_soft(self, *words: str) -> str:
        match words:
            case ():
                return self._limits(soft=True)
            case ("set", name, value):
                return self._set(SOFT_PREFIX + name, value, soft=True)
            case _:
                raise ControlError("EINVAL")

    def _limits(self, *, soft: bool) -> str:
        engine = self.engine
        return "Quota settings:\n" + "".join(
            f"{name.removeprefix(SOFT_PREFIX):<17s}: {engine.get_quota(name):8d} {engine.quota_text(name)}\n"
            for name in engine.quota_names()
            if name.startswith(SOFT_PREFIX) == soft
        )

    def _set(self, name: str, value: str, *, soft: bool) -> str:
        number = _c_int(value)
        if name not in self.engine.quota_names() or name.startswith(SOFT_PREFIX) != soft or number < 1:
            raise ControlError("EINVAL")
        self.engine.set_quota(name, number)
        log.info("quota set", quota=name, value=number)
        return OK

    def _accounts(self, domid: int) -> str:
        try:
            accounts = self.engine.accounts(domid)
        except (LookupError, ValueError, OverflowError):
            raise ControlError("ENOENT") from None
        return f"Domain {domid}:\n" + "".join(
            f"{name:<17s}: {now:8d} (max {highest:8d})\n"
            for name, (now, highest) in accounts.items()
            if not name.startswith(SOFT_PREFIX)  # a second limit, not a second account
        )

    def _highest(self, *, reset: bool) -> str:
        highest = self.engine.highest_accounts(reset=reset)
        return "Max. seen accounting values:\n" + "".join(
            f"{name:<17s}: {n:8d}\n" for name, n in highest.items() if not name.startswith(SOFT_PREFIX)
        )

    def turns(self, *switch: str) -> str:
        if switch:
            if switch[0] not in ("on", "off"):
                raise ControlError("EINVAL")
            self.engine.count_spans(switch[0] == "on")
            return OK
        counted, spans, longest = self.engine.spans()
        lines = (f"below {end:10d} ns: {count:12d}\n" for end, count in spans.items())
        return f"Turns are {'' if counted else 'not '}timed.\n" + "".join(lines) + f"longest {longest:8d} ns\n"

    def live_update(self, *words: str) -> str | None:
        if self.update is None:
            return "Live update needs an image, and --durability none has none."
        return self.update(self.conn_id, list(words))

    def commit(self) -> str:
        raised = self.engine.offer_features()
        log.info("all features are offered", domains=raised)
        return f"{raised} domains are offered all features now.\n"

    def help(self) -> str:
        return "".join(f"{name}\t{command.arguments}\n" for name, command in COMMANDS.items())


class Command(NamedTuple):
    """One row of the table: who answers, how many arguments at least and at most, what `help` says of them."""

    answer: Callable[..., str | None]
    least: int
    most: int
    arguments: str


COMMANDS: Final[dict[str, Command]] = {
    "check": Command(Control.check, 0, 0, ""),
    "log": Command(Control.log, 0, 1, "[on|off|+<switch>|-<switch>]"),
    "live-update": Command(
        Control.live_update, 1, 99, "[-c <cmdline>] [-F] [-t <timeout>] <file>\n    Default timeout is 60 seconds."
    ),
    "logfile": Command(Control.logfile, 1, 1, "<file>"),
    "memreport": Command(Control.memreport, 0, 1, "[<file>]"),
    "print": Command(Control.print, 1, 1, "<string>"),
    "quota": Command(Control.quota, 0, 3, "[set <name> <val>|<domid>|max [-r]]"),
    "quota-soft": Command(Control.quota_soft, 0, 3, "[set <name> <val>]"),
    "turns": Command(Control.turns, 0, 1, "[on|off]\n    A histogram of the CPU time of a turn's pieces."),
    "fastxs-check": Command(Control.fastxs_check, 0, 0, "\n    As check; the faults, one a line."),
    "commit": Command(Control.commit, 0, 0, "\n    Offers all features to the domains that were taken over."),
    "help": Command(Control.help, 0, 0, ""),
}


def _lines(faults: list[str]) -> str:
    """As many as an answer holds."""
    text = ""
    for shown, fault in enumerate(faults):
        if len(text) + len(fault) > ANSWER_MAX:
            return f"{text}and {len(faults) - shown} more: they are in the log\n"
        text += f"{fault}\n"
    return text


def _shown(error: Exception) -> str:
    return printable(os.fsencode(str(error)))


def _c_int(text: str) -> int:
    """What C's atoi() makes of it, wrap-around of 32 bits included: that is how xenstored reads these numbers."""
    digits = re.match(r"[ \t\n\v\f\r]*([+-]?[0-9]+)", text)
    number = max(-(2**63), min(2**63 - 1, int(digits[1]))) if digits else 0
    return (number + 2**31) % 2**32 - 2**31
