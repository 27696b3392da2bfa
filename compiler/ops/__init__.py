"""The table of operations: importing this package fills it.  One row per operation."""
