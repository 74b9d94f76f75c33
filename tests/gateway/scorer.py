"""A scoring engine without MLflow: the real server of pyfunc engines, and a model that adds up each row's numbers.

Its answers also say how many requests were in the call: {"predictions": [sum, …], "together": n}.
Run: python scorer.py
"""

from __future__ import annotations

import json

from trimtab import processes
from trimtab.providers import scoring
from trimtab.providers.scoring import Answer, Question


def score(questions: list[Question]) -> list[Answer]:
    return [_one(question, len(questions)) for question in questions]


def _one(question: Question, together: int) -> Answer:
    if question.format != "json":
        return Answer(200, json.dumps({"predictions": [question.format], "bytes": len(question.body)}).encode())
    told = json.loads(question.body)
    rows = told.get("inputs") or [list(row.values()) for row in told.get("dataframe_records", [])]
    try:
        sums = [sum(row) + told.get("params", {}).get("plus", 0) for row in rows]
    except TypeError as error:
        return Answer(400, json.dumps({"error_code": "INVALID_PARAMETER_VALUE", "message": str(error)}).encode())
    return Answer(200, json.dumps({"predictions": sums, "together": together}).encode())


if __name__ == "__main__":
    processes.exit_with_parent()
    scoring.serve(score, 0, {})
