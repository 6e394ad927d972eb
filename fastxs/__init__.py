"""fastxs: the XenStore daemon for hosts with very many domains, and clients of any such daemon.

Rooms, from the ground up: `core` (everything between bytes in and bytes out), `hypervisor` (event channels, grants,
domain states), `client` (`Client`, `AsyncClient`), `compat` (older clients' names), `daemon` (configuration, start and
stop, control commands, logs), `cli`.  Importing this package loads none of them.
"""

TYPE_CHECKING = False  # typing's own costs more than all the rest of this
if TYPE_CHECKING:
    from fastxs.client import AsyncClient, Client

__all__ = ["AsyncClient", "Client", "__version__"]

__version__ = "0.1.0.dev0"


def __getattr__(name: str) -> object:
    if name in ("AsyncClient", "Client"):
        from fastxs import client

        found: object = getattr(client, name)
        return found
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
