# refused: artipacked
# in: .github/workflows/theater.yml
/^        with:$/{N;/persist-credentials/d}
