"""The load generator `xsload` and the echo server `xsecho`: plain C, compiled when needed, never committed."""
