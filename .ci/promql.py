"""Reads PromQL, for the checks of alerts and dashboards."""

import re

# Strings, labels of a selector, ranges and labels of a grouping may contain words, which are not names of metrics.
NO_METRICS = (r'"[^"]*"', r"\{[^}]*\}", r"\[[^\]]*\]", r"\b(?:by|without|on|ignoring|group_left|group_right)\s*\([^)]*\)")
KEYWORDS = {"and", "or", "unless", "offset", "bool", "group_left", "group_right"}


def metric_names(expr):
    """The names of the metrics in an expression. A histogram appears by the names of its series."""
    for pattern in NO_METRICS:
        expr = re.sub(pattern, " ", expr)
    # A name before a bracket is a function.
    return set(re.findall(r"\b[a-zA-Z_:][\w:]*\b(?!\s*\()", expr)) - KEYWORDS
