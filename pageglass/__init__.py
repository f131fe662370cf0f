"""The words every part of Pageglass shares. Imports none of the parts."""

__version__ = "0.1.0"
