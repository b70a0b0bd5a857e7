"""Rare tokens: a language model's head on heavy-tailed tokens. All optimizers are tuned alike."""
