"""The sides of a comparison: each workload in each library's own idiom.

Every module has ``SIDE``, a dict from a workload's family to a function that takes the data and
returns a :class:`sides.case.Case`.
"""
