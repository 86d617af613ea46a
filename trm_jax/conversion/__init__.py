"""Conversion of other people's models to ours, and back."""

from trm_jax.conversion.convert import convert, describe_conversion
from trm_jax.conversion.hugging_face import TOKENIZER_FILES, copy_tokenizer, find_config, find_model, write_hugging_face
from trm_jax.conversion.recursion import read_recursion, write_recursion
