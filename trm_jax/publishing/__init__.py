"""Trained models for others: exported, with a model card, to the hub and from it."""

from trm_jax.publishing.export import export, exported_files
from trm_jax.publishing.hub import push, require_name
from trm_jax.publishing.load import PublishedModel, load_model, load_tokenizer, open_checkpoint
