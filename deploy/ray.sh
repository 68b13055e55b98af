#!/bin/bash
# Evaluate a million images on a Ray cluster that grows and shrinks as it likes; one ledger, nothing to merge:
#   ray job submit --working-dir . -- bash deploy/ray.sh
# Every machine needs `pip install 'advreg[ray]'`. The driver writes the ledger: started again, it continues where it stopped.

advreg evaluate runs/model --protocol strong -n 1000000 --engine ray --workers 64
