"""On what a comparison ran: the machine, the daemons' versions, who else used it meanwhile.

Owns what is worth knowing of them.  Refuses to judge it.
"""

from __future__ import annotations

import os
import platform
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from fastxs import __version__
from fastxs.bench.daemons import Daemon, Running
from fastxs.hypervisor.host import BINARIES

__all__ = ["Meanwhile", "machine", "version"]

ROOT: Final = Path(__file__).resolve().parents[2]
TICK_S: Final = 1 / os.sysconf("SC_CLK_TCK")


def _line(path: str | Path) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""


def _said(*command: str) -> str:
    """The first line that a program says; nothing if there is no such program, or it fails."""
    if not shutil.which(command[0]):
        return ""
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    return "" if done.returncode else done.stdout.partition("\n")[0].strip()


def _cpu(name: str) -> str:
    entries = (entry.partition(":") for entry in _line("/proc/cpuinfo").splitlines())
    return next((value.strip() for key, _, value in entries if key.strip() == name), "")


def _virtualisation() -> str:
    """What systemd calls it; or what else gives a hypervisor away."""
    if kind := _said("systemd-detect-virt"):
        return kind
    if kind := _line("/sys/hypervisor/type"):
        return kind
    if "hypervisor" in _cpu("flags").split():
        return _line("/sys/class/dmi/id/sys_vendor") or "a hypervisor's guest"
    return "none"


def machine(cpus: Sequence[int]) -> dict[str, object]:
    """Name -> value of what may explain a figure; `cpus` are those of the daemons and of the load."""
    governors = {_line(f"/sys/devices/system/cpu/cpu{cpu}/cpufreq/scaling_governor") for cpu in cpus} - {""}
    return {
        "cpu": _cpu("model name") or platform.machine(),
        "cpus": os.cpu_count(),
        "daemons on CPU": cpus[0],
        "load on CPU": cpus[-1],
        "governor": ", ".join(sorted(governors)) or "not told",
        "virtualisation": _virtualisation(),
        "memory MiB": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGESIZE") >> 20,
        "kernel": platform.release(),
        "python": sys.version.split()[0],
        "load average at the start": round(os.getloadavg()[0], 2),
    }


def version(daemon: Daemon | Running) -> str:
    """Of a daemon: ours and its commit, or the package that its program came in."""
    if isinstance(daemon, Running):
        return f"process {daemon.pid}: {_line(f'/proc/{daemon.pid}/comm')}"
    program = daemon.program or BINARIES.get(daemon.kind)
    if program is None:
        commit = _said("git", "-C", str(ROOT), "describe", "--always", "--dirty") if (ROOT / ".git").exists() else ""
        return f"{__version__}, commit {commit}" if commit else __version__
    package = _said("dpkg-query", "--search", str(program)).partition(":")[0]
    found = _said("dpkg-query", "--show", "--showformat=${Package} ${Version}\\n", package) if package else ""
    return found or str(program)


class Meanwhile:
    """Who used the CPUs from its making on: `share` is what others had, other guests of the hypervisor included."""

    def __init__(self) -> None:
        self._begun, self._before = time.monotonic(), self._used()

    def _used(self) -> Mapping[str, float]:
        fields = [float(ticks) * TICK_S for ticks in _line("/proc/stat").splitlines()[0].split()[1:]]
        user, nice, system, _idle, _wait, irq, softirq, steal, *_ = fields
        own = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
        return {
            "busy": user + nice + system + irq + softirq,
            "steal": steal,
            "own": sum(usage.ru_utime + usage.ru_stime for usage in own),
        }

    def share(self) -> float:
        """0..1 of the machine's time.  Only children that have ended are known to be ours: ask at the end."""
        now, before = self._used(), self._before
        busy, steal, own = (now[name] - before[name] for name in ("busy", "steal", "own"))
        return max(0.0, busy - own + steal) / ((time.monotonic() - self._begun) * (os.cpu_count() or 1))
