"""Speed at any size, with random weights and the lengths of real GSM8K rows."""

from trm_jax.benchmark.batching import BatchingSpeed
from trm_jax.benchmark.decoding import DecodingBenchmark, DecodingSpeed
from trm_jax.benchmark.decoding_plan import DecodingPlan
from trm_jax.benchmark.lengths import random_prompts
from trm_jax.benchmark.load import Endpoint, Load, LoadError, measure_load
from trm_jax.benchmark.measure import prepare_device, seconds
from trm_jax.benchmark.sizes import SIZES, random_model
from trm_jax.benchmark.training import OPTIMIZER_STEPS, TrainingBenchmark, TrainingSpeed
from trm_jax.benchmark.training_plan import TrainingPlan
