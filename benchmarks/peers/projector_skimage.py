"""scikit-image's `radon`, image after image; it has no adjoint."""

import numpy as np
from _protocol import answer, inputs, median_seconds
from skimage.transform import radon

data = inputs()
images, angles = np.moveaxis(data["images"], -1, 0), np.rad2deg(data["angles"])
forward = median_seconds(lambda: [radon(image, angles, circle=False) for image in images], repeats=1)
answer(("scikit-image",), forward=forward)
