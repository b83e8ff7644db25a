"""How fast Celeriac is, beside others: `python -m benchmarks [NAME …] [--quick] [--json FILE]`.

    __main__   the command
    catalogue  the benchmarks, by name; each returns a `figures.Report`
    stage      processes: a fresh one and a fresh folder for every single measurement
    driver     what those processes do
    peers/     one file for each contender, ours among them: the adapter, and the app that its worker imports
    profile    where the time of a drain, and of a delay() on Redis, goes (`python -m benchmarks.profile`)
    page       the figures of a run on a server, put into the docs with their plot (`python -m benchmarks.page`)

What arq and SAQ need, which does not go with the others, is installed by `python -m benchmarks.environments`.

How to read and repeat the figures stands in `docs/performance.md`.
"""
