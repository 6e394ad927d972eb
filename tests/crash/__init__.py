"""The daemon dies, at named points and at any time, on a full file system and with a damaged image; nobody notices."""
