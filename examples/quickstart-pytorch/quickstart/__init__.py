"""A small network on images, over plain Flower."""
