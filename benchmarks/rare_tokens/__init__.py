"""Rare tokens: a language model's head on heavy-tailed tokens, every optimizer tuned alike."""
