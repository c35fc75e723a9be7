"""refsr: image super-resolution, alone or with reference photos of the same scene.

Everywhere between `images.read_image` and `images.write_image` a picture is a `(N, 3, H, W)` float
RGB tensor in [0, 1]. Nothing heavy is imported here.
"""

__version__ = "0.1.0"
