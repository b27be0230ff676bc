"""Runs that answer a question and write records; a report is made from those alone."""

from galstress.studies.demo import Demo, Size, run_demo
from galstress.studies.invariance import InvarianceStudy, study_invariance
from galstress.studies.labels import LabelsStudy, study_labels
from galstress.studies.posteriors import Sample, record_posteriors
from galstress.studies.records import record_film, record_set
from galstress.studies.stability import stress_passes
from galstress.studies.transport import TransportStudy, study_transport

__all__ = [
    "Demo",
    "InvarianceStudy",
    "LabelsStudy",
    "Sample",
    "Size",
    "TransportStudy",
    "record_film",
    "record_posteriors",
    "record_set",
    "run_demo",
    "stress_passes",
    "study_invariance",
    "study_labels",
    "study_transport",
]
