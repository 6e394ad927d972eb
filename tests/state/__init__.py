"""State as data: the migration stream, oxenstored's dump, and the C daemon that must read and write the same."""
