"""The daemon around the Engine, mostly as its administrator meets it: a process, its files, its signals, its words."""
