"""Tasks with Django's decorator."""

import asyncio
import sys
from pathlib import Path

import django

if django.VERSION >= (6, 0):
    from django.tasks import task
else:
    from django_tasks import task


@task
def noop(*args, **kwargs):
    return None


@task
def add(x, y=1):
    return x + y


@task
def echo(value):
    return value


@task
async def aecho(value):
    await asyncio.sleep(0)
    return value


@task
def complex_value():
    return {1, 2}


@task
def fails():
    raise ValueError("This task failed.")


@task
async def afails():
    raise ValueError("This coroutine failed.")


@task
def exits():
    sys.exit(3)


@task
def stops():
    raise KeyboardInterrupt


@task(takes_context=True)
def context_facts(context, suffix):
    result = context.task_result
    return [result.id, context.attempt, result.status, result.task.name + suffix, len(result.worker_ids)]


@task(takes_context=True)
async def acontext_facts(context):
    return [context.task_result.id, context.attempt, context.task_result.status]


@task(queue_name="urgent", priority=50)
def urgent():
    return "soon"


@task
def waits(folder, name):
    import time

    Path(folder, f"{name}-reached").touch()
    while not Path(folder, name).exists():
        time.sleep(0.01)
    return name


def not_a_task():
    return None
