"""iBOT: image BERT pre-training with an online tokenizer, in JAX (arXiv 2111.07832)."""

__version__ = "0.1.0"
