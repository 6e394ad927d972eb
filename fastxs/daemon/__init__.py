"""The daemon around the Engine: configuration, start and stop, control commands, systemd, logs.

Owns the process; the Engine owns the data plane.  Nothing here runs once per request of a guest.
"""
