"""Where units of work run: in this process, in local processes, on Ray, or one shard of them on each of several machines."""

from advreg.engines.choice import engine_of
from advreg.engines.in_process import MapUnits, RunUnit, Work, run_in_process
from advreg.engines.shards import Shard

__all__ = ["MapUnits", "RunUnit", "Shard", "Work", "engine_of", "run_in_process"]
