"""Who wrote the traces of a manifest: python deploy/examples/read_shards.py MANIFEST"""

import sys

from dail.synth import read_traces

for trace in read_traces(sys.argv[1]):
    known = [probability for probability in trace.trace_source if probability is not None]
    share = f"{sum(known) / len(known):.0%}" if known else "unknown"
    print(f"{trace.item_id} sample {trace.sample_index}: {len(trace.trace_ids)} tokens, by the student: {share}")
    print(f"  waypoints {', '.join(trace.waypoints)}; ended by {trace.finish_reason}")
