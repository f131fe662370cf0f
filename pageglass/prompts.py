"""Every prompt, and nowhere else. What pages say is put between marks and called data."""

from __future__ import annotations

ANSWERS_QUESTION = (
    "Does the page answer this question, fully or in part? Question: {question}\n"
    "Answer with one word, yes or no."
)
"""Asked of the reranking model with one page's image before it."""
