"""Stages: functions whose calls make a graph first, which then runs as one job.

Start with ``stage.py`` (what users hold), then ``run.py`` (how a graph runs), ``carry.py`` (how it gets into a job), ``conduct.py``
(how stages run on several nodes at once), ``part.py`` (one such stage, in a job of its own),
``record.py`` (what is told of it) and ``results.py`` (how that is read).
"""
