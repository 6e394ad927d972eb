"""Long random conversations, each answer and each event compared with a model of a few hundred lines."""
