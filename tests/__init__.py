"""The project's tests.  They own no code that the daemon needs and refuse to be imported by it."""
