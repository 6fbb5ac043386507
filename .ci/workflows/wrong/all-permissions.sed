# refused: excessive-permissions
# in: .github/workflows/theater.yml
s/^permissions: \{\}/permissions: write-all/
