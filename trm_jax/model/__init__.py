"""What is computed: the backbone, the recursion on its hidden states, their layers, attention and cache."""

from trm_jax.model.attention import Rotation, attend, attend_to_past
from trm_jax.model.fused import choose_attention, is_fused, takes_cache
from trm_jax.model.kv_cache import CACHE, KeysValues, KVCache, PromptCache
from trm_jax.model.qwen import NUM_LEVELS, Hidden, Qwen, abstract_qwen, most_likely, project, without_layers
from trm_jax.model.qwen_trm import QwenTRM, abstract_trm, for_decoding, new_trm, supervision_logits
from trm_jax.model.trm import NORM_EPS, TRM, State
from trm_jax.model.weights import WeightsError, cast, check_weights, first_bad_weight, named_weights, with_weights
