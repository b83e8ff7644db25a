"""Celeriac in other projects' worlds: one package for each framework, which is imported there alone."""
