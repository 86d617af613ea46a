"""What is computed: the backbone, the recursion on its hidden states, their layers, attention and cache."""
