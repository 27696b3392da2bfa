"""Level four: one module per target prints scheduled loops as code.  ``llvm`` serves CPUs."""
