"""For people: the command line, a thin shell over the library."""
