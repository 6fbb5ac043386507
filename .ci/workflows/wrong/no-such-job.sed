# refused: which does not exist
# in: .github/workflows/theater.yml
s/needs: images/needs: image/
