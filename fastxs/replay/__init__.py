"""Recorded traffic: where it comes from (proxy, trace, accesslog), its form, playing it again, comparing answers."""
