"""Hostile inputs and faults: what the package makes of each, and whether that is right. `make fuzz` runs them."""
