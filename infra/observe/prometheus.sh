#!/bin/sh
# Starts Prometheus in a folder that holds prometheus.yml, alerts.yaml and an empty folder rules: prometheus.sh FOLDER ARGUMENT…
#
# alerts.yaml is the PrometheusRule of k8s/components/monitoring. A Prometheus without an operator wants its groups bare:
# they are all that stands below `spec:`, two spaces in.
set -eu
cd "$1"
shift
sed '1,/^spec:$/d; s/^  //' alerts.yaml >rules/theater.yaml
exec prometheus --config.file=prometheus.yml "$@"
