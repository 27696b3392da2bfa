"""The compiler: graph -> program -> loops -> code.

``graph`` (level one) holds the user's expressions, ``ops`` the table of operations, ``rewrite`` the
rules, ``derivative`` both modes of differentiation; ``lower`` turns a graph into a ``program``
(level two) whose kernels are ``loop`` nests (level three); ``target`` prints them as code (level
four).  ``pipeline`` lists the passes in order.
"""

if __name__ != "tetractys.compiler":
    raise ImportError("import tetractys.compiler, not compiler")
