"""Benchmarks: everlog, SQLite for the same task, and the raw limit of RocksDB and gRPC, in one run.

    python -m benchmarks [names] [--scale 0.01] [--passes 3]     measure, write results.jsonl
    python -m benchmarks report                                  the table of the last run

    __main__ ─▶ runner ─▶ one process for each (pass, bench, subject) ─▶ Measure ─▶ results.jsonl
                             └─ child ─▶ commit load read feed latency fan_out console rebuild opening

Benchmarks are hard. These show how everlog compares with its peers on one machine, for one kind of row. They
do not predict the speed of your program. See docs/performance.md.
"""
