"""Benchmarks of Celeriac and other task queues: `python -m benchmarks [NAME …] [--quick] [--json FILE]`.

    __main__   the command
    catalogue  the benchmarks by name; each returns a `figures.Report`
    stage      starts a fresh process in a fresh folder for every single measurement
    driver     runs in those processes and measures
    peers/     one file per contender, Celeriac included: its adapter, and the app that its worker imports
    profile    profiles a drain, and a delay() on Redis (`python -m benchmarks.profile`)
    page       writes the figures and plots of a run into the docs (`python -m benchmarks.page`)
    clients/   compares client libraries with Celeriac's drivers (`python -m benchmarks.clients`)

`python -m benchmarks.environments` installs arq, SAQ, aiormq and AMQPStorm, each in its own environment.
`docs/performance.md` explains how to read and repeat the figures.
"""
