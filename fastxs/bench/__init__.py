"""XenStore daemons side by side: loads, situations, pairs, figures.  `fastxs bench` is this at a terminal.

Owns how a comparison is made fair.  What fastxs promises about its own speed is in the checkout's bench/bars.py.
"""
