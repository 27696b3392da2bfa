"""Rewriting: patterns, the engine that applies rules, and the check that verifies each rule."""
