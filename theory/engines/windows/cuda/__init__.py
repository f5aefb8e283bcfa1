"""Sums over windows on a card: `kernel.cu`, compiled for each size (`plan`), what it reads (`tables`), what starts it (`launcher`)."""
