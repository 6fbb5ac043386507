# refused: was unexpected
# in: .github/dependabot.yml
s/groups:/group:/
