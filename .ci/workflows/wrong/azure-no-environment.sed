# refused: 'environments'
# in: azure-pipelines.yml
s/environment: production/environments: production/
