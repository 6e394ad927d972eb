"""Clients that others wrote, against fastxs and, so that the tests themselves are right, against C xenstored."""
