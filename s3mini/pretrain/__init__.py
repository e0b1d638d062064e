"""Pretraining of the mini model: tokenizer, role-play data from fresh worlds, curriculum, training loop."""
