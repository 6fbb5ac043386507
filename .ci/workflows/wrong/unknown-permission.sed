# refused: unknown permission scope "package"
# in: .github/workflows/theater.yml
s/packages: write/package: write/
