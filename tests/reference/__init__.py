"""The contract in plain, slow PyTorch, written from the design alone: what trm_jax is held against."""
