# refused: dependabot-cooldown
# in: .github/dependabot.yml
/cooldown/d
