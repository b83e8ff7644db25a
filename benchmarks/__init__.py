"""Benchmarks of Celeriac and other task queues: `python -m benchmarks [NAME …] [--quick] [--json FILE]`.

    __main__   the command
    catalogue  the benchmarks, by name; each returns a `figures.Report`
    stage      processes: a new one and a new folder for every single measurement
    driver     what those processes do
    peers/     one file for each contender, ours among them: the adapter, and the app that its worker imports
    profile    how the time of a drain, and of a delay() on Redis, is spent (`python -m benchmarks.profile`)
    page       the figures of a run on a server, put into the docs with their plot (`python -m benchmarks.page`)
    clients/   client libraries beside our drivers (`python -m benchmarks.clients`)

`python -m benchmarks.environments` installs arq, SAQ, aiormq and AMQPStorm, each in its own environment.
`docs/performance.md` says how to read and repeat the figures.
"""
