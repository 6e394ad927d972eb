"""The core's rooms: everything between bytes in and bytes out, in C structs without the GIL.

`model.pxd` is the data model on one page; `fastxs._core.Engine` is the only face towards Python.
"""
