"""MindRecord files: which a run reads (`prepare`), how they are written (`writer`), what they are (`manifest`)."""

from src.data.records.prepare import RecordSet, missing_evaluation_set, prepare_records

__all__ = ["RecordSet", "missing_evaluation_set", "prepare_records"]
