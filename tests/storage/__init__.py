"""The image as tools read it: what is in it, and what is said of one that is damaged, foreign or of another version."""
