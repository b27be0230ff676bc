"""Runs that answer a question and write records; a report is made from those alone."""

from galstress.studies.demo import Demo, Size, run_demo
from galstress.studies.records import record_film, record_set
from galstress.studies.stability import stress_passes

__all__ = ["Demo", "Size", "record_film", "record_set", "run_demo", "stress_passes"]
