"""Recordings: their form, where they come from, and playing them to daemons."""
