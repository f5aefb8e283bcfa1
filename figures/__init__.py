"""Every claim as a picture: one module a figure, each with what is computed, how it is drawn and what to say of it."""
