"""The supervisor: what it keeps, whom it believes, how it ends.  The daemon that it keeps here is `daemon.py`."""
