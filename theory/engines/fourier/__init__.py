"""Sums over all circular shifts of whole images, by Fourier transforms."""
