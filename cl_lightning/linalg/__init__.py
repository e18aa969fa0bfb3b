"""Linear algebra on tensors: low-rank products, Gram matrices, singular directions, subspaces."""
