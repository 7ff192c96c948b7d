"""Tables of plans and scores for the terminal."""
