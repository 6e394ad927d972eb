"""`python -m tests.xen`: scenarios on a Xen host under QEMU, by hand."""

from __future__ import annotations

import argparse
import sys
import threading
from pathlib import Path
from typing import Final

from tests.xen.image import write_dom0
from tests.xen.machine import STORES, Machine, shell
from tests.xen.parts import CACHE, Missing, parts

SCENARIO_TIMEOUT_S: Final = 900.0


def main() -> int:
    """The exit status is that of the first scenario that failed; 125: one never ended."""
    reader = argparse.ArgumentParser(prog="python -m tests.xen", description=main.__doc__)
    reader.add_argument("scenario", nargs="*", help="without one: a dom0 shell")
    reader.add_argument("--store", choices=STORES, default="fastxs", help="dom0's XenStore daemon (fastxs)")
    reader.add_argument("--cpus", type=int, default=1)
    reader.add_argument("--log", type=Path, default=CACHE / "console.log", help="the console goes there")
    asked = reader.parse_args()
    dom0 = CACHE / "dom0.cpio"
    try:
        found = parts()
        write_dom0(found, dom0)
    except Missing as missing:
        print(f"no Xen host: {missing}", file=sys.stderr)
        return 2
    if not asked.scenario:
        shell(found, dom0, store=asked.store, cpus=asked.cpus)
        return 0
    machine = Machine(found, dom0, asked.log, asked.scenario, store=asked.store, cpus=asked.cpus)
    host = threading.Thread(target=machine.run)
    host.start()
    try:
        for scenario in asked.scenario:
            result = machine.result(scenario, SCENARIO_TIMEOUT_S)
            print(f"{scenario}: status {result.status}, {result.seconds:.1f} s", flush=True)
            if result.status != 0:
                print(result.tail())
                return 125 if result.status is None else result.status
        return 0
    finally:
        machine.stop()
        host.join()


if __name__ == "__main__":
    sys.exit(main())
