"""The bundled all-MiniLM-L6-v2 (see README.md here) and the script that makes it."""
