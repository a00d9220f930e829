"""Doubles of libraries that cannot be installed where the tests run."""
