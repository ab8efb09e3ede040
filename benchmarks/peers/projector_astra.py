"""ASTRA's `linear` projector, Joseph's method, on the processor, image after image."""

import astra
import numpy as np
from _protocol import answer, inputs, median_seconds

data = inputs()
images = np.moveaxis(data["images"], -1, 0)
size = images.shape[-1]
geometry = astra.create_proj_geom("parallel", 1.0, int(data["num_detectors"]), data["angles"].astype(float))
operator = astra.OpTomo(astra.create_projector("linear", geometry, astra.create_vol_geom(size, size)))
sinograms = [operator.FP(image) for image in images]
forward = median_seconds(lambda: [operator.FP(image) for image in images])
adjoint = median_seconds(lambda: [operator.BP(sinogram) for sinogram in sinograms])
answer(("astra-toolbox",), forward=forward, adjoint=adjoint)
