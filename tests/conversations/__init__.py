"""Who says what, and what comes back: one file per subject, to be read as a description of the protocol."""
