"""From a configuration to a serving process, and back to nothing.

Owns the order of things: claims, hypervisor, Engine, socket, and the word to whoever waits only when the socket is
served; and all of it backwards at the end.  Knows the Engine by
its face only, and nothing of flags and files that a configuration comes from.
"""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import socket
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from fastxs.daemon import logs
from fastxs.daemon.claims import READ_ROOT, StartError, hold_pid_file, hold_socket, need_folder, reason
from fastxs.daemon.config import Config
from fastxs.daemon.handover import Before, HandedOver, handed_over
from fastxs.daemon.kept import get_kept, stay_kept
from fastxs.daemon.notify import (
    CONNECTION,
    LISTENER,
    channel,
    forget,
    inherited,
    notify,
    store,
    watchdog_s,
    watchdog_words,
)
from fastxs.daemon.process import detach, raise_descriptor_limit, set_name

if TYPE_CHECKING:
    from fastxs._core import Engine
    from fastxs.daemon.control import Control
    from fastxs.daemon.logs import TraceFile
    from fastxs.daemon.takeover import TakenOver
    from fastxs.hypervisor.border import Hypervisor
    from fastxs.storage.image import Image

__all__ = ["preflight", "serve"]

LIB_DIR: Final = "/var/lib/xen/xenstore"
"""Where the control commands' relative file names lie (SPEC 6.2)."""

ANSWER_TIMEOUT_S: Final = 10.0
"""How long a daemon in the background may take for its first answer."""


def serve(config: Config, *, kept: bool = False, over: bool = False, before: Before | None = None) -> None:
    """Serve in this process until SIGTERM or SIGINT; `kept`: in the background, our keeper is our parent; `over`: a
    live update of another daemon ends here; `before`: what one of ours that failed has left.

    StartError: what is in the way.
    """
    set_name("fastxsd")
    try:
        logs.set_up(config.log)
    except OSError as error:
        raise StartError(f"cannot open the log {config.log.file}: {reason(error)}") from None
    with asyncio.Runner(loop_factory=loop_factory(config.daemon.loop)) as runner:
        runner.run(_serve(config, kept, over, before))


def loop_factory(wanted: str) -> Callable[[], asyncio.AbstractEventLoop]:
    if wanted != "asyncio":
        try:
            import uvloop
        except ImportError as error:
            if wanted == "uvloop":
                raise StartError(f"uvloop cannot be loaded ({error}); the other loop is asyncio") from None
        else:
            return uvloop.new_event_loop
    return asyncio.new_event_loop


def preflight(config: Config, image_format: str) -> None:
    """Load all that serving needs and touch nothing.  StartError: why this program cannot go on where one that writes
    images of that format leaves off."""
    try:
        import fastxs._core
        import fastxs.daemon.control
        import fastxs.hypervisor.border
        import fastxs.storage.folder  # noqa: F401
        from fastxs.storage.image import FORMAT
    except ImportError as error:
        raise StartError(f"fastxs is not built for this Python: {error}") from None
    loop_factory(config.daemon.loop)
    if image_format != str(FORMAT):
        raise StartError(f"the image has format {image_format}, this is fastxs for format {FORMAT}")


async def _serve(config: Config, kept: bool, over: bool, before: Before | None) -> None:
    daemon = config.daemon
    loop = asyncio.get_running_loop()
    stopped: asyncio.Future[None] = loop.create_future()

    def stop() -> None:
        if not stopped.done():
            stopped.set_result(None)

    def fail(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        # A turn that raised has left the store in a state that nobody vouches for: do not serve from it.
        from fastxs._core import ImageFailed

        error = context.get("exception") or context.get("message")
        if isinstance(error, ImageFailed):
            why = reason(error)
            logs.log.critical(why)
        else:
            why = f"internal error: {type(error).__name__}: {error}"
            logs.log.critical("internal error", exc_info=error if isinstance(error, BaseException) else None)
        if not stopped.done():
            stopped.set_exception(StartError(why))

    loop.set_exception_handler(fail)
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)

    was = inherited()
    before = before or handed_over()
    if before is not None:
        was = {LISTENER: [before.handed.listener], CONNECTION: before.handed.clients}
    over = over and before is None
    kept = kept or (over and daemon.fork)
    taken = None
    was_ready = False
    with ExitStack() as stack:
        # Claims come before the hypervisor: a second instance must not touch the first one's event channels.
        need_folder(os.path.dirname(daemon.socket_path), "the socket")
        stack.enter_context(hold_pid_file(f"{daemon.socket_path}.lock", "the lock"))
        if daemon.pid_file is not None and not kept:  # else it holds our keeper's pid
            stack.enter_context(hold_pid_file(daemon.pid_file))
        if over:
            taken = _take_over(config)
            was = {LISTENER: [] if taken.listener is None else [taken.listener], CONNECTION: taken.clients}
            if kept:
                await get_kept(config)
            store(CONNECTION, *taken.clients)
        keeper = channel()
        outlived = was.pop(LISTENER, [])
        listener = stack.enter_context(
            hold_socket(daemon.socket_path, daemon.backlog, outlived, lambda: was_ready and keeper is not None)
        )
        if before is None:
            if outlived:
                forget(LISTENER)  # one that has lost its name, perhaps
            store(LISTENER, listener.fileno())
        raise_descriptor_limit()
        engine, trace, control, border, image = _build(
            config, stack, was.pop(CONNECTION, []), before, trusted=before is not None or over
        )
        if taken is not None:
            os.unlink(taken.file)
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
        listening = listener.detach()
        if before is not None:
            before.let_guardian_go()
        if image is not None:
            from fastxs.daemon.handback import HandBack
            from fastxs.daemon.update import LiveUpdate
            from fastxs.storage.image import FORMAT

            def resume(handed: HandedOver) -> None:
                # uvloop was left in the middle of something by the fork.
                again = replace(config, daemon=replace(daemon, loop="asyncio"))
                if "WATCHDOG_PID" in os.environ:
                    os.environ["WATCHDOG_PID"] = str(os.getpid())
                serve(again, kept=kept, before=Before(handed, came_back=True))

            control.update = LiveUpdate(
                engine,
                listening,
                ["--preflight", str(FORMAT)],
                turn=lambda: image.turn,
                let_go=border.close,
                resume=resume,
                foreign=HandBack(engine, border, config, listening, kept=kept),
                kept=kept,
                owes_ok=taken is not None and taken.asks_again,
            )
        engine.listen(listening)
        loop.add_reader(engine.fileno(), engine.turn)
        stack.callback(loop.remove_reader, engine.fileno())
        if kept:
            if before is None and taken is None:  # else who waits for us has heard from us already
                await _answer_once(daemon.socket_path, stopped)
            stack.callback(loop.create_task(stay_kept(config, engine, listening)).cancel)
            detach()
        # What lives now lives for ever, and nothing that is made from now on has cycles.
        gc.collect()
        gc.freeze()
        gc.disable()
        was_ready = True
        notify("READY=1", f"MAINPID={os.getpid()}", f"STATUS=serving {daemon.socket_path}", *watchdog_words())
        _stay_alive(loop)
        logs.log.info(
            "ready",
            socket=daemon.socket_path,
            pid=os.getpid(),
            hypervisor=border.describe(),
            loop=type(loop).__module__.split(".")[0],
        )
        await stopped
        notify("STOPPING=1")
        logs.log.info("stopping")


