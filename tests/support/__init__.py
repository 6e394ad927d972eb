"""What several kinds of tests share.  It owns no test and refuses to know the daemon's own wire code."""
