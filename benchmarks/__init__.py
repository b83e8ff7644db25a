"""How fast Celeriac is, beside others: `python -m benchmarks [NAME …] [--quick] [--json FILE]`.

    __main__   the command
    catalogue  the benchmarks, by name; each returns a `figures.Report`
    stage      processes: a fresh one and a fresh folder for every single measurement
    driver     what those processes do
    peers/     one file for each contender, ours among them: the adapter, and the app that its worker imports
    profile    where the time of a drain goes (`python -m benchmarks.profile`)

How to read and repeat the figures stands in `docs/performance.md`.
"""
