"""How a net is run on pictures of any size: on which device, in tiles, in eight orientations."""
