# refused: potentially untrusted
# in: .github/workflows/theater.yml
s/- run: \.ci\/run/- run: .ci\/run "${{ github.head_ref }}"/
