# refused: dangerous-triggers
# in: .github/workflows/theater.yml
s/^  pull_request:/  pull_request_target:/
