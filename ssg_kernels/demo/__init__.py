"""A small next-scale image model of this project: its data, networks, weights, generation and pictures."""
