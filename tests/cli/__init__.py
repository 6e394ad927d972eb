"""The commands for people, as people type them."""
