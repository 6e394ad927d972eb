"""The programs: `fastxsd` takes xenstored's own flags, `fastxs` is for people."""
