"""One Xen host: QEMU, what its console says, and how its scenarios ended.

Owns the process and the marks in its output (FX-BEGIN, FX-END).  QEMU emulates the CPU: neither KVM nor root is needed.
"""

from __future__ import annotations

import re
import subprocess
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Final, NamedTuple

from tests.xen.parts import Parts

__all__ = ["STORES", "Machine", "Result", "shell"]

STORES: Final = ("fastxs", "c", "ox")

MEMORY_MIB: Final = 2048
DOM0_MIB: Final = 1024
TAIL: Final = 60
"""Console lines that a failure shows."""


class Result(NamedTuple):
    """How a scenario ended: its exit status (None: it never ended), all that it said, and how long it took."""

    status: int | None
    lines: tuple[str, ...]
    seconds: float

    def shown(self) -> list[str]:
        """The lines that every XenStore daemon must lead to."""
        return [line.removeprefix("= ") for line in self.lines if line.startswith("= ")]

    def tail(self) -> str:
        return "\n".join(self.lines[-TAIL:])


class Machine:
    """A host that runs these scenarios one after the other, with this XenStore daemon, and powers off.

    `log` gets the console, each line with the seconds since the start.  `run` is for a thread of its own, the other
    methods are for any.
    """

    def __init__(
        self, parts: Parts, dom0: Path, log: Path, scenarios: Sequence[str], *, store: str = "fastxs", cpus: int = 1
    ) -> None:
        self._command = _qemu(parts, dom0, f"fx.run={','.join(scenarios)} fx.store={store}", cpus)
        self._command += ["-serial", "stdio", "-monitor", "none"]
        self._log = log
        self._results: dict[str, Result] = {}
        self._process: subprocess.Popen[bytes] | None = None
        self._changed = threading.Condition()
        self._over = False

    def run(self) -> None:
        """Boot, and return when the host is off."""
        try:
            with self._changed:
                if self._over:
                    return
                self._process = subprocess.Popen(
                    self._command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
                )
            with self._process as process:
                assert process.stdout is not None
                self._read(process.stdout)
        finally:
            with self._changed:
                self._over = True
                self._changed.notify_all()

    def stop(self) -> None:
        """Pull the plug; a host that was not booted yet never will be."""
        with self._changed:
            self._over = True
            if self._process is not None:
                self._process.kill()

    def result(self, scenario: str, timeout_s: float) -> Result:
        """How it ended, as soon as it has; status None and all of the console where the host was off first."""
        with self._changed:
            self._changed.wait_for(lambda: self._over or scenario in self._results, timeout_s)
            if scenario in self._results:
                return self._results[scenario]
        console = self._log.read_text(errors="replace") if self._log.exists() else "QEMU did not start"
        return Result(None, tuple(console.splitlines()), 0.0)

    def _read(self, console: IO[bytes]) -> None:
        start = begun = time.monotonic()
        lines: list[str] = []
        with self._log.open("w", buffering=1) as log:
            for raw in console:
                line = raw.decode(errors="replace").rstrip()
                log.write(f"[{time.monotonic() - start:7.2f}] {line}\n")
                if line.startswith("FX-BEGIN "):
                    begun, lines = time.monotonic(), []
                elif end := re.fullmatch(r"FX-END (\S+) (\d+)", line):
                    with self._changed:
                        self._results[end[1]] = Result(int(end[2]), tuple(lines), time.monotonic() - begun)
                        self._changed.notify_all()
                else:
                    lines.append(line)


def shell(parts: Parts, dom0: Path, *, store: str = "fastxs", cpus: int = 1) -> None:
    """A dom0 shell on this terminal; ctrl-a x ends it."""
    console = ["-chardev", "stdio,id=c,mux=on,signal=off", "-serial", "chardev:c", "-mon", "chardev=c"]
    subprocess.run(_qemu(parts, dom0, f"fx.store={store}", cpus) + console, check=False)


def _qemu(parts: Parts, dom0: Path, arguments: str, cpus: int) -> list[str]:
    xen = f"com1=115200,8n1 console=com1 no-real-mode edd=off sched=credit dom0_max_vcpus={cpus}"
    xen += f" dom0_mem={DOM0_MIB}M,max:{DOM0_MIB}M loglvl=warning guest_loglvl=warning"
    # What an emulated CPU takes seconds for, and nobody here needs, is off.
    kernel = "console=hvc0 loglevel=4 panic=1 rodata=off ipv6.disable=1 cryptomgr.notests"
    return [
        "qemu-system-x86_64",
        # With SMAP, as `max` has it, dom0 dies at once; npt is what PVH guests need.
        "-machine", "pc", "-cpu", "qemu64,+npt", "-accel", f"tcg,thread={'single' if cpus == 1 else 'multi'}",
        "-smp", str(cpus), "-m", str(MEMORY_MIB), "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
        "-kernel", str(parts.hypervisor), "-append", xen,
        "-initrd", f"{parts.kernel} {kernel} {arguments.replace(',', ',,')},{dom0}",
    ]  # fmt: skip
