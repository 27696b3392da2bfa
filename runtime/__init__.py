"""Run compiled functions: memory, threads, BLAS, the disk cache, the fast call entry.

Nothing here imports the compiler: a cached artifact runs with the compiler never loaded.
"""

if __name__ != "tetractys.runtime":
    raise ImportError("import tetractys.runtime, not runtime")
