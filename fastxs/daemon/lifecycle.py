"""From a configuration to a serving process, and back to nothing.

Owns the order of things: fork first (before event loop, threads, storage), then claims, hypervisor, Engine, socket,
and the word to whoever waits only when the socket is served; and all of it backwards at the end.  Knows the Engine by
its face only, and nothing of flags and files that a configuration comes from.
"""

from __future__ import annotations

import asyncio
import gc
import os
import signal
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from fastxs.daemon import logs
from fastxs.daemon.claims import StartError, answers, hold_pid_file, hold_socket, need_folder, reason
from fastxs.daemon.config import Config
from fastxs.daemon.notify import CONNECTION, LISTENER, channel, forget, inherited, notify, store
from fastxs.daemon.process import detach, raise_descriptor_limit, set_name

if TYPE_CHECKING:
    from fastxs._core import Engine
    from fastxs.daemon.logs import TraceFile
    from fastxs.storage.image import Image

__all__ = ["in_background", "serve"]

LIB_DIR: Final = "/var/lib/xen/xenstore"
"""Where the control commands' relative file names lie (SPEC 6.2)."""

ANSWER_TIMEOUT_S: Final = 10.0
"""How long a daemon that says it is ready may take for its first answer."""

READY: Final = b"ready"


def in_background(config: Config) -> int:
    """Serve in a child process; the exit status for this one, which waits until the socket answers.

    StartError carries the child's own error line.  Nothing that does not survive a fork may be loaded yet.
    """
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        os._exit(_child(config, writer))
    os.close(writer)
    with open(reader, "rb") as pipe:
        try:
            word = pipe.read()  # ends when the child says so or dies, whichever way
        except KeyboardInterrupt:
            os.kill(child, signal.SIGTERM)  # the terminal's interrupt does not reach it
            raise
    if word == READY:
        if answers(config.daemon.socket_path, ANSWER_TIMEOUT_S):
            return 0
        os.kill(child, signal.SIGTERM)
        raise StartError(f"pid {child} is there, but {config.daemon.socket_path} does not answer; told it to stop")
    if word:
        os.waitpid(child, 0)
        raise StartError(os.fsdecode(word))
    raise StartError(f"the daemon died before it was ready ({_fate(os.waitpid(child, 0)[1])})")


def _fate(status: int) -> str:
    code = os.waitstatus_to_exitcode(status)
    return f"exit status {code}" if code >= 0 else signal.Signals(-code).name


def _child(config: Config, writer: int) -> int:
    """The daemon's own process: its exit status.  Nothing is raised into what the parent was doing."""
    with open(writer, "wb", buffering=0) as pipe:

        def ready() -> None:
            detach()
            pipe.write(READY)
            pipe.close()

        try:
            os.setsid()
            os.chdir("/")
            serve(config, ready)
        except StartError as error:
            line = str(error)
        except BaseException as error:  # whatever it is, the parent has one line to print
            line = f"internal error: {type(error).__name__}: {error}"
        else:
            return 0
        if not pipe.closed:
            with suppress(OSError):
                pipe.write(os.fsencode(line))
        return 1


def serve(config: Config, ready: Callable[[], None] = lambda: None) -> None:
    """Serve in this process until SIGTERM or SIGINT; `ready()` is called once, when the socket is served.

    StartError: what is in the way.  The log is set up here, because its file belongs to this process.
    """
    set_name("fastxsd")
    try:
        logs.set_up(config.log)
    except OSError as error:
        raise StartError(f"cannot open the log {config.log.file}: {reason(error)}") from None
    with asyncio.Runner(loop_factory=_loop_factory(config.daemon.loop)) as runner:
        runner.run(_serve(config, ready))


def _loop_factory(wanted: str) -> Callable[[], asyncio.AbstractEventLoop]:
    if wanted != "asyncio":
        try:
            import uvloop
        except ImportError as error:
            if wanted == "uvloop":
                raise StartError(f"uvloop cannot be loaded ({error}); the other loop is asyncio") from None
        else:
            return uvloop.new_event_loop
    return asyncio.new_event_loop


