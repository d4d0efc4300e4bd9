"""Console: the command line and the web pages."""
