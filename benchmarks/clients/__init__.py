"""Client libraries beside our own drivers, with no task queue around them: `python -m benchmarks.clients [amqp|redis]`.

The figures behind decisions 0012 and 0013.

    __main__   the command: starts the server, runs one process for each measurement, prints a Markdown table
    catalogue  the clients and the measures of each server
    measure    what a measuring process does
    base       what a client's file provides
    (others)   one file for each client

Libraries that the extra `bench` does not install are installed by `python -m benchmarks.environments`.
"""
