"""HiSem: hierarchical semantic disentangling for change captioning (arXiv 2605.15024)."""
