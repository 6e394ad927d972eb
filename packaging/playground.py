"""What ./run starts: the daemon on the pretend hypervisor, simulated guests that talk to it, and what to try.

Owns the life of these processes and of their files, and leaves nothing behind: no child, no file in
/dev/shm.  Refuses to know how a daemon or a guest is started in detail; `fastxs.hypervisor.host` does.
"""

import argparse
import fcntl
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
from fastxs.hypervisor.host import XEN_BIN, Host, HostError

CHECKOUT = Path(__file__).resolve().parent.parent
LONGEST_SOCKET = 107  # bytes: sun_path of a unix socket's address, less the final NUL
AS_OURS = ("setpriv", "--pdeathsig", "TERM", "--")  # a child ends with us even if we are killed
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

# Debian's xenstore-control in the path is a script that asks a running Xen for its version first.
CONTROL = XEN_BIN / "xenstore-control"
TRY = """
{guests} simulated guests are talking to fastxsd (process {pid}); the socket is
    {socket}
Try, in another terminal:
    export XENSTORED_PATH={socket}
    .venv/bin/fastxs ls -p          # for people (docs/tour.md)
    .venv/bin/fastxs watch --values /local/domain
    xenstore-ls                     # Debian's own clients (package xenstore-utils){absent}
    xenstore-watch /local/domain
    xenstore-write /tool/hello world && xenstore-read /tool/hello
    {control} check
Ctrl-C stops it.
"""


class Stopped(BaseException):
    """Somebody asked us to stop: Ctrl-C or SIGTERM."""


def stop(_signal: int, _frame: FrameType | None) -> None:
    for number in SIGNALS:  # we are on the way out already
        signal.signal(number, signal.SIG_IGN)
    raise Stopped


@contextmanager
def shared_pages() -> Iterator[Path]:
    """A folder for the pretend hypervisor's pages: in memory, gone afterwards."""
    shm = Path("/dev/shm")
    pages = Path(tempfile.mkdtemp(prefix="fastxs-run.", dir=shm if os.access(shm, os.W_OK) else None))
    try:
        yield pages
    finally:
        shutil.rmtree(pages, ignore_errors=True)


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """HostError: another ./run has this folder; to start a daemon there would take its socket away."""
    folder.mkdir(parents=True, exist_ok=True)
    held = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError as error:
        raise HostError(f"another ./run is using {folder} already") from error
    finally:
        os.close(held)


@contextmanager
def daemon(folder: Path, pages: Path) -> Iterator[Host]:
    """fastxsd as it comes, with its own quotas; what it writes is under `folder`."""
    host = Host("fastxs", folder, default_quotas=True)
    if len(os.fsencode(host.socket)) > LONGEST_SOCKET:
        host = Host("fastxs", pages, default_quotas=True)
    host.env["SIMXEN_DIR"] = str(pages / "hv")
    with host:
        yield host


@contextmanager
def simulated_guests(count: int, env: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """`count` guests, each with traffic until the end of the block."""
    chatter = ("--workload", "chatter", "--seconds", "0", "--rate", "300", "--report", "10")
    command = [*AS_OURS, str(simxen.SIMGUEST), *chatter, "-n", str(count)]
    with subprocess.Popen(command, env={**os.environ, **env}, start_new_session=True) as guests:
        try:
            yield guests
        finally:
            guests.terminate()
            try:
                guests.wait(5)
            except subprocess.TimeoutExpired:
                guests.kill()


def serve(folder: Path, guests: int) -> str:
    """Run until somebody stops us or a process ends by itself; what to say then."""
    absent = "" if shutil.which("xenstore-ls") else " are not installed here"
    with (
        alone_in(folder),
        shared_pages() as pages,
        daemon(folder, pages) as host,
        simulated_guests(guests, host.env) as talkers,
    ):
        print(TRY.format(guests=guests, pid=host.pid, socket=host.socket, absent=absent, control=CONTROL), flush=True)
        while talkers.poll() is None:
            time.sleep(0.2)
        return f"the simulated guests ended by themselves (status {talkers.returncode}); the daemon: {host.stderr()}"


def main() -> int:
    """Exit status: 0 if somebody stopped us, 1 if something else did."""
    parser = argparse.ArgumentParser(
        prog="./run", description="fastxsd on the pretend hypervisor, with simulated guests"
    )
    parser.add_argument("-n", "--guests", type=int, default=8, help="how many guests (default: %(default)s)")
    parser.add_argument("--folder", type=Path, default=CHECKOUT / "run.d", help="run directory (default: %(default)s)")
    arguments = parser.parse_args()
    for number in SIGNALS:
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
