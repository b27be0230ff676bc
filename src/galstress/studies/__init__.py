"""Runs that answer a question and write records; a report is made from those alone."""

from galstress.studies.demo import Demo, Size, run_demo
from galstress.studies.posteriors import Sample, record_posteriors
from galstress.studies.records import record_film, record_set
from galstress.studies.stability import stress_passes

__all__ = ["Demo", "Sample", "Size", "record_film", "record_posteriors", "record_set", "run_demo", "stress_passes"]
