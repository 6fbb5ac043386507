#!/bin/sh
# Starts Prometheus in a folder with prometheus.yml, alerts.yaml and an empty folder rules: prometheus.sh FOLDER ARGUMENT…
#
# alerts.yaml is the PrometheusRule of k8s/components/monitoring. Without an operator, Prometheus needs only its groups: everything
# below `spec:`, without the indentation of two spaces.
set -eu
cd "$1"
shift
sed '1,/^spec:$/d; s/^  //' alerts.yaml >rules/theater.yaml
exec prometheus --config.file=prometheus.yml "$@"
