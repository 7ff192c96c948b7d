"""Images for people: grids, rendered clouds and proteins, curves."""
