"""The rules, as data: these files contain no control flow."""
