# refused: unpinned-uses
# in: .github/workflows/theater.yml
0,/checkout@/s/@[0-9a-f]{40} # v5.0.0/@v5/
