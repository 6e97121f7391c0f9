"""ReasonCD: a wish in words in, a change mask and an answer out (arXiv 2512.19354)."""
