"""The sample collection: original documents, drawn by ``python -m samples.make``."""
