"""Tests derived from every migration's folder, and templates of databases."""
