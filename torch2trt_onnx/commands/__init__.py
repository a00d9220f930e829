"""Commands of the command line, one a file; `cli` has the others, and puts them together."""
