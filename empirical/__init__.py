"""Real networks, trained, and the theory held against them."""
