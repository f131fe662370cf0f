"""One module a document: its look, its figures and the tables of its content file."""
