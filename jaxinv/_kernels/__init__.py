"""Fast primitives behind the operators and the networks, with an implementation for each platform."""

from ._beams import FanRays as FanRays, ParallelRays as ParallelRays
from ._convolution import conv_general_dilated as conv_general_dilated, conv_transpose as conv_transpose
from ._joseph import back_project as back_project, project as project
from ._linear_pair import apply_pair as apply_pair
from ._matrix_product import matrix_product as matrix_product
from ._pixel_driven import back_project_views as back_project_views
