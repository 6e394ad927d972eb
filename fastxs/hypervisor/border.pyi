"""Types of the hypervisor's border."""

from collections.abc import Iterable
from typing import final

from fastxs._core import Border

class HypervisorError(OSError):
    """The hypervisor, or a library that speaks to it, is not there; the text says what to do."""

@final
class Hypervisor(Border):
    """The hypervisor, opened; an `Engine` takes it as its `border`."""

    @staticmethod
    def load(sim: bool = False) -> Hypervisor:
        """Open event channels, grants and domain states; with `sim`, those of the pretend hypervisor.

        Raises HypervisorError with what was tried and what would help.
        """
    @staticmethod
    def remote_ports(ports: Iterable[int], sim: bool = False) -> dict[int, tuple[int, int]]:
        """Of these local ports, those that are bound to a domain: (domid, its port), which is 0 where it has closed it.

        For ports in a descriptor that was inherited; needs no `load`.  Raises HypervisorError as that does.
        """
    def evtchn_fd(self) -> int:
        """The descriptor that the ports are bound in, this object's own."""
    def let_virq(self) -> None:
        """Before another daemon goes on with that descriptor: it binds VIRQ_DOM_EXC anew."""
    def bind_virq(self) -> None:
        """If it did not come to that."""
    def describe(self) -> str:
        """One line for the log: what was loaded."""
    def close(self) -> None:
        """Every bound port and mapped page ends here.  Close the Engine first.  Idempotent."""
