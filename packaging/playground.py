"""What ./run starts: the daemon on the pretend hypervisor, simulated guests that talk to it, and what to try.

Owns the life of these processes and of their files, and leaves nothing behind: no child, no file in
/dev/shm.  Refuses to know how a daemon or a guest is started in detail; `fastxs.hypervisor.host` does.
"""

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from fastxs.hypervisor import simxen
from fastxs.hypervisor.host import Host, HostError

CHECKOUT = Path(__file__).resolve().parent.parent
LONGEST_SOCKET = 107  # bytes: sun_path of a unix socket's address, less the final NUL
WITH_PARENT = ("setpriv", "--pdeathsig", "TERM", "--") if shutil.which("setpriv") else ()  # should we be killed

TRY = """
{guests} simulated guests are talking to fastxsd (process {pid}); the socket is
    {socket}
Try, in another terminal:
    export XENSTORED_PATH={socket}
    xenstore-ls                     # Debian's own clients (package xenstore-utils){absent}
    xenstore-watch /local/domain
    xenstore-write /tool/hello world && xenstore-read /tool/hello
    xenstore-control check
Ctrl-C stops it.
"""


class Stopped(BaseException):
    """Somebody asked us to stop: Ctrl-C or SIGTERM."""


def stop(_signal: int, _frame: FrameType | None) -> None:
    raise Stopped


@contextmanager
def folders(run: Path) -> Iterator[tuple[Path, Path]]:
    """The run directory, and the folder of the pretend hypervisor's pages: in memory, gone afterwards."""
    shm = Path("/dev/shm")
    pages = Path(tempfile.mkdtemp(prefix="fastxs-run.", dir=shm if os.access(shm, os.W_OK) else None))
    if len(os.fsencode(run / "socket")) > LONGEST_SOCKET:
        run = pages / "run"
    try:
        run.mkdir(exist_ok=True)
        yield run, pages
    finally:
        shutil.rmtree(pages, ignore_errors=True)


@contextmanager
def simulated_guests(count: int, env: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """`count` guests with traffic until the end of the block; Ctrl-C does not reach them, only us."""
    program = Path(simxen.__file__).with_name("simguest")
    command = [*WITH_PARENT, str(program), "--traffic", "0", "-n", str(count)]
    with subprocess.Popen(
        command, env={**os.environ, **env}, start_new_session=True, stdout=subprocess.DEVNULL
    ) as guests:
        try:
            yield guests
        finally:
            guests.terminate()
            try:
                guests.wait(5)
            except subprocess.TimeoutExpired:
                guests.kill()


def serve(run_dir: Path, guests: int) -> str:
    """Run until somebody stops us or a process ends by itself; what to say at the end."""
    absent = "" if shutil.which("xenstore-ls") else " are not installed here"
    with folders(run_dir) as (run, pages):
        env = {"SIMXEN_DIR": str(pages / "hv"), "XENSTORED_RUNDIR": str(run), "XENSTORED_PATH": str(run / "socket")}
        with Host("fastxs", run, env=env, prefix=WITH_PARENT) as host, simulated_guests(guests, host.env) as talkers:
            print(TRY.format(guests=guests, pid=host.pid, socket=host.socket, absent=absent), flush=True)
            while talkers.poll() is None:
                time.sleep(0.2)
            return f"the simulated guests ended by themselves (status {talkers.returncode})"


def main() -> int:
    """Exit status: 0 if somebody stopped us, 1 if something else did."""
    parser = argparse.ArgumentParser(
        prog="./run", description="fastxsd on the pretend hypervisor, with simulated guests"
    )
    parser.add_argument("-n", "--guests", type=int, default=8, help="how many guests (default: %(default)s)")
    parser.add_argument("--folder", type=Path, default=CHECKOUT / "run.d", help="run directory (default: %(default)s)")
    arguments = parser.parse_args()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, stop)
    try:
        end = serve(arguments.folder.absolute(), arguments.guests)
    except Stopped:
        print("stopped")
        return 0
    except HostError as error:
        end = str(error)
    print(f"./run: {end}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
