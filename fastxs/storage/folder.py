"""The folder of an image: whether what lies there is ours to go on with.

Owns the identity of an image (this boot of the host, this hypervisor), the look at it in a process of its own before
anything is trusted, and setting aside what cannot be served.  Knows nothing of records and of the Engine.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

from fastxs.storage.child import may_crash
from fastxs.storage.image import Image, ImageError

__all__ = ["identity", "set_aside", "take"]

OURS, DAMAGED = 0, 1


def identity(hypervisor: Path | None) -> bytes:
    """What an image must have been made for: the host's boot, whose end ends its domains, and the pretend hypervisor
    in this folder, if it is one.

    An image that is read on another boot would bring back rights of domains that are no more.
    """
    boot = Path("/proc/sys/kernel/random/boot_id").read_bytes().strip()
    if hypervisor is None:
        return boot + b"\0xen"
    at = (hypervisor / "hv").stat()
    return boot + b"\0sim:%d:%d" % (at.st_dev, at.st_ino)


def take(folder: str, ours: bytes, say: Callable[[str], None], *, trusted: bool = False) -> Image:
    """The image in `folder` (made if missing), to be recovered from, or a fresh one.

    What is there and is not ours, or is damaged, is set aside under another name, and `say` is told.  ImageError: it is
    another version's, and its administrator decides.  OSError: the folder cannot be used.  An image that is `trusted`,
    because this process wrote it a moment ago, is not looked through first.
    """
    os.makedirs(folder, 0o700, exist_ok=True)
    names = os.listdir(folder)
    if not names:
        return Image.create(folder, ours)
    if trouble := "its store is missing" if "store" not in names else "" if trusted else _look(folder):
        say(f"the image is damaged ({trouble}): set aside as {set_aside(folder)}, beginning with an empty store")
        return Image.create(folder, ours)
    try:
        image = Image.open(folder)
    except ImageError as error:
        if "no store was ever committed" not in str(error):
            raise
        say(f"{error}: set aside as {set_aside(folder)}, beginning with an empty store")
        return Image.create(folder, ours)
    if image.identity == ours:
        return image
    image.close()
    say(f"the image is of another boot or hypervisor: set aside as {set_aside(folder)}, beginning with an empty store")
    return Image.create(folder, ours)


def set_aside(folder: str) -> str:
    """Move the image's files into a folder beside it, for `fastxs dump`; that folder's path."""
    aside = f"{folder}.{time.strftime('%Y%m%d-%H%M%S')}"
    number = 0
    while os.path.exists(aside if not number else f"{aside}.{number}"):
        number += 1
    aside = aside if not number else f"{aside}.{number}"
    os.rename(folder, aside)
    os.makedirs(folder, 0o700)
    return aside


def _look(folder: str) -> str:
    """Why the image cannot be trusted; empty: every record is sound.

    In a child, because a file that was cut short ends its reader with SIGBUS, and because a reader of damaged pages may
    end in any way.
    """
    child = os.fork()
    if child == 0:
        status = DAMAGED
        try:
            may_crash()
            Image.verify(folder)
            status = OURS
        except (ImageError, OSError) as error:
            print(f"fastxsd: {error}", file=sys.stderr)
        finally:
            os._exit(status)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code == OURS:
        return ""
    return "a record or page is wrong" if code > 0 else f"reading it ends with {signal.Signals(-code).name}"
