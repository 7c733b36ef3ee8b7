"""The networks: which tensors they have, how they compute, what they are trained on."""
