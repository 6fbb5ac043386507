"""What is said in PromQL, for the checks of alerts and dashboards."""

import re

# A text, the labels of a selector, a range, the labels of a grouping: there may be words in them that are no metric's name.
NO_NAMES = (r'"[^"]*"', r"\{[^}]*\}", r"\[[^\]]*\]", r"\b(?:by|without|on|ignoring|group_left|group_right)\s*\([^)]*\)")
WORDS = {"and", "or", "unless", "offset", "bool", "group_left", "group_right"}


def metrics(expr):
    """The metrics that an expression names; those of a histogram as its series."""
    for pattern in NO_NAMES:
        expr = re.sub(pattern, " ", expr)
    # What a bracket follows is a function.
    return set(re.findall(r"\b[a-zA-Z_:][\w:]*\b(?!\s*\()", expr)) - WORDS