async def _serve(config: Config, ready: Callable[[], None]) -> None:
    daemon = config.daemon
    loop = asyncio.get_running_loop()
    stopped: asyncio.Future[None] = loop.create_future()

    def stop() -> None:
        if not stopped.done():
            stopped.set_result(None)

    def fail(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        # A turn that raised has left the store in a state that nobody vouches for: do not serve from it.
        error = context.get("exception") or context.get("message")
        logs.log.critical("internal error", exc_info=error if isinstance(error, BaseException) else None)
        if not stopped.done():
            stopped.set_exception(StartError(f"internal error: {type(error).__name__}: {error}"))

    loop.set_exception_handler(fail)
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)

    was = inherited()
    with ExitStack() as stack:
        # Claims come before the hypervisor: a second instance must not touch the first one's event channels.
        need_folder(os.path.dirname(daemon.socket_path), "the socket")
        stack.enter_context(hold_pid_file(f"{daemon.socket_path}.lock", "the lock"))
        if daemon.pid_file is not None:
            stack.enter_context(hold_pid_file(daemon.pid_file))
        keeper = channel()
        kept = was.pop(LISTENER, [])
        listener = stack.enter_context(hold_socket(daemon.socket_path, daemon.backlog, kept, stays=keeper is not None))
        if kept:
            forget(LISTENER)  # one that has lost its name, perhaps
        store(LISTENER, listener.fileno())
        raise_descriptor_limit()
        engine, trace, hypervisor = _build(config, stack, was.pop(CONNECTION, []))
        for fd in (fd for fds in was.values() for fd in fds):  # of names that mean nothing here
            os.close(fd)
        if keeper is not None:
            engine.keep(keeper.detach())

        def hang_up() -> None:
            logs.reopen()
            try:
                trace.reopen()
            except OSError as error:
                logs.log.error("cannot reopen the trace file", error=error.strerror)

        loop.add_signal_handler(signal.SIGHUP, hang_up)
        engine.listen(listener.detach())
        loop.add_reader(engine.fileno(), engine.turn)
        stack.callback(loop.remove_reader, engine.fileno())
        # What lives now lives for ever, and nothing that is made from now on has cycles.
        gc.collect()
        gc.freeze()
        gc.disable()
        ready()
        notify("READY=1", f"MAINPID={os.getpid()}", f"STATUS=serving {daemon.socket_path}")
        logs.log.info(
            "ready",
            socket=daemon.socket_path,
            pid=os.getpid(),
            hypervisor=hypervisor,
            loop=type(loop).__module__.split(".")[0],
        )
        await stopped
        notify("STOPPING=1")
        logs.log.info("stopping")


def _image(config: Config, stack: ExitStack) -> Image | None:
    """What survives us, open; None: nothing shall."""
    if config.daemon.durability == "none":
        return None
    from fastxs.storage.folder import identity, take
    from fastxs.storage.image import ImageError

    who = Path(os.environ.get("SIMXEN_DIR", "/dev/shm/simxen")) if config.hypervisor.sim else None
    try:
        image = take(config.daemon.image_path, identity(who), logs.log.warning)
    except ImageError as error:
        raise StartError(str(error)) from None
    except OSError as error:
        raise StartError(f"cannot use the image {config.daemon.image_path}: {reason(error)}") from None
    stack.callback(image.close)
    return image


def _build(config: Config, stack: ExitStack, sockets: list[int]) -> tuple[Engine, TraceFile, str]:
    """The Engine with all that the last process left, quotas set, control commands and trace file attached, closed at
    the end; and what it runs on."""
    try:
        from fastxs._core import Engine
        from fastxs.daemon.control import Control
        from fastxs.hypervisor.border import Hypervisor
    except ImportError as error:
        raise StartError(f"fastxs is not built for this Python: {error}") from None

    who = config.hypervisor
    control = Control()
    try:
        border = Hypervisor.load(sim=who.sim)
        stack.callback(border.close)
        image = _image(config, stack)
        engine = Engine(
            border=border,
            image=image,
            sockets=sockets,
            control=control,
            notice=logs.tell,
            priv_domid=who.priv_domid,
            store_domid=who.store_domid,
            keep_orphans=who.keep_orphans,
            linger_us=config.daemon.linger_us,
            trial=os.environ.get("FASTXS_TRIAL", ""),  # tests try a crash there
        )
    except OSError as error:
        raise StartError(f"no hypervisor: {reason(error)}") from None
    stack.callback(engine.close)
    if image is None or image.fresh:  # else they are as the administrator left them
        for name, value in config.quota.items():
            engine.set_quota(name, value)

    trace = logs.TraceFile(engine, config.trace.switches, LIB_DIR)
    stack.callback(trace.close)
    if config.trace.file is not None:
        try:
            trace.open(config.trace.file)
        except OSError as error:
            raise StartError(f"cannot open the trace file {config.trace.file}: {reason(error)}") from None
    control.engine, control.trace = engine, trace
    return engine, trace, border.describe()
