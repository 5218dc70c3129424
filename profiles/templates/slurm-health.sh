#!/bin/sh
# HealthCheckProgram of slurm.conf: takes a host out of service on a fault that rigbench finds, in seconds and without load.
#   rigbench profiles --template slurm-health > /usr/local/sbin/rigbench-health; chmod +x /usr/local/sbin/rigbench-health
#   slurm.conf:  HealthCheckProgram=/usr/local/sbin/rigbench-health  HealthCheckInterval=600  HealthCheckNodeState=IDLE
# `rigbench doctor --accept CODE --because …` with the same RIGBENCH_HOME keeps what you live with from counting.
RIGBENCH_HOME="${RIGBENCH_HOME:-/var/lib/rigbench}"
export RIGBENCH_HOME
said=$(timeout 50 rigbench doctor --quiet 2>&1)
code=$?
node=$(hostname -s)
case $code in
  0) exit 0 ;;
  1) reason="rigbench: $(printf '%s' "$said" | head -n 1 | cut -c 1-200)" ;;
  124) reason="rigbench: the driver did not answer within 50 s" ;;
  *) # rigbench itself could not tell: no reason to drain
    logger -t rigbench-health -- "code $code: $(printf '%s' "$said" | tail -n 1)"
    exit 0
    ;;
esac
exec scontrol update NodeName="$node" State=DRAIN Reason="$reason"
