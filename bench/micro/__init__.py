"""Single rooms at work, by size: what one copy, lookup, match or commit costs."""
