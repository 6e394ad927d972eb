"""Durable storage: the image of a store in LMDB, how it is recovered, checked and read."""
