"""The life of domains on the pretend hypervisor: they come, shut down, die, and their numbers are used again."""
