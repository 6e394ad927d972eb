"""The simulator that others use: guests with workloads, the command, the pytest fixtures."""
