"""The command line: one file per verb. A verb parses, calls and prints, and imports what is heavy in its function."""
