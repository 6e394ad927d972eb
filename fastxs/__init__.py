"""fastxs: the XenStore daemon for hosts with very many domains.

Rooms, from the ground up: `core` (everything between bytes in and bytes out), `hypervisor` (event channels, grants,
domain states), `daemon` (configuration, start and stop, control commands, logs), `client`, `cli`.
Importing this package loads none of them.
"""

__all__ = ["__version__"]

__version__ = "0.1.0.dev0"
