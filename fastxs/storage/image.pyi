"""Types of the image (see `image.pyx`)."""

from typing import Final

from fastxs._core import Image as CoreImage

FORMAT: Final[int]
"""Of the images that are written and read here."""

class ImageError(Exception):
    """An image that cannot be used; the text names it and the way out."""

class Image(CoreImage):
    """The image in a folder, open.  An Engine takes it as its `image`; close it after the Engine."""

    identity: bytes
    @staticmethod
    def create(folder: str, identity: bytes) -> Image:
        """A new one in an existing folder.  OSError: ENOSPC and the like."""
    @staticmethod
    def open(folder: str) -> Image:
        """The one that is there, to be recovered from.  ImageError: it is not an image, or not of this version."""
    @staticmethod
    def fold(folder: str) -> None:
        """Write the log of a stopped daemon's image into its LMDB file, for those who read only that."""
    @staticmethod
    def verify(folder: str) -> None:
        """Read every record and compare its checksum.  ImageError: damaged.

        Call it in a process of its own: a file that was cut short ends the reader with SIGBUS.
        """
    def put(self, journal: bytearray, records: int) -> None:
        """Commit so many records (core/journal.pxd), in order of their keys; their checksums are filled in.

        OSError: ENOSPC and the like.
        """
    @property
    def fresh(self) -> bool:
        """Nothing was in it when it was opened."""
    @property
    def turn(self) -> int:
        """The number of the last turn that is committed."""
    def pages(self) -> tuple[int, int]:
        """(in use, reserved), of 4096 bytes each."""
    def close(self) -> None:
        """Idempotent.  The files stay, and what is committed in them."""
