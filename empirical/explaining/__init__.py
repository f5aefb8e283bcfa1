"""What `empirical.explain` is made of: what a network sees, its theories, how long it takes, and the page."""
