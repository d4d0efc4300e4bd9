"""Benchmarks: everlog, SQLite doing the same job, and the raw limit, side by side in one run.

    python -m benchmarks [names] [--scale 0.01] [--passes 3]     measure, write results.jsonl
    python -m benchmarks report                                  the table of the last run

    __main__ ─▶ runner ─▶ one process for each (pass, bench, subject) ─▶ Measure ─▶ results.jsonl
                             └─ child ─▶ commit load read feed latency fan_out rebuild opening

Benchmarks are hard. These say how everlog compares with its peers on the machine that they run
on, at one kind of row; they do not say how fast your program will be. docs/performance.md.
"""