async def _answer_once(path: str, stopped: asyncio.Future[None]) -> None:
    """Ask over the socket, as anybody would.  StartError: there is no answer, or we are to stop."""
    answer = asyncio.ensure_future(_ask(path))
    done, _ = await asyncio.wait({answer, stopped}, timeout=ANSWER_TIMEOUT_S, return_when=asyncio.FIRST_COMPLETED)
    if answer in done and answer.exception() is None:
        return
    answer.cancel()
    if stopped in done:
        stopped.result()
        raise StartError("told to stop before it was ready")
    raise StartError(f"{path} does not answer")


async def _ask(path: str) -> None:
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as client:
        await loop.sock_connect(client, path)
        await loop.sock_sendall(client, READ_ROOT)
        await loop.sock_recv(client, len(READ_ROOT))


def _stay_alive(loop: asyncio.AbstractEventLoop) -> None:
    """Say so as often as the manager wants to hear it: from the loop, so that a turn without end is noticed."""
    every_s = watchdog_s()
    if every_s is not None:
        notify("WATCHDOG=1")
        loop.call_later(every_s, _stay_alive, loop)


def _identity(config: Config) -> bytes:
    from fastxs.storage.folder import identity

    return identity(Path(os.environ.get("SIMXEN_DIR", "/dev/shm/simxen")) if config.hypervisor.sim else None)


def _take_over(config: Config) -> TakenOver:
    """What another daemon left in this process, made into an image."""
    if config.daemon.durability == "none":
        raise StartError("a take-over needs an image, and --durability none has none")
    try:
        from fastxs.daemon.takeover import take_over
        from fastxs.state import StreamError
    except ImportError as error:
        raise StartError(f"fastxs is not built for this Python: {error}") from None
    try:
        return take_over(config, _identity(config))
    except StreamError as error:
        raise StartError(f"the state of the daemon before us is damaged: {error}") from None
    except OSError as error:
        raise StartError(f"cannot take over from the daemon before us: {reason(error)}") from None


def _image(config: Config, stack: ExitStack, *, trusted: bool) -> Image | None:
    """What survives us, open; None: nothing shall."""
    if config.daemon.durability == "none":
        return None
    from fastxs.storage.folder import take
    from fastxs.storage.image import ImageError

    try:
        image = take(config.daemon.image_path, _identity(config), logs.log.warning, trusted=trusted)
    except ImageError as error:
        raise StartError(str(error)) from None
    except OSError as error:
        raise StartError(f"cannot use the image {config.daemon.image_path}: {reason(error)}") from None
    stack.callback(image.close)
    return image


class Built(NamedTuple):
    """An Engine and what belongs to it."""

    engine: Engine
    trace: TraceFile
    control: Control
    border: Hypervisor
    image: Image | None


def _build(config: Config, stack: ExitStack, sockets: list[int], before: Before | None, *, trusted: bool) -> Built:
    """The Engine with all that the last process left, quotas set, control commands and trace file attached; closed at
    the end."""
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
    except OSError as error:
        raise StartError(f"no hypervisor: {reason(error)}") from None
    stack.callback(border.close)
    image = _image(config, stack, trusted=trusted)
    if before is not None and (image is None or image.fresh):
        raise StartError(f"the image {config.daemon.image_path} is not what the program before this one had")
    try:
        engine = Engine(
            border=border,
            image=image,
            sockets=sockets,
            answers=before.answers(image.turn) if before is not None and image is not None else (),
            control=control,
            notice=logs.tell,
            priv_domid=who.priv_domid,
            store_domid=who.store_domid,
            keep_orphans=who.keep_orphans,
            linger_us=config.daemon.linger_us,
            trial=os.environ.get("FASTXS_TRIAL", ""),  # tests try a crash there
        )
    except OSError as error:
        raise StartError(reason(error)) from None
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
    return Built(engine, trace, control, border, image)
