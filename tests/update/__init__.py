"""Live updates: a daemon becomes another program under its peers, who notice nothing."""
