"""The tables and figures of both papers, each by one command."""
