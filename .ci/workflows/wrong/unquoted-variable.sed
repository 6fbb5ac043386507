# refused: SC2086
# in: .github/workflows/theater.yml
s/"\$\{REPOSITORY,,\}" "\$GITHUB_SHA"/${REPOSITORY,,} $GITHUB_SHA/
