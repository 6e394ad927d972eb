"""The same requests to two daemons in lock-step.  Owns the comparison; knows no daemon from inside."""
