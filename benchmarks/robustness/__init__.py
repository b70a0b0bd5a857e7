"""How well optimizers do at their usual learning rates, over many kinds of networks."""
