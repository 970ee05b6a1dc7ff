"""Who wrote the traces of a manifest: python deploy/examples/read_shards.py MANIFEST"""

import sys

from dail.synth import read_traces

for trace in read_traces(sys.argv[1]):
    share = "unknown" if trace.student_share is None else f"{trace.student_share:.0%}"
    print(f"{trace.item_id} sample {trace.sample_index}: {len(trace.trace_ids)} tokens, by the student: {share}")
    print(f"  waypoints {', '.join(trace.waypoints)}; ended by {trace.finish_reason}")
