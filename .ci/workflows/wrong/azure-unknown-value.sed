# refused: 'away' is not one of
# in: azure-pipelines.yml
s/command: logout/command: away/
