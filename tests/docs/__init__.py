"""What the documentation shows is typed, and what comes is compared."""
