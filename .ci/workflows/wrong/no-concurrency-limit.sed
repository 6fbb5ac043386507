# refused: concurrency-limits
# in: .github/workflows/theater.yml
/^concurrency:/,/^$/d
