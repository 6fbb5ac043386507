# refused: 'timeoutMinutes' was unexpected
# in: azure-pipelines.yml
s/timeoutInMinutes/timeoutMinutes/
