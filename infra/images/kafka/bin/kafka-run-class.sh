#!/usr/bin/env bash
# kafka-run-class.sh CLASS ARGUMENT…: runs one of Kafka's tools.
exec java -Xmx256m -XX:TieredStopAtLevel=1 -XX:-UsePerfData -Dlog4j2.configurationFile=/etc/kafka/docker/tools-log4j2.yaml \
    -cp '/opt/kafka/libs/*' "$@"
