"""One command for the day a CUDA GPU is at hand: is it right there, how fast is it, and does it go on after a kill."""

from trm_jax.gpu_check.parts import make_parts
from trm_jax.gpu_check.runner import Finding, Part, run_parts, table
