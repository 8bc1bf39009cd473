"""The real network imports it, so it must be there; nothing of it is used here."""
